//! Activations, and the values held between two bounds.

use candle_core::{DType, Tensor};

use crate::engine::cuda;
use crate::engine::kernel::activation::Activation;
use crate::engine::tape::{Precision, Tape, Var};
use crate::{Error, Result};

/// Applies `kind` to `x` and records it as the op `name`.
pub fn activation(tape: &Tape, name: &'static str, kind: Activation, x: &Var) -> Result<Var> {
    let value = tape.timed(name, || forward(kind, x.value()))?;
    let saved = x.value().clone();
    Ok(tape.record(name, &[x], value, move |gradient, inputs| {
        inputs.add(0, backward(kind, &saved, gradient.tensor())?)
    }))
}

/// The function's value.
pub fn forward(kind: Activation, x: &Tensor) -> Result<Tensor> {
    if kind == Activation::Gelu && cuda::fits(x) {
        return cuda::activation::gelu(x, DType::F32);
    }
    Ok(match kind {
        Activation::Relu => relu(x)?,
        Activation::Gelu => x.gelu_erf()?,
        Activation::Silu => (x * sigmoid(x)?)?,
        Activation::Tanh => x.tanh()?,
        Activation::Sigmoid => sigmoid(x)?,
        Activation::Exp => x.exp()?,
    })
}

/// gelu(x) as the operand of a product in `precision`: in bf16 where the device's kernel makes it.
pub fn operand(x: &Tensor, precision: Precision) -> Result<Tensor> {
    if precision == Precision::Bf16 && cuda::takes_operands(x) {
        return cuda::activation::gelu(x, DType::BF16);
    }
    forward(Activation::Gelu, x)
}

/// `dy` times the function's slope at `x`.
pub fn backward(kind: Activation, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    if kind == Activation::Gelu && cuda::fits(x) {
        return cuda::activation::gelu_backward(x, dy);
    }
    let slope = match kind {
        Activation::Relu => x.gt(0.0)?.to_dtype(x.dtype())?,
        // Phi(x) + x phi(x)
        Activation::Gelu => {
            let below = x.affine(std::f64::consts::FRAC_1_SQRT_2, 0.0)?.erf()?.affine(0.5, 0.5)?;
            let density = x.sqr()?.affine(-0.5, 0.0)?.exp()?;
            let root = (2.0 * std::f64::consts::PI).sqrt();
            (below + (x * density.affine(1.0 / root, 0.0)?)?)?
        }
        // s + x s (1 - s)
        Activation::Silu => {
            let s = sigmoid(x)?;
            let rest = (x * (&s * s.affine(-1.0, 1.0)?)?)?;
            (s + rest)?
        }
        Activation::Tanh => x.tanh()?.sqr()?.affine(-1.0, 1.0)?,
        Activation::Sigmoid => {
            let s = sigmoid(x)?;
            (&s * s.affine(-1.0, 1.0)?)?
        }
        Activation::Exp => x.exp()?,
    };
    Ok((dy * slope)?)
}

/// 1 / (1 + exp(-x)); exp overflows to infinity, whose inverse is the right 0.
fn sigmoid(x: &Tensor) -> Result<Tensor> {
    Ok(x.neg()?.exp()?.affine(1.0, 1.0)?.recip()?)
}

/// max(x, 0); NaN stays NaN, which candle's own on a device makes 0.
///
/// # Errors
/// None but the device's own.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    Ok(x.lt(0.0)?.where_cond(&x.zeros_like()?, x)?)
}

/// `min(max(x, low), high)`; NaN stays NaN, which a device's own minimum does not promise.
///
/// # Errors
/// None but the device's own.
pub fn clamp(x: &Tensor, low: f64, high: f64) -> Result<Tensor> {
    let bound = |bound: f64| Ok::<_, Error>(x.zeros_like()?.affine(1.0, bound)?);
    let held = x.lt(low)?.where_cond(&bound(low)?, x)?;
    Ok(held.gt(high)?.where_cond(&bound(high)?, &held)?)
}
