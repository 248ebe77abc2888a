//! `all_gather@1`: rows of all ranks, in rank order.

use crate::engine::op::{Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::tape::{Tape, Var};

/// The rows of all ranks, in rank order. On one process that is `x` itself, and so is its gradient.
pub fn all_gather(tape: &Tape, x: &Var) -> Var {
    tape.record("all_gather", &[x], x.value().clone(), |gradient, inputs| {
        inputs.pass(0, gradient.into_tensor())
    })
}

inventory::submit! {
    OpDef {
        name: "all_gather",
        revision: 1,
        formula: "all_gather(x [B, ...]) = [world B, ...]; the identity on one process",
        call: |tape, args: &Args<'_>| Ok(vec![all_gather(tape, args.tensor(0)?)]),
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[2, 3])]),
            Sample::new(vec![sample_strided(stream, &[3, 1, 4])]),
            Sample::new(vec![sample_tensor(stream, &[1])]),
        ],
    }
}
