//! `conv1d@1`: a convolution over time, in the tape's precision.

use candle_core::{DType, Tensor};

use crate::engine::kernel::activation::{self, Activation};
use crate::engine::kernel::conv1d::{self as plain, Conv};
use crate::engine::kernel::matmul::{Write, column_sums};
use crate::engine::kernel::packed::conv1d as packed;
use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::tape::{Gradients, Precision, Tape, Var};
use crate::engine::{portable, storage};
use crate::{Error, Result};

/// How a convolution's windows lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// From one window to the next.
    pub stride: usize,
    /// Zeros before the first frame and after the last.
    pub padding: usize,
    /// Parts that channels and outputs are cut into.
    pub groups: usize,
}

/// The convolution of x `[B, C, T]` with w `[O, C / groups, k]` and b `[O]`:
/// `[B, O, (T + 2 padding - k) / stride + 1]`, rounded down.
///
/// Its own layout is `[B, T, C]`: an x that is a transposed view of such a tensor is read as it lies, and the
/// result is a transposed view of one.
///
/// # Errors
/// When the shapes don't fit together.
pub fn conv1d(tape: &Tape, x: &Var, w: &Var, b: Option<&Var>, windows: Windows) -> Result<Var> {
    convolution(tape, "conv1d", (x, w, b), windows)
}

/// As [`conv1d`], of x or, in the op `gelu_conv1d`, of GELU of x.
pub(super) fn convolution(
    tape: &Tape,
    op: &'static str,
    (x, w, b): (&Var, &Var, Option<&Var>),
    windows: Windows,
) -> Result<Var> {
    let conv = check(op, (x, w, b), windows)?;
    if tape.portable(x) {
        return portable::convolution::conv1d(tape, op, (x, w, b), &conv);
    }
    let kept = Kept {
        frames: rows(x.value())?,
        weight: rows(w.value())?,
        gelu: op == "gelu_conv1d",
        bias: b.is_some(),
        precision: tape.precision(),
        conv,
    };
    let y = tape.timed(op, || kept.forward(b))?;
    let y = storage_of(y, (conv.batch, conv.out_frames(), conv.outputs))?;
    let inputs: Vec<&Var> = [Some(x), Some(w), b].into_iter().flatten().collect();
    let gradients = [x, w].iter().filter(|input| tape.records(&[input])).count();
    tape.count_flops(op, (1 + gradients) * conv.flops());
    Ok(tape.record(op, &inputs, y, move |gradient, inputs| {
        kept.gradients(&rows(gradient.tensor())?, inputs)
    }))
}

/// `[B, C, T]` as `[B, T, C]`; copied only where it doesn't lie so.
fn rows(x: &Tensor) -> Result<Tensor> {
    Ok(x.transpose(1, 2)?.contiguous()?)
}

/// Numbers of frames, `sizes` `[B, T, C]`, as the tensor `[B, C, T]`.
fn storage_of(values: Values, sizes: (usize, usize, usize)) -> Result<Tensor> {
    let tensor = match values {
        Values::Single(values) => storage::tensor(values, sizes)?,
        Values::Double(values) => storage::tensor(values, sizes)?,
    };
    Ok(tensor.transpose(1, 2)?)
}

/// The numbers of a result.
enum Values {
    Single(Vec<f32>),
    Double(Vec<f64>),
}

fn check(op: &str, (x, w, b): (&Var, &Var, Option<&Var>), windows: Windows) -> Result<Conv> {
    let Windows { stride, padding, groups } = windows;
    let conv = match (x.dims(), w.dims(), b.map(Var::dims)) {
        (&[batch, channels, frames], &[outputs, width, kernel], bias)
            if bias.is_none_or(|bias| bias == [outputs]) && width * groups == channels =>
        {
            Conv { batch, frames, channels, outputs, kernel, stride, padding, groups }
        }
        _ => return Err(refuse(op, (x, w, b), windows)),
    };
    let fits = stride > 0
        && groups > 0
        && conv.outputs.is_multiple_of(groups)
        && (1..=conv.frames + 2 * padding).contains(&conv.kernel);
    if fits { Ok(conv) } else { Err(refuse(op, (x, w, b), windows)) }
}

