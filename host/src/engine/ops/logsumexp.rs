//! `logsumexp@1`: log sum exp along a dimension.

use crate::Result;
use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::tape::{Tape, Var};

/// log sum exp along `dim`, without overflow.
pub fn logsumexp(tape: &Tape, x: &Var, dim: usize, keep: bool) -> Result<Var> {
    let (kept, probabilities) = tape.timed("logsumexp", || -> Result<_> {
        let top = x.value().contiguous()?.max_keepdim(dim)?;
        let powers = x.value().broadcast_sub(&top)?.exp()?;
        let sums = powers.sum_keepdim(dim)?;
        Ok(((sums.log()? + top)?, powers.broadcast_div(&sums)?))
    })?;
    let value = if keep { kept } else { kept.squeeze(dim)? };
    Ok(tape.record("logsumexp", &[x], value, move |gradient, inputs| {
        let gradient = gradient.into_tensor();
        let gradient = if keep { gradient } else { gradient.unsqueeze(dim)? };
        inputs.add(0, probabilities.broadcast_mul(&gradient)?)
    }))
}

inventory::submit! {
    OpDef {
        name: "logsumexp",
        revision: 1,
        formula: "logsumexp(x, dim, keep) = log sum exp x along dim",
        call: |tape, args: &Args<'_>| {
            let x = args.tensor(0)?;
            let dim = args.dim(1, x.dims().len())?;
            Ok(vec![logsumexp(tape, x, dim, args.int(2)? != 0)?])
        },
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[2, 3]), Arg::Int(1), Arg::Int(0)]),
            Sample::new(vec![sample_strided(stream, &[2, 3, 4]), Arg::Int(-2), Arg::Int(1)]),
            Sample::new(vec![sample_tensor(stream, &[3, 1]), Arg::Int(0), Arg::Int(0)]),
        ],
    }
}
