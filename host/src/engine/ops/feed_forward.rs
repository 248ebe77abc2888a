//! `feed_forward@1`: layer norm, an affine map, GELU and another affine map in one: the second half of a transformer's block.

use candle_core::{DType, Tensor};

use super::gelu_linear::gelu_linear;
use super::norm_linear::{Norm, norm_linear};
use super::{layer_norm, linear};
use crate::engine::kernel::matmul::Linear;
use crate::engine::kernel::norm;
use crate::engine::kernel::packed::Format;
use crate::engine::kernel::packed::feed_forward::{
    Gradients as MapGradients, Maps, Sizes, backward, forward,
};
use crate::engine::kernel::packed::normed::{Finish, turned};
use crate::engine::kernel::packed::rows::{Normed, Plain};
use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::storage;
use crate::engine::tape::{Gradients, Precision, Tape, Var};
use crate::{Error, Result};

/// A weight `[O, I]` and a bias `[O]`.
pub type Map<'a> = (&'a Var, Option<&'a Var>);

/// `gelu(n w1^T + b1) w2^T + b2` over the last dimension, where n is x or its layer norm: x `[..., D]`, w1 `[H, D]`,
/// w2 `[O, H]`, result `[..., O]`.
///
/// What GELU takes is kept for the backward pass in the tape's precision, and nothing else that is as wide. In bf16 it
/// is rounded first, as PyTorch's autocast rounds what a linear layer gives.
///
/// # Errors
/// When the shapes don't fit together.
pub fn feed_forward(
    tape: &Tape,
    x: &Var,
    norm: Option<Norm<'_>>,
    first: Map<'_>,
    second: Map<'_>,
) -> Result<Var> {
    let sizes = check(x, norm, first, second)?;
    let [rows, inputs, hidden, outputs] = sizes;
    if tape.portable(x) || x.dtype() != DType::F32 || sizes.contains(&0) {
        return in_parts(tape, x, norm, first, second);
    }
    let sizes = Sizes { rows, inputs, hidden, outputs };
    let ((w1, b1), (w2, b2)) = (first, second);
    let affine = norm.map(|norm| [norm.weight, norm.bias]);
    let tensors = [Some(x), affine.map(|a| a[0]), affine.map(|a| a[1]), Some(w1), b1, Some(w2), b2];
    let inputs: Vec<&Var> = tensors.into_iter().flatten().collect();
    let call = Call {
        precision: tape.precision(),
        sizes,
        eps: norm.map_or(0.0, |norm| norm.eps) as f32,
        given: tensors.map(|tensor| tensor.is_some()),
    };
    let tensors = tensors.map(|tensor| tensor.unwrap_or(w1).value().clone());
    let recorded = tape.records(&inputs);
    let (value, kept) = tape.timed("feed_forward", || call.forward(&tensors, recorded))?;
    let products = if recorded { 3 } else { 1 };
    tape.keeps(rows * hidden * call.format().kept().bytes(), recorded);
    tape.count_flops("feed_forward", products * 2 * rows * hidden * (sizes.inputs + outputs));
    Ok(tape.record("feed_forward", &inputs, value, move |gradient, inputs| {
        call.backward(gradient.tensor(), &tensors, kept, inputs)
    }))
}

/// Rows, and numbers in a row of the input, between the maps and of the result, checked.
fn check(x: &Var, norm: Option<Norm<'_>>, first: Map<'_>, second: Map<'_>) -> Result<[usize; 4]> {
    if let Some(norm) = norm {
        layer_norm::check("feed_forward", x, [Some(norm.weight), Some(norm.bias)])?;
    }
    let Linear { rows, inputs, outputs: hidden } =
        linear::check("feed_forward", x, first.0, first.1)?;
    match (second.0.dims(), second.1.map(Var::dims)) {
        ([outputs, width], bias)
            if *width == hidden && bias.is_none_or(|bias| bias == [*outputs]) =>
        {
            Ok([rows, inputs, hidden, *outputs])
        }
        (weight, bias) => Err(Error::failed(format!(
            "`feed_forward` expects a second weight [O, {hidden}] and bias [O], got {weight:?} and {bias:?}"
        ))),
    }
}

/// The same from smaller ops: on a device, and in f64.
fn in_parts(
    tape: &Tape,
    x: &Var,
    norm: Option<Norm<'_>>,
    (w1, b1): Map<'_>,
    (w2, b2): Map<'_>,
) -> Result<Var> {
    let h = match norm {
        Some(norm) => norm_linear(tape, x, norm, w1, b1)?,
        None => linear::linear(tape, x, w1, b1)?,
    };
    gelu_linear(tape, &h, w2, b2)
}

/// Mean and 1 / sqrt(var + eps) of each row; empty without a norm.
type Statistics = (Vec<f32>, Vec<f32>);

/// What the backward pass needs beside the tensors.
struct Kept {
    statistics: Statistics,
    /// What GELU took.
    words: Vec<u32>,
}

/// The norm's weight, in [`Call::given`].
const NORM: usize = 1;

