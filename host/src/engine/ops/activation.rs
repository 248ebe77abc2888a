//! What the activations share: a kernel forward, and its derivative from the saved input.

use candle_core::WithDType;

use crate::engine::kernel::{Float, activation as kernel};
use crate::engine::tape::{Tape, Var};
use crate::engine::{portable, storage};
use crate::{Result, for_float};

/// Applies `kind` to `x` and records it as the op `name`.
pub(super) fn activation(
    tape: &Tape,
    name: &'static str,
    kind: kernel::Activation,
    x: &Var,
) -> Result<Var> {
    if tape.portable(x) {
        return portable::activation::activation(tape, name, kind, x);
    }
    for_float!(x.dtype(), T => apply::<T>(tape, name, kind, x))
}

fn apply<T: Float + WithDType>(
    tape: &Tape,
    name: &'static str,
    kind: kernel::Activation,
    x: &Var,
) -> Result<Var> {
    let value = tape.timed(name, || -> Result<_> {
        let y = storage::read::<T, _>(x.value(), |x| kernel::forward(kind, x))?;
        storage::tensor(y, x.dims())
    })?;
    let saved = x.value().clone();
    Ok(tape.record(name, &[x], value, move |gradient, inputs| {
        let gradient = gradient.into_tensor();
        let dx = storage::read_all::<T, _, 2>([&saved, &gradient], |[x, dy]| {
            kernel::backward(kind, x, dy)
        })?;
        inputs.add(0, storage::tensor(dx, saved.dims())?)
    }))
}
