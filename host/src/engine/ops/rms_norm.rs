//! `rms_norm@1`: scales the last dimension to a root mean square of 1.

use crate::engine::kernel::{Float, norm};
use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::ops::layer_norm::{Kept, Places, check};
use crate::engine::tape::{Tape, Var};
use crate::engine::{portable, storage};
use crate::{Error, Result, for_float};

/// `x / sqrt(mean x^2 + eps) w` over the last dimension: x `[..., D]`, w `[D]`.
///
/// # Errors
/// When the shapes don't fit together.
pub fn rms_norm(tape: &Tape, x: &Var, w: Option<&Var>, eps: f64) -> Result<Var> {
    let width = check("rms_norm", x, [w, None])?;
    if tape.portable(x) {
        return portable::norm::rms_norm(tape, x, w, eps);
    }
    let rows = x.value().elem_count() / width.max(1);
    let (value, rstd) = tape.timed("rms_norm", || {
        for_float!(x.dtype(), T => {
            let tensors = [x.value(), w.unwrap_or(x).value()];
            let (y, rstd) = storage::read_all::<T, _, 2>(tensors, |[x, weight]| {
                let (mut y, mut rstd) = (vec![T::ZERO; x.len()], vec![T::ZERO; rows]);
                norm::rms_norm(x, w.map(|_| weight), Float::from_f64(eps), &mut y, &mut rstd);
                (y, rstd)
            })?;
            Ok::<_, Error>((storage::tensor(y, x.dims())?, storage::tensor(rstd, rows)?))
        })
    })?;
    let kept = Kept::new(x, w, None, rstd);
    let places = Places { weight: w.map(|_| 1), bias: None };
    let inputs: Vec<&Var> = [Some(x), w].into_iter().flatten().collect();
    Ok(tape.record("rms_norm", &inputs, value, move |gradient, inputs| {
        kept.gradients(gradient.tensor(), places, inputs)
    }))
}

inventory::submit! {
    OpDef {
        name: "rms_norm",
        revision: 1,
        formula: "rms_norm(x [..., D], w? [D], eps) = x / sqrt(mean x^2 + eps) w",
        call: |tape, args: &Args<'_>| {
            let w = args.optional_tensor(1)?;
            Ok(vec![rms_norm(tape, args.tensor(0)?, w, args.float(2)?)?])
        },
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![
                sample_tensor(stream, &[2, 3, 5]),
                sample_tensor(stream, &[5]),
                Arg::Float(1e-6),
            ]),
            Sample::new(vec![sample_strided(stream, &[3, 4]), Arg::None, Arg::Float(1e-3)]),
            Sample::new(vec![
                sample_tensor(stream, &[1, 1]),
                sample_tensor(stream, &[1]),
                Arg::Float(1e-1),
            ]),
        ],
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};

    use super::*;

    #[test]
    fn a_weight_of_another_length_is_refused() {
        let zeros = |shape: &[usize]| {
            Var::constant(Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap())
        };
        assert!(rms_norm(&Tape::default(), &zeros(&[2, 3]), Some(&zeros(&[2])), 1e-6).is_err());
    }
}
