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
    first_largest(&x.contiguous()?, dim, None)
}

/// The `k` largest of each row of x `[..., N]`, largest first, and their places (u32): one search after another, so that
/// nothing is sorted on the host.
///
/// # Errors
/// When rows hold more than 2^24.
pub fn topk(x: &Tensor, k: usize) -> Result<(Tensor, Tensor)> {
    let (mut shape, last) = (x.dims().to_vec(), x.rank() - 1);
    let width = shape[last];
    shape[last] = k;
    if width > MOST {
        return Err(Error::failed(format!("`topk` of {width} is too long")));
    }
    let rows = x.contiguous()?.reshape(((), width))?;
    let mut taken = Tensor::zeros(rows.shape(), DType::F32, x.device())?;
    let (mut top, mut places) = (Vec::new(), Vec::new());
    for _ in 0..k {
        let place = first_largest(&rows, 1, Some(&taken))?.unsqueeze(1)?;
        let found = numbers(&rows, 1)?.broadcast_eq(&place)?.to_dtype(DType::F32)?;
        taken = (taken + found)?;
        top.push(rows.gather(&place, 1)?);
        places.push(place);
    }
    if k == 0 {
        let none = rows.narrow(1, 0, 0)?.reshape(shape.as_slice())?;
        return Ok((none.clone(), none.to_dtype(DType::U32)?));
    }
    let joined = |parts: &[Tensor]| Tensor::cat(parts, 1)?.reshape(shape.as_slice());
    Ok((joined(&top)?, joined(&places)?))
}

/// Of what is not `taken` (1 there, f32).
fn first_largest(x: &Tensor, dim: usize, taken: Option<&Tensor>) -> Result<Tensor> {
    let count = x.dims()[dim];
    let nan = x.ne(x)?;
    let low = x.zeros_like()?.affine(1.0, f64::NEG_INFINITY)?;
    let rest = nan.where_cond(&low, x)?;
    let rest = match taken {
        Some(taken) => taken.gt(0.0)?.where_cond(&low, &rest)?,
        None => rest,
    };
    let largest = rest.broadcast_eq(&rest.max_keepdim(dim)?)?.to_dtype(DType::F32)?;
    let free = |hit: Tensor| match taken {
        Some(taken) => hit * taken.affine(-1.0, 1.0)?,
        None => Ok(hit),
    };
    // A row with a NaN in it is asked for its first NaN, the others for their first largest.
    let (nan, largest) = (free(nan.to_dtype(DType::F32)?)?, free(largest)?);
    let with_nan = nan.max_keepdim(dim)?;
    let hit = (nan + largest.broadcast_mul(&with_nan.affine(-1.0, 1.0)?)?)?;
    // The first place has the highest number: count - place.
    let score =
        hit.broadcast_mul(&numbers(x, dim)?.to_dtype(DType::F32)?.affine(-1.0, count as f64)?)?;
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
