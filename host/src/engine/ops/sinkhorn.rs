//! `sinkhorn@1`: assignments that use every prototype equally.

use crate::engine::op::{Arg, Gradient, OpDef, Sample, sample_tensor};
use crate::engine::tape::{Tape, Var};
use crate::engine::{portable, storage};
use crate::{Error, Result};

/// Balanced assignments of `scores` `[B, K]` (Caron et al. 2020, appendix A.1): with Q = exp(scores /
/// epsilon), `iterations` times each prototype gets an equal share of the batch, then each sample a
/// total of 1.
///
/// Sums are taken in f64, after the largest score is taken off, so that no power overflows.
pub fn sinkhorn(tape: &Tape, scores: &Var, epsilon: f64, iterations: usize) -> Result<Var> {
    let &[batch, prototypes] = scores.dims() else {
        return Err(Error::failed(format!("`sinkhorn` needs [B, K], got {:?}", scores.dims())));
    };
    if tape.portable(scores) {
        return Ok(Var::constant(portable::balance::sinkhorn(
            scores.value(),
            epsilon,
            iterations,
        )?));
    }
    let mut q = storage::to_f64(scores.value())?;
    let top = q.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    q.iter_mut().for_each(|score| *score = ((*score - top) / epsilon).exp());
    let total: f64 = q.iter().sum();
    q.iter_mut().for_each(|x| *x /= total);
    for _ in 0..iterations {
        let mut shares = vec![0.0; prototypes];
        for row in q.chunks_exact(prototypes.max(1)) {
            shares.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
        for row in q.chunks_exact_mut(prototypes.max(1)) {
            row.iter_mut().zip(&shares).for_each(|(x, sum)| *x /= sum * prototypes as f64);
            let sum: f64 = row.iter().sum();
            row.iter_mut().for_each(|x| *x /= sum * batch as f64);
        }
    }
    q.iter_mut().for_each(|x| *x *= batch as f64);
    Ok(Var::constant(storage::tensor(q, (batch, prototypes))?.to_dtype(scores.dtype())?))
}

inventory::submit! {
    OpDef {
        name: "sinkhorn",
        revision: 1,
        formula: "sinkhorn(scores [B, K], epsilon, iterations): balanced assignments, rows sum to 1",
        call: |tape, args| Ok(vec![sinkhorn(tape, args.tensor(0)?, args.float(1)?, args.size(2)?)?]),
        gradient: Gradient::None("assignments are targets"),
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[4, 3]), Arg::Float(0.5), Arg::Int(3)]),
        ],
    }
}
