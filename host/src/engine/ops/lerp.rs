//! `lerp@1`: part of the way from one tensor to another.

use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::tape::{Tape, Var};
use crate::{Error, Result};

/// `a + weight (b - a)`, for equal shapes.
pub fn lerp(tape: &Tape, a: &Var, b: &Var, weight: f64) -> Result<Var> {
    same_shape("lerp", a, b)?;
    let value = tape.timed("lerp", || -> Result<_> {
        Ok((a.value().affine(1.0 - weight, 0.0)? + b.value().affine(weight, 0.0)?)?)
    })?;
    Ok(tape.record("lerp", &[a, b], value, move |gradient, inputs| {
        if inputs.wants(0) {
            inputs.add(0, gradient.tensor().affine(1.0 - weight, 0.0)?)?;
        }
        if inputs.wants(1) {
            inputs.add(1, gradient.tensor().affine(weight, 0.0)?)?;
        }
        Ok(())
    }))
}

/// Refuses operands of different shapes, naming the op and both.
pub(super) fn same_shape(op: &str, a: &Var, b: &Var) -> Result<()> {
    if a.dims() == b.dims() {
        return Ok(());
    }
    Err(Error::failed(format!("`{op}` needs equal shapes, got {:?} and {:?}", a.dims(), b.dims())))
}

inventory::submit! {
    OpDef {
        name: "lerp",
        revision: 1,
        formula: "lerp(a, b, w) = a + w (b - a)",
        call: |tape, args: &Args<'_>| Ok(vec![lerp(tape, args.tensor(0)?, args.tensor(1)?, args.float(2)?)?]),
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[2, 3]), sample_tensor(stream, &[2, 3]), Arg::Float(0.3)]),
            Sample::new(vec![sample_strided(stream, &[3, 2]), sample_tensor(stream, &[3, 2]), Arg::Float(0.0)]),
            Sample::new(vec![sample_tensor(stream, &[1]), sample_tensor(stream, &[1]), Arg::Float(1.0)]),
        ],
    }
}
