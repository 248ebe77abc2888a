//! Places of largest values, and one-hot rows.

use candle_core::{DType, Tensor};

use super::{mark, numbers};
use crate::{Error, Result};

/// More places than that have no exact number in f32.
const MOST: usize = 1 << 24;

/// The place of the first largest along `dim`, u32; NaN is the largest.
///
/// # Errors
/// When `dim` is empty, or holds more than 2^24.
pub fn places(op: &str, x: &Tensor, dim: usize) -> Result<Tensor> {
    let count = x.dims()[dim];
    if count == 0 || count > MOST {
        return Err(Error::failed(format!(
            "`{op}` along dimension {dim} of {:?}, which is empty or too long",
            x.dims()
        )));
    }
    let x = x.contiguous()?;
    let nan = x.ne(&x)?;
    let low = x.zeros_like()?.affine(1.0, f64::NEG_INFINITY)?;
    let rest = nan.where_cond(&low, &x)?;
    let largest = rest.broadcast_eq(&rest.max_keepdim(dim)?)?.to_dtype(DType::F32)?;
    // A row with a NaN in it is asked for its first NaN, the others for their first largest.
    let nan = nan.to_dtype(DType::F32)?;
    let with_nan = nan.max_keepdim(dim)?;
    let hit = (nan + largest.broadcast_mul(&with_nan.affine(-1.0, 1.0)?)?)?;
    // The first place has the highest number: count - place.
    let score =
        hit.broadcast_mul(&numbers(&x, dim)?.to_dtype(DType::F32)?.affine(-1.0, count as f64)?)?;
    Ok(score.max(dim)?.affine(-1.0, count as f64)?.to_dtype(DType::U32)?)
}

/// `indices` `[...]` (u32) as rows of zeros with one 1, f32 `[..., classes]`; an index that is out of range
/// makes a row of NaN.
///
/// # Errors
/// None but the device's own.
pub fn one_hot(indices: &Tensor, classes: usize) -> Result<Tensor> {
    let (rank, column) = (indices.rank(), indices.unsqueeze(indices.rank())?);
    let classes_of = Tensor::arange(0, classes as u32, indices.device())?;
    let mut shape = vec![1; rank];
    shape.push(classes);
    let rows = column.broadcast_eq(&classes_of.reshape(shape)?)?.to_dtype(DType::F32)?;
    Ok(rows.broadcast_add(&mark(&column.ge(classes as u32)?, DType::F32)?)?)
}
