//! `gather_tokens@1`: chosen tokens of each sample.

use candle_core::WithDType;

use crate::engine::kernel::Float;
use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::tape::{Tape, Var};
use crate::engine::{portable, storage};
use crate::{Error, Result, for_float};

/// Tokens of `x` `[B, N, D]` at `indices` `[B, K]` (u32): `[B, K, D]`.
///
/// # Errors
/// When the shapes don't fit, or an index is not below N.
pub fn gather_tokens(tape: &Tape, x: &Var, indices: &Var) -> Result<Var> {
    let sizes = Sizes::of("gather_tokens", x, indices)?;
    if tape.portable(x) {
        return portable::token::gather_tokens(tape, x, indices, sizes);
    }
    let places = sizes.places("gather_tokens", indices)?;
    for_float!(x.dtype(), T => gather::<T>(tape, x, sizes, places))
}

fn gather<T: Float + WithDType>(
    tape: &Tape,
    x: &Var,
    sizes: Sizes,
    places: Vec<usize>,
) -> Result<Var> {
    let Sizes { batch, tokens, dim, kept } = sizes;
    let value = tape.timed("gather_tokens", || -> Result<_> {
        let mut y = Vec::with_capacity(places.len() * dim);
        storage::read::<T, _>(x.value(), |x| {
            for place in &places {
                y.extend_from_slice(&x[place * dim..][..dim]);
            }
        })?;
        storage::tensor(y, (batch, kept, dim))
    })?;
    Ok(tape.record("gather_tokens", &[x], value, move |gradient, inputs| {
        let mut dx = vec![T::ZERO; batch * tokens * dim];
        storage::read::<T, _>(gradient.tensor(), |dy| {
            for (dy, place) in dy.chunks_exact(dim.max(1)).zip(&places) {
                for (dx, dy) in dx[place * dim..][..dim].iter_mut().zip(dy) {
                    *dx += *dy;
                }
            }
        })?;
        inputs.add(0, storage::tensor(dx, (batch, tokens, dim))?)
    }))
}

/// The sizes of a batch of tokens and of the places among them.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct Sizes {
    pub(in crate::engine) batch: usize,
    pub(in crate::engine) tokens: usize,
    pub(in crate::engine) dim: usize,
    pub(in crate::engine) kept: usize,
}

impl Sizes {
    /// From `x` `[B, N, D]` and `indices` `[B, K]`.
    pub(super) fn of(op: &str, x: &Var, indices: &Var) -> Result<Self> {
        match (x.dims(), indices.dims()) {
            (&[batch, tokens, dim], &[rows, kept]) if rows == batch => {
                Ok(Self { batch, tokens, dim, kept })
            }
            (x, indices) => Err(Error::failed(format!(
                "`{op}` needs tokens [B, N, D] and indices [B, K], got {x:?} and {indices:?}"
            ))),
        }
    }

    /// The place of every chosen token among all tokens of the batch.
    pub(super) fn places(self, op: &str, indices: &Var) -> Result<Vec<usize>> {
        let indices: Vec<u32> = indices.value().flatten_all()?.to_vec1()?;
        indices
            .iter()
            .enumerate()
            .map(|(i, index)| {
                let index = *index as usize;
                if index >= self.tokens {
                    return Err(Error::failed(format!(
                        "`{op}` got the index {index} for {} tokens",
                        self.tokens
                    )));
                }
                Ok(i / self.kept * self.tokens + index)
            })
            .collect()
    }
}

/// An argument of u32 indices.
pub(super) fn indices(values: &[u32], shape: &[usize]) -> Arg {
    storage::tensor(values.to_vec(), shape).map_or(Arg::None, |t| Arg::Tensor(Var::constant(t)))
}

inventory::submit! {
    OpDef {
        name: "gather_tokens",
        revision: 1,
        formula: "gather_tokens(x [B, N, D], indices [B, K]) = [B, K, D]",
        call: |tape, args: &Args<'_>| {
            Ok(vec![gather_tokens(tape, args.tensor(0)?, args.tensor(1)?)?])
        },
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[2, 4, 3]), indices(&[2, 0, 3, 3], &[2, 2])]),
            Sample::new(vec![sample_strided(stream, &[1, 3, 2]), indices(&[1], &[1, 1])]),
            Sample::new(vec![sample_tensor(stream, &[2, 1, 1]), indices(&[0, 0], &[2, 1])]),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device, Tensor};

    #[test]
    fn an_index_beyond_the_tokens_is_refused() {
        let x = Var::constant(Tensor::zeros((1, 3, 2), DType::F32, &Device::Cpu).unwrap());
        let Arg::Tensor(indices) = indices(&[3], &[1, 1]) else { unreachable!() };
        let error = gather_tokens(&Tape::default(), &x, &indices).unwrap_err();
        assert!(error.to_string().contains("index 3 for 3 tokens"));
    }
}
