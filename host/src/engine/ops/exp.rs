//! `exp@1`: e to the power of x, elementwise.

use crate::Result;
use crate::engine::op::{Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::tape::{Tape, Var};

/// E to the power of x, elementwise.
pub fn exp(tape: &Tape, x: &Var) -> Result<Var> {
    let value = tape.timed("exp", || x.value().exp())?;
    let saved = value.clone();
    Ok(tape.record("exp", &[x], value, move |gradient, inputs| {
        let gradient = gradient.into_tensor();
        inputs.add(0, (gradient * saved)?)
    }))
}

inventory::submit! {
    OpDef {
        name: "exp",
        revision: 1,
        formula: "exp(x) = e^x",
        call: |tape, args: &Args<'_>| Ok(vec![exp(tape, args.tensor(0)?)?]),
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[2, 3])]),
            Sample::new(vec![sample_strided(stream, &[3, 1, 4])]),
            Sample::new(vec![sample_tensor(stream, &[1])]),
        ],
    }
}
