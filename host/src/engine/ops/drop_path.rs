//! `drop_path@1`: samples dropped at random.

use std::cell::RefCell;

use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::ops::dropout::{dropped, source};
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
    let mask = std::iter::once(*samples).chain(rest.iter().map(|_| 1)).collect();
    dropped(tape, "drop_path", x, mask, p, stream)
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
