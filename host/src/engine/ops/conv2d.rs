//! `conv2d@1`: a convolution of pictures, in the tape's precision.

use candle_core::{DType, Tensor};

use crate::engine::kernel::conv::{self, Conv};
use crate::engine::kernel::packed::Format;
use crate::engine::kernel::packed::gathered::Pictures;
use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::ops::add::add;
use crate::engine::ops::reshape::reshape;
use crate::engine::tape::{Gradients, Precision, Tape, Var};
use crate::engine::{portable, storage};
use crate::{Error, Result};

/// x `[B, C, H, W]`, w `[O, C, kh, kw]`, b `[O]` to `[B, O, H', W']` with H' = (H + 2 padding - kh) / stride + 1,
/// rounded down: the correlation that PyTorch calls a convolution, zeros around the picture.
///
/// # Errors
/// When the shapes don't fit together, or the kernel is larger than the picture with its padding.
pub fn conv2d(
    tape: &Tape,
    x: &Var,
    w: &Var,
    b: Option<&Var>,
    (stride, padding): (usize, usize),
) -> Result<Var> {
    let conv = sizes(x, w, b, (stride, padding))?;
    let y = if tape.portable(x) {
        portable::convolution::conv2d(tape, x, w, &conv)?
    } else {
        convolution(tape, x, w, conv)?
    };
    match b {
        Some(b) => add(tape, &y, &reshape(tape, b, &[conv.result.channels, 1, 1])?),
        None => Ok(y),
    }
}

fn convolution(tape: &Tape, x: &Var, w: &Var, conv: Conv) -> Result<Var> {
    let precision = tape.precision();
    let last = storage::channels_last(x.value())?;
    let value = tape.timed("conv2d", || forward(precision, &last, w.value(), &conv))?;
    let gradients = usize::from(x.tracked()) + usize::from(w.tracked());
    let recorded = tape.records(&[x, w]);
    tape.count_flops("conv2d", conv.flops() * (1 + if recorded { gradients } else { 0 }));
    let kept = Kept {
        precision,
        conv,
        x: w.tracked().then_some(last),
        w: x.tracked().then(|| w.value().clone()),
    };
    Ok(tape.record("conv2d", &[x, w], value, move |gradient, inputs| {
        kept.gradients(gradient.tensor(), inputs)
    }))
}

fn sizes(x: &Var, w: &Var, b: Option<&Var>, (stride, padding): (usize, usize)) -> Result<Conv> {
    let refused = |why: &str| {
        Error::failed(format!(
            "`conv2d` expects x [B, C, H, W], w [O, C, kh, kw] and b [O], got {:?}, {:?} and {:?}{why}",
            x.dims(),
            w.dims(),
            b.map(Var::dims)
        ))
    };
    let (&[batch, channels, height, width], &[outputs, inputs, kh, kw]) = (x.dims(), w.dims())
    else {
        return Err(refused(""));
    };
    if channels != inputs || b.is_some_and(|b| b.dims() != [outputs]) {
        return Err(refused(""));
    }
    let side = |side: usize, kernel: usize| {
        let room = (side + 2 * padding).checked_sub(kernel);
        room.filter(|_| stride > 0 && kernel > 0).map(|room| room / stride + 1)
    };
    let (Some(to_height), Some(to_width)) = (side(height, kh), side(width, kw)) else {
        return Err(refused(&format!("; stride {stride} and padding {padding} leave no pixel")));
    };
    Ok(Conv {
        source: Pictures { batch, height, width, channels },
        result: Pictures { batch, height: to_height, width: to_width, channels: outputs },
        kernel: [kh, kw],
        stride,
        padding,
    })
}

fn shape(pictures: Pictures) -> [usize; 4] {
    [pictures.batch, pictures.height, pictures.width, pictures.channels]
}

fn format(precision: Precision) -> Format {
    Format::of(precision == Precision::Bf16)
}

/// `x` has its channels last.
fn forward(precision: Precision, x: &Tensor, w: &Tensor, conv: &Conv) -> Result<Tensor> {
    if x.dtype() == DType::F64 {
        let y = storage::read_all::<f64, _, 2>([x, w], |[x, w]| conv::forward_plain(x, w, conv))?;
        return storage::pictures(y, shape(conv.result));
    }
    let format = format(precision);
    let y = storage::read_all([x, w], |[x, w]| conv::forward(format, x, w, conv))?;
    storage::pictures(y, shape(conv.result))
}

/// What the backward pass needs.
struct Kept {
    precision: Precision,
    conv: Conv,
    /// Channels last, where the weight wants a gradient.
    x: Option<Tensor>,
    /// Where x wants a gradient.
    w: Option<Tensor>,
}

