//! `tanh@1`: the hyperbolic tangent, elementwise.

use crate::Result;
use crate::engine::kernel::activation::Activation;
use crate::engine::op::{Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::ops::activation::activation;
use crate::engine::tape::{Tape, Var};

/// The hyperbolic tangent, elementwise.
pub fn tanh(tape: &Tape, x: &Var) -> Result<Var> {
    activation(tape, "tanh", Activation::Tanh, x)
}

inventory::submit! {
    OpDef {
        name: "tanh",
        revision: 1,
        formula: "tanh(x)",
        call: |tape, args: &Args<'_>| Ok(vec![tanh(tape, args.tensor(0)?)?]),
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[2, 3])]),
            Sample::new(vec![sample_strided(stream, &[3, 1, 4])]),
            Sample::new(vec![sample_tensor(stream, &[1])]),
        ],
    }
}
