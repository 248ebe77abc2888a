//! `group_norm@1`: normalises groups of channels of each sample over all places.

use candle_core::{Tensor, WithDType};

use crate::engine::kernel::Float;
use crate::engine::kernel::group_norm::{self as kernel, Sizes, Statistics};
use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::tape::{Gradients, Tape, Var};
use crate::engine::{portable, storage};
use crate::{Error, Result, for_float};

/// `(x - mean) / sqrt(var + eps) w + b` for x `[B, C, ...]`, w and b `[C]`: mean and variance are those of a
/// sample's channels of one group at all places; var is the mean squared distance from the mean.
///
/// Its own layout is `[B, ..., C]`: an x that is a transposed view of such a tensor is read as it lies, and the
/// result is a transposed view of one.
///
/// # Errors
/// When the shapes don't fit together.
pub fn group_norm(
    tape: &Tape,
    x: &Var,
    groups: usize,
    (w, b): (Option<&Var>, Option<&Var>),
    eps: f64,
) -> Result<Var> {
    let sizes = check(x, groups, [w, b])?;
    if tape.portable(x) {
        return portable::group_norm::group_norm(tape, x, sizes, (w, b), eps);
    }
    for_float!(x.dtype(), T => normed::<T>(tape, x, sizes, (w, b), eps))
}

fn check(x: &Var, groups: usize, affine: [Option<&Var>; 2]) -> Result<Sizes> {
    if let [batch, channels, places @ ..] = x.dims() {
        let fits = affine.iter().flatten().all(|part| part.dims() == [*channels]);
        if fits && groups > 0 && channels.is_multiple_of(groups) {
            let frames = places.iter().product();
            return Ok(Sizes { batch: *batch, frames, channels: *channels, groups });
        }
    }
    let parts: Vec<&[usize]> = affine.iter().flatten().map(|part| part.dims()).collect();
    Err(Error::failed(format!(
        "`group_norm` expects x [B, C, ...] with C a multiple of {groups} groups and [C] for weight and bias, \
         got {:?} with {parts:?}",
        x.dims()
    )))
}

/// `[B, C, ...]` as `[B, ..., C]`; copied only where it doesn't lie so.
fn rows(x: &Tensor) -> Result<Tensor> {
    let order: Vec<usize> = std::iter::once(0).chain(2..x.rank()).chain([1]).collect();
    Ok(x.permute(order)?.contiguous()?)
}

/// The way back: `values` `[B, ..., C]` as a tensor of the sizes `dims`, `[B, C, ...]`.
fn shaped<T: Float + WithDType>(values: Vec<T>, dims: &[usize]) -> Result<Tensor> {
    let rank = dims.len();
    let sizes: Vec<usize> = [&dims[..1], &dims[2..], &dims[1..2]].concat();
    let order: Vec<usize> = [0, rank - 1].into_iter().chain(1..rank - 1).collect();
    Ok(storage::tensor(values, sizes)?.permute(order)?)
}

fn normed<T: Float + WithDType>(
    tape: &Tape,
    x: &Var,
    sizes: Sizes,
    (w, b): (Option<&Var>, Option<&Var>),
    eps: f64,
) -> Result<Var> {
    let frames = rows(x.value())?;
    let part = |part: Option<&Var>| part.map_or(frames.clone(), |part| part.value().clone());
    let (weight, bias) = (part(w), part(b));
    let (y, statistics) = tape.timed("group_norm", || {
        storage::read_all::<T, _, 3>([&frames, &weight, &bias], |[x, weight, bias]| {
            let statistics = kernel::statistics(x, &sizes, <T as Float>::from_f64(eps));
            let (weight, bias) = (w.map(|_| weight), b.map(|_| bias));
            (kernel::forward(x, &sizes, &statistics, weight, bias), statistics)
        })
    })?;
    let value = shaped(y, x.dims())?;
    let dims = x.dims().to_vec();
    let kept = Kept { frames, weight: w.map(|w| w.value().clone()), statistics, sizes, dims };
    let places = [w.map(|_| 1), b.map(|_| 1 + usize::from(w.is_some()))];
    let inputs: Vec<&Var> = [Some(x), w, b].into_iter().flatten().collect();
    Ok(tape.record("group_norm", &inputs, value, move |gradient, inputs| {
        kept.gradients(gradient.tensor(), places, inputs)
    }))
}

/// What the backward pass reads.
struct Kept<T> {
    frames: Tensor,
    weight: Option<Tensor>,
    statistics: Statistics<T>,
    sizes: Sizes,
    dims: Vec<usize>,
}

impl<T: Float + WithDType> Kept<T> {
    /// Adds the gradients of x (input 0), and of weight and bias at their places.
    fn gradients(
        &self,
        dy: &Tensor,
        places: [Option<usize>; 2],
        inputs: &mut Gradients<'_>,
    ) -> Result<()> {
        let dy = rows(dy)?;
        let tensors = [&self.frames, &dy, self.weight.as_ref().unwrap_or(&dy)];
        let made = storage::read_all::<T, _, 3>(tensors, |[x, dy, weight]| {
            let weight = self.weight.is_some().then_some(weight);
            kernel::backward((x, dy), &self.sizes, &self.statistics, weight)
        })?;
        inputs.add(0, shaped(made.x, &self.dims)?)?;
        for (place, sums) in places.into_iter().zip([made.weight, made.bias]) {
            if let Some(place) = place {
                inputs.add(place, storage::tensor(sums, self.sizes.channels)?)?;
            }
        }
        Ok(())
    }
}

inventory::submit! {
    OpDef {
        name: "group_norm",
        revision: 1,
        formula: "group_norm(x [B, C, ...], groups, w? [C], b? [C], eps) = (x - mean) / sqrt(var + eps) w + b",
        call: |tape, args: &Args<'_>| {
            let affine = (args.optional_tensor(2)?, args.optional_tensor(3)?);
            Ok(vec![group_norm(tape, args.tensor(0)?, args.size(1)?, affine, args.float(4)?)?])
        },
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![
                sample_tensor(stream, &[2, 4, 5]),
                Arg::Int(2),
                sample_tensor(stream, &[4]),
                sample_tensor(stream, &[4]),
                Arg::Float(1e-5),
            ]),
            Sample::new(vec![
                sample_strided(stream, &[2, 3, 4]),
                Arg::Int(3),
                Arg::None,
                sample_tensor(stream, &[3]),
                Arg::Float(1e-3),
            ]),
            Sample::new(vec![
                sample_tensor(stream, &[2, 6, 2, 2]),
                Arg::Int(1),
                sample_tensor(stream, &[6]),
                Arg::None,
                Arg::Float(1e-5),
            ]),
            Sample::new(vec![
                sample_tensor(stream, &[1, 1, 1]),
                Arg::Int(1),
                sample_tensor(stream, &[1]),
                sample_tensor(stream, &[1]),
                Arg::Float(1e-1),
            ]),
            Sample::new(vec![
                sample_tensor(stream, &[3, 4]),
                Arg::Int(2),
                Arg::None,
                Arg::None,
                Arg::Float(1e-5),
            ]),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn groups_that_do_not_divide_the_channels_are_refused() {
        let x = Var::constant(Tensor::zeros((2, 3, 4), DType::F32, &Device::Cpu).unwrap());
        for groups in [0, 2] {
            let error = group_norm(&Tape::default(), &x, groups, (None, None), 1e-5).unwrap_err();
            assert!(error.to_string().starts_with("`group_norm` expects"), "{error}");
        }
    }
}