fn refuse(op: &str, (x, w, b): (&Var, &Var, Option<&Var>), windows: Windows) -> Error {
    Error::failed(format!(
        "`{op}` expects x [B, C, T], w [O, C / groups, k] with k at most T + 2 padding, and b [O], got {:?}, \
         {:?} and {:?} with stride {}, padding {} and {} groups",
        x.dims(),
        w.dims(),
        b.map(Var::dims),
        windows.stride,
        windows.padding,
        windows.groups
    ))
}

/// What a convolution and its backward pass read.
struct Kept {
    /// `[B, T, C]`.
    frames: Tensor,
    /// `[O, k, C / groups]`.
    weight: Tensor,
    /// Whether GELU of the frames is convolved.
    gelu: bool,
    bias: bool,
    precision: Precision,
    conv: Conv,
}

impl Kept {
    fn forward(&self, b: Option<&Var>) -> Result<Values> {
        let tensors = [&self.frames, &self.weight, b.map_or(&self.weight, Var::value)];
        let conv = &self.conv;
        match self.frames.dtype() {
            DType::F32 => storage::read_all(tensors, |[x, w, bias]| {
                let (x, bias) = ((x, self.gelu), self.bias.then_some(bias));
                Values::Single(match self.precision {
                    Precision::F32 => packed::forward::<false>(x, w, bias, conv),
                    Precision::Bf16 => packed::forward::<true>(x, w, bias, conv),
                })
            }),
            DType::F64 => storage::read_all(tensors, |[x, w, bias]| {
                let x = self.made(x);
                Values::Double(plain::forward(&x, w, self.bias.then_some(bias), conv))
            }),
            other => Err(Error::failed(format!("a convolution takes f32 or f64, not {other:?}"))),
        }
    }

    /// What the windows are cut from.
    fn made<'a, T: crate::engine::kernel::Float>(&self, x: &'a [T]) -> std::borrow::Cow<'a, [T]> {
        if self.gelu { activation::forward(Activation::Gelu, x).into() } else { x.into() }
    }

    /// Adds the gradients of x (input 0), w (1) and b (2) from `dy` `[B, T, O]`.
    fn gradients(&self, dy: &Tensor, inputs: &mut Gradients<'_>) -> Result<()> {
        let Conv { batch, frames, channels, outputs, kernel, .. } = self.conv;
        if inputs.wants(0) {
            let dx = self.grad_input(dy)?;
            inputs.add(0, storage_of(dx, (batch, frames, channels))?)?;
        }
        if inputs.wants(1) {
            let dw = self.grad_weight(dy)?;
            inputs.add(1, storage_of(dw, (outputs, kernel, self.conv.group_channels()))?)?;
        }
        if self.bias && inputs.wants(2) {
            let db = crate::for_float!(dy.dtype(), T => {
                let mut db = vec![<T as Default>::default(); outputs];
                storage::read::<T, _>(dy, |dy| column_sums(dy, Write::Set, &mut db))?;
                storage::tensor(db, outputs)
            })?;
            inputs.add(2, db)?;
        }
        Ok(())
    }

    fn grad_input(&self, dy: &Tensor) -> Result<Values> {
        let (tensors, conv) = ([dy, &self.weight, &self.frames], &self.conv);
        if dy.dtype() == DType::F32 {
            return storage::read_all(tensors, |[dy, w, h]| {
                let h = self.gelu.then_some(h);
                Values::Single(match self.precision {
                    Precision::F32 => packed::grad_input::<false>(dy, w, h, conv),
                    Precision::Bf16 => packed::grad_input::<true>(dy, w, h, conv),
                })
            });
        }
        storage::read_all(tensors, |[dy, w, h]| {
            let dx = plain::grad_input::<f64>(dy, w, conv);
            let gelu = self.gelu;
            Values::Double(if gelu { activation::backward(Activation::Gelu, h, &dx) } else { dx })
        })
    }

    fn grad_weight(&self, dy: &Tensor) -> Result<Values> {
        let (tensors, conv) = ([dy, &self.frames], &self.conv);
        if dy.dtype() == DType::F32 {
            return storage::read_all(tensors, |[dy, x]| {
                // Made once: every window that meets a frame reads it.
                let x = self.made(x);
                Values::Single(match self.precision {
                    Precision::F32 => packed::grad_weight::<false>(dy, &x, conv),
                    Precision::Bf16 => packed::grad_weight::<true>(dy, &x, conv),
                })
            });
        }
        storage::read_all(tensors, |[dy, x]| {
            Values::Double(plain::grad_weight::<f64>(dy, &self.made(x), conv))
        })
    }
}

