//! `one_hot@1`: indices as rows of zeros with one 1.

use candle_core::Tensor;

use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample};
use crate::engine::ops::gather_tokens::indices;
use crate::engine::tape::{Tape, Var};
use crate::engine::{portable, storage};
use crate::{Error, Result};

/// `indices` `[...]` (u32) as rows of zeros with one 1, f32 `[..., classes]`.
pub fn one_hot(tape: &Tape, indices: &Var, classes: usize) -> Result<Tensor> {
    if tape.portable(indices) {
        return portable::place::one_hot(indices.value(), classes);
    }
    let places: Vec<u32> = indices.value().flatten_all()?.to_vec1()?;
    let mut rows = vec![0.0_f32; places.len() * classes];
    for (row, place) in places.iter().enumerate() {
        if *place as usize >= classes {
            return Err(Error::failed(format!("`one_hot` got {place} for {classes} classes")));
        }
        rows[row * classes + *place as usize] = 1.0;
    }
    let mut shape = indices.dims().to_vec();
    shape.push(classes);
    storage::tensor(rows, shape)
}

fn call(tape: &Tape, args: &Args<'_>) -> Result<Vec<Var>> {
    Ok(vec![Var::constant(one_hot(tape, args.tensor(0)?, args.size(1)?)?)])
}

inventory::submit! {
    OpDef {
        name: "one_hot",
        revision: 1,
        formula: "one_hot(indices, classes) = [..., classes]",
        call,
        gradient: Gradient::None("indices have none"),
        samples: |_| vec![
            Sample::new(vec![indices(&[1, 0], &[2]), Arg::Int(3)]),
        ],
    }
}
