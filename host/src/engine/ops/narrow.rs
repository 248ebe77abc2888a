//! `narrow@1`: part of a dimension.

use crate::Result;
use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::tape::{Tape, Var};

/// `length` entries of dimension `dim` from `start` on; a view where nothing needs to move.
pub fn narrow(tape: &Tape, x: &Var, dim: usize, start: usize, length: usize) -> Result<Var> {
    let value = tape.timed("narrow", || x.value().narrow(dim, start, length))?;
    let dims = x.dims().to_vec();
    Ok(tape.record("narrow", &[x], value, move |gradient, inputs| {
        let gradient = gradient.into_tensor();
        let after = dims[dim] - start - length;
        inputs.add(0, gradient.pad_with_zeros(dim, start, after)?.contiguous()?)
    }))
}

inventory::submit! {
    OpDef {
        name: "narrow",
        revision: 1,
        formula: "narrow(x, dim, start, length): part of a dimension",
        call: |tape, args: &Args<'_>| {
            let x = args.tensor(0)?;
            let dim = args.dim(1, x.dims().len())?;
            Ok(vec![narrow(tape, x, dim, args.size(2)?, args.size(3)?)?])
        },
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[4, 3]), Arg::Int(0), Arg::Int(1), Arg::Int(2)]),
            Sample::new(vec![sample_strided(stream, &[2, 3, 4]), Arg::Int(-1), Arg::Int(0), Arg::Int(1)]),
            Sample::new(vec![sample_tensor(stream, &[1, 2]), Arg::Int(1), Arg::Int(0), Arg::Int(2)]),
        ],
    }
}
