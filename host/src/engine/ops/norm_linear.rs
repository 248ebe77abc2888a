//! `norm_linear@1`: layer norm and an affine map in one; what the norm makes is never kept.

use candle_core::{DType, Tensor};

use super::{layer_norm, linear};
use crate::engine::kernel::matmul::{self, Linear};
use crate::engine::kernel::norm::{self, Affine, Saved};
use crate::engine::kernel::packed::{self, normed::grad_norm, rows::Normed};
use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::tape::{Gradients, Precision, Tape, Var};
use crate::engine::{portable, storage};
use crate::{Error, Result};

/// What the norm multiplies by and adds, `[D]` each, and what keeps its variance from 0.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    /// The factors.
    pub weight: &'a Var,
    /// The summands.
    pub bias: &'a Var,
    /// Added to the variance.
    pub eps: f64,
}

/// `layer_norm(x) w^T + b` over the last dimension: x `[..., D]`, w `[O, D]`, b `[O]`, result
/// `[..., O]`. The backward pass makes the norm again, piece by piece in the cache.
///
/// # Errors
/// When the shapes don't fit together.
pub fn norm_linear(tape: &Tape, x: &Var, norm: Norm<'_>, w: &Var, b: Option<&Var>) -> Result<Var> {
    layer_norm::check("norm_linear", x, [Some(norm.weight), Some(norm.bias)])?;
    let sizes = linear::check("norm_linear", x, w, b)?;
    if tape.portable(x) {
        return portable::linear::norm_linear(tape, x, norm, w, b);
    }
    let precision = tape.precision();
    let tensors = [x, norm.weight, norm.bias, w, b.unwrap_or(w)].map(|var| var.value().clone());
    let call = Call { precision, sizes, eps: norm.eps, bias: b.is_some() };
    let (value, statistics) = tape.timed("norm_linear", || call.forward(&tensors))?;
    let inputs: Vec<&Var> =
        [Some(x), Some(norm.weight), Some(norm.bias), Some(w), b].into_iter().flatten().collect();
    let products = if tape.records(&inputs) { 3 } else { 1 };
    tape.count_flops("norm_linear", products * 2 * sizes.rows * sizes.inputs * sizes.outputs);
    Ok(tape.record("norm_linear", &inputs, value, move |gradient, inputs| {
        call.backward(gradient.tensor(), &tensors, &statistics, inputs)
    }))
}

/// Mean and 1 / sqrt(var + eps) of each row.
type Statistics = (Vec<f32>, Vec<f32>);

#[derive(Clone, Copy)]
struct Call {
    precision: Precision,
    sizes: Linear,
    eps: f64,
    bias: bool,
}

impl Call {
    fn forward(self, tensors: &[Tensor; 5]) -> Result<(Tensor, Statistics)> {
        let mut shape = tensors[0].dims().to_vec();
        let last = shape.len() - 1;
        shape[last] = self.sizes.outputs;
        let tensors = tensors.each_ref();
        match tensors[0].dtype() {
            DType::F32 => {
                let (y, statistics) = storage::read_all(tensors, |[x, weight, bias, w, b]| {
                    let (mean, rstd) = norm::statistics(x, self.sizes.inputs, self.eps as f32);
                    let normed = Normed { x, mean: &mean, rstd: &rstd, weight, bias };
                    let b = self.bias.then_some(b);
                    let y = match self.precision {
                        Precision::F32 => packed::linear::<false>(&normed, w, b, self.sizes),
                        Precision::Bf16 => packed::linear::<true>(&normed, w, b, self.sizes),
                    };
                    (y, (mean, rstd))
                })?;
                Ok((storage::tensor(y, shape)?, statistics))
            }
            DType::F64 => {
                let y = storage::read_all::<f64, _, 5>(tensors, |[x, weight, bias, w, b]| {
                    let (normed, ..) = plain_norm(x, weight, bias, self.eps);
                    matmul::linear(&normed, w, self.bias.then_some(b), self.sizes)
                })?;
                Ok((storage::tensor(y, shape)?, Statistics::default()))
            }
            other => Err(Error::failed(format!("`norm_linear` expects f32 or f64, got {other:?}"))),
        }
    }

    fn backward(
        self,
        dy: &Tensor,
        [x, weight, bias, w, _]: &[Tensor; 5],
        statistics: &Statistics,
        inputs: &mut Gradients<'_>,
    ) -> Result<()> {
        let Linear { inputs: width, outputs, .. } = self.sizes;
        let shapes: [&[usize]; 5] = [x.dims(), &[width], &[width], &[outputs, width], &[outputs]];
        let tensors = [dy, x, weight, bias, w];
        let made: Vec<Tensor> = if x.dtype() == DType::F32 {
            let made = storage::read_all(tensors, |slices| match self.precision {
                Precision::F32 => self.fused::<false>(slices, statistics),
                Precision::Bf16 => self.fused::<true>(slices, statistics),
            })?;
            let made = made.into_iter().zip(shapes);
            made.map(|(values, shape)| storage::tensor(values, shape)).collect::<Result<_>>()?
        } else {
            let made = storage::read_all::<f64, _, 5>(tensors, |slices| self.plain(slices))?;
            let made = made.into_iter().zip(shapes);
            made.map(|(values, shape)| storage::tensor(values, shape)).collect::<Result<_>>()?
        };
        for (index, gradient) in made.into_iter().enumerate().take(inputs.len()) {
            inputs.add(index, gradient)?;
        }
        Ok(())
    }

