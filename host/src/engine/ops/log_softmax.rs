//! `log_softmax@1`: log softmax along a dimension, with a temperature.

use crate::Result;
use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::tape::{Tape, Var};

/// log softmax(x / temperature) along `dim`.
pub fn log_softmax(tape: &Tape, x: &Var, dim: usize, temperature: f64) -> Result<Var> {
    let value = tape.timed("log_softmax", || -> Result<_> {
        let x = x.value().contiguous()?.affine(1.0 / temperature, 0.0)?;
        let x = x.broadcast_sub(&x.max_keepdim(dim)?)?;
        Ok(x.broadcast_sub(&x.exp()?.sum_keepdim(dim)?.log()?)?)
    })?;
    let y = value.clone();
    Ok(tape.record("log_softmax", &[x], value, move |gradient, inputs| {
        let gradient = gradient.into_tensor();
        let sums = gradient.sum_keepdim(dim)?;
        let dx = (gradient - y.exp()?.broadcast_mul(&sums)?)?;
        inputs.add(0, dx.affine(1.0 / temperature, 0.0)?)
    }))
}

inventory::submit! {
    OpDef {
        name: "log_softmax",
        revision: 1,
        formula: "log_softmax(x, dim, temperature) = x/T - log sum e^(x/T)",
        call: |tape, args: &Args<'_>| {
            let x = args.tensor(0)?;
            let dim = args.dim(1, x.dims().len())?;
            Ok(vec![log_softmax(tape, x, dim, args.float(2)?)?])
        },
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[2, 3]), Arg::Int(1), Arg::Float(1.0)]),
            Sample::new(vec![sample_strided(stream, &[2, 3, 4]), Arg::Int(-2), Arg::Float(0.7)]),
            Sample::new(vec![sample_tensor(stream, &[3, 1]), Arg::Int(1), Arg::Float(0.5)]),
        ],
    }
}
