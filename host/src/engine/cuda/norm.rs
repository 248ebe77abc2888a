//! Launches of `norm.cu`: norms of rows, and sums of columns.

use candle_core::{DType, Tensor};

use super::launch::{Arg, File, Launch, file, fresh, warps};
use crate::Result;

const FILE: File = file!("norm");

/// Rows that one thread sums in the first of two passes.
const SPAN: usize = 256;

/// A norm of the rows of x `[..., D]`, its means and its 1 / sqrt(var + eps), `[..., 1]` each.
#[derive(Debug)]
pub struct Normed {
    /// In the shape of x: f32, or bf16 where it is an operand.
    pub y: Tensor,
    /// Zeros where the norm has no centre.
    pub mean: Tensor,
    /// 1 / sqrt(var + eps).
    pub rstd: Tensor,
}

/// `(x - mean) rstd w + b`, in `dtype` (f32 or bf16); the mean is 0 unless `centred`.
///
/// # Errors
/// When the device has no room, or the launch is refused.
pub fn forward(
    x: &Tensor,
    [w, b]: [Option<&Tensor>; 2],
    (centred, eps): (bool, f64),
    dtype: DType,
) -> Result<Normed> {
    let (x, rows, width) = rows(x)?;
    let w = w.map(Tensor::contiguous).transpose()?;
    let b = b.map(Tensor::contiguous).transpose()?;
    let mut lead = x.dims().to_vec();
    lead[x.rank() - 1] = 1;
    let y = fresh(x.shape(), dtype, &x)?;
    let (mean, rstd) = (fresh(lead.as_slice(), DType::F32, &x)?, fresh(lead, DType::F32, &x)?);
    let kernel = if dtype == DType::BF16 { "norm_forward_bf16" } else { "norm_forward_f32" };
    let args = [
        Arg::F32(&x, rows * width),
        Arg::optional(w.as_ref(), width),
        Arg::optional(b.as_ref(), width),
        Arg::in_type(dtype, &y, rows * width),
        Arg::F32(&mean, rows),
        Arg::F32(&rstd, rows),
        Arg::Int(rows),
        Arg::Int(width),
        Arg::Float(eps),
        Arg::Int(usize::from(centred)),
    ];
    launch(kernel, warps(rows), 256).run(&x, &args)?;
    Ok(Normed { y, mean, rstd })
}

/// The gradient of x.
///
/// # Errors
/// As [`forward`].
pub fn grad_input(
    x: &Tensor,
    w: Option<&Tensor>,
    [mean, rstd]: [&Tensor; 2],
    dy: &Tensor,
    centred: bool,
) -> Result<Tensor> {
    let (x, rows, width) = rows(x)?;
    let dy = dy.contiguous()?;
    let w = w.map(Tensor::contiguous).transpose()?;
    let dx = fresh(x.shape(), DType::F32, &x)?;
    let args = [
        Arg::F32(&x, rows * width),
        Arg::optional(w.as_ref(), width),
        Arg::F32(mean, rows),
        Arg::F32(rstd, rows),
        Arg::F32(&dy, rows * width),
        Arg::F32(&dx, rows * width),
        Arg::Int(rows),
        Arg::Int(width),
        Arg::Int(usize::from(centred)),
    ];
    launch("norm_backward", warps(rows), 256).run(&x, &args)?;
    Ok(dx)
}

/// The gradients of the weight and of the bias, `[D]` both.
///
/// # Errors
/// As [`forward`].
pub fn grad_affine(x: &Tensor, [mean, rstd]: [&Tensor; 2], dy: &Tensor) -> Result<[Tensor; 2]> {
    let (x, rows, width) = rows(x)?;
    let dy = dy.contiguous()?;
    let parts = rows.div_ceil(SPAN);
    let (dw, db) = (fresh((parts, width), DType::F32, &x)?, fresh((parts, width), DType::F32, &x)?);
    let args = [
        Arg::F32(&x, rows * width),
        Arg::F32(mean, rows),
        Arg::F32(rstd, rows),
        Arg::F32(&dy, rows * width),
        Arg::F32(&dw, parts * width),
        Arg::F32(&db, parts * width),
        Arg::Int(rows),
        Arg::Int(width),
        Arg::Int(SPAN),
    ];
    launch("norm_weight_parts", [width.div_ceil(128), parts], 128).run(&x, &args)?;
    Ok([sums(&dw, parts)?, sums(&db, parts)?])
}

/// The sums of the columns of x `[..., D]`: `[D]`.
///
/// # Errors
/// As [`forward`].
pub fn column_sums(x: &Tensor) -> Result<Tensor> {
    let (x, rows, _) = rows(x)?;
    let parts = sums(&x, SPAN.min(rows.max(1)))?;
    if rows <= SPAN { Ok(parts) } else { sums(&parts, rows.div_ceil(SPAN)) }
}

/// Sums over `span` rows each: `[D]` where they are all of them, else `[parts, D]`.
fn sums(x: &Tensor, span: usize) -> Result<Tensor> {
    let (x, rows, width) = rows(x)?;
    let parts = rows.div_ceil(span.max(1)).max(1);
    let shape = if parts == 1 { vec![width] } else { vec![parts, width] };
    let sums = fresh(shape, DType::F32, &x)?;
    let args = [
        Arg::F32(&x, rows * width),
        Arg::F32(&sums, parts * width),
        Arg::Int(rows),
        Arg::Int(width),
        Arg::Int(span),
    ];
    launch("column_sums", [width.div_ceil(128), parts], 128).run(&x, &args)?;
    Ok(sums)
}

/// x without gaps, the number of its rows, and their width.
fn rows(x: &Tensor) -> Result<(Tensor, usize, usize)> {
    let width = x.dims()[x.rank() - 1];
    Ok((x.contiguous()?, x.elem_count() / width.max(1), width))
}

fn launch(kernel: &'static str, grid: [usize; 2], threads: usize) -> Launch {
    Launch { file: FILE, kernel, grid, threads, shared: 0 }
}
