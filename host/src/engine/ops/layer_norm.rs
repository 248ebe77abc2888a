//! `layer_norm@1`: normalises the last dimension to mean 0 and variance 1.

use candle_core::{Tensor, WithDType};

use crate::engine::kernel::norm::{self, Affine, Saved};
use crate::engine::kernel::{Float, threads};
use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::tape::{Gradients, Tape, Var};
use crate::engine::{portable, storage};
use crate::{Error, Result, for_float};

/// `(x - mean) / sqrt(var + eps) w + b` over the last dimension: x `[..., D]`, w and b `[D]`; var is
/// the mean squared distance from the mean.
///
/// # Errors
/// When the shapes don't fit together.
pub fn layer_norm(tape: &Tape, x: &Var, w: Option<&Var>, b: Option<&Var>, eps: f64) -> Result<Var> {
    let width = check("layer_norm", x, [w, b])?;
    if tape.portable(x) {
        return portable::norm::layer_norm(tape, x, w, b, eps);
    }
    let rows = x.value().elem_count() / width.max(1);
    let tensors = [x, w.unwrap_or(x), b.unwrap_or(x)].map(Var::value);
    let (value, mean, rstd) = tape.timed("layer_norm", || {
        for_float!(x.dtype(), T => {
            let (y, mean, rstd) = storage::read_all::<T, _, 3>(tensors, |[x, weight, bias]| {
                let mut y = threads::zeros::<T>(x.len());
                let (mut mean, mut rstd) = (vec![T::ZERO; rows], vec![T::ZERO; rows]);
                let affine = Affine { weight: w.map(|_| weight), bias: b.map(|_| bias) };
                let saved = Saved { mean: &mut mean, rstd: &mut rstd };
                norm::layer_norm(x, affine, Float::from_f64(eps), &mut y, saved);
                (y, mean, rstd)
            })?;
            Ok::<_, Error>((
                storage::tensor(y, x.dims())?,
                storage::tensor(mean, rows)?,
                storage::tensor(rstd, rows)?,
            ))
        })
    })?;
    let kept = Kept::new(x, w, Some(mean), rstd);
    // A bias without a weight stands in the weight's place.
    let places = Places { weight: w.map(|_| 1), bias: b.map(|_| 1 + usize::from(w.is_some())) };
    let inputs: Vec<&Var> = [Some(x), w, b].into_iter().flatten().collect();
    Ok(tape.record("layer_norm", &inputs, value, move |gradient, inputs| {
        kept.gradients(gradient.tensor(), places, inputs)
    }))
}

/// The size of the last dimension, which is also that of each of `affine`.
pub(super) fn check(op: &str, x: &Var, affine: [Option<&Var>; 2]) -> Result<usize> {
    let width = x.dims().last().copied();
    let fits = |part: Option<&Var>| {
        part.is_none_or(|part| Some(part.dims()) == width.as_ref().map(std::slice::from_ref))
    };
    match width {
        Some(width) if affine.into_iter().all(fits) => Ok(width),
        _ => Err(Error::failed(format!(
            "`{op}` expects x [..., D] with [D] for weight and bias, got {:?} with {:?}",
            x.dims(),
            affine.iter().flatten().map(|part| part.dims()).collect::<Vec<_>>()
        ))),
    }
}

/// Which inputs the weight and the bias are.
#[derive(Clone, Copy)]
pub(in crate::engine) struct Places {
    pub(in crate::engine) weight: Option<usize>,
    pub(in crate::engine) bias: Option<usize>,
}

/// What the backward pass of a norm needs.
pub(super) struct Kept {
    x: Tensor,
    weight: Option<Tensor>,
    mean: Option<Tensor>,
    rstd: Tensor,
}

impl Kept {
    pub(super) fn new(x: &Var, w: Option<&Var>, mean: Option<Tensor>, rstd: Tensor) -> Self {
        Self { x: x.value().clone(), weight: w.map(|w| w.value().clone()), mean, rstd }
    }

    /// Adds the gradients of x (input 0), weight and bias.
    pub(super) fn gradients(
        &self,
        dy: &Tensor,
        places: Places,
        inputs: &mut Gradients<'_>,
    ) -> Result<()> {
        for_float!(dy.dtype(), T => self.gradients_of::<T>(dy, places, inputs))
    }

    fn gradients_of<T: Float + WithDType>(
        &self,
        dy: &Tensor,
        places: Places,
        inputs: &mut Gradients<'_>,
    ) -> Result<()> {
        let width = self.x.dims()[self.x.rank() - 1];
        let mean = self.mean.as_ref().unwrap_or(&self.rstd);
        let weight = self.weight.as_ref().unwrap_or(&self.rstd);
        let mut dx = threads::zeros::<T>(self.x.elem_count());
        let sums = |place: Option<usize>| {
            place.filter(|place| inputs.wants(*place)).map(|_| vec![T::ZERO; width])
        };
        let (mut dweight, mut dbias) = (sums(places.weight), sums(places.bias));
        storage::read_all(
            [&self.x, mean, &self.rstd, weight, dy],
            |[x, mean, rstd, weight, dy]| {
                let backward = norm::Backward {
                    x,
                    mean: self.mean.is_some().then_some(mean),
                    rstd,
                    weight: self.weight.is_some().then_some(weight),
                    dy,
                };
                norm::norm_backward(
                    backward,
                    &mut dx,
                    dweight.as_deref_mut(),
                    dbias.as_deref_mut(),
                );
            },
        )?;
        if inputs.wants(0) {
            inputs.add(0, storage::tensor(dx, self.x.dims())?)?;
        }
        for (place, sum) in [(places.weight, dweight), (places.bias, dbias)] {
            if let (Some(place), Some(sum)) = (place, sum) {
                inputs.add(place, storage::tensor(sum, width)?)?;
            }
        }
        Ok(())
    }
}

inventory::submit! {
    OpDef {
        name: "layer_norm",
        revision: 1,
        formula: "layer_norm(x [..., D], w? [D], b? [D], eps) = (x - mean) / sqrt(var + eps) w + b",
        call: |tape, args: &Args<'_>| {
            let (w, b) = (args.optional_tensor(1)?, args.optional_tensor(2)?);
            Ok(vec![layer_norm(tape, args.tensor(0)?, w, b, args.float(3)?)?])
        },
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![
                sample_tensor(stream, &[2, 3, 5]),
                sample_tensor(stream, &[5]),
                sample_tensor(stream, &[5]),
                Arg::Float(1e-6),
            ]),
            Sample::new(vec![
                sample_strided(stream, &[3, 4]),
                Arg::None,
                sample_tensor(stream, &[4]),
                Arg::Float(1e-3),
            ]),
            Sample::new(vec![
                sample_tensor(stream, &[1, 1]),
                sample_tensor(stream, &[1]),
                sample_tensor(stream, &[1]),
                Arg::Float(1e-1),
            ]),
            Sample::new(vec![sample_tensor(stream, &[7]), Arg::None, Arg::None, Arg::Float(1e-6)]),
        ],
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn a_weight_of_another_length_is_refused() {
        let zeros = |shape: &[usize]| {
            Var::constant(Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap())
        };
        let tape = Tape::default();
        let error = layer_norm(&tape, &zeros(&[2, 3]), Some(&zeros(&[4])), None, 1e-6).unwrap_err();
        assert!(error.to_string().contains("got [2, 3] with [[4]]"), "{error}");
        assert!(layer_norm(&tape, &zeros(&[]), None, None, 1e-6).is_err());
    }
}
