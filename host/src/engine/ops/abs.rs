//! `abs@1`: the absolute value; its gradient at 0 is 0, elementwise.

use crate::Result;
use crate::engine::op::{Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::tape::{Tape, Var};

/// The absolute value; its gradient at 0 is 0, elementwise.
pub fn abs(tape: &Tape, x: &Var) -> Result<Var> {
    let value = tape.timed("abs", || x.value().abs())?;
    let saved = x.value().clone();
    Ok(tape.record("abs", &[x], value, move |gradient, inputs| {
        let gradient = gradient.into_tensor();
        inputs.add(0, (gradient * saved.sign()?)?)
    }))
}

inventory::submit! {
    OpDef {
        name: "abs",
        revision: 1,
        formula: "abs(x)",
        call: |tape, args: &Args<'_>| Ok(vec![abs(tape, args.tensor(0)?)?]),
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[2, 3])]),
            Sample::new(vec![sample_strided(stream, &[3, 1, 4])]),
            Sample::new(vec![sample_tensor(stream, &[1])]),
        ],
    }
}
