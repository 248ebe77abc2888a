//! `clamp@1`: values held between two bounds.

use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::tape::{Tape, Var};
use crate::engine::{portable, storage};
use crate::{Result, for_float};

/// `min(max(x, low), high)`; the gradient is 0 on the bounds, as PyTorch has it, and outside. NaN stays NaN, with a gradient of 0.
pub fn clamp(tape: &Tape, x: &Var, low: f64, high: f64) -> Result<Var> {
    let value = tape.timed("clamp", || {
        if tape.portable(x) {
            return portable::activation::clamp(x.value(), low, high);
        }
        for_float!(x.dtype(), T => {
            let (low, high) = (low as T, high as T);
            // Comparisons with NaN are false, so it falls through both.
            let held = |x: &T| {
                let x = if *x < low { low } else { *x };
                if x > high { high } else { x }
            };
            let held = storage::read(x.value(), |x: &[T]| x.iter().map(held).collect::<Vec<T>>())?;
            storage::tensor(held, x.dims())
        })
    })?;
    let saved = x.value().clone();
    Ok(tape.record("clamp", &[x], value, move |gradient, inputs| {
        let inside = (saved.gt(low)? * saved.lt(high)?)?.to_dtype(saved.dtype())?;
        inputs.add(0, (gradient.tensor() * inside)?)
    }))
}

inventory::submit! {
    OpDef {
        name: "clamp",
        revision: 1,
        formula: "clamp(x, low, high) = min(max(x, low), high)",
        call: |tape, args: &Args<'_>| Ok(vec![clamp(tape, args.tensor(0)?, args.float(1)?, args.float(2)?)?]),
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[2, 3]), Arg::Float(-0.5), Arg::Float(0.5)]),
            Sample::new(vec![sample_strided(stream, &[3, 4]), Arg::Float(-9.0), Arg::Float(0.1)]),
            Sample::new(vec![sample_tensor(stream, &[1]), Arg::Float(0.0), Arg::Float(9.0)]),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};

    #[test]
    fn what_is_not_a_number_goes_through_and_takes_no_gradient() {
        let tape = Tape::default();
        let x = [f64::NAN, f64::INFINITY, -3.0, 0.25];
        let x = tape.leaf(Tensor::new(&x, &Device::Cpu).unwrap());
        let y = clamp(&tape, &x, -1.0, 1.0).unwrap();
        let values = storage::to_f64(y.value()).unwrap();
        assert!(values[0].is_nan());
        assert_eq!(values[1..], [1.0, -1.0, 0.25]);
        let seed = Tensor::new(&[1.0, 1.0, 1.0, 1.0], &Device::Cpu).unwrap();
        let gradients = tape.backward_from(&y, seed).unwrap();
        assert_eq!(storage::to_f64(gradients.get(&x).unwrap()).unwrap(), [0.0, 0.0, 0.0, 1.0]);
    }
}
