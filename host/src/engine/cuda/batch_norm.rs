//! Launches of `batch_norm.cu`: columns normalised over all rows, with an addition and max(x, 0) behind.

use candle_core::{DType, Tensor};

use super::launch::{Arg, File, Launch, file, fours, fresh};
use super::norm::column_sums;
use crate::Result;

const FILE: File = file!("batch_norm");

/// Rows that one thread sums.
const SPAN: usize = 256;

/// What is normalised, and by which numbers.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// `[R, C]`, contiguous.
    pub x: &'a Tensor,
    /// `[C]`, as all that follow.
    pub mean: &'a Tensor,
    /// 1 / sqrt(var + eps).
    pub rstd: &'a Tensor,
    /// Multiplies what is normalised.
    pub weight: Option<&'a Tensor>,
}

/// Means and mean squared distances from them of the columns of x `[R, C]`.
///
/// # Errors
/// When the device has no room, or the launch is refused.
pub fn moments(x: &Tensor) -> Result<[Tensor; 2]> {
    let (rows, width) = x.dims2()?;
    let share = 1.0 / rows.max(1) as f64;
    let mean = column_sums(x)?.affine(share, 0.0)?;
    let parts = rows.div_ceil(SPAN);
    let sums = fresh((parts, width), DType::F32, x)?;
    let args = [
        Arg::F32(x, rows * width),
        Arg::F32(&mean, width),
        Arg::F32(&sums, parts * width),
        Arg::Int(rows),
        Arg::Int(width),
        Arg::Int(SPAN),
    ];
    columns("column_squares", rows, width).run(x, &args)?;
    Ok([mean, column_sums(&sums)?.affine(share, 0.0)?])
}

/// `(x - mean) rstd w + b + added`, and max of that and 0 where `relu`.
///
/// # Errors
/// As [`moments`].
pub fn forward(
    rows: Rows<'_>,
    bias: Option<&Tensor>,
    added: Option<&Tensor>,
    relu: bool,
) -> Result<Tensor> {
    let Rows { x, mean, rstd, weight } = rows;
    let y = fresh(x.shape(), DType::F32, x)?;
    let (n, width) = (x.elem_count(), x.dims()[1]);
    let args = [
        Arg::F32(x, n),
        Arg::F32(mean, width),
        Arg::F32(rstd, width),
        Arg::optional(weight, width),
        Arg::optional(bias, width),
        Arg::optional(added, n),
        Arg::F32(&y, n),
        Arg::Long(n),
        Arg::Int(width),
        Arg::Int(usize::from(relu)),
    ];
    each("batch_norm_forward", n).run(x, &args)?;
    Ok(y)
}

/// Sums over all rows of d and of d (x - mean) rstd, `[C]` both; d is dy, but 0 where `y`, if given, is not above 0.
///
/// # Errors
/// As [`moments`].
pub fn sums(rows: Rows<'_>, y: Option<&Tensor>, dy: &Tensor) -> Result<[Tensor; 2]> {
    let Rows { x, mean, rstd, .. } = rows;
    let (count, width) = x.dims2()?;
    let (n, parts) = (count * width, count.div_ceil(SPAN));
    let part = || fresh((parts, width), DType::F32, x);
    let (db, dw) = (part()?, part()?);
    let args = [
        Arg::F32(x, n),
        Arg::optional(y, n),
        Arg::F32(dy, n),
        Arg::F32(mean, width),
        Arg::F32(rstd, width),
        Arg::F32(&db, parts * width),
        Arg::F32(&dw, parts * width),
        Arg::Int(count),
        Arg::Int(width),
        Arg::Int(SPAN),
    ];
    columns("batch_norm_sums", count, width).run(x, &args)?;
    Ok([column_sums(&db)?, column_sums(&dw)?])
}

/// The gradient of x from d and its `sums`, of which it takes the `share`, and d itself where it is `wanted`.
///
/// # Errors
/// As [`moments`].
pub fn backward(
    rows: Rows<'_>,
    (y, dy): (Option<&Tensor>, &Tensor),
    sums: &[Tensor; 2],
    share: f64,
    wanted: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    let Rows { x, mean, rstd, weight } = rows;
    let dx = fresh(x.shape(), DType::F32, x)?;
    let passed = wanted.then(|| fresh(x.shape(), DType::F32, x)).transpose()?;
    let (n, width) = (x.elem_count(), x.dims()[1]);
    let args = [
        Arg::F32(x, n),
        Arg::optional(y, n),
        Arg::F32(dy, n),
        Arg::F32(mean, width),
        Arg::F32(rstd, width),
        Arg::optional(weight, width),
        Arg::F32(&sums[0], width),
        Arg::F32(&sums[1], width),
        Arg::F32(&dx, n),
        Arg::optional(passed.as_ref(), n),
        Arg::Long(n),
        Arg::Int(width),
        Arg::Float(share),
    ];
    each("batch_norm_backward", n).run(x, &args)?;
    Ok((dx, passed))
}

fn columns(kernel: &'static str, rows: usize, width: usize) -> Launch {
    let grid = [width.div_ceil(128), rows.div_ceil(SPAN)];
    Launch { file: FILE, kernel, grid, threads: 128, shared: 0 }
}

fn each(kernel: &'static str, n: usize) -> Launch {
    Launch { file: FILE, kernel, grid: fours(n), threads: 256, shared: 0 }
}
