//! Group norm: the norm of rows, of which each holds one group of one sample.

use candle_core::Tensor;

use super::norm::{Centre, Normed};
use crate::Result;
use crate::engine::kernel::group_norm::Sizes;
use crate::engine::tape::{Tape, Var};

/// See [`crate::engine::ops::group_norm::group_norm`].
pub fn group_norm(
    tape: &Tape,
    x: &Var,
    sizes: Sizes,
    (w, b): (Option<&Var>, Option<&Var>),
    eps: f64,
) -> Result<Var> {
    let Sizes { batch, frames, channels, groups } = sizes;
    let by_channel = [1, channels, 1];
    let part = |part: Option<&Var>| part.map(|part| part.value().reshape(&by_channel)).transpose();
    let (weight, bias) = (part(w)?, part(b)?);
    let (value, normed) = tape.timed("group_norm", || {
        let rows = x.value().reshape((batch * groups, channels / groups * frames))?;
        let (y, normed) = Normed::new(&rows, Centre::Mean, [None, None], eps)?;
        let mut y = y.reshape((batch, channels, frames))?;
        if let Some(weight) = &weight {
            y = y.broadcast_mul(weight)?;
        }
        if let Some(bias) = &bias {
            y = y.broadcast_add(bias)?;
        }
        Ok::<_, crate::Error>((y.reshape(x.dims())?, normed))
    })?;
    let dims = x.dims().to_vec();
    let places = [w.map(|_| 1), b.map(|_| 1 + usize::from(w.is_some()))];
    let inputs: Vec<&Var> = [Some(x), w, b].into_iter().flatten().collect();
    Ok(tape.record("group_norm", &inputs, value, move |gradient, inputs| {
        let dy = gradient.tensor().reshape((batch, channels, frames))?;
        let d = match &weight {
            Some(weight) => dy.broadcast_mul(weight)?,
            None => dy.clone(),
        };
        let rows = d.reshape((batch * groups, channels / groups * frames))?;
        inputs.add(0, normed.grad_input(&rows)?.reshape(dims)?)?;
        let by_channel = |x: Tensor| Ok::<_, crate::Error>(x.sum(2)?.sum(0)?);
        if let Some(place) = places[0] {
            let unit = normed.unit()?.reshape((batch, channels, frames))?;
            inputs.add(place, by_channel((&dy * unit)?)?)?;
        }
        match places[1] {
            Some(place) => inputs.add(place, by_channel(dy)?),
            None => Ok(()),
        }
    }))
}