#[derive(Clone, Copy)]
struct Call {
    precision: Precision,
    sizes: Sizes,
    eps: f32,
    /// Which of x, the norm's weight and bias, w1, b1, w2 and b2 there are.
    given: [bool; 7],
}

impl Call {
    fn forward(self, tensors: &[Tensor; 7], keeps: bool) -> Result<(Tensor, Kept)> {
        let mut shape = tensors[0].dims().to_vec();
        *shape.last_mut().expect("an input was checked to have a dimension") = self.sizes.outputs;
        let (format, sizes) = (self.format(), self.sizes);
        let (y, kept) = storage::read_all(tensors.each_ref(), |slices: [&[f32]; 7]| {
            let ([x, weight, bias, ..], maps) = (slices, self.maps(slices));
            if !self.given[NORM] {
                let x = Plain { x, width: sizes.inputs };
                let (y, words) = forward(format, &x, maps, sizes, keeps);
                return (y, Kept { statistics: Statistics::default(), words });
            }
            let statistics = norm::statistics(x, sizes.inputs, self.eps);
            let x = Normed { x, mean: &statistics.0, rstd: &statistics.1, weight, bias };
            let (y, words) = forward(format, &x, maps, sizes, keeps);
            (y, Kept { statistics, words })
        })?;
        Ok((storage::tensor(y, shape)?, kept))
    }

    fn backward(
        self,
        dy: &Tensor,
        tensors: &[Tensor; 7],
        Kept { statistics, words }: Kept,
        inputs: &mut Gradients<'_>,
    ) -> Result<()> {
        let (format, sizes) = (self.format(), self.sizes);
        let [x, weight, bias, w1, b1, w2, b2] = tensors;
        let all = [dy, x, weight, bias, w1, b1, w2, b2];
        let (made, maps) = storage::read_all(all, |[dy, slices @ ..]: [&[f32]; 8]| {
            let ([x, weight, bias, ..], maps) = (slices, self.maps(slices));
            if !self.given[NORM] {
                let x = Plain { x, width: sizes.inputs };
                let (dx, of_maps) = backward(format, (dy, &x, words), maps, sizes, |_, _| {});
                return ((dx, Vec::new(), Vec::new()), of_maps);
            }
            let (mean, rstd) = &statistics;
            let x = Normed { x, mean, rstd, weight, bias };
            let mut of_maps = MapGradients::default();
            let product = |finish: Finish<'_>| {
                let (dx, made) = backward(format, (dy, &x, words), maps, sizes, finish);
                of_maps = made;
                dx
            };
            let made = turned(&x, sizes.rows, product);
            (made, of_maps)
        })?;
        let (dx, dweight, dbias) = made;
        let Sizes { inputs: width, hidden, outputs, .. } = sizes;
        let made: [(Vec<f32>, &[usize]); 7] = [
            (dx, x.dims()),
            (dweight, &[width]),
            (dbias, &[width]),
            (maps.w1, &[hidden, width]),
            (maps.b1, &[hidden]),
            (maps.w2, &[outputs, hidden]),
            (maps.b2, &[outputs]),
        ];
        let given = made.into_iter().zip(self.given).filter(|(_, given)| *given);
        for (index, ((values, shape), _)) in given.enumerate() {
            inputs.add(index, storage::tensor(values, shape)?)?;
        }
        Ok(())
    }

    fn format(self) -> Format {
        Format::of(self.precision == Precision::Bf16)
    }

    fn maps(self, [_, _, _, w1, b1, w2, b2]: [&[f32]; 7]) -> Maps<'_> {
        Maps { w1, b1: self.given[4].then_some(b1), w2, b2: self.given[6].then_some(b2) }
    }
}

