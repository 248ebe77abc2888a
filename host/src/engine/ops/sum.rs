//! `sum@1`: sum over dimensions.

use crate::Result;
use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::tape::{Tape, Var};

/// The sum over `dims` (all where empty); `keep` leaves them as sizes of 1.
pub fn sum(tape: &Tape, x: &Var, dims: &[usize], keep: bool) -> Result<Var> {
    let dims = if dims.is_empty() { (0..x.dims().len()).collect() } else { dims.to_vec() };
    let before = x.dims().to_vec();
    let kept: Vec<usize> =
        before.iter().enumerate().map(|(d, n)| if dims.contains(&d) { 1 } else { *n }).collect();
    let value = tape.timed("sum", || x.value().sum_keepdim(dims.as_slice()))?;
    let value = if keep {
        value
    } else {
        let left: Vec<usize> =
            (0..before.len()).filter(|dim| !dims.contains(dim)).map(|dim| before[dim]).collect();
        value.reshape(left)?
    };
    Ok(tape.record("sum", &[x], value, move |gradient, inputs| {
        let gradient = gradient.into_tensor().reshape(kept)?;
        inputs.add(0, gradient.broadcast_as(before)?.contiguous()?)
    }))
}

inventory::submit! {
    OpDef {
        name: "sum",
        revision: 1,
        formula: "sum(x, dims, keep): over dims, or all where empty",
        call: |tape, args: &Args<'_>| {
            let x = args.tensor(0)?;
            let dims = args.dims(1, x.dims().len())?;
            Ok(vec![sum(tape, x, &dims, args.int(2)? != 0)?])
        },
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[2, 3]), Arg::Ints(vec![]), Arg::Int(0)]),
            Sample::new(vec![sample_strided(stream, &[2, 3, 4]), Arg::Ints(vec![-1, 0]), Arg::Int(1)]),
            Sample::new(vec![sample_tensor(stream, &[1, 2]), Arg::Ints(vec![1]), Arg::Int(0)]),
        ],
    }
}
