//! `div@1`: quotient, elementwise with broadcasting.

use crate::Result;
use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::ops::add::sum_to;
use crate::engine::storage;
use crate::engine::tape::{Tape, Var};
use crate::random::Stream;

/// `a / b`, broadcast as in `NumPy`.
pub fn div(tape: &Tape, a: &Var, b: &Var) -> Result<Var> {
    let value = tape.timed("div", || a.value().broadcast_div(b.value()))?;
    let (x, y, quotient) = (a.value().clone(), b.value().clone(), value.clone());
    Ok(tape.record("div", &[a, b], value, move |gradient, inputs| {
        let dx = gradient.into_tensor().broadcast_div(&y)?;
        if inputs.wants(1) {
            let dy = dx.broadcast_mul(&quotient)?.neg()?;
            inputs.add_shared(1, sum_to(&dy, y.dims())?)?;
        }
        inputs.add_shared(0, sum_to(&dx, x.dims())?)
    }))
}

/// A divisor away from 0.
fn divisor(stream: &mut Stream, shape: &[usize]) -> Arg {
    let elements: Vec<f64> = (0..shape.iter().product()).map(|_| stream.range(0.5, 2.0)).collect();
    match storage::tensor(elements, shape) {
        Ok(tensor) => Arg::Tensor(Var::constant(tensor)),
        Err(_) => Arg::None,
    }
}

inventory::submit! {
    OpDef {
        name: "div",
        revision: 1,
        formula: "div(a, b) = a / b, broadcast",
        call: |tape, args: &Args<'_>| Ok(vec![div(tape, args.tensor(0)?, args.tensor(1)?)?]),
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[2, 3]), divisor(stream, &[2, 3])]),
            Sample::new(vec![sample_strided(stream, &[4, 2, 3]), divisor(stream, &[2, 1])]),
            Sample::new(vec![sample_tensor(stream, &[1]), divisor(stream, &[3, 1])]),
        ],
    }
}
