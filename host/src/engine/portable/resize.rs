//! Images resized by a matrix for each of their two dimensions.

use candle_core::{Device, Tensor};

use super::matmul::product;
use crate::Result;
use crate::engine::cuda::upload::upload;
use crate::engine::tape::{Precision, Tape, Var};

/// A matrix: its numbers in row-major order, and its rows and columns.
type Numbers = (Vec<f64>, [usize; 2]);

/// `down x across^T` for every channel of x `[B, C, H, W]`: down `[H', H]`, across `[W', W]`. See
/// [`crate::engine::ops::resize_bicubic::resize_bicubic`].
///
/// # Errors
/// When the numbers don't fill their matrices.
pub fn resize(tape: &Tape, x: &Var, down: Numbers, across: Numbers) -> Result<Var> {
    let (down, across) = (matrix(down, x.value())?, matrix(across, x.value())?);
    let value = tape.timed("resize_bicubic", || apply(x.value(), &down, &across))?;
    Ok(tape.record("resize_bicubic", &[x], value, move |gradient, inputs| {
        inputs.add(0, apply(gradient.tensor(), &down.t()?, &across.t()?)?)
    }))
}

fn apply(x: &Tensor, down: &Tensor, across: &Tensor) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    let (height, width) = (down.dims()[0], across.dims()[0]);
    let half = product(&x.reshape((b * c * h, w))?, &across.t()?, Precision::F32)?;
    let turned = half.reshape((b * c, h, width))?.transpose(1, 2)?.reshape((b * c * width, h))?;
    let y = product(&turned, &down.t()?, Precision::F32)?;
    let y = y.reshape((b * c, width, height))?.transpose(1, 2)?;
    Ok(y.reshape((b, c, height, width))?)
}

/// On the device and in the type of `like`.
fn matrix((numbers, shape): Numbers, like: &Tensor) -> Result<Tensor> {
    let matrix = Tensor::from_vec(numbers, shape.as_slice(), &Device::Cpu)?;
    upload(&matrix.to_dtype(like.dtype())?, like.device())
}
