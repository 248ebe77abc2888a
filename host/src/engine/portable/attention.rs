//! Multi-head attention; the scores of one pass are held at a time, and made again on the way back.

use candle_core::Tensor;

use super::mark;
use super::matmul::product;
use crate::Result;
use crate::engine::cuda;
use crate::engine::kernel::attention::Sizes;
use crate::engine::tape::{Precision, Tape, Var};

/// See [`crate::engine::ops::attention::attention`] and, where lengths (u32 `[B]`) are given,
/// [`crate::engine::ops::padded_attention::padded_attention`]; `scale` is the factor itself. A length above N makes NaN.
pub fn attention(
    tape: &Tape,
    op: &'static str,
    (qkv, lengths): (&Var, Option<&Var>),
    sizes: Sizes,
    scale: f64,
) -> Result<Var> {
    // Two products forward; backward makes the scores again and has four more.
    let products = if tape.records(&[qkv]) { 7 } else { 2 };
    tape.count_flops(op, products * 2 * sizes.tokens * sizes.out_len());
    if cuda::fits(qkv.value()) && cuda::attention::fits(sizes, tape.precision(), qkv.value()) {
        return fused(tape, op, (qkv, lengths), sizes, scale);
    }
    let counted = lengths.map(|lengths| Counted::new(lengths.value(), qkv.value(), sizes));
    let counted = counted.transpose()?;
    let value = tape.timed(op, || {
        let [q, k, v] = heads(qkv.value(), sizes)?;
        let out = product(&probabilities(&q, &k, scale, counted.as_ref())?, &v, Precision::F32)?;
        let out = join(&out, sizes)?;
        match &counted {
            Some(counted) => Ok(out.broadcast_add(&counted.wrong)?),
            None => Ok::<_, crate::Error>(out),
        }
    })?;
    let saved = qkv.value().clone();
    Ok(tape.record(op, &[qkv], value, move |gradient, inputs| {
        inputs.add(0, backward(&saved, gradient.tensor(), sizes, (scale, counted.as_ref()))?)
    }))
}

/// The same by kernels that hold no N x N tensor.
fn fused(
    tape: &Tape,
    op: &'static str,
    (qkv, lengths): (&Var, Option<&Var>),
    sizes: Sizes,
    scale: f64,
) -> Result<Var> {
    let precision = tape.precision();
    let given = (qkv.value(), lengths.map(Var::value));
    let attended = tape.timed(op, || cuda::attention::forward(given, sizes, scale, precision))?;
    let (saved, value) = (qkv.value().clone(), attended.out.clone());
    Ok(tape.record(op, &[qkv], value, move |gradient, inputs| {
        inputs.add(0, attended.gradient(&saved, gradient.tensor())?)
    }))
}

/// Which tokens count.
struct Counted {
    /// 1 where they do, else 0: as queries `[B heads, N, 1]` and as keys `[B heads, 1, N]`, in the type of qkv.
    queries: Tensor,
    keys: Tensor,
    /// NaN where a length is above N, else 0: `[B, 1, 1]`.
    wrong: Tensor,
}

impl Counted {
    fn new(lengths: &Tensor, qkv: &Tensor, sizes: Sizes) -> Result<Self> {
        let Sizes { batch, tokens, heads, .. } = sizes;
        let lengths = lengths.reshape((batch, 1))?;
        let places = Tensor::arange(0, tokens as u32, qkv.device())?.reshape((1, tokens))?;
        let counts = places.broadcast_lt(&lengths)?.to_dtype(qkv.dtype())?.unsqueeze(1)?;
        let counts = counts.broadcast_as((batch, heads, tokens))?.contiguous()?;
        let wrong = mark(&lengths.gt(tokens as u32)?, qkv.dtype())?;
        Ok(Self {
            queries: counts.reshape((batch * heads, tokens, 1))?,
            keys: counts.reshape((batch * heads, 1, tokens))?,
            wrong: wrong.reshape((batch, 1, 1))?,
        })
    }
}

/// softmax(scale q k^T), `[B heads, N, N]`; 0 where a query or a key does not count.
fn probabilities(q: &Tensor, k: &Tensor, scale: f64, counted: Option<&Counted>) -> Result<Tensor> {
    let scores = product(q, &k.transpose(1, 2)?, Precision::F32)?.affine(scale, 0.0)?;
    if let Some(counted) = counted {
        // Others are left out of the sums, which are at least a little where nothing counts.
        let low = counted.keys.affine(1e30, -1e30)?;
        let scores = scores.broadcast_add(&low)?;
        let powers = scores.broadcast_sub(&scores.max_keepdim(2)?)?.exp()?;
        let powers = powers.broadcast_mul(&counted.keys)?;
        let sums = powers.sum_keepdim(2)?.maximum(f64::from(f32::MIN_POSITIVE))?;
        return Ok(powers.broadcast_div(&sums)?.broadcast_mul(&counted.queries)?);
    }
    let powers = scores.broadcast_sub(&scores.max_keepdim(2)?)?.exp()?;
    Ok(powers.broadcast_div(&powers.sum_keepdim(2)?)?)
}

/// With P the probabilities and dP = dO v^T: `dv = P^T dO`, `dS = P (dP - rowsum(P dP))`,
/// `dq = scale dS k`, `dk = scale dS^T q`.
fn backward(
    qkv: &Tensor,
    dy: &Tensor,
    sizes: Sizes,
    (scale, counted): (f64, Option<&Counted>),
) -> Result<Tensor> {
    let Sizes { batch, tokens, heads: count, head_dim } = sizes;
    let [q, k, v] = heads(qkv, sizes)?;
    let dy = dy.reshape((batch, tokens, count, head_dim))?.transpose(1, 2)?;
    let dy = dy.reshape((batch * count, tokens, head_dim))?;
    let p = probabilities(&q, &k, scale, counted)?;
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
