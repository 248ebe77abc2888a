//! `drop_path@1`: samples dropped at random.

use std::cell::RefCell;

use crate::engine::cuda::upload::upload;
use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::ops::dropout::{source, without_draws};
use crate::engine::storage;
use crate::engine::tape::{Tape, Var};
use crate::random::Stream;
use crate::{Error, Result};

/// `x` `[B, ...]` with each sample zero with probability `p`, else divided by 1 - p.
///
/// # Errors
/// When `p` is not in `[0, 1]`, or `x` has no dimension of samples.
pub fn drop_path(tape: &Tape, x: &Var, p: f64, stream: &RefCell<Stream>) -> Result<Var> {
    let Some((samples, rest)) = x.dims().split_first() else {
        return Err(Error::failed("`drop_path` needs samples [B, ...], got a single number"));
    };
    let mask: Vec<usize> = std::iter::once(*samples).chain(rest.iter().map(|_| 1)).collect();
    if let Some(y) = without_draws(tape, "drop_path", x, p)? {
        return Ok(y);
    }
    let (value, kept) = tape.timed("drop_path", || -> Result<_> {
        let mut stream = stream.borrow_mut();
        let scale = (1.0 / (1.0 - p)) as f32;
        let kept = (0..*samples).map(|_| if stream.chance(p) { 0.0 } else { scale }).collect();
        let kept = upload(&storage::tensor::<f32>(kept, mask)?.to_dtype(x.dtype())?, x.device())?;
        Ok((x.value().broadcast_mul(&kept)?, kept))
    })?;
    Ok(tape.record("drop_path", &[x], value, move |gradient, inputs| {
        inputs.add(0, gradient.tensor().broadcast_mul(&kept)?)
    }))
}

inventory::submit! {
    OpDef {
        name: "drop_path",
        revision: 1,
        formula: "drop_path(x, p, stream): each sample 0 with probability p, else divided by 1 - p",
        call: |tape, args: &Args<'_>| {
            Ok(vec![drop_path(tape, args.tensor(0)?, args.float(1)?, args.stream(2)?)?])
        },
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[4, 3]), Arg::Float(0.5), source(stream)]),
            Sample::new(vec![sample_strided(stream, &[3, 2, 2]), Arg::Float(0.0), source(stream)]),
            Sample::new(vec![sample_tensor(stream, &[1, 1]), Arg::Float(0.2), source(stream)]),
        ],
    }
}
