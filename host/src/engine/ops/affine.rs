//! `affine@1`: a multiple and a shift.

use crate::Result;
use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::tape::{Tape, Var};

/// `alpha x + beta`.
pub fn affine(tape: &Tape, x: &Var, alpha: f64, beta: f64) -> Result<Var> {
    let value = tape.timed("affine", || x.value().affine(alpha, beta))?;
    Ok(tape.record("affine", &[x], value, move |gradient, inputs| {
        inputs.add(0, gradient.tensor().affine(alpha, 0.0)?)
    }))
}

inventory::submit! {
    OpDef {
        name: "affine",
        revision: 1,
        formula: "affine(x, alpha, beta) = alpha x + beta",
        call: |tape, args: &Args<'_>| Ok(vec![affine(tape, args.tensor(0)?, args.float(1)?, args.float(2)?)?]),
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[2, 3]), Arg::Float(2.5), Arg::Float(-1.0)]),
            Sample::new(vec![sample_strided(stream, &[3, 4]), Arg::Float(0.0), Arg::Float(1.0)]),
            Sample::new(vec![sample_tensor(stream, &[1]), Arg::Float(-1.0), Arg::Int(3)]),
        ],
    }
}
