//! Sinkhorn's balanced assignments.

use candle_core::{DType, Tensor};

use crate::Result;

/// See [`crate::engine::ops::sinkhorn::sinkhorn`]: scores `[B, K]`, sums in f64.
///
/// # Errors
/// None but the device's own.
pub fn sinkhorn(scores: &Tensor, epsilon: f64, iterations: usize) -> Result<Tensor> {
    let (batch, prototypes) = scores.dims2()?;
    let x = scores.to_dtype(DType::F64)?.contiguous()?;
    let top = x.flatten_all()?.max(0)?;
    let mut q = x.broadcast_sub(&top)?.affine(1.0 / epsilon, 0.0)?.exp()?;
    q = q.broadcast_div(&q.sum_all()?)?;
    for _ in 0..iterations {
        let shares = q.sum_keepdim(0)?.affine(prototypes as f64, 0.0)?;
        q = q.broadcast_div(&shares)?;
        let totals = q.sum_keepdim(1)?.affine(batch as f64, 0.0)?;
        q = q.broadcast_div(&totals)?;
    }
    Ok(q.affine(batch as f64, 0.0)?.to_dtype(scores.dtype())?)
}
