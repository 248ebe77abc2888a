//! `normal@1`: normal numbers.

use std::cell::RefCell;
use std::rc::Rc;

use crate::Result;
use crate::engine::cuda::upload::upload;
use crate::engine::op::{Arg, Gradient, OpDef, Sample};
use crate::engine::storage;
use crate::engine::tape::{Tape, Var};
use crate::random::Stream;

/// Normal numbers, f32 of `shape`.
pub fn normal(
    tape: &Tape,
    stream: &RefCell<Stream>,
    shape: &[usize],
    mean: f64,
    std: f64,
) -> Result<Var> {
    let mut stream = stream.borrow_mut();
    let numbers: Vec<f32> =
        (0..shape.iter().product()).map(|_| (mean + std * stream.normal()) as f32).collect();
    Ok(Var::constant(upload(&storage::tensor(numbers, shape)?, tape.device())?))
}

/// An argument that is a stream of randomness.
fn source(stream: &mut Stream) -> Arg {
    Arg::Stream(Rc::new(RefCell::new(Stream::new(stream.u64(), "sample", 0, 0))))
}

inventory::submit! {
    OpDef {
        name: "normal",
        revision: 1,
        formula: "normal(stream, shape, mean, std): normal numbers",
        call: |tape, args| {
            let shape: Vec<usize> = args.ints(1)?.iter().map(|size| *size as usize).collect();
            Ok(vec![normal(tape, args.stream(0)?, &shape, args.float(2)?, args.float(3)?)?])
        },
        gradient: Gradient::None("it makes constants"),
        samples: |stream| vec![
            Sample::new(vec![source(stream), Arg::Ints(vec![2, 3]), Arg::Float(0.0), Arg::Float(1.0)]),
        ],
    }
}