inventory::submit! {
    OpDef {
        name: "feed_forward",
        revision: 1,
        formula: "feed_forward(x [..., D], g? [D], c? [D], w1 [H, D], b1? [H], w2 [O, H], b2? [O], eps) = gelu(n w1^T + b1) w2^T + b2; n = layer_norm(x, g, c, eps), or x without g",
        call: |tape, args: &Args<'_>| {
            let norm = match (args.optional_tensor(1)?, args.optional_tensor(2)?) {
                (Some(weight), Some(bias)) => Some(Norm { weight, bias, eps: args.float(7)? }),
                (None, None) => None,
                _ => return Err(Error::failed("`feed_forward` expects both of a norm's weight and bias, or neither")),
            };
            let (first, second) = (args.optional_tensor(4)?, args.optional_tensor(6)?);
            let (w1, w2) = (args.tensor(3)?, args.tensor(5)?);
            Ok(vec![feed_forward(tape, args.tensor(0)?, norm, (w1, first), (w2, second))?])
        },
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![
                sample_tensor(stream, &[2, 3, 4]),
                sample_tensor(stream, &[4]),
                sample_tensor(stream, &[4]),
                sample_tensor(stream, &[5, 4]),
                sample_tensor(stream, &[5]),
                sample_tensor(stream, &[3, 5]),
                sample_tensor(stream, &[3]),
                Arg::Float(1e-6),
            ]),
            Sample::new(vec![
                sample_strided(stream, &[3, 5]),
                Arg::None,
                Arg::None,
                sample_strided(stream, &[2, 5]),
                Arg::None,
                sample_tensor(stream, &[4, 2]),
                Arg::None,
                Arg::Float(1e-2),
            ]),
            Sample::new(vec![
                sample_tensor(stream, &[1, 1]),
                Arg::None,
                Arg::None,
                sample_tensor(stream, &[1, 1]),
                sample_tensor(stream, &[1]),
                sample_tensor(stream, &[1, 1]),
                Arg::None,
                Arg::Float(0.0),
            ]),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;
    use crate::state::Init;

    /// Output and the gradients, with a norm or without.
    fn run(dtype: DType, precision: Precision, normed: bool, hidden: usize) -> Vec<Vec<f64>> {
        let mut stream = Stream::new(3, "feed_forward", 0, 0);
        let tape = Tape::new(precision);
        let mut draw = |shape: &[usize]| {
            let values = Init::Normal { std: 1.0 }.tensor(shape, &mut stream).unwrap();
            tape.leaf(values.to_dtype(dtype).unwrap())
        };
        let shapes = [&[201, 40][..], &[40], &[40], &[hidden, 40], &[hidden], &[70, hidden], &[70]];
        let vars = shapes.map(&mut draw);
        let dy = draw(&[201, 70]).value().clone();
        let [x, weight, bias, w1, b1, w2, b2] = &vars;
        let norm = normed.then_some(Norm { weight, bias, eps: 1e-6 });
        let y = feed_forward(&tape, x, norm, (w1, Some(b1)), (w2, Some(b2))).unwrap();
        let gradients = tape.backward_from(&y, dy).unwrap();
        let made = vars.iter().filter_map(|var| gradients.get(var));
        std::iter::once(y.value()).chain(made).map(|t| storage::to_f64(t).unwrap()).collect()
    }

    #[test]
    fn pieces_in_the_cache_give_what_whole_tensors_in_f64_give() {
        for (normed, hidden) in [(true, 130), (false, 130), (true, 33)] {
            let exact = run(DType::F64, Precision::F32, normed, hidden);
            assert_eq!(exact.len(), if normed { 8 } else { 6 });
            for (precision, tolerance) in [(Precision::F32, 2e-5), (Precision::Bf16, 3e-2)] {
                let made = run(DType::F32, precision, normed, hidden);
                assert_eq!(made.len(), exact.len());
                for (got, want) in made.iter().zip(&exact) {
                    let most = want.iter().fold(0.0_f64, |most, x| most.max(x.abs()));
                    let near = |(got, want): (&f64, &f64)| (got - want).abs() < tolerance * most;
                    assert!(got.iter().zip(want).all(near), "{got:?} {want:?} {precision:?}");
                }
            }
        }
    }

    #[test]
    fn in_bf16_what_gelu_took_is_kept_in_half_the_bytes_on_any_machine() {
        let kept = |precision| {
            let tape = Tape::new(precision);
            let ones = |shape: &[usize]| {
                tape.leaf(Tensor::ones(shape, DType::F32, &candle_core::Device::Cpu).unwrap())
            };
            let (x, w1, w2) = (ones(&[10, 4]), ones(&[64, 4]), ones(&[4, 64]));
            let before = tape.recorded_bytes();
            feed_forward(&tape, &x, None, (&w1, None), (&w2, None)).unwrap();
            tape.recorded_bytes() - before
        };
        assert_eq!(kept(Precision::F32) - kept(Precision::Bf16), 10 * 64 * 2);
    }

    #[test]
    fn the_number_of_threads_changes_no_bit_of_maps_or_gradients() {
        for precision in [Precision::F32, Precision::Bf16] {
            let on = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| run(DType::F32, precision, true, 33))
            };
            let one = on(1);
            assert_eq!(one, on(2));
            assert_eq!(one, on(3));
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused_by_name() {
        let zeros = |shape: &[usize]| {
            Var::constant(Tensor::zeros(shape, DType::F32, &candle_core::Device::Cpu).unwrap())
        };
        let (x, four) = (zeros(&[2, 3]), zeros(&[4]));
        let (w1, w2, wrong) = (zeros(&[5, 3]), zeros(&[2, 5]), zeros(&[2, 6]));
        let norm = Some(Norm { weight: &four, bias: &four, eps: 1e-6 });
        let tape = Tape::default();
        let refused = |norm, w1, b2, w2| {
            let error =
                feed_forward(&tape, &x, norm, (w1, None), (w2, b2)).unwrap_err().to_string();
            assert!(error.starts_with("`feed_forward` expects"), "{error}");
        };
        refused(norm, &w1, None, &w2);
        refused(None, &w2, None, &w2);
        refused(None, &w1, None, &wrong);
        refused(None, &w1, Some(&four), &w2);
    }
}
