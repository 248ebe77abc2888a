//! `silu@1`: x sigmoid(x), elementwise.

use crate::Result;
use crate::engine::kernel::activation::Activation;
use crate::engine::op::{Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::ops::activation::activation;
use crate::engine::tape::{Tape, Var};

/// X sigmoid(x), elementwise.
pub fn silu(tape: &Tape, x: &Var) -> Result<Var> {
    activation(tape, "silu", Activation::Silu, x)
}

inventory::submit! {
    OpDef {
        name: "silu",
        revision: 1,
        formula: "silu(x) = x / (1 + e^-x)",
        call: |tape, args: &Args<'_>| Ok(vec![silu(tape, args.tensor(0)?)?]),
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[2, 3])]),
            Sample::new(vec![sample_strided(stream, &[3, 1, 4])]),
            Sample::new(vec![sample_tensor(stream, &[1])]),
        ],
    }
}
