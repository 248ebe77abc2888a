//! `resize_bicubic@1`: images resized as PyTorch's `interpolate` does.

use candle_core::Tensor;

use crate::engine::kernel::Float;
use crate::engine::kernel::matmul::{Stack, Write, matmul_batched};
use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::tape::{Tape, Var};
use crate::engine::{portable, storage};
use crate::{Error, Result, for_float};

/// The sharpness of the cubic kernel (Keys 1981), as the field uses it.
const A: f64 = -0.75;

/// Bicubic resize of x `[B, C, H, W]` to `[B, C, height, width]`: a = -0.75, half-pixel centres,
/// clamped borders. With `offset` o > 0, a step of the result is `H / (height + o)` of the input, as
/// DINO's released code asks for position embeddings.
///
/// # Errors
/// When x isn't of rank 4 or a size is 0.
pub fn resize_bicubic(
    tape: &Tape,
    x: &Var,
    [height, width]: [usize; 2],
    offset: f64,
) -> Result<Var> {
    let &[b, c, h, w] = x.dims() else {
        return Err(Error::failed(format!(
            "`resize_bicubic` expects images [B, C, H, W], got {:?}",
            x.dims()
        )));
    };
    if h * w * height * width == 0 || offset < 0.0 {
        return Err(Error::failed(format!(
            "`resize_bicubic` can't make {height} x {width} of {h} x {w} with offset {offset}"
        )));
    }
    let down = Taps { from: h, to: height, offset };
    let across = Taps { from: w, to: width, offset };
    if tape.portable(x) {
        let [down, across] = [down, across].map(|taps| (taps.weights(), [taps.to, taps.from]));
        return portable::resize::resize(tape, x, down, across);
    }
    let shape = [b, c, height, width];
    let value = tape.timed("resize_bicubic", || apply(x.value(), down, across, false, shape))?;
    Ok(tape.record("resize_bicubic", &[x], value, move |gradient, inputs| {
        inputs.add(0, apply(gradient.tensor(), down, across, true, [b, c, h, w])?)
    }))
}

/// How one dimension of `from` numbers becomes one of `to`.
#[derive(Clone, Copy)]
struct Taps {
    from: usize,
    to: usize,
    offset: f64,
}

impl Taps {
    /// The matrix `[to, from]` of the weights, four to a row, in the type of a kernel.
    fn matrix<T: Float>(self) -> Vec<T> {
        self.weights().into_iter().map(Float::from_f64).collect()
    }

    /// The matrix `[to, from]` of the weights, four to a row.
    fn weights(self) -> Vec<f64> {
        let mut weights = vec![0.0; self.to * self.from];
        let step = self.from as f64 / (self.to as f64 + self.offset);
        for (i, row) in weights.chunks_exact_mut(self.from).enumerate() {
            let centre = (i as f64 + 0.5) * step - 0.5;
            let first = centre.floor();
            for tap in -1..=2_i32 {
                let at = first + f64::from(tap);
                let clamped = at.clamp(0.0, (self.from - 1) as f64) as usize;
                row[clamped] += cubic(at - centre);
            }
        }
        weights
    }
}

/// The cubic kernel at distance `x` from its centre.
fn cubic(x: f64) -> f64 {
    let x = x.abs();
    if x <= 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((x - 5.0) * x + 8.0) * x * A - 4.0 * A
    } else {
        0.0
    }
}

/// `down x across^T` for every channel, or with both matrices transposed: the gradient. `shape` is
/// that of the result.
fn apply(x: &Tensor, down: Taps, across: Taps, back: bool, shape: [usize; 4]) -> Result<Tensor> {
    let [b, c, height, width] = shape;
    let (rows, cols) = (x.dims()[2], x.dims()[3]);
    for_float!(x.dtype(), T => {
        let (down_weights, across_weights) = (down.matrix::<T>(), across.matrix::<T>());
        // The same matrix for every channel: a stack with stride 0.
        let left = Stack::strided(&down_weights, [down.to, down.from], [down.from, 1], 0);
        let right = Stack::strided(&across_weights, [across.to, across.from], [across.from, 1], 0);
        let (left, right) =
            if back { (left.transposed(), right) } else { (left, right.transposed()) };
        let y = storage::read(x, |x| {
            let mut half = vec![T::ZERO; b * c * height * cols];
            matmul_batched(T::ONE, left, Stack::new(x, rows, cols), Write::Set, &mut half);
            let mut y = vec![T::ZERO; b * c * height * width];
            matmul_batched(T::ONE, Stack::new(&half, height, cols), right, Write::Set, &mut y);
            y
        })?;
        storage::tensor(y, &shape)
    })
}

inventory::submit! {
    OpDef {
        name: "resize_bicubic",
        revision: 1,
        formula: "resize_bicubic(x [B, C, H, W], height, width, offset) = [B, C, height, width]",
        call: |tape, args: &Args<'_>| {
            let sizes = [args.size(1)?, args.size(2)?];
            Ok(vec![resize_bicubic(tape, args.tensor(0)?, sizes, args.float(3)?)?])
        },
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![
                sample_tensor(stream, &[1, 2, 4, 3]),
                Arg::Int(2),
                Arg::Int(5),
                Arg::Float(0.0),
            ]),
            Sample::new(vec![
                sample_strided(stream, &[2, 1, 3, 3]),
                Arg::Int(4),
                Arg::Int(2),
                Arg::Float(0.1),
            ]),
            Sample::new(vec![
                sample_tensor(stream, &[1, 1, 1, 1]),
                Arg::Int(2),
                Arg::Int(1),
                Arg::Float(0.0),
            ]),
        ],
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn the_same_size_without_offset_changes_nothing() {
        let x = Tensor::arange(0.0_f32, 12.0, &Device::Cpu).unwrap().reshape((1, 1, 3, 4)).unwrap();
        let y = resize_bicubic(&Tape::default(), &Var::constant(x.clone()), [3, 4], 0.0).unwrap();
        assert_eq!(storage::to_f32(y.value()).unwrap(), storage::to_f32(&x).unwrap());
    }

    #[test]
    fn an_empty_size_is_refused() {
        let x = Var::constant(Tensor::zeros((1, 1, 3, 4), DType::F32, &Device::Cpu).unwrap());
        assert!(resize_bicubic(&Tape::default(), &x, [0, 4], 0.0).is_err());
        let flat = Var::constant(Tensor::zeros((3, 4), DType::F32, &Device::Cpu).unwrap());
        assert!(resize_bicubic(&Tape::default(), &flat, [3, 4], 0.0).is_err());
    }
}