    /// Gradients of x, the norm's weight and bias, w and b.
    fn fused<const BF16: bool>(
        self,
        [dy, x, weight, bias, w]: [&[f32]; 5],
        (mean, rstd): &Statistics,
    ) -> [Vec<f32>; 5] {
        let normed = Normed { x, mean, rstd, weight, bias };
        let (dx, dweight, dbias) = grad_norm::<BF16>(dy, w, &normed, self.sizes);
        let (dw, db) = packed::linear_grad_weight::<BF16>(dy, &normed, self.sizes);
        [dx, dweight, dbias, dw, db]
    }

    /// The same in f64, by the plain kernels.
    fn plain(self, [dy, x, weight, bias, w]: [&[f64]; 5]) -> [Vec<f64>; 5] {
        let (normed, mean, rstd) = plain_norm(x, weight, bias, self.eps);
        let (dw, db) = matmul::linear_grad_weight(dy, &normed, self.sizes);
        let dnormed = matmul::linear_grad_input(dy, w, self.sizes);
        let width = self.sizes.inputs;
        let (mut dx, mut dweight, mut dbias) =
            (vec![0.0; x.len()], vec![0.0; width], vec![0.0; width]);
        let backward = norm::Backward {
            x,
            mean: Some(&mean),
            rstd: &rstd,
            weight: Some(weight),
            dy: &dnormed,
        };
        norm::norm_backward(backward, &mut dx, Some(&mut dweight), Some(&mut dbias));
        [dx, dweight, dbias, dw, db]
    }
}

/// Normed rows, their means and 1 / sqrt(var + eps).
fn plain_norm(x: &[f64], weight: &[f64], bias: &[f64], eps: f64) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let rows = x.len() / weight.len().max(1);
    let (mut y, mut mean, mut rstd) = (vec![0.0; x.len()], vec![0.0; rows], vec![0.0; rows]);
    let affine = Affine { weight: Some(weight), bias: Some(bias) };
    let saved = Saved { mean: &mut mean, rstd: &mut rstd };
    norm::layer_norm(x, affine, eps, &mut y, saved);
    (y, mean, rstd)
}

inventory::submit! {
    OpDef {
        name: "norm_linear",
        revision: 1,
        formula: "norm_linear(x [..., D], g [D], c [D], w [O, D], b? [O], eps) = layer_norm(x, g, c, eps) w^T + b",
        call: |tape, args: &Args<'_>| {
            let norm = Norm { weight: args.tensor(1)?, bias: args.tensor(2)?, eps: args.float(5)? };
            let b = args.optional_tensor(4)?;
            Ok(vec![norm_linear(tape, args.tensor(0)?, norm, args.tensor(3)?, b)?])
        },
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![
                sample_tensor(stream, &[2, 3, 4]),
                sample_tensor(stream, &[4]),
                sample_tensor(stream, &[4]),
                sample_tensor(stream, &[5, 4]),
                sample_tensor(stream, &[5]),
                Arg::Float(1e-6),
            ]),
            Sample::new(vec![
                sample_strided(stream, &[3, 5]),
                sample_tensor(stream, &[5]),
                sample_tensor(stream, &[5]),
                sample_strided(stream, &[2, 5]),
                Arg::None,
                Arg::Float(1e-2),
            ]),
            Sample::new(vec![
                sample_tensor(stream, &[1, 1]),
                sample_tensor(stream, &[1]),
                sample_tensor(stream, &[1]),
                sample_tensor(stream, &[1, 1]),
                sample_tensor(stream, &[1]),
                Arg::Float(1e-1),
            ]),
        ],
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::random::Stream;
    use crate::state::Init;

    /// Output and the five gradients.
    fn run(dtype: DType, precision: Precision) -> Vec<Vec<f64>> {
        let mut stream = Stream::new(3, "norm_linear", 0, 0);
        let tape = Tape::new(precision);
        let mut draw = |shape: &[usize]| {
            let values = Init::Normal { std: 1.0 }.tensor(shape, &mut stream).unwrap();
            tape.leaf(values.to_dtype(dtype).unwrap())
        };
        let vars = [&[201, 40][..], &[40], &[40], &[70, 40], &[70]].map(&mut draw);
        let dy = draw(&[201, 70]).value().clone();
        let [x, weight, bias, w, b] = &vars;
        let norm = Norm { weight, bias, eps: 1e-6 };
        let y = norm_linear(&tape, x, norm, w, Some(b)).unwrap();
        let gradients = tape.backward_from(&y, dy).unwrap();
        let made = vars.iter().map(|var| gradients.get(var).unwrap());
        std::iter::once(y.value()).chain(made).map(|t| storage::to_f64(t).unwrap()).collect()
    }

    #[test]
    fn pieces_in_the_cache_give_what_whole_tensors_in_f64_give() {
        let exact = run(DType::F64, Precision::F32);
        for (precision, tolerance) in [(Precision::F32, 2e-5), (Precision::Bf16, 3e-2)] {
            for (got, want) in run(DType::F32, precision).iter().zip(&exact) {
                let scale = want.iter().fold(0.0_f64, |most, x| most.max(x.abs()));
                for (got, want) in got.iter().zip(want) {
                    assert!((got - want).abs() < tolerance * scale, "{got} {want} {precision:?}");
                }
            }
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused_by_name() {
        let zeros = |shape: &[usize]| {
            Var::constant(Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap())
        };
        let (x, four, w) = (zeros(&[2, 3]), zeros(&[4]), zeros(&[5, 3]));
        let norm = Norm { weight: &four, bias: &four, eps: 1e-6 };
        let error = norm_linear(&Tape::default(), &x, norm, &w, None).unwrap_err();
        assert!(error.to_string().starts_with("`norm_linear` expects"), "{error}");
    }
}
