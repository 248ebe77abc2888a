//! The ops in a form that runs on every device: a few of candle's tensor operations each.
//!
//! An op computes tensors on the CPU by its own kernels and hands all others to the function of the
//! same name here, which records the same node with the same gradient. Nothing here reads a tensor back
//! to the host; an index that is out of range therefore makes NaN instead of an error,
//! and the check of the loss names it. Every form is compared with the op's kernels on the op's samples
//! (`tests`), so that it is known to be right where no other device is at hand.

pub mod activation;
pub mod attention;
pub mod balance;
pub mod batch_norm;
pub mod convolution;
pub mod group_norm;
pub mod linear;
pub mod loss;
pub mod matmul;
pub mod norm;
pub mod place;
pub mod pool;
pub mod resize;
pub mod row;
pub mod token;
pub mod update;
pub mod window;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod update_tests;

use candle_core::{DType, Tensor};

use crate::Result;

/// 0 where `wrong` (u8) is 0, NaN where it is not, in the type `dtype`: added to a result, it marks what
/// an index out of range made.
pub(super) fn mark(wrong: &Tensor, dtype: DType) -> Result<Tensor> {
    let zeros = Tensor::zeros(wrong.shape(), dtype, wrong.device())?;
    Ok(wrong.where_cond(&zeros.affine(1.0, f64::NAN)?, &zeros)?)
}

/// The places 0, 1, ... of dimension `dim` of a tensor like `like`, u32, with sizes of 1 elsewhere.
pub(super) fn numbers(like: &Tensor, dim: usize) -> Result<Tensor> {
    let count = like.dims()[dim];
    let mut shape = vec![1; like.rank()];
    shape[dim] = count;
    Ok(Tensor::arange(0, count as u32, like.device())?.reshape(shape)?)
}
