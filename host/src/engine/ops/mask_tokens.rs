//! `mask_tokens@1`: hidden tokens replaced by one learned token.

use candle_core::WithDType;

use crate::engine::kernel::Float;
use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::tape::{Tape, Var};
use crate::engine::{portable, storage};
use crate::{Error, Result, for_float};

/// `x` `[B, N, D]` with `token` `[D]` where `mask` `[B, N]` (u8) is 1.
///
/// # Errors
/// When the shapes don't fit.
pub fn mask_tokens(tape: &Tape, x: &Var, mask: &Var, token: &Var) -> Result<Var> {
    match (x.dims(), mask.dims(), token.dims()) {
        (&[b, n, d], &[rows, columns], &[width]) if (b, n, d) == (rows, columns, width) => {}
        (x, mask, token) => {
            return Err(Error::failed(format!(
                "`mask_tokens` needs [B, N, D], [B, N] and [D], got {x:?}, {mask:?} and {token:?}"
            )));
        }
    }
    if tape.portable(x) {
        return portable::token::mask_tokens(tape, x, mask, token);
    }
    let mask: Vec<u8> = mask.value().flatten_all()?.to_vec1()?;
    for_float!(x.dtype(), T => masked::<T>(tape, (x, token), mask))
}

fn masked<T: Float + WithDType>(
    tape: &Tape,
    (x, token): (&Var, &Var),
    mask: Vec<u8>,
) -> Result<Var> {
    let (dims, dim) = (x.dims().to_vec(), token.dims()[0]);
    let value = tape.timed("mask_tokens", || -> Result<_> {
        let mut out = storage::read::<T, _>(x.value(), <[T]>::to_vec)?;
        storage::read::<T, _>(token.value(), |token| {
            for (out, _) in hidden(&mut out, &mask, dim) {
                out.copy_from_slice(token);
            }
        })?;
        storage::tensor(out, dims.as_slice())
    })?;
    Ok(tape.record("mask_tokens", &[x, token], value, move |gradient, inputs| {
        let mut dx = storage::read::<T, _>(gradient.tensor(), <[T]>::to_vec)?;
        let mut dtoken = vec![T::ZERO; dim];
        for (dx, _) in hidden(&mut dx, &mask, dim) {
            for (sum, dx) in dtoken.iter_mut().zip(dx) {
                *sum += *dx;
                *dx = T::ZERO;
            }
        }
        inputs.add(0, storage::tensor(dx, dims.as_slice())?)?;
        inputs.add(1, storage::tensor(dtoken, dim)?)
    }))
}

/// The tokens that the mask hides.
fn hidden<'a, T>(
    tokens: &'a mut [T],
    mask: &'a [u8],
    dim: usize,
) -> impl Iterator<Item = (&'a mut [T], &'a u8)> {
    tokens.chunks_exact_mut(dim.max(1)).zip(mask).filter(|(_, hidden)| **hidden != 0)
}

/// An argument that is a mask.
fn mask(values: &[u8], shape: &[usize]) -> Arg {
    storage::tensor(values.to_vec(), shape).map_or(Arg::None, |t| Arg::Tensor(Var::constant(t)))
}

inventory::submit! {
    OpDef {
        name: "mask_tokens",
        revision: 1,
        formula: "mask_tokens(x [B, N, D], mask [B, N], token [D]) = token where mask is 1, else x",
        call: |tape, args: &Args<'_>| {
            Ok(vec![mask_tokens(tape, args.tensor(0)?, args.tensor(1)?, args.tensor(2)?)?])
        },
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![
                sample_tensor(stream, &[2, 3, 2]),
                mask(&[0, 1, 1, 0, 0, 1], &[2, 3]),
                sample_tensor(stream, &[2]),
            ]),
            Sample::new(vec![
                sample_strided(stream, &[1, 2, 3]),
                mask(&[1, 0], &[1, 2]),
                sample_tensor(stream, &[3]),
            ]),
            Sample::new(vec![
                sample_tensor(stream, &[1, 1, 1]),
                mask(&[1], &[1, 1]),
                sample_tensor(stream, &[1]),
            ]),
        ],
    }
}
