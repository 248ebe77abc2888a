//! `clamp@1`: values held between two bounds.

use crate::Result;
use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::tape::{Tape, Var};

/// `min(max(x, low), high)`; the gradient outside is 0.
pub fn clamp(tape: &Tape, x: &Var, low: f64, high: f64) -> Result<Var> {
    let value = tape.timed("clamp", || x.value().clamp(low, high))?;
    let saved = x.value().clone();
    Ok(tape.record("clamp", &[x], value, move |gradient, inputs| {
        let inside = (saved.ge(low)? * saved.le(high)?)?.to_dtype(saved.dtype())?;
        inputs.add(0, (gradient.tensor() * inside)?)
    }))
}

inventory::submit! {
    OpDef {
        name: "clamp",
        revision: 1,
        formula: "clamp(x, low, high) = min(max(x, low), high)",
        call: |tape, args: &Args<'_>| Ok(vec![clamp(tape, args.tensor(0)?, args.float(1)?, args.float(2)?)?]),
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[2, 3]), Arg::Float(-0.5), Arg::Float(0.5)]),
            Sample::new(vec![sample_strided(stream, &[3, 4]), Arg::Float(-9.0), Arg::Float(0.1)]),
            Sample::new(vec![sample_tensor(stream, &[1]), Arg::Float(0.0), Arg::Float(9.0)]),
        ],
    }
}
