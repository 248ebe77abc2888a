//! `permute@1`: dimensions in another order.

use crate::Result;
use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::tape::{Tape, Var};

/// The dimensions of `x` in the order `order`.
pub fn permute(tape: &Tape, x: &Var, order: &[usize]) -> Result<Var> {
    let value = tape.timed("permute", || x.value().permute(order))?;
    let mut back = vec![0; order.len()];
    for (to, from) in order.iter().enumerate() {
        back[*from] = to;
    }
    Ok(tape.record("permute", &[x], value, move |gradient, inputs| {
        inputs.pass(0, gradient.into_tensor().permute(back)?)
    }))
}

inventory::submit! {
    OpDef {
        name: "permute",
        revision: 1,
        formula: "permute(x, order): dimension i of the result is dimension order[i] of x",
        call: |tape, args: &Args<'_>| {
            let x = args.tensor(0)?;
            Ok(vec![permute(tape, x, &args.dims(1, x.dims().len())?)?])
        },
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[2, 3]), Arg::Ints(vec![1, 0])]),
            Sample::new(vec![sample_strided(stream, &[4, 3, 2]), Arg::Ints(vec![2, 0, -2])]),
            Sample::new(vec![sample_tensor(stream, &[1, 2, 1]), Arg::Ints(vec![0, 2, 1])]),
        ],
    }
}
