//! `broadcast_to@1`: repeated to a larger shape.

use crate::Result;
use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::ops::add::sum_to;
use crate::engine::tape::{Tape, Var};

/// `x` repeated to `shape`, as in `NumPy`.
pub fn broadcast_to(tape: &Tape, x: &Var, shape: &[usize]) -> Result<Var> {
    let value = tape.timed("broadcast_to", || x.value().broadcast_as(shape)?.contiguous())?;
    let before = x.dims().to_vec();
    Ok(tape.record("broadcast_to", &[x], value, move |gradient, inputs| {
        inputs.add_shared(0, sum_to(gradient.tensor(), &before)?)
    }))
}

inventory::submit! {
    OpDef {
        name: "broadcast_to",
        revision: 1,
        formula: "broadcast_to(x, shape): repeated as in NumPy",
        call: |tape, args: &Args<'_>| {
            let shape: Vec<usize> = args.ints(1)?.iter().map(|size| *size as usize).collect();
            Ok(vec![broadcast_to(tape, args.tensor(0)?, &shape)?])
        },
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[1, 3]), Arg::Ints(vec![2, 3])]),
            Sample::new(vec![sample_strided(stream, &[3, 1]), Arg::Ints(vec![2, 3, 4])]),
            Sample::new(vec![sample_tensor(stream, &[1]), Arg::Ints(vec![1, 5])]),
        ],
    }
}
