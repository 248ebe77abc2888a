//! `padded_attention@1`: multi-head self-attention of samples that end early.

use super::attention::{self_attention, sizes};
use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::tape::{Tape, Var};
use crate::engine::{portable, storage};
use crate::{Error, Result};

/// As [`attention`](super::attention::attention), but of sample b only the first `lengths[b]` tokens count:
/// no token attends to the others, and where those stand the result is 0. `lengths` is u32 `[B]`.
/// On a device a length above N makes NaN.
///
/// # Errors
/// When a shape is another, D is no multiple of `heads`, or a length is above N.
pub fn padded_attention(
    tape: &Tape,
    qkv: &Var,
    lengths: &Var,
    heads: usize,
    scale: f64,
) -> Result<Var> {
    if lengths.dims() != &qkv.dims()[..1.min(qkv.dims().len())] {
        return Err(Error::failed(format!(
            "`padded_attention` needs qkv [B, N, 3 D] and lengths [B], got {:?} and {:?}",
            qkv.dims(),
            lengths.dims()
        )));
    }
    let (sizes, scale) = sizes("padded_attention", qkv, heads, scale)?;
    if tape.portable(qkv) {
        let given = (qkv, Some(lengths));
        return portable::attention::attention(tape, "padded_attention", given, sizes, scale);
    }
    let counts: Vec<u32> = lengths.value().flatten_all()?.to_vec1()?;
    let most = sizes.tokens;
    if let Some(long) = counts.iter().find(|count| **count as usize > most) {
        return Err(Error::failed(format!(
            "`padded_attention` got the length {long} for {most} tokens"
        )));
    }
    self_attention(tape, "padded_attention", (qkv, Some(counts)), sizes, scale)
}

/// An argument that is a list of lengths.
fn lengths(values: &[u32]) -> Arg {
    let made = storage::tensor(values.to_vec(), values.len());
    made.map_or(Arg::None, |tensor| Arg::Tensor(Var::constant(tensor)))
}

inventory::submit! {
    OpDef {
        name: "padded_attention",
        revision: 1,
        formula: "padded_attention(qkv [B, N, 3 D], lengths [B], heads, scale) = attention of the first lengths[b] tokens",
        call: |tape, args: &Args<'_>| {
            let (qkv, lengths) = (args.tensor(0)?, args.tensor(1)?);
            Ok(vec![padded_attention(tape, qkv, lengths, args.size(2)?, args.float(3)?)?])
        },
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![
                sample_tensor(stream, &[3, 5, 12]),
                lengths(&[5, 3, 0]),
                Arg::Int(2),
                Arg::Float(0.0),
            ]),
            Sample::new(vec![
                sample_strided(stream, &[1, 4, 9]),
                lengths(&[2]),
                Arg::Int(1),
                Arg::Float(0.3),
            ]),
            Sample::new(vec![
                sample_tensor(stream, &[1, 1, 3]),
                lengths(&[1]),
                Arg::Int(1),
                Arg::Float(0.0),
            ]),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ops::attention::attention;
    use crate::random::Stream;
    use crate::state::Init;

    #[test]
    fn a_sample_that_ends_early_is_attended_to_as_if_it_were_alone() {
        // 100 tokens are cut into two blocks of queries, 96 into one.
        let qkv = Init::Normal { std: 1.0 };
        let qkv = qkv.tensor(&[2, 100, 12], &mut Stream::new(1, "qkv", 0, 0)).unwrap();
        let tape = Tape::default();
        let Arg::Tensor(counts) = lengths(&[96, 7]) else { unreachable!() };
        let both = padded_attention(&tape, &Var::constant(qkv.clone()), &counts, 2, 0.0).unwrap();
        for (sample, count) in [(0, 96), (1, 7)] {
            let part = |x: &candle_core::Tensor, start, n| {
                let x = x.narrow(0, sample, 1).unwrap().narrow(1, start, n).unwrap();
                x.contiguous().unwrap()
            };
            let alone = attention(&tape, &Var::constant(part(&qkv, 0, count)), 2, 0.0).unwrap();
            let got = storage::to_f32(&part(both.value(), 0, count)).unwrap();
            assert_eq!(got, storage::to_f32(alone.value()).unwrap());
            let rest = storage::to_f32(&part(both.value(), count, 100 - count)).unwrap();
            assert!(rest.iter().all(|x| *x == 0.0));
        }
    }

    #[test]
    fn a_length_beyond_the_tokens_is_refused() {
        let qkv = Var::constant(storage::tensor(vec![0.0_f32; 12], (1, 4, 3)).unwrap());
        let Arg::Tensor(counts) = lengths(&[5]) else { unreachable!() };
        let error = padded_attention(&Tape::default(), &qkv, &counts, 1, 0.0).unwrap_err();
        assert!(error.to_string().contains("length 5 for 4 tokens"), "{error}");
    }
}
