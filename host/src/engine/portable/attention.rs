//! Multi-head attention; the scores of one pass are held at a time, and made again on the way back.

use candle_core::Tensor;

use super::matmul::product;
use crate::Result;
use crate::engine::cuda;
use crate::engine::kernel::attention::Sizes;
use crate::engine::tape::{Precision, Tape, Var};

/// See [`crate::engine::ops::attention::attention`]; `scale` is the factor itself.
pub fn attention(tape: &Tape, qkv: &Var, sizes: Sizes, scale: f64) -> Result<Var> {
    if cuda::fits(qkv.value()) && cuda::attention::fits(sizes) {
        return fused(tape, qkv, sizes, scale);
    }
    let value = tape.timed("attention", || {
        let [q, k, v] = heads(qkv.value(), sizes)?;
        join(&product(&probabilities(&q, &k, scale)?, &v, Precision::F32)?, sizes)
    })?;
    let saved = qkv.value().clone();
    Ok(tape.record("attention", &[qkv], value, move |gradient, inputs| {
        inputs.add(0, backward(&saved, gradient.tensor(), sizes, scale)?)
    }))
}

/// The same by kernels that hold no N x N tensor.
fn fused(tape: &Tape, qkv: &Var, sizes: Sizes, scale: f64) -> Result<Var> {
    let precision = tape.precision();
    let attended =
        tape.timed("attention", || cuda::attention::forward(qkv.value(), sizes, scale, precision))?;
    let (saved, value) = (qkv.value().clone(), attended.out.clone());
    Ok(tape.record("attention", &[qkv], value, move |gradient, inputs| {
        inputs.add(0, attended.gradient(&saved, gradient.tensor())?)
    }))
}

/// softmax(scale q k^T), `[B heads, N, N]`.
fn probabilities(q: &Tensor, k: &Tensor, scale: f64) -> Result<Tensor> {
    let scores = product(q, &k.transpose(1, 2)?, Precision::F32)?.affine(scale, 0.0)?;
    let powers = scores.broadcast_sub(&scores.max_keepdim(2)?)?.exp()?;
    Ok(powers.broadcast_div(&powers.sum_keepdim(2)?)?)
}

/// With P the probabilities and dP = dO v^T: `dv = P^T dO`, `dS = P (dP - rowsum(P dP))`,
/// `dq = scale dS k`, `dk = scale dS^T q`.
fn backward(qkv: &Tensor, dy: &Tensor, sizes: Sizes, scale: f64) -> Result<Tensor> {
    let Sizes { batch, tokens, heads: count, head_dim } = sizes;
    let [q, k, v] = heads(qkv, sizes)?;
    let dy = dy.reshape((batch, tokens, count, head_dim))?.transpose(1, 2)?;
    let dy = dy.reshape((batch * count, tokens, head_dim))?;
    let p = probabilities(&q, &k, scale)?;
    let dv = product(&p.transpose(1, 2)?, &dy, Precision::F32)?;
    let weighted = (&p * product(&dy, &v.transpose(1, 2)?, Precision::F32)?)?;
    let ds = (&weighted - p.broadcast_mul(&weighted.sum_keepdim(2)?)?)?.affine(scale, 0.0)?;
    let dq = product(&ds, &k, Precision::F32)?;
    let dk = product(&ds.transpose(1, 2)?, &q, Precision::F32)?;
    // [3, B, heads, N, d] to [B, N, (3, heads, d)].
    let all = Tensor::stack(&[dq, dk, dv], 0)?.reshape((3, batch, count, tokens, head_dim))?;
    Ok(all.permute((1, 3, 0, 2, 4))?.reshape((batch, tokens, 3 * count * head_dim))?)
}

/// Queries, keys and values, `[B heads, N, d]` each.
fn heads(qkv: &Tensor, sizes: Sizes) -> Result<[Tensor; 3]> {
    let Sizes { batch, tokens, heads, head_dim } = sizes;
    let all = qkv.reshape((batch, tokens, 3, heads, head_dim))?.permute((2, 0, 3, 1, 4))?;
    let all = all.reshape((3, batch * heads, tokens, head_dim))?;
    Ok([all.get(0)?, all.get(1)?, all.get(2)?])
}

/// `[B heads, N, d]` to `[B, N, heads d]`.
fn join(x: &Tensor, sizes: Sizes) -> Result<Tensor> {
    let Sizes { batch, tokens, heads, head_dim } = sizes;
    let split = x.reshape((batch, heads, tokens, head_dim))?.transpose(1, 2)?;
    Ok(split.reshape((batch, tokens, heads * head_dim))?)
}
