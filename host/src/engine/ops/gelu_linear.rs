//! `gelu_linear@1`: GELU and an affine map in one; what GELU makes is never kept.

use candle_core::{DType, Tensor};

use super::linear::{check, samples};
use crate::engine::kernel::activation::{self, Activation};
use crate::engine::kernel::matmul::{self, Linear};
use crate::engine::kernel::packed::{self, rows::Gelued};
use crate::engine::op::{Args, Gradient, OpDef};
use crate::engine::tape::{Gradients, Precision, Tape, Var};
use crate::engine::{portable, storage};
use crate::{Error, Result};

/// `gelu(h) w^T + b` over the last dimension: h `[..., I]`, w `[O, I]`, b `[O]`, result `[..., O]`.
/// The backward pass makes `gelu(h)` again, piece by piece in the cache.
///
/// # Errors
/// When the shapes don't fit together.
pub fn gelu_linear(tape: &Tape, h: &Var, w: &Var, b: Option<&Var>) -> Result<Var> {
    let sizes = check("gelu_linear", h, w, b)?;
    if tape.portable(h) {
        return portable::linear::gelu_linear(tape, h, w, b);
    }
    let precision = tape.precision();
    let value = tape.timed("gelu_linear", || forward(precision, h, w, b, sizes))?;
    let inputs: Vec<&Var> = [Some(h), Some(w), b].into_iter().flatten().collect();
    let products = if tape.records(&inputs) { 3 } else { 1 };
    tape.count_flops("gelu_linear", products * 2 * sizes.rows * sizes.inputs * sizes.outputs);
    let (saved, weight) = (h.value().clone(), w.value().clone());
    Ok(tape.record("gelu_linear", &inputs, value, move |gradient, inputs| {
        backward(precision, [gradient.tensor(), &saved, &weight], sizes, inputs)
    }))
}

fn forward(
    precision: Precision,
    h: &Var,
    w: &Var,
    b: Option<&Var>,
    sizes: Linear,
) -> Result<Tensor> {
    let tensors = [h.value(), w.value(), b.unwrap_or(w).value()];
    let mut shape = h.dims().to_vec();
    shape[h.dims().len() - 1] = sizes.outputs;
    match h.dtype() {
        DType::F32 => {
            let y = storage::read_all(tensors, |[x, w, bias]| {
                let (rows, bias) = (Gelued { x, width: sizes.inputs }, b.map(|_| bias));
                match precision {
                    Precision::F32 => packed::linear::<false>(&rows, w, bias, sizes),
                    Precision::Bf16 => packed::linear::<true>(&rows, w, bias, sizes),
                }
            })?;
            storage::tensor(y, shape)
        }
        DType::F64 => {
            let y = storage::read_all::<f64, _, 3>(tensors, |[x, w, bias]| {
                let made = activation::forward(Activation::Gelu, x);
                matmul::linear(&made, w, b.map(|_| bias), sizes)
            })?;
            storage::tensor(y, shape)
        }
        other => Err(Error::failed(format!("`gelu_linear` expects f32 or f64, got {other:?}"))),
    }
}

fn backward(
    precision: Precision,
    tensors: [&Tensor; 3],
    sizes: Linear,
    inputs: &mut Gradients<'_>,
) -> Result<()> {
    let shape = tensors[1].dims();
    let Linear { inputs: width, outputs, .. } = sizes;
    let (dh, dw, db) = if tensors[1].dtype() == DType::F32 {
        let (dh, dw, db) = storage::read_all(tensors, |[dy, h, w]| match precision {
            Precision::F32 => fused::<false>(dy, h, w, sizes),
            Precision::Bf16 => fused::<true>(dy, h, w, sizes),
        })?;
        (
            storage::tensor(dh, shape)?,
            storage::tensor(dw, (outputs, width))?,
            storage::tensor(db, outputs)?,
        )
    } else {
        let (dh, dw, db) = storage::read_all::<f64, _, 3>(tensors, |[dy, h, w]| {
            let made = activation::forward(Activation::Gelu, h);
            let (dw, db) = matmul::linear_grad_weight(dy, &made, sizes);
            let dmade = matmul::linear_grad_input(dy, w, sizes);
            (activation::backward(Activation::Gelu, h, &dmade), dw, db)
        })?;
        (
            storage::tensor(dh, shape)?,
            storage::tensor(dw, (outputs, width))?,
            storage::tensor(db, outputs)?,
        )
    };
    inputs.add(0, dh)?;
    inputs.add(1, dw)?;
    if inputs.len() > 2 {
        inputs.add(2, db)?;
    }
    Ok(())
}

fn fused<const BF16: bool>(
    dy: &[f32],
    h: &[f32],
    w: &[f32],
    sizes: Linear,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let dh = packed::grad_gelu::<BF16>(dy, w, h, sizes);
    let rows = Gelued { x: h, width: sizes.inputs };
    let (dw, db) = packed::linear_grad_weight::<BF16>(dy, &rows, sizes);
    (dh, dw, db)
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
