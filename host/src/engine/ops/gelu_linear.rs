//! `gelu_linear@1`: GELU and an affine map.

use super::gelu::gelu;
use super::linear::{check, linear, samples};
use crate::Result;
use crate::engine::op::{Args, Gradient, OpDef};
use crate::engine::portable;
use crate::engine::tape::{Tape, Var};

/// `gelu(h) w^T + b` over the last dimension: h `[..., I]`, w `[O, I]`, b `[O]`, result `[..., O]`.
///
/// # Errors
/// When the shapes don't fit together.
pub fn gelu_linear(tape: &Tape, h: &Var, w: &Var, b: Option<&Var>) -> Result<Var> {
    check("gelu_linear", h, w, b)?;
    if tape.portable(h) {
        return portable::linear::gelu_linear(tape, h, w, b);
    }
    linear(tape, &gelu(tape, h)?, w, b)
}

inventory::submit! {
    OpDef {
        name: "gelu_linear",
        revision: 1,
        formula: "gelu_linear(h [..., I], w [O, I], b? [O]) = gelu(h) w^T + b",
        call: |tape, args: &Args<'_>| {
            let b = args.optional_tensor(2)?;
            Ok(vec![gelu_linear(tape, args.tensor(0)?, args.tensor(1)?, b)?])
        },
        gradient: Gradient::Checked,
        samples,
    }
}
