//! `spread@1`: how far normalised rows lie apart; 0 means collapse.

use crate::Result;
use crate::engine::op::{Gradient, OpDef, Sample, sample_tensor};
use crate::engine::tape::Var;

/// The mean over dimensions of the standard deviation of l2-normalised rows of `x` `[B, D]`.
pub fn spread(x: &Var) -> Result<Var> {
    let x = x.value();
    let norms = x.sqr()?.sum_keepdim(1)?.sqrt()?.maximum(1e-12)?;
    let rows = x.broadcast_div(&norms)?;
    let centered = rows.broadcast_sub(&rows.mean_keepdim(0)?)?;
    Ok(Var::constant(centered.sqr()?.mean(0)?.sqrt()?.mean_all()?))
}

inventory::submit! {
    OpDef {
        name: "spread",
        revision: 1,
        formula: "spread(x [B, D]) = mean_D std_B of l2-normalised rows",
        call: |_, args| Ok(vec![spread(args.tensor(0)?)?]),
        gradient: Gradient::None("it is a metric"),
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[4, 3])]),
        ],
    }
}
