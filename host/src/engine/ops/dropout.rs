//! `dropout@1`: elements dropped at random.

use std::cell::RefCell;
use std::rc::Rc;

use crate::engine::cuda::upload::upload;
use crate::engine::kernel::dropout as kernel;
use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::storage;
use crate::engine::tape::{Tape, Var};
use crate::random::Stream;
use crate::{Error, Result, for_float};

/// `x` with each element zero with probability `p`, else divided by 1 - p.
///
/// # Errors
/// When `p` is not in `[0, 1]`.
pub fn dropout(tape: &Tape, x: &Var, p: f64, stream: &RefCell<Stream>) -> Result<Var> {
    if let Some(y) = without_draws(tape, "dropout", x, p)? {
        return Ok(y);
    }
    if tape.portable(x) {
        // The host's draws, as on the CPU: what they leave of ones is the mask.
        let draws = stream.borrow_mut().set_aside(kernel::blocks(x.value().elem_count()));
        let ones = vec![1.0_f32; x.value().elem_count()];
        let mask = storage::tensor(kernel::dropout(&ones, p, &draws).0, x.dims())?;
        let mask = upload(&mask.to_dtype(x.dtype())?, x.device())?;
        let value = tape.timed("dropout", || x.value() * &mask)?;
        return Ok(tape.record("dropout", &[x], value, move |gradient, inputs| {
            inputs.add(0, (gradient.tensor() * mask)?)
        }));
    }
    for_float!(x.dtype(), T => {
        let (value, kept) = tape.timed("dropout", || -> Result<_> {
            let n = x.value().elem_count();
            let draws = stream.borrow_mut().set_aside(kernel::blocks(n));
            let (y, kept) = storage::read::<T, _>(x.value(), |x| kernel::dropout(x, p, &draws))?;
            Ok((storage::tensor(y, x.dims())?, kept))
        })?;
        Ok(tape.record("dropout", &[x], value, move |gradient, inputs| {
            let dy = gradient.tensor();
            let dx = storage::read::<T, _>(dy, |dy| kernel::backward(dy, &kept, p))?;
            inputs.add(0, storage::tensor(dx, dy.dims())?)
        }))
    })
}

/// What is left of `x` where nothing has to be drawn: all of it for p = 0, zeros for p = 1.
pub(super) fn without_draws(tape: &Tape, op: &'static str, x: &Var, p: f64) -> Result<Option<Var>> {
    if !(0.0..=1.0).contains(&p) {
        return Err(Error::failed(format!("`{op}` needs a probability from 0 to 1, got {p}")));
    }
    if p == 0.0 {
        return Ok(Some(x.clone()));
    }
    if p < 1.0 {
        return Ok(None);
    }
    // Nothing is left to be scaled up, and a factor of 0 would keep what isn't finite.
    let zeros = tape.timed(op, || x.value().zeros_like())?;
    Ok(Some(tape.record(op, &[x], zeros, |gradient, inputs| {
        inputs.add(0, gradient.tensor().zeros_like()?)
    })))
}

/// An argument that is a stream of randomness.
pub(super) fn source(stream: &mut Stream) -> Arg {
    Arg::Stream(Rc::new(RefCell::new(Stream::new(stream.u64(), "sample", 0, 0))))
}

inventory::submit! {
    OpDef {
        name: "dropout",
        revision: 1,
        formula: "dropout(x, p, stream): each element 0 with probability p, else divided by 1 - p",
        call: |tape, args: &Args<'_>| {
            Ok(vec![dropout(tape, args.tensor(0)?, args.float(1)?, args.stream(2)?)?])
        },
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[4, 3]), Arg::Float(0.5), source(stream)]),
            Sample::new(vec![sample_strided(stream, &[3, 2, 2]), Arg::Float(0.0), source(stream)]),
            Sample::new(vec![sample_tensor(stream, &[1, 1]), Arg::Float(0.2), source(stream)]),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ops::drop_path::drop_path;
    use candle_core::{Device, Tensor};

    #[test]
    fn a_probability_of_one_drops_everything_even_what_is_not_finite() {
        let tape = Tape::default();
        let stream = RefCell::new(Stream::new(0, "dropout", 0, 0));
        let x = Tensor::new(&[[1.0_f32, f32::INFINITY], [f32::NAN, -2.0]], &Device::Cpu).unwrap();
        let x = tape.leaf(x);
        for y in [dropout(&tape, &x, 1.0, &stream), drop_path(&tape, &x, 1.0, &stream)] {
            let y = y.unwrap();
            assert_eq!(storage::to_f64(y.value()).unwrap(), [0.0; 4]);
            let seed = Tensor::ones((2, 2), candle_core::DType::F32, &Device::Cpu).unwrap();
            let gradients = tape.backward_from(&y, seed).unwrap();
            assert_eq!(storage::to_f64(gradients.get(&x).unwrap()).unwrap(), [0.0; 4]);
        }
    }

    #[test]
    fn what_is_no_probability_and_a_number_without_samples_are_refused_by_name() {
        let tape = Tape::default();
        let stream = RefCell::new(Stream::new(0, "dropout", 0, 0));
        let x = Var::constant(Tensor::new(&[1.0_f32], &Device::Cpu).unwrap());
        for p in [-0.1, 1.1, f64::NAN] {
            let error = dropout(&tape, &x, p, &stream).unwrap_err();
            assert!(error.message().starts_with("`dropout` needs a probability"), "{error}");
        }
        let number = Var::constant(Tensor::new(1.0_f32, &Device::Cpu).unwrap());
        let error = drop_path(&tape, &number, 0.5, &stream).unwrap_err();
        assert_eq!(error.message(), "`drop_path` needs samples [B, ...], got a single number");
    }
}
