//! `var@1`: variance along a dimension.

use crate::Result;
use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::tape::{Tape, Var};

/// The variance along `dim`, divided by n - 1 where `unbiased`, by n else.
pub fn var(tape: &Tape, x: &Var, dim: usize, unbiased: bool, keep: bool) -> Result<Var> {
    let n = x.dims()[dim] as f64 - f64::from(u8::from(unbiased));
    let (value, centered) = tape.timed("var", || -> Result<_> {
        let centered = x.value().broadcast_sub(&x.value().mean_keepdim(dim)?)?;
        let value = centered.sqr()?.sum_keepdim(dim)?.affine(1.0 / n, 0.0)?;
        Ok((if keep { value } else { value.squeeze(dim)? }, centered))
    })?;
    Ok(tape.record("var", &[x], value, move |gradient, inputs| {
        let gradient = gradient.into_tensor();
        let gradient = if keep { gradient } else { gradient.unsqueeze(dim)? };
        inputs.add(0, centered.broadcast_mul(&gradient.affine(2.0 / n, 0.0)?)?)
    }))
}

inventory::submit! {
    OpDef {
        name: "var",
        revision: 1,
        formula: "var(x, dim, unbiased, keep): variance along dim",
        call: |tape, args: &Args<'_>| {
            let x = args.tensor(0)?;
            let dim = args.dim(1, x.dims().len())?;
            Ok(vec![var(tape, x, dim, args.int(2)? != 0, args.int(3)? != 0)?])
        },
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[2, 3]), Arg::Int(1), Arg::Int(0), Arg::Int(0)]),
            Sample::new(vec![sample_strided(stream, &[2, 3, 4]), Arg::Int(-2), Arg::Int(1), Arg::Int(1)]),
            Sample::new(vec![sample_tensor(stream, &[3, 1]), Arg::Int(1), Arg::Int(0), Arg::Int(0)]),
        ],
    }
}
