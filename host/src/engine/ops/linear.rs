//! `linear@1`: an affine map of the last dimension, in the tape's precision.

use std::any::Any;

use candle_core::{Tensor, WithDType};

use crate::engine::kernel::Float;
use crate::engine::kernel::matmul::{self, Linear, Write};
use crate::engine::kernel::packed::{self, rows::Plain};
use crate::engine::op::{Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::tape::{Gradients, Precision, Tape, Var};
use crate::engine::{portable, storage};
use crate::{Error, Result, for_float};

/// `x w^T + b` over the last dimension: x `[..., I]`, w `[O, I]`, b `[O]`, result `[..., O]`.
///
/// # Errors
/// When the shapes don't fit together.
pub fn linear(tape: &Tape, x: &Var, w: &Var, b: Option<&Var>) -> Result<Var> {
    let sizes = check("linear", x, w, b)?;
    if tape.portable(x) {
        return portable::linear::linear(tape, x, w, b);
    }
    let precision = tape.precision();
    let value = tape.timed("linear", || forward(precision, x, w, b, sizes))?;
    let product = Product::new(precision, [x, w], sizes);
    tape.count_flops("linear", product.flops(tape.records(&[x, w])));
    let inputs = [Some(x), Some(w), b];
    let inputs: Vec<&Var> = inputs.into_iter().flatten().collect();
    Ok(tape.record("linear", &inputs, value, move |gradient, inputs| {
        product.gradients(gradient.tensor(), inputs)
    }))
}

/// The sizes of the product, checked.
pub(super) fn check(op: &str, x: &Var, w: &Var, b: Option<&Var>) -> Result<Linear> {
    let fits = match (x.dims(), w.dims(), b.map(Var::dims)) {
        ([.., x], [outputs, inputs], bias) => {
            x == inputs && bias.is_none_or(|bias| bias == [*outputs])
        }
        _ => false,
    };
    if !fits {
        return Err(Error::failed(format!(
            "`{op}` expects x [..., I], w [O, I] and b [O], got {:?}, {:?} and {:?}",
            x.dims(),
            w.dims(),
            b.map(Var::dims)
        )));
    }
    let (outputs, inputs) = (w.dims()[0], w.dims()[1]);
    let rows = x.dims()[..x.dims().len() - 1].iter().product();
    Ok(Linear { rows, inputs, outputs })
}

/// `x w^T + b`.
pub(super) fn forward(
    precision: Precision,
    x: &Var,
    w: &Var,
    b: Option<&Var>,
    sizes: Linear,
) -> Result<Tensor> {
    let tensors = [x.value(), w.value(), b.unwrap_or(w).value()];
    let mut shape = x.dims().to_vec();
    shape[x.dims().len() - 1] = sizes.outputs;
    for_float!(x.dtype(), T => {
        let kernels = kernels::<T>(precision);
        let y = storage::read_all(tensors, |[x, w, bias]| {
            (kernels.forward)(x, w, b.map(|_| bias), sizes)
        })?;
        storage::tensor(y, shape)
    })
}

/// What the backward pass of a product `x w^T + b` needs.
pub(super) struct Product {
    precision: Precision,
    /// Where the weight wants a gradient.
    x: Option<Tensor>,
    /// Where x wants a gradient.
    w: Option<Tensor>,
    x_shape: Vec<usize>,
    sizes: Linear,
}

impl Product {
    /// Keeps what the gradients that are wanted need.
    pub(super) fn new(precision: Precision, [x, w]: [&Var; 2], sizes: Linear) -> Self {
        Self {
            precision,
            x: w.tracked().then(|| x.value().clone()),
            w: x.tracked().then(|| w.value().clone()),
            x_shape: x.dims().to_vec(),
            sizes,
        }
    }

    /// Floating point operations forward, and backward where it is `recorded`.
    pub(super) fn flops(&self, recorded: bool) -> usize {
        let Linear { rows, inputs, outputs } = self.sizes;
        let gradients = usize::from(self.x.is_some()) + usize::from(self.w.is_some());
        2 * rows * inputs * outputs * (1 + if recorded { gradients } else { 0 })
    }

    /// Adds the gradients of x (input 0), w (1) and b (2, if there) from `dy` `[..., O]`.
    pub(super) fn gradients(&self, dy: &Tensor, inputs: &mut Gradients<'_>) -> Result<()> {
        for_float!(dy.dtype(), T => self.gradients_of::<T>(dy, inputs))
    }

    fn gradients_of<T: Float + WithDType>(
        &self,
        dy: &Tensor,
        inputs: &mut Gradients<'_>,
    ) -> Result<()> {
        let kernels = kernels::<T>(self.precision);
        if let Some(w) = &self.w {
            let dx = storage::read_all([dy, w], |[dy, w]| (kernels.grad_input)(dy, w, self.sizes))?;
            inputs.add(0, storage::tensor(dx, self.x_shape.as_slice())?)?;
        }
        let Linear { inputs: width, outputs, .. } = self.sizes;
        if let Some(x) = &self.x {
            let (dw, db) =
                storage::read_all([dy, x], |[dy, x]| (kernels.grad_weight)(dy, x, self.sizes))?;
            inputs.add(1, storage::tensor(dw, (outputs, width))?)?;
            if inputs.len() > 2 {
                inputs.add(2, storage::tensor(db, outputs)?)?;
            }
        } else if inputs.len() > 2 && inputs.wants(2) {
            let mut db = vec![T::ZERO; outputs];
            storage::read(dy, |dy| matmul::column_sums(dy, Write::Set, &mut db))?;
            inputs.add(2, storage::tensor(db, outputs)?)?;
        }
        Ok(())
    }
}

/// The gradients of a weight and of a bias.
type WeightGradients<T> = (Vec<T>, Vec<T>);

/// Makes `x w^T + b`.
type Forward<T> = fn(&[T], &[T], Option<&[T]>, Linear) -> Vec<T>;

/// The kernels of one element type and precision.
struct Kernels<T> {
    forward: Forward<T>,
    grad_input: fn(&[T], &[T], Linear) -> Vec<T>,
    grad_weight: fn(&[T], &[T], Linear) -> WeightGradients<T>,
}

/// Packed products for f32, in the tape's precision; plain ones for f64.
fn kernels<T: Float + WithDType>(precision: Precision) -> Kernels<T> {
    let packed: Kernels<f32> = match precision {
        Precision::F32 => packed_kernels::<false>(),
        Precision::Bf16 => packed_kernels::<true>(),
    };
    let plain: Kernels<T> = Kernels {
        forward: matmul::linear,
        grad_input: matmul::linear_grad_input,
        grad_weight: matmul::linear_grad_weight,
    };
    // `T` is f32 or f64; the type system can't say so, `Any` can.
    let packed: Box<dyn Any> = Box::new(packed);
    packed.downcast::<Kernels<T>>().map_or(plain, |packed| *packed)
}

fn packed_kernels<const BF16: bool>() -> Kernels<f32> {
    Kernels {
        forward: |x, w, b, sizes| {
            packed::linear::<BF16>(&Plain { x, width: sizes.inputs }, w, b, sizes)
        },
        grad_input: |dy, w, sizes| packed::linear_grad_input::<BF16>(dy, w, sizes, |_, _| {}),
        grad_weight: |dy, x, sizes| {
            packed::linear_grad_weight::<BF16>(dy, &Plain { x, width: sizes.inputs }, sizes)
        },
    }
}

inventory::submit! {
    OpDef {
        name: "linear",
        revision: 1,
        formula: "linear(x [..., I], w [O, I], b? [O]) = x w^T + b",
        call: |tape, args: &Args<'_>| {
            let b = args.optional_tensor(2)?;
            Ok(vec![linear(tape, args.tensor(0)?, args.tensor(1)?, b)?])
        },
        gradient: Gradient::Checked,
        samples,
    }
}

