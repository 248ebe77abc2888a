//! `smooth_l1@1`: a squared distance near 0, an absolute one beyond.

use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::ops::lerp::same_shape;
use crate::engine::tape::{Tape, Var};
use crate::{Error, Result};

/// With d = a - b, elementwise: d^2 / (2 beta) where |d| < beta, else |d| - beta / 2. A beta of 0 is the
/// absolute distance, with a gradient of 0 where d is 0.
///
/// # Errors
/// When the shapes differ, or `beta` is below 0.
pub fn smooth_l1(tape: &Tape, a: &Var, b: &Var, beta: f64) -> Result<Var> {
    same_shape("smooth_l1", a, b)?;
    if beta.is_nan() || beta < 0.0 {
        return Err(Error::failed(format!("`smooth_l1` needs a beta of at least 0, got {beta}")));
    }
    let (value, slope) = tape.timed("smooth_l1", || -> Result<_> {
        let d = (a.value() - b.value())?;
        if beta == 0.0 {
            return Ok((d.abs()?, d.sign()?));
        }
        let slope = d.affine(1.0 / beta, 0.0)?.clamp(-1.0, 1.0)?;
        // slope (d - beta slope / 2) is both branches at once.
        let value = (&slope * (d - slope.affine(0.5 * beta, 0.0)?)?)?;
        Ok((value, slope))
    })?;
    Ok(tape.record("smooth_l1", &[a, b], value, move |gradient, inputs| {
        let da = (gradient.tensor() * &slope)?;
        if inputs.wants(1) {
            inputs.add(1, da.neg()?)?;
        }
        inputs.add(0, da)
    }))
}

inventory::submit! {
    OpDef {
        name: "smooth_l1",
        revision: 1,
        formula: "smooth_l1(a, b, beta): d^2 / (2 beta) where |d| < beta, else |d| - beta / 2",
        call: |tape, args: &Args<'_>| {
            Ok(vec![smooth_l1(tape, args.tensor(0)?, args.tensor(1)?, args.float(2)?)?])
        },
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[2, 3]), sample_tensor(stream, &[2, 3]), Arg::Float(1.0)]),
            Sample::new(vec![sample_strided(stream, &[3, 2]), sample_tensor(stream, &[3, 2]), Arg::Float(0.3)]),
            Sample::new(vec![sample_tensor(stream, &[1]), sample_tensor(stream, &[1]), Arg::Float(2.0)]),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::storage;
    use candle_core::{Device, Tensor};

    #[test]
    fn a_beta_of_zero_is_the_absolute_distance() {
        let tape = Tape::default();
        let of = |x: &[f64]| Tensor::new(x, &Device::Cpu).unwrap();
        let a = tape.leaf(of(&[1.0, 2.0, -3.0]));
        let b = Var::constant(of(&[1.0, 0.5, 1.0]));
        let y = smooth_l1(&tape, &a, &b, 0.0).unwrap();
        assert_eq!(storage::to_f64(y.value()).unwrap(), [0.0, 1.5, 4.0]);
        let gradients = tape.backward_from(&y, of(&[1.0, 1.0, 1.0])).unwrap();
        assert_eq!(storage::to_f64(gradients.get(&a).unwrap()).unwrap(), [0.0, 1.0, -1.0]);
        assert!(smooth_l1(&tape, &a, &b, -1.0).is_err());
    }
}
