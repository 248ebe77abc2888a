//! `attention@1`: multi-head self-attention of packed queries, keys and values.

use candle_core::{DType, WithDType};

use crate::engine::kernel::Float;
use crate::engine::kernel::attention::{self as kernel, Scores, Sizes};
use crate::engine::kernel::packed::attention as packed;
use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::tape::{Precision, Tape, Var};
use crate::engine::{portable, storage};
use crate::{Error, Result, for_float};

/// softmax(scale q k^T) v for every head of `qkv` `[B, N, 3 D]`, laid out as (3, heads, D / heads):
/// `[B, N, D]`. A `scale` of 0 means 1 / sqrt(D / heads). No N x N tensor is kept: the backward pass
/// makes the probabilities again from the log sum exp of each row. In bf16 the operands of all products are rounded.
///
/// # Errors
/// When the shape is another, D is no multiple of `heads`, or the scale is below 0 or no number.
pub fn attention(tape: &Tape, qkv: &Var, heads: usize, scale: f64) -> Result<Var> {
    let (sizes, scale) = sizes("attention", qkv, heads, scale)?;
    if tape.portable(qkv) {
        return portable::attention::attention(tape, "attention", (qkv, None), sizes, scale);
    }
    self_attention(tape, "attention", (qkv, None), sizes, scale)
}

/// The sizes of an attention, and its scale itself.
pub(super) fn sizes(op: &str, qkv: &Var, heads: usize, scale: f64) -> Result<(Sizes, f64)> {
    let (&[batch, tokens, packed], true) = (qkv.dims(), heads > 0) else {
        return Err(refuse(op, qkv, heads));
    };
    let Some(0) = heads.checked_mul(3).map(|parts| packed % parts) else {
        return Err(refuse(op, qkv, heads));
    };
    if !(scale >= 0.0 && scale.is_finite()) {
        return Err(Error::failed(format!("`{op}` needs a scale of 0 or above, got {scale}")));
    }
    let sizes = Sizes { batch, tokens, heads, head_dim: packed / (3 * heads) };
    let scale = if scale == 0.0 { 1.0 / (sizes.head_dim as f64).sqrt() } else { scale };
    Ok((sizes, scale))
}

/// As [`attention`], where only the first `lengths[b]` tokens of sample b count, if lengths are given.
pub(super) fn self_attention(
    tape: &Tape,
    op: &'static str,
    (qkv, lengths): (&Var, Option<Vec<u32>>),
    sizes: Sizes,
    scale: f64,
) -> Result<Var> {
    if (qkv.dtype(), tape.precision()) == (DType::F32, Precision::Bf16) {
        let kernels = Kernels { forward: packed::attention, backward: packed::attention_backward };
        return fused::<f32>(tape, op, (qkv, lengths), (sizes, scale), kernels);
    }
    for_float!(qkv.dtype(), T => {
        let kernels = Kernels { forward: kernel::attention, backward: kernel::attention_backward };
        fused::<T>(tape, op, (qkv, lengths), (sizes, scale), kernels)
    })
}

/// Makes the result, and the log sum exp of each row of scores.
type Forward<T> = fn(&[T], Sizes, Scores<'_, T>, &mut [T]) -> Vec<T>;

/// Makes the gradient to the input.
type Backward<T> = fn(kernel::Backward<'_, T>, Sizes, Scores<'_, T>) -> Vec<T>;

/// The kernels of one element type and precision.
#[derive(Clone, Copy)]
struct Kernels<T> {
    forward: Forward<T>,
    backward: Backward<T>,
}

fn refuse(op: &str, qkv: &Var, heads: usize) -> Error {
    let dims = qkv.dims();
    Error::failed(format!("`{op}` needs [B, N, 3 D] with D a multiple of {heads}, got {dims:?}"))
}

fn fused<T: Float + WithDType>(
    tape: &Tape,
    op: &'static str,
    (qkv, lengths): (&Var, Option<Vec<u32>>),
    (sizes, scale): (Sizes, f64),
    kernels: Kernels<T>,
) -> Result<Var> {
    let scale = <T as Float>::from_f64(scale);
    let (value, lse) = tape.timed(op, || -> Result<_> {
        let mut lse = vec![T::ZERO; sizes.lse_len()];
        let scores = Scores { scale, lengths: lengths.as_deref() };
        let out =
            storage::read(qkv.value(), |qkv| (kernels.forward)(qkv, sizes, scores, &mut lse))?;
        let width = sizes.heads * sizes.head_dim;
        Ok((storage::tensor(out, (sizes.batch, sizes.tokens, width))?, lse))
    })?;
    // Two products forward; backward makes the scores again and has four more.
    let products = if tape.records(&[qkv]) { 7 } else { 2 };
    tape.count_flops(op, products * 2 * sizes.tokens * sizes.out_len());
    let saved = qkv.value().clone();
    Ok(tape.record(op, &[qkv], value, move |gradient, inputs| {
        let scores = Scores { scale, lengths: lengths.as_deref() };
        let dqkv = storage::read_all([&saved, gradient.tensor()], |[qkv, dout]| {
            let backward = kernel::Backward { qkv, lse: &lse, dout };
            (kernels.backward)(backward, sizes, scores)
        })?;
        inputs.add(0, storage::tensor(dqkv, saved.dims())?)
    }))
}

inventory::submit! {
    OpDef {
        name: "attention",
        revision: 1,
        formula: "attention(qkv [B, N, 3 D], heads, scale) = softmax(scale q k^T) v, [B, N, D]",
        call: |tape, args: &Args<'_>| {
            Ok(vec![attention(tape, args.tensor(0)?, args.size(1)?, args.float(2)?)?])
        },
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[2, 5, 12]), Arg::Int(2), Arg::Float(0.0)]),
            Sample::new(vec![sample_strided(stream, &[1, 3, 9]), Arg::Int(1), Arg::Float(0.3)]),
            Sample::new(vec![sample_tensor(stream, &[2, 1, 6]), Arg::Int(2), Arg::Float(1.0)]),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_that_do_not_divide_and_scales_below_zero_are_refused_by_name() {
        let qkv = Var::constant(storage::tensor(vec![0.5_f32; 24], (1, 4, 6)).unwrap());
        let run = |heads, scale| attention(&Tape::default(), &qkv, heads, scale);
        assert!(run(2, 0.0).is_ok());
        for heads in [0, 4, usize::MAX / 3 * 2 + 2] {
            let error = run(heads, 0.0).unwrap_err().to_string();
            assert!(error.starts_with("`attention` needs [B, N, 3 D]"), "{error}");
        }
        for scale in [-0.3, f64::NAN, f64::INFINITY] {
            let error = run(2, scale).unwrap_err().to_string();
            assert!(error.starts_with("`attention` needs a scale"), "{error}");
        }
    }
}