impl Kept {
    fn gradients(&self, dy: &Tensor, inputs: &mut Gradients<'_>) -> Result<()> {
        let (conv, format) = (&self.conv, format(self.precision));
        let dy = storage::channels_last(dy)?;
        let double = dy.dtype() == DType::F64;
        if let Some(w) = &self.w {
            // What came past the convolution, over a skip connection.
            let sum = if double { None } else { inputs.take_pictures(0) };
            let dx = if let Some(sum) = sum {
                let sum = storage::channels_last(&sum)?;
                storage::read_all([&dy, w], |[dy, w]| {
                    storage::change(&sum, |dx| conv::add_grad_input(format, dy, w, conv, dx))
                })??;
                sum.permute((0, 3, 1, 2))?
            } else if double {
                let plain = |[dy, w]: [&[f64]; 2]| conv::grad_input_plain(dy, w, conv);
                storage::pictures(storage::read_all([&dy, w], plain)?, shape(conv.source))?
            } else {
                let packed = |[dy, w]: [&[f32]; 2]| conv::grad_input(format, dy, w, conv);
                storage::pictures(storage::read_all([&dy, w], packed)?, shape(conv.source))?
            };
            inputs.add(0, dx)?;
        }
        if let Some(x) = &self.x {
            let [kh, kw] = conv.kernel;
            let shape = (conv.result.channels, conv.source.channels, kh, kw);
            let dw = if double {
                let plain = |[dy, x]: [&[f64]; 2]| conv::grad_weight_plain(dy, x, conv);
                storage::tensor(storage::read_all([&dy, x], plain)?, shape)?
            } else {
                let packed = |[dy, x]: [&[f32]; 2]| conv::grad_weight(format, dy, x, conv);
                storage::tensor(storage::read_all([&dy, x], packed)?, shape)?
            };
            inputs.add(1, dw)?;
        }
        Ok(())
    }
}

inventory::submit! {
    OpDef {
        name: "conv2d",
        revision: 1,
        formula: "conv2d(x [B, C, H, W], w [O, C, kh, kw], b? [O], stride, padding) = [B, O, H', W']",
        call: |tape, args: &Args<'_>| {
            let b = args.optional_tensor(2)?;
            let steps = (args.size(3)?, args.size(4)?);
            Ok(vec![conv2d(tape, args.tensor(0)?, args.tensor(1)?, b, steps)?])
        },
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![
                sample_tensor(stream, &[2, 3, 5, 4]),
                sample_tensor(stream, &[4, 3, 3, 3]),
                sample_tensor(stream, &[4]),
                Arg::Int(1),
                Arg::Int(1),
            ]),
            Sample::new(vec![
                sample_strided(stream, &[1, 2, 6, 5]),
                sample_strided(stream, &[3, 2, 3, 3]),
                Arg::None,
                Arg::Int(2),
                Arg::Int(1),
            ]),
            Sample::new(vec![
                sample_tensor(stream, &[2, 1, 4, 4]),
                sample_tensor(stream, &[2, 1, 1, 1]),
                Arg::None,
                Arg::Int(2),
                Arg::Int(0),
            ]),
            Sample::new(vec![
                sample_tensor(stream, &[1, 1, 1, 1]),
                sample_tensor(stream, &[1, 1, 1, 1]),
                sample_tensor(stream, &[1]),
                Arg::Int(1),
                Arg::Int(0),
            ]),
            Sample::new(vec![
                sample_tensor(stream, &[1, 2, 7, 7]),
                sample_tensor(stream, &[2, 2, 5, 4]),
                Arg::None,
                Arg::Int(3),
                Arg::Int(2),
            ]),
        ],
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn shapes_that_do_not_fit_are_named_in_the_error() {
        let zeros = |shape: &[usize]| {
            Var::constant(Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap())
        };
        let (tape, x) = (Tape::default(), zeros(&[1, 3, 4, 4]));
        let error = conv2d(&tape, &x, &zeros(&[2, 4, 3, 3]), None, (1, 1)).unwrap_err();
        assert!(error.to_string().contains("got [1, 3, 4, 4], [2, 4, 3, 3]"), "{error}");
        let error = conv2d(&tape, &x, &zeros(&[2, 3, 7, 7]), None, (1, 1)).unwrap_err();
        assert!(error.to_string().contains("leave no pixel"), "{error}");
        assert!(conv2d(&tape, &x, &zeros(&[2, 3, 3, 3]), None, (0, 1)).is_err());
    }

    #[test]
    fn a_gradient_over_a_skip_connection_is_added_to_in_place() {
        let tape = Tape::default();
        let ones = |shape: &[usize]| Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
        let (x, w) = (tape.leaf(ones(&[2, 3, 4, 4])), tape.leaf(ones(&[3, 3, 1, 1])));
        let inside = conv2d(&tape, &x, &w, None, (1, 0)).unwrap();
        let branch = conv2d(&tape, &inside, &w, None, (1, 0)).unwrap();
        let skip = conv2d(&tape, &inside, &w, None, (1, 0)).unwrap();
        let y = add(&tape, &branch, &skip).unwrap();
        let gradients = tape.backward_from(&y, ones(&[2, 3, 4, 4])).unwrap();
        let dx = storage::to_f32(gradients.get(&x).unwrap()).unwrap();
        assert!(dx.iter().all(|dx| *dx == 18.0), "{dx:?}");
    }

    #[test]
    fn results_and_gradients_keep_their_channels_last() {
        let tape = Tape::default();
        let ones = |shape: &[usize]| Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
        let (x, w) = (tape.leaf(ones(&[2, 3, 4, 4])), tape.leaf(ones(&[5, 3, 3, 3])));
        let y = conv2d(&tape, &x, &w, None, (1, 1)).unwrap();
        assert_eq!(y.dims(), [2, 5, 4, 4]);
        assert!(!y.value().is_contiguous() && storage::dense(y.value()).is_some());
        let gradients = tape.backward_from(&y, ones(&[2, 5, 4, 4])).unwrap();
        assert!(storage::dense(gradients.get(&x).unwrap()).is_some());
        assert_eq!(gradients.get(&w).unwrap().dims(), [5, 3, 3, 3]);
    }
}
