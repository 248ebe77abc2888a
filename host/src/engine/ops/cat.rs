//! `cat@1`: tensors joined along a dimension.

use candle_core::Tensor;

use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::tape::{Tape, Var};
use crate::{Error, Result};

/// `parts` joined along dimension `dim`.
pub fn cat(tape: &Tape, dim: usize, parts: &[&Var]) -> Result<Var> {
    let values: Vec<&Tensor> = parts.iter().map(|part| part.value()).collect();
    let value = tape.timed("cat", || Tensor::cat(&values, dim))?;
    let sizes: Vec<usize> = parts.iter().map(|part| part.dims()[dim]).collect();
    Ok(tape.record("cat", parts, value, move |gradient, inputs| {
        let gradient = gradient.into_tensor();
        let mut start = 0;
        for (index, size) in sizes.into_iter().enumerate() {
            if inputs.wants(index) {
                inputs.add_shared(index, gradient.narrow(dim, start, size)?)?;
            }
            start += size;
        }
        Ok(())
    }))
}

fn call(tape: &Tape, args: &Args<'_>) -> Result<Vec<Var>> {
    let parts = args.tensors_from(1)?;
    let Some(first) = parts.first() else {
        return Err(Error::failed("`cat` needs at least one tensor"));
    };
    Ok(vec![cat(tape, args.dim(0, first.dims().len())?, &parts)?])
}

inventory::submit! {
    OpDef {
        name: "cat",
        revision: 1,
        formula: "cat(dim, x, y, ...): joined along dim",
        call,
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![Arg::Int(0), sample_tensor(stream, &[2, 3]), sample_tensor(stream, &[1, 3])]),
            Sample::new(vec![Arg::Int(-1), sample_strided(stream, &[2, 3]), sample_tensor(stream, &[2, 1])]),
            Sample::new(vec![Arg::Int(1), sample_tensor(stream, &[1, 1, 2])]),
        ],
    }
}
