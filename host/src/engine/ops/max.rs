//! `max@1`: the largest along a dimension.

use std::cmp::Ordering;

use candle_core::Tensor;

use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::tape::{Tape, Var};
use crate::engine::{portable, storage};
use crate::{Error, Result, for_float};

/// The largest along `dim`; the first of equal ones takes the gradient. NaN counts as the largest.
///
/// # Errors
/// When `dim` is empty.
pub fn max(tape: &Tape, x: &Var, dim: usize, keep: bool) -> Result<Var> {
    let (value, places) = tape.timed("max", || -> Result<_> {
        let places = places("max", tape, x, dim)?.unsqueeze(dim)?;
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

/// The place of the first largest along `dim`, as u32; NaN is the largest.
pub(super) fn places(op: &str, tape: &Tape, x: &Var, dim: usize) -> Result<Tensor> {
    if tape.portable(x) {
        return portable::place::places(op, x.value(), dim);
    }
    let x = x.value();
    let dims = x.dims();
    let (outer, rest) = dims.split_at(dim);
    let (count, inner) = (rest[0], rest[1..].iter().product::<usize>());
    if count == 0 {
        return Err(Error::failed(format!(
            "`{op}` along dimension {dim} of {dims:?}, which is empty"
        )));
    }
    let found = for_float!(x.dtype(), T => storage::read(x, |x: &[T]| {
        let mut found = Vec::with_capacity(outer.iter().product::<usize>() * inner);
        for block in x.chunks_exact((count * inner).max(1)) {
            found.extend((0..inner).map(|i| first_largest(block[i..].iter().step_by(inner))));
        }
        found
    }))?;
    storage::tensor(found, [outer, &rest[1..]].concat())
}

/// The place of the first NaN, or else of the first largest.
fn first_largest<'a, T: PartialOrd + 'a>(values: impl Iterator<Item = &'a T>) -> u32 {
    let mut best: Option<(u32, &T)> = None;
    for (place, value) in (0..).zip(values) {
        if value.partial_cmp(value).is_none() {
            return place;
        }
        if best.is_none_or(|(_, best)| value.partial_cmp(best) == Some(Ordering::Greater)) {
            best = Some((place, value));
        }
    }
    best.map_or(0, |(place, _)| place)
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
    use candle_core::Device;

    #[test]
    fn the_first_that_is_not_a_number_counts_as_the_largest() {
        let tape = Tape::default();
        let (nan, inf) = (f64::NAN, f64::INFINITY);
        let x = Tensor::new(&[[1.0, nan, inf, nan], [2.0, inf, inf, 0.0]], &Device::Cpu).unwrap();
        let x = tape.leaf(x);
        assert_eq!(places("argmax", &tape, &x, 1).unwrap().to_vec1::<u32>().unwrap(), [1, 1]);
        let values = storage::to_f64(max(&tape, &x, 1, false).unwrap().value()).unwrap();
        assert!(values[0].is_nan() && values[1] == inf);
        let columns = places("argmax", &tape, &x, 0).unwrap();
        assert_eq!(columns.to_vec1::<u32>().unwrap(), [1, 0, 0, 0]);
        let empty = Tensor::zeros((2, 0), candle_core::DType::F64, &Device::Cpu).unwrap();
        assert!(
            places("argmax", &tape, &Var::constant(empty), 1)
                .unwrap_err()
                .message()
                .contains("`argmax`")
        );
    }

    #[test]
    fn the_first_of_equal_values_takes_the_whole_gradient() {
        let tape = Tape::default();
        let x = tape.leaf(Tensor::new(&[[1.0, 4.0, 4.0]], &Device::Cpu).unwrap());
        let y = max(&tape, &x, 1, false).unwrap();
        let gradients = tape.backward(&y).unwrap();
        assert_eq!(storage::to_f64(gradients.get(&x).unwrap()).unwrap(), [0.0, 1.0, 0.0]);
    }
}
