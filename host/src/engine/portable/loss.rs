//! Rows of cross-entropy.

use candle_core::Tensor;

use super::{mark, numbers};
use crate::Result;
use crate::engine::cuda::{
    self,
    loss::{Losses, Targets},
};
use crate::engine::tape::{Tape, Var};

/// See [`crate::engine::ops::soft_cross_entropy::soft_cross_entropy`].
pub fn soft_cross_entropy(
    tape: &Tape,
    logits: &Var,
    targets: &Var,
    temperature: f64,
) -> Result<Var> {
    if cuda::fits(logits.value()) {
        let targets = Targets::Shares(targets.value().clone());
        return fused(tape, "soft_cross_entropy", logits, targets, temperature);
    }
    let value = tape.timed("soft_cross_entropy", || {
        let log = log_softmax(logits.value(), temperature)?;
        Ok::<_, crate::Error>((log * targets.value())?.sum(1)?.neg()?)
    })?;
    let saved = (logits.value().clone(), targets.value().clone());
    Ok(tape.record("soft_cross_entropy", &[logits], value, move |gradient, inputs| {
        let (logits, targets) = saved;
        let total = targets.sum_keepdim(1)?;
        let p = log_softmax(&logits, temperature)?.exp()?.broadcast_mul(&total)?;
        let scale = gradient.tensor().unsqueeze(1)?.affine(1.0 / temperature, 0.0)?;
        inputs.add(0, (p - targets)?.broadcast_mul(&scale)?)
    }))
}

/// See [`crate::engine::ops::cross_entropy::cross_entropy`]; a class that is out of range makes NaN.
pub fn cross_entropy(tape: &Tape, logits: &Var, targets: &Var, temperature: f64) -> Result<Var> {
    if cuda::fits(logits.value()) {
        let targets = Targets::Classes(targets.value().clone());
        return fused(tape, "cross_entropy", logits, targets, temperature);
    }
    let targets = targets.value().unsqueeze(1)?;
    let width = logits.dims()[1];
    let wrong = mark(&targets.ge(width as u32)?, logits.dtype())?.squeeze(1)?;
    let value = tape.timed("cross_entropy", || {
        let log = log_softmax(logits.value(), temperature)?;
        let hit = hits(&targets, &log)?;
        Ok::<_, crate::Error>(((log * hit)?.sum(1)?.neg()? + &wrong)?)
    })?;
    let saved = logits.value().clone();
    Ok(tape.record("cross_entropy", &[logits], value, move |gradient, inputs| {
        let log = log_softmax(&saved, temperature)?;
        let scale = (gradient.tensor() + wrong)?.unsqueeze(1)?.affine(1.0 / temperature, 0.0)?;
        let dx = (log.exp()? - hits(&targets, &log)?)?;
        inputs.add(0, dx.broadcast_mul(&scale)?)
    }))
}

/// Either by one pass over the rows each way.
fn fused(
    tape: &Tape,
    name: &'static str,
    logits: &Var,
    targets: Targets,
    temperature: f64,
) -> Result<Var> {
    let losses = tape.timed(name, || Losses::new(logits.value(), targets, temperature))?;
    Ok(tape.record(name, &[logits], losses.loss.clone(), move |gradient, inputs| {
        inputs.add(0, losses.gradient(gradient.tensor())?)
    }))
}

/// 1 where the column is the row's target, else 0, in the shape of `like`.
fn hits(targets: &Tensor, like: &Tensor) -> Result<Tensor> {
    Ok(targets.broadcast_eq(&numbers(like, 1)?)?.to_dtype(like.dtype())?)
}

fn log_softmax(x: &Tensor, temperature: f64) -> Result<Tensor> {
    let x = x.contiguous()?;
    let x = x.broadcast_sub(&x.max_keepdim(1)?)?.affine(1.0 / temperature, 0.0)?;
    Ok(x.broadcast_sub(&x.exp()?.sum_keepdim(1)?.log()?)?)
}
