//! `sigmoid@1`: 1 / (1 + exp(-x)), elementwise.

use crate::Result;
use crate::engine::kernel::activation::Activation;
use crate::engine::op::{Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::ops::activation::activation;
use crate::engine::tape::{Tape, Var};

/// 1 / (1 + exp(-x)), elementwise.
pub fn sigmoid(tape: &Tape, x: &Var) -> Result<Var> {
    activation(tape, "sigmoid", Activation::Sigmoid, x)
}

inventory::submit! {
    OpDef {
        name: "sigmoid",
        revision: 1,
        formula: "sigmoid(x) = 1 / (1 + e^-x)",
        call: |tape, args: &Args<'_>| Ok(vec![sigmoid(tape, args.tensor(0)?)?]),
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[2, 3])]),
            Sample::new(vec![sample_strided(stream, &[3, 1, 4])]),
            Sample::new(vec![sample_tensor(stream, &[1])]),
        ],
    }
}
