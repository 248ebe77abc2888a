//! `l2_normalize@1`: vectors scaled to length 1.

use candle_core::{Tensor, WithDType};

use crate::engine::kernel::Float;
use crate::engine::kernel::l2_normalize as kernel;
use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::tape::{Tape, Var};
use crate::engine::{portable, storage};
use crate::{Error, Result, for_float};

/// `x / max(norm, eps)`, with the norm along `dim`.
///
/// # Errors
/// When x has no such dimension.
pub fn l2_normalize(tape: &Tape, x: &Var, dim: usize, eps: f64) -> Result<Var> {
    let rank = x.dims().len();
    if dim >= rank {
        return Err(Error::failed(format!("`l2_normalize` along {dim} of {:?}", x.dims())));
    }
    if tape.portable(x) {
        return portable::row::l2_normalize(tape, x, dim, eps);
    }
    // The kernel works on rows; along another dimension the rows are those of a transposed view.
    let rows = x.value().transpose(dim, rank - 1)?;
    let (y, norms) = tape.timed("l2_normalize", || normalize(&rows, None, eps))?;
    let value = y.transpose(dim, rank - 1)?;
    Ok(tape.record("l2_normalize", &[x], value, move |gradient, inputs| {
        let dy = gradient.tensor().transpose(dim, rank - 1)?;
        let (dx, _) = gradients(&rows, &norms, None, eps, &dy)?;
        inputs.add(0, dx.transpose(dim, rank - 1)?)
    }))
}

/// The rows of x `[..., D]` scaled to the lengths `gain` (1 where left out), and the lengths they had.
pub(super) fn normalize(x: &Tensor, gain: Option<&Tensor>, eps: f64) -> Result<(Tensor, Tensor)> {
    for_float!(x.dtype(), T => {
        let rows = row_count(x);
        let (y, norms) = storage::read_all::<T, _, 2>([x, gain.unwrap_or(x)], |[x, gains]| {
            let (mut y, mut norms) = (vec![T::ZERO; x.len()], vec![T::ZERO; rows]);
            kernel::l2_normalize(x, gain.map(|_| gains), Float::from_f64(eps), &mut y, &mut norms);
            (y, norms)
        })?;
        Ok((storage::tensor(y, x.dims())?, storage::tensor(norms, rows)?))
    })
}

/// The gradients of x and of the gain `[rows]`.
pub(super) fn gradients(
    x: &Tensor,
    norms: &Tensor,
    gain: Option<&Tensor>,
    eps: f64,
    dy: &Tensor,
) -> Result<(Tensor, Tensor)> {
    for_float!(x.dtype(), T => gradients_of::<T>([x, norms, gain.unwrap_or(norms), dy], gain.is_some(), eps))
}

fn gradients_of<T: Float + WithDType>(
    tensors: [&Tensor; 4],
    has_gain: bool,
    eps: f64,
) -> Result<(Tensor, Tensor)> {
    let (dx, dgain) = storage::read_all::<T, _, 4>(tensors, |[x, norms, gain, dy]| {
        let (mut dx, mut dgain) = (vec![T::ZERO; x.len()], vec![T::ZERO; norms.len()]);
        let gain = has_gain.then_some(gain);
        let backward = kernel::Backward { x, norms, gain, eps: Float::from_f64(eps), dy };
        kernel::l2_normalize_backward(backward, &mut dx, &mut dgain);
        (dx, dgain)
    })?;
    let rows = dgain.len();
    Ok((storage::tensor(dx, tensors[0].dims())?, storage::tensor(dgain, rows)?))
}

fn row_count(x: &Tensor) -> usize {
    x.dims()[..x.rank() - 1].iter().product()
}

inventory::submit! {
    OpDef {
        name: "l2_normalize",
        revision: 1,
        formula: "l2_normalize(x, dim, eps) = x / max(norm, eps) along dim",
        call: |tape, args: &Args<'_>| {
            let x = args.tensor(0)?;
            Ok(vec![l2_normalize(tape, x, args.dim(1, x.dims().len())?, args.float(2)?)?])
        },
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[3, 4]), Arg::Int(-1), Arg::Float(1e-12)]),
            Sample::new(vec![sample_strided(stream, &[2, 3, 4]), Arg::Int(1), Arg::Float(1e-12)]),
            Sample::new(vec![sample_tensor(stream, &[2, 1]), Arg::Int(0), Arg::Float(1e-12)]),
            // Shorter than eps: divided by a constant.
            Sample::new(vec![sample_tensor(stream, &[2, 3]), Arg::Int(1), Arg::Float(100.0)]),
        ],
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn a_row_of_zeros_stays_zero_and_others_get_length_one() {
        let x = Tensor::new(&[[3.0_f32, 4.0], [0.0, 0.0]], &Device::Cpu).unwrap();
        let y = l2_normalize(&Tape::default(), &Var::constant(x), 1, 1e-12).unwrap();
        assert_eq!(storage::to_f32(y.value()).unwrap(), [0.6, 0.8, 0.0, 0.0]);
    }

    #[test]
    fn a_dimension_that_is_not_there_is_refused() {
        let x = Var::constant(Tensor::new(&[3.0_f32], &Device::Cpu).unwrap());
        assert!(l2_normalize(&Tape::default(), &x, 1, 1e-12).is_err());
    }
}
