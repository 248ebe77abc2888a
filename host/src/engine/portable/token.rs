//! Tokens chosen, replaced and hidden.

use candle_core::{DType, Tensor};

use super::{mark, numbers};
use crate::Result;
use crate::engine::ops::gather_tokens::Sizes;
use crate::engine::tape::{Tape, Var};

/// See [`crate::engine::ops::gather_tokens::gather_tokens`]; an index that is out of range makes NaN.
pub(in crate::engine) fn gather_tokens(
    tape: &Tape,
    x: &Var,
    indices: &Var,
    sizes: Sizes,
) -> Result<Var> {
    let places = Chosen::new(indices.value(), sizes)?;
    let value = tape.timed("gather_tokens", || {
        let chosen = places.read(x.value())?;
        Ok::<_, crate::Error>(chosen.broadcast_add(&places.wrong(x.dtype())?)?)
    })?;
    Ok(tape.record("gather_tokens", &[x], value, move |gradient, inputs| {
        inputs.add(0, places.add(gradient.tensor())?)
    }))
}

/// See [`crate::engine::ops::scatter_tokens::scatter_tokens`]; an index that is out of range makes NaN.
pub(in crate::engine) fn scatter_tokens(
    tape: &Tape,
    x: &Var,
    indices: &Var,
    y: &Var,
    sizes: Sizes,
) -> Result<Var> {
    let places = Chosen::new(indices.value(), sizes)?;
    let (value, kept) = tape.timed("scatter_tokens", || {
        let shape = (sizes.batch, sizes.kept, 1);
        let ones = Tensor::ones(shape, x.dtype(), x.device())?;
        // 1 for a token that stays, 0 for one that is replaced.
        let one = Chosen { sizes: Sizes { dim: 1, ..sizes }, ..places.clone() };
        let kept = one.add(&ones)?.affine(-1.0, 1.0)?;
        let new = y.value().broadcast_add(&places.wrong(x.dtype())?)?;
        let value = (x.value().broadcast_mul(&kept)? + places.add(&new)?)?;
        Ok::<_, crate::Error>((value, kept))
    })?;
    Ok(tape.record("scatter_tokens", &[x, y], value, move |gradient, inputs| {
        if inputs.wants(0) {
            inputs.add(0, gradient.tensor().broadcast_mul(&kept)?)?;
        }
        inputs.add(1, places.read(gradient.tensor())?)
    }))
}

/// See [`crate::engine::ops::mask_tokens::mask_tokens`].
pub fn mask_tokens(tape: &Tape, x: &Var, mask: &Var, token: &Var) -> Result<Var> {
    let dims = x.dims().to_vec();
    let mask = mask.value().ne(0_u8)?.unsqueeze(2)?.broadcast_as(dims.as_slice())?.contiguous()?;
    let value = tape.timed("mask_tokens", || {
        let token = token.value().broadcast_as(dims.as_slice())?.contiguous()?;
        mask.where_cond(&token, x.value())
    })?;
    Ok(tape.record("mask_tokens", &[x, token], value, move |gradient, inputs| {
        let dy = gradient.tensor().contiguous()?;
        let zeros = dy.zeros_like()?;
        if inputs.wants(0) {
            inputs.add(0, mask.where_cond(&zeros, &dy)?)?;
        }
        inputs.add(1, mask.where_cond(&dy, &zeros)?.sum((0, 1))?)
    }))
}

/// Chosen tokens of every sample.
#[derive(Clone)]
struct Chosen {
    sizes: Sizes,
    /// Their places among all tokens of the batch, u32 `[B K]`, within range.
    places: Tensor,
    /// 1 where the index asked for was out of range, u8 `[B, K, 1]`.
    wrong: Tensor,
}

impl Chosen {
    fn new(indices: &Tensor, sizes: Sizes) -> Result<Self> {
        let wrong = indices.ge(sizes.tokens as u32)?;
        let within = wrong.where_cond(&indices.zeros_like()?, &indices.contiguous()?)?;
        let first = numbers(indices, 0)?
            .broadcast_mul(&Tensor::new(&[sizes.tokens as u32], indices.device())?)?;
        let places = within.broadcast_add(&first)?.flatten_all()?;
        Ok(Self { sizes, places, wrong: wrong.unsqueeze(2)? })
    }

    fn wrong(&self, dtype: DType) -> Result<Tensor> {
        mark(&self.wrong, dtype)
    }

    /// The chosen of `x` `[B, N, D]`: `[B, K, D]`.
    fn read(&self, x: &Tensor) -> Result<Tensor> {
        let Sizes { batch, tokens, dim, kept } = self.sizes;
        let all = x.contiguous()?.reshape((batch * tokens, dim))?;
        Ok(all.index_select(&self.places, 0)?.reshape((batch, kept, dim))?)
    }

    /// `y` `[B, K, D]` added up at the chosen places of `[B, N, D]`, zeros elsewhere.
    fn add(&self, y: &Tensor) -> Result<Tensor> {
        let Sizes { batch, tokens, dim, kept } = self.sizes;
        let zeros = Tensor::zeros((batch * tokens, dim), y.dtype(), y.device())?;
        let rows = y.contiguous()?.reshape((batch * kept, dim))?;
        Ok(zeros.index_add(&self.places, &rows, 0)?.reshape((batch, tokens, dim))?)
    }
}