/// Samples of `linear` and `linear_gelu`.
pub(super) fn samples(stream: &mut crate::random::Stream) -> Vec<Sample> {
    vec![
        Sample::new(vec![
            sample_tensor(stream, &[2, 3, 4]),
            sample_tensor(stream, &[5, 4]),
            sample_tensor(stream, &[5]),
        ]),
        Sample::new(vec![sample_strided(stream, &[3, 4]), sample_strided(stream, &[2, 4])]),
        Sample::new(vec![
            sample_tensor(stream, &[1, 1]),
            sample_tensor(stream, &[1, 1]),
            sample_tensor(stream, &[1]),
        ]),
        Sample::new(vec![
            sample_tensor(stream, &[4]),
            sample_strided(stream, &[3, 4]),
            sample_tensor(stream, &[3]),
        ]),
    ]
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;

    fn zeros(shape: &[usize]) -> Var {
        Var::constant(Tensor::zeros(shape, DType::F32, &candle_core::Device::Cpu).unwrap())
    }

    #[test]
    fn shapes_that_do_not_fit_are_named_in_the_error() {
        let tape = Tape::default();
        let error = linear(&tape, &zeros(&[2, 3]), &zeros(&[4, 5]), None).unwrap_err();
        assert!(error.to_string().contains("got [2, 3], [4, 5]"), "{error}");
        assert!(linear(&tape, &zeros(&[2, 5]), &zeros(&[4, 5]), Some(&zeros(&[5]))).is_err());
        assert!(linear(&tape, &zeros(&[]), &zeros(&[4, 5]), None).is_err());
    }

    #[test]
    fn a_weight_that_is_no_leaf_gets_no_gradient_and_x_does() {
        let tape = Tape::default();
        let x = tape.leaf(zeros(&[2, 3]).value().clone());
        let y = linear(&tape, &x, &zeros(&[1, 3]), None).unwrap();
        let gradients = tape.backward_from(&y, zeros(&[2, 1]).value().clone()).unwrap();
        assert_eq!(gradients.get(&x).unwrap().dims(), [2, 3]);
    }
}
