//! `drop_path@1`: samples dropped at random.

use std::cell::RefCell;
use std::rc::Rc;

use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::storage;
use crate::engine::tape::{Tape, Var};
use crate::random::Stream;
use crate::{Error, Result};

/// `x` with each sample zero with probability `p`, else divided by 1 - p.
///
/// # Errors
/// When `p` is not in `[0, 1)`.
pub fn drop_path(tape: &Tape, x: &Var, p: f64, stream: &RefCell<Stream>) -> Result<Var> {
    if !(0.0..1.0).contains(&p) {
        return Err(Error::failed(format!("`drop_path` needs a probability below 1, got {p}")));
    }
    if p == 0.0 {
        return Ok(x.clone());
    }
    let (value, kept) = tape.timed("drop_path", || -> Result<_> {
        let draws = x.dims()[0];
        let mut stream = stream.borrow_mut();
        let kept: Vec<f32> = (0..draws)
            .map(|_| if stream.chance(p) { 0.0 } else { (1.0 / (1.0 - p)) as f32 })
            .collect();
        let kept = storage::tensor(
            kept,
            std::iter::once(draws).chain(x.dims().iter().skip(1).map(|_| 1)).collect::<Vec<_>>(),
        )?
        .to_dtype(x.dtype())?;
        Ok((x.value().broadcast_mul(&kept)?, kept))
    })?;
    Ok(tape.record("drop_path", &[x], value, move |gradient, inputs| {
        inputs.add(0, gradient.tensor().broadcast_mul(&kept)?)
    }))
}

/// An argument that is a stream of randomness.
fn source(stream: &mut Stream) -> Arg {
    Arg::Stream(Rc::new(RefCell::new(Stream::new(stream.u64(), "sample", 0, 0))))
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
