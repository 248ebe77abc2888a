//! `index_select@1`: chosen entries of a dimension.

use candle_core::Tensor;

use crate::Result;
use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::storage;
use crate::engine::tape::{Tape, Var};

/// Entries `indices` `[K]` (u32) of dimension `dim`; the gradients of repeated ones add up.
pub fn index_select(tape: &Tape, x: &Var, dim: usize, indices: &Var) -> Result<Var> {
    let indices = indices.value().force_contiguous()?;
    let value =
        tape.timed("index_select", || x.value().contiguous()?.index_select(&indices, dim))?;
    let dims = x.dims().to_vec();
    Ok(tape.record("index_select", &[x], value, move |gradient, inputs| {
        let gradient = gradient.into_tensor().force_contiguous()?;
        let zeros = Tensor::zeros(dims, gradient.dtype(), gradient.device())?;
        inputs.add(0, zeros.index_add(&indices, &gradient, dim)?)
    }))
}

/// An argument of u32 indices.
fn indices(values: &[u32], shape: &[usize]) -> Arg {
    storage::tensor(values.to_vec(), shape).map_or(Arg::None, |t| Arg::Tensor(Var::constant(t)))
}

inventory::submit! {
    OpDef {
        name: "index_select",
        revision: 1,
        formula: "index_select(x, dim, indices): rows of a dimension",
        call: |tape, args: &Args<'_>| {
            let x = args.tensor(0)?;
            Ok(vec![index_select(tape, x, args.dim(1, x.dims().len())?, args.tensor(2)?)?])
        },
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[4, 3]), Arg::Int(0), indices(&[2, 0, 2], &[3])]),
            Sample::new(vec![sample_strided(stream, &[2, 3, 4]), Arg::Int(-1), indices(&[3], &[1])]),
            Sample::new(vec![sample_tensor(stream, &[1, 2]), Arg::Int(1), indices(&[1, 1, 0], &[3])]),
        ],
    }
}
