//! `cross_entropy@1`: rows of cross-entropy with one class each as target.

use candle_core::WithDType;

use crate::engine::kernel::Float;
use crate::engine::kernel::softmax::{self as kernel, Logits, LossGradient, Losses};
use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::ops::gather_tokens::indices;
use crate::engine::tape::{Tape, Var};
use crate::engine::{portable, storage};
use crate::{Error, Result, for_float};

/// -log softmax(logits / temperature)`[target]` of every row: logits `[R, K]`, targets u32 `[R]`, result
/// `[R]`.
///
/// # Errors
/// When the shapes don't fit, or a target is not below K.
pub fn cross_entropy(tape: &Tape, logits: &Var, targets: &Var, temperature: f64) -> Result<Var> {
    let &[rows, width] = logits.dims() else { return Err(refuse(logits, targets)) };
    if targets.dims() != [rows] {
        return Err(refuse(logits, targets));
    }
    if tape.portable(logits) {
        return portable::loss::cross_entropy(tape, logits, targets, temperature);
    }
    let targets: Vec<u32> = targets.value().to_vec1()?;
    if let Some(wrong) = targets.iter().find(|target| **target as usize >= width) {
        return Err(Error::failed(format!("`cross_entropy` got class {wrong} of {width}")));
    }
    for_float!(logits.dtype(), T => fused::<T>(tape, logits, targets, [rows, width], temperature))
}

fn refuse(logits: &Var, targets: &Var) -> Error {
    let (logits, targets) = (logits.dims(), targets.dims());
    Error::failed(format!(
        "`cross_entropy` needs logits [R, K] and targets [R], got {logits:?} and {targets:?}"
    ))
}

fn fused<T: Float + WithDType>(
    tape: &Tape,
    logits: &Var,
    targets: Vec<u32>,
    [rows, width]: [usize; 2],
    temperature: f64,
) -> Result<Var> {
    let temperature = <T as Float>::from_f64(temperature);
    let (mut loss, mut max, mut share) =
        (vec![T::ZERO; rows], vec![T::ZERO; rows], vec![T::ZERO; rows]);
    let value = tape.timed("cross_entropy", || -> Result<_> {
        storage::read(logits.value(), |data| {
            let logits = Logits { data, width, temperature };
            let losses = Losses { loss: &mut loss, max: &mut max, share: &mut share };
            kernel::cross_entropy(logits, &targets, losses);
        })?;
        storage::tensor(loss, rows)
    })?;
    let saved = logits.value().clone();
    Ok(tape.record("cross_entropy", &[logits], value, move |gradient, inputs| {
        let mut dx = vec![T::ZERO; rows * width];
        storage::read_all([&saved, gradient.tensor()], |[data, dloss]| {
            let logits = Logits { data, width, temperature };
            let gradient = LossGradient { dloss, max: &max, share: &share };
            kernel::cross_entropy_backward(logits, &targets, gradient, &mut dx);
        })?;
        inputs.add(0, storage::tensor(dx, (rows, width))?)
    }))
}

inventory::submit! {
    OpDef {
        name: "cross_entropy",
        revision: 1,
        formula: "cross_entropy(logits [R, K], targets [R], T) = -log softmax(logits / T)[target], [R]",
        call: |tape, args: &Args<'_>| {
            Ok(vec![cross_entropy(tape, args.tensor(0)?, args.tensor(1)?, args.float(2)?)?])
        },
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[3, 4]), indices(&[1, 0, 3], &[3]), Arg::Float(1.0)]),
            Sample::new(vec![sample_strided(stream, &[2, 5]), indices(&[4, 4], &[2]), Arg::Float(0.3)]),
            Sample::new(vec![sample_tensor(stream, &[1, 1]), indices(&[0], &[1]), Arg::Float(2.0)]),
        ],
    }
}
