//! `reshape@1`: the same elements in another shape.

use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::tape::{Tape, Var};
use crate::{Error, Result};

/// The elements of `x` in another shape.
pub fn reshape(tape: &Tape, x: &Var, shape: &[usize]) -> Result<Var> {
    let value = tape.timed("reshape", || x.value().reshape(shape))?;
    let before = x.dims().to_vec();
    Ok(tape.record("reshape", &[x], value, move |gradient, inputs| {
        inputs.pass(0, gradient.into_tensor().reshape(before)?)
    }))
}

/// Sizes in which one -1 stands for what is left.
fn resolve(x: &Var, asked: &[i64]) -> Result<Vec<usize>> {
    let refuse = || {
        let dims = x.dims();
        Err(Error::failed(format!("`reshape` can't make {asked:?} of a shape of {dims:?}")))
    };
    let known: i64 = asked.iter().filter(|size| **size != -1).product();
    let count = x.value().elem_count() as i64;
    let open = asked.iter().filter(|size| **size == -1).count();
    if asked.iter().any(|size| *size < -1)
        || open > 1
        || (open == 0 && known != count)
        || (open == 1 && (known == 0 || count % known != 0))
    {
        return refuse();
    }
    Ok(asked.iter().map(|size| if *size == -1 { count / known } else { *size } as usize).collect())
}

inventory::submit! {
    OpDef {
        name: "reshape",
        revision: 1,
        formula: "reshape(x, shape): the same elements; one size may be -1",
        call: |tape, args: &Args<'_>| {
            let x = args.tensor(0)?;
            Ok(vec![reshape(tape, x, &resolve(x, args.ints(1)?)?)?])
        },
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[2, 3]), Arg::Ints(vec![3, -1])]),
            Sample::new(vec![sample_strided(stream, &[4, 3]), Arg::Ints(vec![2, 6])]),
            Sample::new(vec![sample_tensor(stream, &[1]), Arg::Ints(vec![1, 1, 1])]),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device, Tensor};

    #[test]
    fn a_shape_that_does_not_fit_is_refused_by_name() {
        let x = Var::constant(Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap());
        for asked in [&[4, 2][..], &[-1, -1], &[5, -1], &[-2, 3], &[0, -1]] {
            let error = resolve(&x, asked).unwrap_err();
            assert!(error.to_string().contains("`reshape` can't make"), "{error}");
        }
        assert_eq!(resolve(&x, &[-1]).unwrap(), [6]);
    }
}
