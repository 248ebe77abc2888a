//! `softmax@1`: softmax along a dimension, with a temperature.

use crate::Result;
use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::tape::{Tape, Var};

/// softmax(x / temperature) along `dim`.
pub fn softmax(tape: &Tape, x: &Var, dim: usize, temperature: f64) -> Result<Var> {
    let value = tape.timed("softmax", || -> Result<_> {
        let x = x.value().contiguous()?.affine(1.0 / temperature, 0.0)?;
        let powers = x.broadcast_sub(&x.max_keepdim(dim)?)?.exp()?;
        Ok(powers.broadcast_div(&powers.sum_keepdim(dim)?)?)
    })?;
    let y = value.clone();
    Ok(tape.record("softmax", &[x], value, move |gradient, inputs| {
        let weighted = (gradient.tensor() * &y)?;
        let sums = weighted.sum_keepdim(dim)?;
        let dx = (weighted - y.broadcast_mul(&sums)?)?;
        inputs.add(0, dx.affine(1.0 / temperature, 0.0)?)
    }))
}

inventory::submit! {
    OpDef {
        name: "softmax",
        revision: 1,
        formula: "softmax(x, dim, temperature) = e^(x/T) / sum e^(x/T)",
        call: |tape, args: &Args<'_>| {
            let x = args.tensor(0)?;
            let dim = args.dim(1, x.dims().len())?;
            Ok(vec![softmax(tape, x, dim, args.float(2)?)?])
        },
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[2, 3]), Arg::Int(1), Arg::Float(1.0)]),
            Sample::new(vec![sample_strided(stream, &[2, 3, 4]), Arg::Int(-2), Arg::Float(0.7)]),
            Sample::new(vec![sample_tensor(stream, &[3, 1]), Arg::Int(1), Arg::Float(0.5)]),
        ],
    }
}
