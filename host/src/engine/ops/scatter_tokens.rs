//! `scatter_tokens@1`: chosen tokens replaced.

use candle_core::WithDType;

use crate::engine::kernel::Float;
use crate::engine::op::{Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::ops::gather_tokens::{Sizes, indices};
use crate::engine::tape::{Tape, Var};
use crate::engine::{portable, storage};
use crate::{Error, Result, for_float};

/// `x` `[B, N, D]` with its tokens at `indices` `[B, K]` (u32, distinct in a row) replaced by `y`
/// `[B, K, D]`.
///
/// # Errors
/// When the shapes don't fit, or an index is not below N.
pub fn scatter_tokens(tape: &Tape, x: &Var, indices: &Var, y: &Var) -> Result<Var> {
    let sizes = Sizes::of("scatter_tokens", x, indices)?;
    if y.dims() != [sizes.batch, sizes.kept, sizes.dim] {
        return Err(Error::failed(format!(
            "`scatter_tokens` needs {:?} new tokens, got {:?}",
            [sizes.batch, sizes.kept, sizes.dim],
            y.dims()
        )));
    }
    if tape.portable(x) {
        return portable::token::scatter_tokens(tape, x, indices, y, sizes);
    }
    let places = sizes.places("scatter_tokens", indices)?;
    for_float!(x.dtype(), T => scatter::<T>(tape, (x, y), sizes, places))
}

fn scatter<T: Float + WithDType>(
    tape: &Tape,
    (x, y): (&Var, &Var),
    sizes: Sizes,
    places: Vec<usize>,
) -> Result<Var> {
    let Sizes { batch, tokens, dim, kept } = sizes;
    let value = tape.timed("scatter_tokens", || -> Result<_> {
        let mut out = storage::read::<T, _>(x.value(), <[T]>::to_vec)?;
        storage::read::<T, _>(y.value(), |y| {
            for (y, place) in y.chunks_exact(dim.max(1)).zip(&places) {
                out[place * dim..][..dim].copy_from_slice(y);
            }
        })?;
        storage::tensor(out, (batch, tokens, dim))
    })?;
    Ok(tape.record("scatter_tokens", &[x, y], value, move |gradient, inputs| {
        let mut dx = storage::read::<T, _>(gradient.tensor(), <[T]>::to_vec)?;
        let mut dy = Vec::with_capacity(places.len() * dim);
        for place in &places {
            let token = &mut dx[place * dim..][..dim];
            dy.extend_from_slice(token);
            token.fill(T::ZERO);
        }
        inputs.add(0, storage::tensor(dx, (batch, tokens, dim))?)?;
        inputs.add(1, storage::tensor(dy, (batch, kept, dim))?)
    }))
}

inventory::submit! {
    OpDef {
        name: "scatter_tokens",
        revision: 1,
        formula: "scatter_tokens(x [B, N, D], indices [B, K], y [B, K, D]) = x with y at indices",
        call: |tape, args: &Args<'_>| {
            Ok(vec![scatter_tokens(tape, args.tensor(0)?, args.tensor(1)?, args.tensor(2)?)?])
        },
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![
                sample_tensor(stream, &[2, 4, 3]),
                indices(&[2, 0, 3, 1], &[2, 2]),
                sample_tensor(stream, &[2, 2, 3]),
            ]),
            Sample::new(vec![
                sample_strided(stream, &[1, 3, 2]),
                indices(&[1], &[1, 1]),
                sample_strided(stream, &[1, 1, 2]),
            ]),
            Sample::new(vec![
                sample_tensor(stream, &[2, 1, 1]),
                indices(&[0, 0], &[2, 1]),
                sample_tensor(stream, &[2, 1, 1]),
            ]),
        ],
    }
}
