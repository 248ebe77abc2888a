//! The backward pass through a product of layer-normed rows, in one go.

use super::super::norm;
use super::super::threads::{self, Shared};
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
    let width = sizes.inputs;
    let mut partials = vec![0.0; sizes.rows.div_ceil(TASK) * 2 * width];
    let shared = Shared::new(&mut partials);
    let dx = linear_grad_input::<BF16>(dy, w, sizes, |first, piece| {
        // SAFETY: every piece has a number of its own, and sums of its own with it.
        let sums = unsafe { shared.part(first / TASK * 2 * width, 2 * width) };
        let (dweight, dbias) = sums.split_at_mut(width);
        let statistics = (&normed.mean[first..], &normed.rstd[first..]);
        let x = &normed.x[first * width..][..piece.len()];
        norm::backward_in_place(x, statistics, normed.weight, piece, [dweight, dbias]);
    });
    let mut total = vec![0.0; 2 * width];
    threads::add_partial_sums(&partials, &mut total);
    let dbias = total.split_off(width);
    (dx, total, dbias)
}
