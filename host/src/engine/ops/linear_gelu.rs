//! `linear_gelu@1`: an affine map and GELU in one; only what comes before the GELU is kept.

use candle_core::{Tensor, WithDType};

use super::linear::{Product, check, forward, samples};
use crate::engine::kernel::Float;
use crate::engine::kernel::activation::{self, Activation};
use crate::engine::op::{Args, Gradient, OpDef};
use crate::engine::tape::{Tape, Var};
use crate::engine::{portable, storage};
use crate::{Result, for_float};

/// gelu(`x w^T + b`) over the last dimension: x `[..., I]`, w `[O, I]`, b `[O]`, result `[..., O]`.
///
/// # Errors
/// When the shapes don't fit together.
pub fn linear_gelu(tape: &Tape, x: &Var, w: &Var, b: Option<&Var>) -> Result<Var> {
    let sizes = check("linear_gelu", x, w, b)?;
    if tape.portable(x) {
        return portable::linear::linear_gelu(tape, x, w, b);
    }
    let precision = tape.precision();
    let (value, before) = tape.timed("linear_gelu", || -> Result<_> {
        let before = forward(precision, x, w, b, sizes)?;
        Ok((for_float!(before.dtype(), T => gelu::<T>(&before))?, before))
    })?;
    let product = Product::new(precision, [x, w], sizes);
    tape.count_flops("linear_gelu", product.flops(tape.records(&[x, w])));
    let inputs: Vec<&Var> = [Some(x), Some(w), b].into_iter().flatten().collect();
    Ok(tape.record("linear_gelu", &inputs, value, move |gradient, inputs| {
        let dy = for_float!(before.dtype(), T => gelu_backward::<T>(&before, gradient.tensor()))?;
        drop(before);
        product.gradients(&dy, inputs)
    }))
}

fn gelu<T: Float + WithDType>(x: &Tensor) -> Result<Tensor> {
    let y = storage::read::<T, _>(x, |x| activation::forward(Activation::Gelu, x))?;
    storage::tensor(y, x.dims())
}

fn gelu_backward<T: Float + WithDType>(x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let dx = storage::read_all::<T, _, 2>([x, dy], |[x, dy]| {
        activation::backward(Activation::Gelu, x, dy)
    })?;
    storage::tensor(dx, x.dims())
}

inventory::submit! {
    OpDef {
        name: "linear_gelu",
        revision: 1,
        formula: "linear_gelu(x [..., I], w [O, I], b? [O]) = gelu(x w^T + b)",
        call: |tape, args: &Args<'_>| {
            let b = args.optional_tensor(2)?;
            Ok(vec![linear_gelu(tape, args.tensor(0)?, args.tensor(1)?, b)?])
        },
        gradient: Gradient::Checked,
        samples,
    }
}
