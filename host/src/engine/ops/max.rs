//! `max@1`: the largest along a dimension.

use candle_core::Tensor;

use crate::Result;
use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::tape::{Tape, Var};

/// The largest along `dim`; the first of equal ones takes the gradient.
pub fn max(tape: &Tape, x: &Var, dim: usize, keep: bool) -> Result<Var> {
    let (value, places) = tape.timed("max", || -> Result<_> {
        let places = places(x.value(), dim)?.unsqueeze(dim)?;
        let value = x.value().contiguous()?.gather(&places, dim)?;
        Ok((if keep { value } else { value.squeeze(dim)? }, places))
    })?;
    let dims = x.dims().to_vec();
    Ok(tape.record("max", &[x], value, move |gradient, inputs| {
        let gradient = gradient.into_tensor();
        let gradient = if keep { gradient } else { gradient.unsqueeze(dim)? }.contiguous()?;
        // The places are distinct, so adding to zeros puts each gradient where its value came from.
        let numbers = Tensor::arange(0, dims[dim] as u32, gradient.device())?;
        let mut shape = vec![1; dims.len()];
        shape[dim] = dims[dim];
        let hit = places.broadcast_as(dims.as_slice())?.broadcast_eq(&numbers.reshape(shape)?)?;
        inputs.add(0, hit.to_dtype(gradient.dtype())?.broadcast_mul(&gradient)?)
    }))
}

/// The place of the first largest along `dim`, as u32.
pub(super) fn places(x: &Tensor, dim: usize) -> Result<Tensor> {
    Ok(x.contiguous()?.argmax(dim)?)
}

inventory::submit! {
    OpDef {
        name: "max",
        revision: 1,
        formula: "max(x, dim, keep): the largest along dim",
        call: |tape, args: &Args<'_>| {
            let x = args.tensor(0)?;
            let dim = args.dim(1, x.dims().len())?;
            Ok(vec![max(tape, x, dim, args.int(2)? != 0)?])
        },
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[2, 3]), Arg::Int(1), Arg::Int(0)]),
            Sample::new(vec![sample_strided(stream, &[2, 3, 4]), Arg::Int(-2), Arg::Int(1)]),
            Sample::new(vec![sample_tensor(stream, &[3, 1]), Arg::Int(0), Arg::Int(0)]),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::storage;
    use candle_core::Device;

    #[test]
    fn the_first_of_equal_values_takes_the_whole_gradient() {
        let tape = Tape::default();
        let x = tape.leaf(Tensor::new(&[[1.0, 4.0, 4.0]], &Device::Cpu).unwrap());
        let y = max(&tape, &x, 1, false).unwrap();
        let gradients = tape.backward(&y).unwrap();
        assert_eq!(storage::to_f64(gradients.get(&x).unwrap()).unwrap(), [0.0, 1.0, 0.0]);
    }
}
