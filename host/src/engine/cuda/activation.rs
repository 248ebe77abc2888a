//! Launches of `activation.cu`: GELU, biases, rounding to bf16.

use candle_core::{DType, Tensor};

use super::launch::{Arg, File, Launch, file, fours, fresh};
use crate::Result;

const FILE: File = file!("activation");

/// gelu(x), in `dtype`: f32, or bf16 where it is an operand.
///
/// # Errors
/// When the device has no room, or the launch is refused.
pub fn gelu(x: &Tensor, dtype: DType) -> Result<Tensor> {
    let x = x.contiguous()?;
    let y = fresh(x.shape(), dtype, &x)?;
    let kernel = if dtype == DType::BF16 { "gelu_forward_bf16" } else { "gelu_forward_f32" };
    let n = x.elem_count();
    launch(kernel, n).run(&x, &[Arg::F32(&x, n), Arg::in_type(dtype, &y, n), Arg::Long(n)])?;
    Ok(y)
}

/// dy gelu'(x).
///
/// # Errors
/// As [`gelu`].
pub fn gelu_backward(x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let (x, dy) = (x.contiguous()?, dy.contiguous()?);
    let dx = fresh(x.shape(), DType::F32, &x)?;
    let n = x.elem_count();
    let args = [Arg::F32(&x, n), Arg::F32(&dy, n), Arg::F32(&dx, n), Arg::Long(n)];
    launch("gelu_backward", n).run(&x, &args)?;
    Ok(dx)
}

/// Adds b `[D]` to the rows of x `[..., D]`, in place: nobody else holds x.
///
/// # Errors
/// As [`gelu`].
pub fn add_bias(x: &Tensor, b: &Tensor) -> Result<()> {
    let b = b.contiguous()?;
    let (n, width) = (x.elem_count(), b.elem_count());
    let args = [Arg::F32(x, n), Arg::F32(&b, width), Arg::Long(n), Arg::Int(width)];
    launch("add_bias", n).run(x, &args)
}

/// x in bf16.
///
/// # Errors
/// As [`gelu`].
pub fn round(x: &Tensor) -> Result<Tensor> {
    let x = x.contiguous()?;
    let y = fresh(x.shape(), DType::BF16, &x)?;
    let n = x.elem_count();
    launch("round_bf16", n).run(&x, &[Arg::F32(&x, n), Arg::Bf16(&y, n), Arg::Long(n)])?;
    Ok(y)
}

fn launch(kernel: &'static str, n: usize) -> Launch {
    Launch { file: FILE, kernel, grid: fours(n), threads: 256, shared: 0 }
}
