//! `spread@1`: how far normalised rows lie apart; 0 means collapse.

use crate::engine::op::{Gradient, OpDef, Sample, sample_tensor};
use crate::engine::tape::Var;
use crate::{Error, Result};

/// The mean over dimensions of the unbiased standard deviation of l2-normalised rows of `x` `[B, D]`.
///
/// # Errors
/// When `x` is not `[B, D]` with at least 2 rows.
pub fn spread(x: &Var) -> Result<Var> {
    let &[count, _] = x.dims() else {
        return Err(Error::failed(format!("`spread` needs rows [B, D], got {:?}", x.dims())));
    };
    if count < 2 {
        return Err(Error::failed(format!("`spread` needs at least 2 rows, got {count}")));
    }
    let x = x.value();
    let norms = x.sqr()?.sum_keepdim(1)?.sqrt()?.maximum(1e-12)?;
    let rows = x.broadcast_div(&norms)?;
    let centered = rows.broadcast_sub(&rows.mean_keepdim(0)?)?;
    Ok(Var::constant((centered.sqr()?.sum(0)? / (count as f64 - 1.0))?.sqrt()?.mean_all()?))
}

inventory::submit! {
    OpDef {
        name: "spread",
        revision: 1,
        formula: "spread(x [B, D]) = mean_D std_B (unbiased) of l2-normalised rows",
        call: |_, args| Ok(vec![spread(args.tensor(0)?)?]),
        gradient: Gradient::None("it is a metric"),
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[4, 3])]),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::storage;
    use crate::metric::Features;
    use crate::metric::spread::spread as metric;
    use candle_core::{Device, Tensor};

    #[test]
    fn it_is_the_metric_over_the_root_of_the_width() {
        let rows = [0.5_f32, -1.0, 2.0, 1.5, 0.25, -0.75, 3.0, 1.0, -2.0];
        let x = Var::constant(Tensor::from_slice(&rows, (3, 3), &Device::Cpu).unwrap());
        let op = storage::to_f64(spread(&x).unwrap().value()).unwrap()[0];
        let metric = metric(Features::new(&rows, 3).unwrap()).unwrap();
        assert!((op * 3.0_f64.sqrt() - metric).abs() < 1e-6);
        let one = Var::constant(Tensor::from_slice(&rows[..3], (1, 3), &Device::Cpu).unwrap());
        assert_eq!(spread(&one).unwrap_err().message(), "`spread` needs at least 2 rows, got 1");
    }
}
