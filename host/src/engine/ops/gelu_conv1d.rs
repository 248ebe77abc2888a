//! `gelu_conv1d@1`: GELU and a convolution over time in one; what GELU makes is never kept.

use super::conv1d::{Windows, convolution, samples, windows};
use crate::Result;
use crate::engine::op::{Args, Gradient, OpDef};
use crate::engine::tape::{Tape, Var};

/// [`conv1d`](super::conv1d::conv1d) of `gelu(h)`, for h `[B, C, T]`.
///
/// # Errors
/// When the shapes don't fit together.
pub fn gelu_conv1d(
    tape: &Tape,
    h: &Var,
    w: &Var,
    b: Option<&Var>,
    windows: Windows,
) -> Result<Var> {
    convolution(tape, "gelu_conv1d", (h, w, b), windows)
}

inventory::submit! {
    OpDef {
        name: "gelu_conv1d",
        revision: 1,
        formula: "gelu_conv1d(h [B, C, T], w [O, C / groups, k], b? [O], stride, padding, groups) = conv1d of gelu(h)",
        call: |tape, args: &Args<'_>| {
            let (w, b) = (args.tensor(1)?, args.optional_tensor(2)?);
            Ok(vec![gelu_conv1d(tape, args.tensor(0)?, w, b, windows(args)?)?])
        },
        gradient: Gradient::Checked,
        samples,
    }
}
