//! `soft_cross_entropy@1`: rows of cross-entropy with distributions as targets.

use candle_core::{Tensor, WithDType};

use crate::engine::kernel::Float;
use crate::engine::kernel::softmax::{self as kernel, Logits, LossGradient, Losses};
use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::tape::{Tape, Var};
use crate::engine::{portable, storage};
use crate::{Error, Result, for_float};

/// -`sum_k` targets log softmax(logits / temperature) of every row: logits and targets `[R, K]`, result
/// `[R]`. Targets need not sum to 1 and take no gradient.
///
/// # Errors
/// When the shapes differ or aren't `[R, K]`.
pub fn soft_cross_entropy(
    tape: &Tape,
    logits: &Var,
    targets: &Var,
    temperature: f64,
) -> Result<Var> {
    let (&[rows, width], true) = (logits.dims(), logits.dims() == targets.dims()) else {
        let (logits, targets) = (logits.dims(), targets.dims());
        return Err(Error::failed(format!(
            "`soft_cross_entropy` needs logits and targets [R, K], got {logits:?} and {targets:?}"
        )));
    };
    if tape.portable(logits) {
        return portable::loss::soft_cross_entropy(tape, logits, targets, temperature);
    }
    for_float!(logits.dtype(), T => fused::<T>(tape, logits, targets.value(), [rows, width], temperature))
}

fn fused<T: Float + WithDType>(
    tape: &Tape,
    logits: &Var,
    targets: &Tensor,
    [rows, width]: [usize; 2],
    temperature: f64,
) -> Result<Var> {
    let temperature = <T as Float>::from_f64(temperature);
    let (mut loss, mut max, mut share) =
        (vec![T::ZERO; rows], vec![T::ZERO; rows], vec![T::ZERO; rows]);
    let value = tape.timed("soft_cross_entropy", || -> Result<_> {
        storage::read_all([logits.value(), targets], |[data, targets]| {
            let losses = Losses { loss: &mut loss, max: &mut max, share: &mut share };
            kernel::soft_cross_entropy(Logits { data, width, temperature }, targets, losses);
        })?;
        storage::tensor(loss, rows)
    })?;
    let saved = (logits.value().clone(), targets.clone());
    Ok(tape.record("soft_cross_entropy", &[logits], value, move |gradient, inputs| {
        let (logits, targets) = saved;
        let mut dx = vec![T::ZERO; rows * width];
        storage::read_all([&logits, &targets, gradient.tensor()], |[data, targets, dloss]| {
            let gradient = LossGradient { dloss, max: &max, share: &share };
            let logits = Logits { data, width, temperature };
            kernel::soft_cross_entropy_backward(logits, targets, gradient, &mut dx);
        })?;
        inputs.add(0, storage::tensor(dx, (rows, width))?)
    }))
}

inventory::submit! {
    OpDef {
        name: "soft_cross_entropy",
        revision: 1,
        formula: "soft_cross_entropy(logits [R, K], targets [R, K], T) = -sum targets log softmax(logits / T), [R]",
        call: |tape, args: &Args<'_>| {
            Ok(vec![soft_cross_entropy(tape, args.tensor(0)?, args.tensor(1)?, args.float(2)?)?])
        },
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[3, 4]), sample_tensor(stream, &[3, 4]), Arg::Float(1.0)])
                .constant(&[1]),
            Sample::new(vec![sample_strided(stream, &[2, 5]), sample_strided(stream, &[2, 5]), Arg::Float(0.3)])
                .constant(&[1]),
            Sample::new(vec![sample_tensor(stream, &[1, 1]), sample_tensor(stream, &[1, 1]), Arg::Float(2.0)])
                .constant(&[1]),
        ],
    }
}
