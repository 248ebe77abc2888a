//! `all_reduce@1`: sum (or mean) over ranks.

use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::tape::{Tape, Var};

/// The sum (or mean) over ranks. On one process that is `x` itself, and so is its gradient.
pub fn all_reduce(tape: &Tape, x: &Var) -> Var {
    tape.record("all_reduce", &[x], x.value().clone(), |gradient, inputs| {
        inputs.pass(0, gradient.into_tensor())
    })
}

inventory::submit! {
    OpDef {
        name: "all_reduce",
        revision: 1,
        formula: "all_reduce(x, mean): the sum or mean over ranks; the identity on one process",
        call: |tape, args: &Args<'_>| Ok(vec![all_reduce(tape, args.tensor(0)?)]),
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[2, 3]), Arg::Int(0)]),
            Sample::new(vec![sample_strided(stream, &[2, 3]), Arg::Int(1)]),
            Sample::new(vec![sample_tensor(stream, &[1]), Arg::Int(1)]),
        ],
    }
}
