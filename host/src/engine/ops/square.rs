//! `square@1`: the square, elementwise.

use crate::Result;
use crate::engine::op::{Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::tape::{Tape, Var};

/// The square, elementwise.
pub fn square(tape: &Tape, x: &Var) -> Result<Var> {
    let value = tape.timed("square", || x.value().sqr())?;
    let saved = x.value().clone();
    Ok(tape.record("square", &[x], value, move |gradient, inputs| {
        let gradient = gradient.into_tensor();
        inputs.add(0, (gradient * saved)?.affine(2.0, 0.0)?)
    }))
}

inventory::submit! {
    OpDef {
        name: "square",
        revision: 1,
        formula: "square(x) = x x",
        call: |tape, args: &Args<'_>| Ok(vec![square(tape, args.tensor(0)?)?]),
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[2, 3])]),
            Sample::new(vec![sample_strided(stream, &[3, 1, 4])]),
            Sample::new(vec![sample_tensor(stream, &[1])]),
        ],
    }
}
