//! The backward pass through a product of layer-normed rows, in one go.

use std::sync::{Mutex, PoisonError};

use super::super::norm;
use super::super::threads;
use super::rows::Normed;
use super::{Linear, TASK, linear_grad_input};

/// The gradients to a norm's input `[rows, D]`, weight `[D]` and bias `[D]`.
pub type NormGradients = (Vec<f32>, Vec<f32>, Vec<f32>);

/// The gradients through `normed w^T` from `dy` `[rows, outputs]`: what the product gives a row of the
/// norm's output turns into the gradient of its input while it is in the cache.
///
/// # Panics
/// When a slice is too short.
pub fn grad_norm<const BF16: bool>(
    dy: &[f32],
    w: &[f32],
    normed: &Normed<'_>,
    sizes: Linear,
) -> NormGradients {
    turned(normed, sizes.rows, |finish| linear_grad_input::<BF16>(dy, w, sizes, finish))
}

/// Turns the gradient of a norm's output into that of its input, for a piece of [`TASK`] rows that begins at a
/// number of its own.
pub type Finish<'a> = &'a (dyn Fn(usize, &mut [f32]) + Sync + 'a);

/// The gradients from what `product` makes: it gives the gradient to the norm's output, `[rows, D]`, and calls
/// [`Finish`] once for every piece of it.
pub fn turned(
    normed: &Normed<'_>,
    rows: usize,
    product: impl FnOnce(Finish<'_>) -> Vec<f32>,
) -> NormGradients {
    let width = normed.weight.len();
    let mut partials = vec![0.0; rows.div_ceil(TASK) * 2 * width];
    let sums: Vec<_> = partials.chunks_mut((2 * width).max(1)).map(Mutex::new).collect();
    let dx = product(&|first, piece| {
        let mut sums = sums[first / TASK].lock().unwrap_or_else(PoisonError::into_inner);
        let (dweight, dbias) = sums.split_at_mut(width);
        let statistics = (&normed.mean[first..], &normed.rstd[first..]);
        let x = &normed.x[first * width..][..piece.len()];
        norm::backward_in_place(x, statistics, normed.weight, piece, [dweight, dbias]);
    });
    drop(sums);
    let mut total = vec![0.0; 2 * width];
    threads::add_partial_sums(&partials, &mut total);
    let dbias = total.split_off(width);
    (dx, total, dbias)
}