/// The windows that the arguments from 3 on say.
pub(super) fn windows(args: &Args<'_>) -> Result<Windows> {
    Ok(Windows { stride: args.size(3)?, padding: args.size(4)?, groups: args.size(5)? })
}

/// Samples of a convolution: strides, padding, groups, one frame.
pub(super) fn samples(stream: &mut crate::random::Stream) -> Vec<Sample> {
    let mut sample = |x: Arg, w: [usize; 3], bias: bool, [stride, padding, groups]: [i64; 3]| {
        let bias = if bias { sample_tensor(stream, &[w[0]]) } else { Arg::None };
        let w = sample_tensor(stream, &w);
        let numbers = [stride, padding, groups].map(Arg::Int);
        Sample::new([[x, w, bias].as_slice(), &numbers].concat())
    };
    let mut draws = crate::random::Stream::new(11, "conv1d samples", 0, 0);
    vec![
        sample(sample_tensor(&mut draws, &[2, 3, 9]), [4, 3, 3], true, [2, 0, 1]),
        sample(sample_strided(&mut draws, &[2, 4, 6]), [6, 2, 4], true, [1, 2, 2]),
        sample(sample_strided(&mut draws, &[1, 6, 7]), [3, 2, 2], false, [3, 1, 3]),
        sample(sample_tensor(&mut draws, &[1, 1, 1]), [1, 1, 1], true, [1, 0, 1]),
        sample(sample_tensor(&mut draws, &[2, 1, 8]), [2, 1, 3], false, [5, 0, 1]),
    ]
}

inventory::submit! {
    OpDef {
        name: "conv1d",
        revision: 1,
        formula: "conv1d(x [B, C, T], w [O, C / groups, k], b? [O], stride, padding, groups)",
        call: |tape, args: &Args<'_>| {
            let (w, b) = (args.tensor(1)?, args.optional_tensor(2)?);
            Ok(vec![conv1d(tape, args.tensor(0)?, w, b, windows(args)?)?])
        },
        gradient: Gradient::Checked,
        samples,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn zeros(shape: &[usize]) -> Var {
        Var::constant(Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap())
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused_by_name_with_all_sizes() {
        let tape = Tape::default();
        let windows = Windows { stride: 1, padding: 0, groups: 1 };
        let x = zeros(&[1, 2, 3]);
        let error = conv1d(&tape, &x, &zeros(&[4, 2, 5]), None, windows).unwrap_err();
        assert!(error.to_string().contains("got [1, 2, 3], [4, 2, 5] and None"), "{error}");
        let two = Windows { groups: 2, ..windows };
        assert!(conv1d(&tape, &x, &zeros(&[3, 1, 1]), None, two).is_err());
        let still = Windows { stride: 0, ..windows };
        assert!(conv1d(&tape, &x, &zeros(&[3, 2, 1]), None, still).is_err());
    }

    #[test]
    fn frames_as_rows_are_neither_copied_on_the_way_in_nor_on_the_way_out() {
        let tape = Tape::default();
        let frames = zeros(&[2, 7, 3]).value().transpose(1, 2).unwrap();
        assert!(rows(&frames).unwrap().is_contiguous());
        let windows = Windows { stride: 2, padding: 0, groups: 1 };
        let y = conv1d(&tape, &Var::constant(frames), &zeros(&[4, 3, 3]), None, windows).unwrap();
        assert_eq!(y.dims(), [2, 4, 3]);
        assert!(y.value().transpose(1, 2).unwrap().is_contiguous());
    }
}
