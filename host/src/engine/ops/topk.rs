//! `topk@1`: the largest of each row.

use candle_core::Tensor;

use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_tensor};
use crate::engine::tape::{Tape, Var};
use crate::engine::{portable, storage};
use crate::{Error, Result};

/// The `k` largest of each row of `x` `[..., N]`, largest first, and their places (u32); of equal ones
/// the first comes first.
pub fn topk(tape: &Tape, x: &Var, k: usize) -> Result<(Tensor, Tensor)> {
    let dims = x.dims().to_vec();
    let width = dims.last().copied().unwrap_or(0);
    if k > width {
        return Err(Error::failed(format!("`topk` can't take {k} of {width}")));
    }
    if tape.portable(x) && x.value().elem_count() > 0 {
        return portable::place::topk(x.value(), k);
    }
    let values = storage::to_f64(x.value())?;
    let (mut top, mut places) = (Vec::new(), Vec::new());
    for row in values.chunks_exact(width.max(1)) {
        let mut order: Vec<usize> = (0..width).collect();
        order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
        top.extend(order[..k].iter().map(|place| row[*place]));
        places.extend(order[..k].iter().map(|place| *place as u32));
    }
    let mut shape = dims;
    if let Some(last) = shape.last_mut() {
        *last = k;
    }
    let top = storage::tensor(top, shape.as_slice())?.to_dtype(x.dtype())?;
    Ok((top, storage::tensor(places, shape)?))
}

fn call(tape: &Tape, args: &Args<'_>) -> Result<Vec<Var>> {
    let (values, places) = topk(tape, args.tensor(0)?, args.size(1)?)?;
    Ok(vec![Var::constant(values), Var::constant(places)])
}

inventory::submit! {
    OpDef {
        name: "topk",
        revision: 1,
        formula: "topk(x, k): the k largest along the last dimension, and their places",
        call,
        gradient: Gradient::None("it serves probes and choices"),
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[2, 3]), Arg::Int(2)]),
        ],
    }
}
