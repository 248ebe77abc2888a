//! `mul@1`: `a b`, elementwise with broadcasting.

use crate::Result;
use crate::engine::op::{Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::ops::add::sum_to;
use crate::engine::tape::{Tape, Var};

/// `a b`, broadcast as in `NumPy`.
pub fn mul(tape: &Tape, a: &Var, b: &Var) -> Result<Var> {
    let value = tape.timed("mul", || a.value().broadcast_mul(b.value()))?;
    let (x, y) = (a.value().clone(), b.value().clone());
    Ok(tape.record("mul", &[a, b], value, move |gradient, inputs| {
        let gradient = gradient.into_tensor();
        if inputs.wants(0) {
            let dx = gradient.broadcast_mul(&y)?;
            inputs.add_shared(0, sum_to(&dx, x.dims())?)?;
        }
        if inputs.wants(1) {
            let dy = gradient.broadcast_mul(&x)?;
            inputs.add_shared(1, sum_to(&dy, y.dims())?)?;
        }
        Ok(())
    }))
}

inventory::submit! {
    OpDef {
        name: "mul",
        revision: 1,
        formula: "mul(a, b) = a b, broadcast",
        call: |tape, args: &Args<'_>| Ok(vec![mul(tape, args.tensor(0)?, args.tensor(1)?)?]),
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[2, 3]), sample_tensor(stream, &[2, 3])]),
            Sample::new(vec![sample_strided(stream, &[4, 2, 3]), sample_tensor(stream, &[2, 1])]),
            Sample::new(vec![sample_tensor(stream, &[1]), sample_strided(stream, &[3, 1])]),
        ],
    }
}
