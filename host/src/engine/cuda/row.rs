//! Launches of `row.cu`: rows scaled to length 1, or to a gain.

use candle_core::{DType, Tensor};

use super::launch::{Arg, File, Launch, file, fresh, warps};
use crate::Result;

const FILE: File = file!("row");

/// `gain x / max(norm, eps)` per row of x `[..., D]`, and the norms, `[rows]`. The gain `[rows]` is 1 where left
/// out.
///
/// # Errors
/// When the device has no room, or the launch is refused.
pub fn forward(x: &Tensor, gain: Option<&Tensor>, eps: f64) -> Result<[Tensor; 2]> {
    let x = x.contiguous()?;
    let (rows, width) = sizes(&x);
    let (y, norms) = (fresh(x.shape(), DType::F32, &x)?, fresh(rows, DType::F32, &x)?);
    let args = [
        Arg::F32(&x, rows * width),
        Arg::optional(gain, rows),
        Arg::F32(&y, rows * width),
        Arg::F32(&norms, rows),
        Arg::Int(rows),
        Arg::Int(width),
        Arg::Float(eps),
    ];
    launch("unit_forward", rows).run(&x, &args)?;
    Ok([y, norms])
}

/// The gradients of x and of the gain, `[rows]`.
///
/// # Errors
/// As [`forward`].
pub fn backward(
    x: &Tensor,
    gain: Option<&Tensor>,
    norms: &Tensor,
    dy: &Tensor,
    eps: f64,
) -> Result<[Tensor; 2]> {
    let (x, dy) = (x.contiguous()?, dy.contiguous()?);
    let (rows, width) = sizes(&x);
    let (dx, dgain) = (fresh(x.shape(), DType::F32, &x)?, fresh(rows, DType::F32, &x)?);
    let args = [
        Arg::F32(&x, rows * width),
        Arg::optional(gain, rows),
        Arg::F32(norms, rows),
        Arg::F32(&dy, rows * width),
        Arg::F32(&dx, rows * width),
        Arg::F32(&dgain, rows),
        Arg::Int(rows),
        Arg::Int(width),
        Arg::Float(eps),
    ];
    launch("unit_backward", rows).run(&x, &args)?;
    Ok([dx, dgain])
}

fn sizes(x: &Tensor) -> (usize, usize) {
    let width = x.dims()[x.rank() - 1];
    (x.elem_count() / width.max(1), width)
}

fn launch(kernel: &'static str, rows: usize) -> Launch {
    Launch { file: FILE, kernel, grid: warps(rows), threads: 256, shared: 0 }
}
