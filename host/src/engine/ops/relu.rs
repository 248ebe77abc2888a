//! `relu@1`: max(x, 0); its gradient at 0 is 0, elementwise.

use crate::Result;
use crate::engine::kernel::activation::Activation;
use crate::engine::op::{Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::ops::activation::activation;
use crate::engine::tape::{Tape, Var};

/// Max(x, 0); its gradient at 0 is 0, elementwise.
pub fn relu(tape: &Tape, x: &Var) -> Result<Var> {
    activation(tape, "relu", Activation::Relu, x)
}

inventory::submit! {
    OpDef {
        name: "relu",
        revision: 1,
        formula: "relu(x) = max(x, 0)",
        call: |tape, args: &Args<'_>| Ok(vec![relu(tape, args.tensor(0)?)?]),
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[2, 3])]),
            Sample::new(vec![sample_strided(stream, &[3, 1, 4])]),
            Sample::new(vec![sample_tensor(stream, &[1])]),
        ],
    }
}
