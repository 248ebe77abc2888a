//! `gelu@1`: GELU by the error function, elementwise.

use crate::Result;
use crate::engine::kernel::activation::Activation;
use crate::engine::op::{Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::ops::activation::activation;
use crate::engine::tape::{Tape, Var};

/// GELU by the error function, elementwise.
pub fn gelu(tape: &Tape, x: &Var) -> Result<Var> {
    activation(tape, "gelu", Activation::Gelu, x)
}

inventory::submit! {
    OpDef {
        name: "gelu",
        revision: 1,
        formula: "gelu(x) = x (1 + erf(x / sqrt 2)) / 2",
        call: |tape, args: &Args<'_>| Ok(vec![gelu(tape, args.tensor(0)?)?]),
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[2, 3])]),
            Sample::new(vec![sample_strided(stream, &[3, 1, 4])]),
            Sample::new(vec![sample_tensor(stream, &[1])]),
        ],
    }
}
