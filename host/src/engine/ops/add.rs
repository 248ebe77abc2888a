//! `add@1`: elementwise sum with broadcasting.

use candle_core::{DType, Tensor};

use crate::engine::kernel::elementwise::{Arithmetic, Spread, combine};
use crate::engine::op::{Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::storage;
use crate::engine::tape::{Tape, Var};
use crate::{Result, for_float};

/// `a + b`, broadcast as in `NumPy`.
pub fn add(tape: &Tape, a: &Var, b: &Var) -> Result<Var> {
    let value = tape.timed("add", || sum(a.value(), b.value(), tape.portable(a)))?;
    let (a_dims, b_dims) = (a.dims().to_vec(), b.dims().to_vec());
    Ok(tape.record("add", &[a, b], value, move |gradient, inputs| {
        let gradient = gradient.into_tensor();
        if inputs.wants(0) {
            inputs.add_shared(0, sum_to(&gradient, &a_dims)?)?;
        }
        if inputs.wants(1) {
            inputs.add_shared(1, sum_to(&gradient, &b_dims)?)?;
        }
        Ok(())
    }))
}

fn sum(a: &Tensor, b: &Tensor, portable: bool) -> Result<Tensor> {
    let same = a.dims() == b.dims() && a.dtype() == b.dtype() && !portable;
    if !(same && matches!(a.dtype(), DType::F32 | DType::F64)) {
        return Ok(a.broadcast_add(b)?);
    }
    for_float!(a.dtype(), T => {
        let sum = storage::read_all::<T, _, 2>([a, b], |[a, b]| {
            combine(Arithmetic::Add, a, b, Spread::Same)
        })?;
        storage::tensor(sum, a.dims())
    })
}

/// Sums a broadcast gradient back to the shape `dims` of the operand; the identity where nothing
/// was broadcast.
pub fn sum_to(gradient: &Tensor, dims: &[usize]) -> Result<Tensor> {
    if gradient.dims() == dims {
        return Ok(gradient.clone());
    }
    let extra = gradient.rank() - dims.len();
    let summed: Vec<usize> = (0..gradient.rank())
        .filter(|&d| d < extra || (dims[d - extra] == 1 && gradient.dims()[d] != 1))
        .collect();
    Ok(gradient.sum_keepdim(summed)?.reshape(dims)?)
}

inventory::submit! {
    OpDef {
        name: "add",
        revision: 1,
        formula: "add(a, b) = a + b, broadcast",
        call: |tape, args: &Args<'_>| Ok(vec![add(tape, args.tensor(0)?, args.tensor(1)?)?]),
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[2, 3]), sample_tensor(stream, &[2, 3])]),
            Sample::new(vec![sample_strided(stream, &[4, 2, 3]), sample_tensor(stream, &[2, 1])]),
            Sample::new(vec![sample_tensor(stream, &[1]), sample_strided(stream, &[3, 1])]),
        ],
    }
}
