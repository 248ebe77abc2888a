//! `all_reduce@1`: sum (or mean) over ranks.

use crate::Result;
use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::ops::affine::affine;
use crate::engine::tape::{Tape, Var};

/// Processes that train together: this host runs one.
pub const WORLD: usize = 1;

/// The sum over ranks, or their mean. On one process both are `x` itself, and so is the gradient.
///
/// # Errors
/// None on one process.
pub fn all_reduce(tape: &Tape, x: &Var, mean: bool) -> Result<Var> {
    let share = if mean { 1.0 / WORLD as f64 } else { 1.0 };
    if share == 1.0 {
        return Ok(tape.record("all_reduce", &[x], x.value().clone(), |gradient, inputs| {
            inputs.pass(0, gradient.into_tensor())
        }));
    }
    affine(tape, x, share, 0.0)
}

inventory::submit! {
    OpDef {
        name: "all_reduce",
        revision: 1,
        formula: "all_reduce(x, mean): the sum or mean over ranks; the identity on one process",
        call: |tape, args: &Args<'_>| Ok(vec![all_reduce(tape, args.tensor(0)?, args.flag(1)?)?]),
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[2, 3]), Arg::Int(0)]),
            Sample::new(vec![sample_strided(stream, &[2, 3]), Arg::Int(1)]),
            Sample::new(vec![sample_tensor(stream, &[1]), Arg::Int(1)]),
        ],
    }
}
