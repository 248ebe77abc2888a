//! Products of stacks of matrices.

use candle_core::{DType, Tensor};

use crate::Result;
use crate::engine::cuda;
use crate::engine::tape::{Precision, Tape, Var};

/// `[..., M, K]` and `[..., K, N]` with equal leading sizes, or `[K, N]` for all; the shapes fit.
/// See [`crate::engine::ops::matmul::matmul`].
pub fn matmul(tape: &Tape, a: &Var, b: &Var) -> Result<Var> {
    // The CPU's op has f32 operands in every precision, and so has this.
    let (a_value, b_value) = (a.value().clone(), b.value().clone());
    let (a_dims, b_dims) = (a.dims().to_vec(), b.dims().to_vec());
    let shared = b_dims.len() == 2;
    let [m, k, n] = [a_dims[a_dims.len() - 2], b_dims[b_dims.len() - 2], b_dims[b_dims.len() - 1]];
    // One matrix for all of a: the leading sizes are part of M.
    let a_shape = if shared {
        vec![1, a_value.elem_count() / k.max(1), k]
    } else {
        vec![a_value.elem_count() / (m * k).max(1), m, k]
    };
    let b_shape = if shared { vec![1, k, n] } else { vec![a_shape[0], k, n] };
    let mut shape = a_dims.clone();
    shape[a_dims.len() - 1] = n;
    let (a_flat, b_flat) =
        (a_value.reshape(a_shape.as_slice())?, b_value.reshape(b_shape.as_slice())?);
    let value = tape.timed("matmul", || product(&a_flat, &b_flat, Precision::F32))?;
    let value = value.reshape(shape)?;
    Ok(tape.record("matmul", &[a, b], value, move |gradient, inputs| {
        let dy = gradient.tensor().reshape((a_shape[0], a_shape[1], n))?;
        if inputs.wants(0) {
            let da = product(&dy, &b_flat.transpose(1, 2)?, Precision::F32)?;
            inputs.add(0, da.reshape(a_dims.as_slice())?)?;
        }
        if inputs.wants(1) {
            let db = product(&a_flat.transpose(1, 2)?, &dy, Precision::F32)?;
            inputs.add(1, db.reshape(b_dims.as_slice())?)?;
        }
        Ok(())
    }))
}

/// `a b` of `[B, M, K]` and `[B, K, N]`, or of two matrices, in f32 or f64: operands rounded to bf16 where
/// `precision` says so, sums in f32.
pub fn product(a: &Tensor, b: &Tensor, precision: Precision) -> Result<Tensor> {
    if let Some(made) = cuda::product(a, b, precision)? {
        return Ok(made);
    }
    let round = |x: &Tensor| -> Result<Tensor> {
        let rounded = match (precision, x.dtype()) {
            (Precision::Bf16, DType::F32) => x.to_dtype(DType::BF16)?.to_dtype(DType::F32)?,
            _ => x.clone(),
        };
        // Candle's product is wrong for some transposed operands; a copy never is.
        Ok(rounded.contiguous()?)
    };
    Ok(round(a)?.matmul(&round(b)?)?)
}
