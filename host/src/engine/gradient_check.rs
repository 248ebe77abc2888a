//! Gradient checks: an op's backward against central differences, in f64.

use candle_core::{DType, Tensor};

use super::op::{Arg, Args, OpDef, Sample};
use super::storage;
use super::tape::{Precision, Tape, Var};
use crate::random::Stream;
use crate::{Error, Result};

const STEP: f64 = 1e-5;
const TOLERANCE: f64 = 1e-6;

/// Checks every gradient of `op` on `sample`.
///
/// # Errors
/// When a gradient is missing, has the wrong shape, or differs from central differences by more
/// than 1e-6 of its size.
pub fn check(op: &'static OpDef, sample: &Sample) -> Result<()> {
    let tape = Tape::new(Precision::F32);
    let leaves: Vec<Option<Var>> = (0..sample.args.len())
        .map(|i| checked_tensor(sample, i).map(|tensor| tape.leaf(tensor.clone())))
        .collect();
    let args: Vec<Arg> = sample
        .args
        .iter()
        .zip(&leaves)
        .map(|(arg, leaf)| leaf.clone().map_or_else(|| fresh(arg), Arg::Tensor))
        .collect();
    let output = first(op, &tape, &args)?;
    let mut stream = Stream::new(7, "gradient check", 0, 0);
    let weights = super::op::random_tensor(&mut stream, output.dims())?;
    let gradients = tape.backward_from(&output, weights.clone())?;
    for (index, leaf) in leaves.iter().enumerate() {
        let Some(leaf) = leaf else { continue };
        let Some(gradient) = gradients.get(leaf) else {
            return Err(Error::failed(format!("`{}` gives argument {index} no gradient", op.name)));
        };
        if gradient.dims() != leaf.dims() {
            return Err(Error::failed(format!(
                "`{}` gives argument {index} of shape {:?} a gradient of shape {:?}",
                op.name,
                leaf.dims(),
                gradient.dims()
            )));
        }
        compare(op, sample, index, &storage::to_f64(gradient)?, &weights)?;
    }
    Ok(())
}

fn checked_tensor(sample: &Sample, index: usize) -> Option<&Tensor> {
    match &sample.args[index] {
        Arg::Tensor(var) if var.dtype() == DType::F64 && !sample.constant.contains(&index) => {
            Some(var.value())
        }
        _ => None,
    }
}

/// A random stream is copied, so that every call of a check draws the same numbers.
fn fresh(arg: &Arg) -> Arg {
    match arg {
        Arg::Stream(stream) => {
            Arg::Stream(std::rc::Rc::new(std::cell::RefCell::new(stream.borrow().clone())))
        }
        other => other.clone(),
    }
}

fn first(op: &'static OpDef, tape: &Tape, args: &[Arg]) -> Result<Var> {
    (op.call)(tape, &Args::new(op.name, args))?
        .into_iter()
        .next()
        .ok_or_else(|| Error::failed(format!("`{}` returns nothing", op.name)))
}

fn compare(
    op: &'static OpDef,
    sample: &Sample,
    index: usize,
    gradient: &[f64],
    weights: &Tensor,
) -> Result<()> {
    let Some(tensor) = checked_tensor(sample, index) else { return Ok(()) };
    let values = storage::to_f64(tensor)?;
    let objective = |values: Vec<f64>| -> Result<f64> {
        let tape = Tape::new(Precision::F32);
        let mut args: Vec<Arg> = sample.args.iter().map(fresh).collect();
        args[index] = Arg::Tensor(Var::constant(storage::tensor(values, tensor.dims())?));
        let output = first(op, &tape, &args)?;
        let (output, weights) = (storage::to_f64(output.value())?, storage::to_f64(weights)?);
        Ok(output.iter().zip(&weights).map(|(o, w)| o * w).sum())
    };
    for (at, given) in gradient.iter().enumerate() {
        let moved = |by: f64| {
            let mut values = values.clone();
            values[at] += by;
            objective(values)
        };
        let expected = (moved(STEP)? - moved(-STEP)?) / (2.0 * STEP);
        let limit = TOLERANCE * (1.0 + expected.abs().max(given.abs()));
        // A difference that is not a number is one too many.
        if (given - expected).abs().partial_cmp(&limit).is_none_or(std::cmp::Ordering::is_gt) {
            return Err(Error::failed(format!(
                "`{}`, argument {index}, element {at}: gradient {given}, by differences {expected}",
                op.name
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::op::{self, Gradient};
    use super::*;

    #[test]
    fn every_op_with_a_gradient_agrees_with_central_differences() {
        for def in op::catalogue() {
            let samples = (def.samples)(&mut Stream::new(1, def.name, 0, 0));
            if !matches!(def.gradient, Gradient::Checked) {
                continue;
            }
            assert!(samples.len() >= 3, "`{}` needs at least three samples", def.name);
            for (i, sample) in samples.iter().enumerate() {
                if let Err(error) = check(def, sample) {
                    panic!("sample {i} of `{}`: {error}", def.name);
                }
            }
        }
    }

    #[test]
    fn every_op_without_a_gradient_returns_constants() {
        for def in op::catalogue() {
            if !matches!(def.gradient, Gradient::None(_)) {
                continue;
            }
            for sample in (def.samples)(&mut Stream::new(1, def.name, 0, 0)) {
                let tape = Tape::new(Precision::F32);
                let args: Vec<Arg> = sample
                    .args
                    .iter()
                    .map(|arg| match arg {
                        Arg::Tensor(var) if var.dtype() == DType::F64 => {
                            Arg::Tensor(tape.leaf(var.value().clone()))
                        }
                        other => other.clone(),
                    })
                    .collect();
                let outputs = (def.call)(&tape, &Args::new(def.name, &args)).unwrap();
                assert!(outputs.iter().all(|output| !output.tracked()), "`{}`", def.name);
            }
        }
    }
}
