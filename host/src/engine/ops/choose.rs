//! `where@1`: one of two tensors by a mask.

use crate::Result;
use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::storage;
use crate::engine::tape::{Tape, Var};

/// `a` where `mask` (u8, of the same shape) is not 0, else `b`.
pub fn choose(tape: &Tape, mask: &Var, a: &Var, b: &Var) -> Result<Var> {
    let mask = mask.value().clone();
    let value = tape.timed("where", || mask.where_cond(a.value(), b.value()))?;
    Ok(tape.record("where", &[a, b], value, move |gradient, inputs| {
        let gradient = gradient.into_tensor();
        let zeros = gradient.zeros_like()?;
        if inputs.wants(0) {
            inputs.add(0, mask.where_cond(&gradient, &zeros)?)?;
        }
        if inputs.wants(1) {
            inputs.add(1, mask.where_cond(&zeros, &gradient)?)?;
        }
        Ok(())
    }))
}

/// An argument that is a mask.
fn mask(values: &[u8], shape: &[usize]) -> Arg {
    storage::tensor(values.to_vec(), shape).map_or(Arg::None, |t| Arg::Tensor(Var::constant(t)))
}

inventory::submit! {
    OpDef {
        name: "where",
        revision: 1,
        formula: "where(mask, a, b) = a where mask, else b",
        call: |tape, args: &Args<'_>| {
            Ok(vec![choose(tape, args.tensor(0)?, args.tensor(1)?, args.tensor(2)?)?])
        },
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![
                mask(&[1, 0, 0, 1], &[2, 2]),
                sample_tensor(stream, &[2, 2]),
                sample_tensor(stream, &[2, 2]),
            ]),
            Sample::new(vec![
                mask(&[0, 1], &[1, 2]),
                sample_strided(stream, &[1, 2]),
                sample_tensor(stream, &[1, 2]),
            ]),
            Sample::new(vec![mask(&[1], &[1]), sample_tensor(stream, &[1]), sample_tensor(stream, &[1])]),
        ],
    }
}
