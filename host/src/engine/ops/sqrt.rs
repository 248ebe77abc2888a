//! `sqrt@1`: the square root, elementwise.

use crate::Result;
use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample};
use crate::engine::storage;
use crate::engine::tape::{Tape, Var};
use crate::random::Stream;

/// The square root, elementwise.
pub fn sqrt(tape: &Tape, x: &Var) -> Result<Var> {
    let value = tape.timed("sqrt", || x.value().sqrt())?;
    let saved = value.clone();
    Ok(tape.record("sqrt", &[x], value, move |gradient, inputs| {
        let gradient = gradient.into_tensor();
        inputs.add(0, (gradient / saved)?.affine(0.5, 0.0)?)
    }))
}

/// A positive argument: the gradient has no bound near 0.
fn positive(stream: &mut Stream, shape: &[usize]) -> Arg {
    let elements: Vec<f64> = (0..shape.iter().product()).map(|_| stream.range(0.2, 3.0)).collect();
    match storage::tensor(elements, shape) {
        Ok(tensor) => Arg::Tensor(Var::constant(tensor)),
        Err(_) => Arg::None,
    }
}

inventory::submit! {
    OpDef {
        name: "sqrt",
        revision: 1,
        formula: "sqrt(x)",
        call: |tape, args: &Args<'_>| Ok(vec![sqrt(tape, args.tensor(0)?)?]),
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![positive(stream, &[2, 3])]),
            Sample::new(vec![positive(stream, &[3, 1, 4])]),
            Sample::new(vec![positive(stream, &[1])]),
        ],
    }
}
