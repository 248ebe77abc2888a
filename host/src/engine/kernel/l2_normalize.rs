//! Rows scaled to length 1, or to a given gain, forward and backward.

use super::dispatch::{Kernel, dispatch};
use super::{Float, lanes, threads};

/// `y = gain x / max(norm, eps)` per row of x `[rows, D]`; keeps the lengths of the rows in `norms`.
/// The gain is 1 where left out.
///
/// # Panics
/// When the lengths don't fit together.
pub fn l2_normalize<T: Float>(x: &[T], gain: Option<&[T]>, eps: T, y: &mut [T], norms: &mut [T]) {
    if x.is_empty() {
        return;
    }
    let width = check(x, norms, gain);
    let rows = threads::rows_per_task(width);
    threads::chunks2((y, rows * width), (norms, rows), |i, y, norms| {
        let x = &x[i * rows * width..][..y.len()];
        let gain = gain.map(|gain| &gain[i * rows..][..norms.len()]);
        dispatch(Forward { x, gain, eps, width, y, norms });
    });
}

fn check<T>(x: &[T], norms: &[T], gain: Option<&[T]>) -> usize {
    assert!(
        x.len().is_multiple_of(norms.len()),
        "{} numbers don't make {} rows",
        x.len(),
        norms.len()
    );
    assert!(gain.is_none_or(|gain| gain.len() == norms.len()), "one gain per row");
    x.len() / norms.len()
}

struct Forward<'a, T> {
    x: &'a [T],
    gain: Option<&'a [T]>,
    eps: T,
    width: usize,
    y: &'a mut [T],
    norms: &'a mut [T],
}

impl<T: Float> Kernel for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let rows = self.x.chunks_exact(self.width).zip(self.y.chunks_exact_mut(self.width));
        for (i, ((x, y), norm)) in rows.zip(self.norms).enumerate() {
            *norm = lanes::sum_of(x, |x| x * x).sqrt();
            let scale = self.gain.map_or(T::ONE, |gain| gain[i]) / norm.larger(self.eps);
            for (y, x) in y.iter_mut().zip(x) {
                *y = *x * scale;
            }
        }
    }
}

/// What the backward pass reads.
#[derive(Clone, Copy, Debug)]
pub struct Backward<'a, T> {
    /// The input, `[rows, D]`.
    pub x: &'a [T],
    /// The saved lengths of its rows, `[rows]`.
    pub norms: &'a [T],
    /// The gains, `[rows]`.
    pub gain: Option<&'a [T]>,
    /// The least length that is divided by.
    pub eps: T,
    /// The gradient of the output, `[rows, D]`.
    pub dy: &'a [T],
}

/// The gradients: with `n = x / max(norm, eps)`, `dgain = n . dy` and
/// `dx = gain (dy - n (n . dy)) / norm`, or `gain dy / eps` where the norm is below eps.
///
/// # Panics
/// When the lengths don't fit together.
pub fn l2_normalize_backward<T: Float>(backward: Backward<'_, T>, dx: &mut [T], dgain: &mut [T]) {
    let Backward { x, norms, gain, eps, dy } = backward;
    if x.is_empty() {
        return;
    }
    let width = check(x, norms, gain);
    assert_eq!(x.len(), dy.len(), "the gradient has the length of the input");
    let rows = threads::rows_per_task(width);
    threads::chunks2((dx, rows * width), (dgain, rows), |i, dx, dgain| {
        let (start, first) = (i * rows * width, i * rows);
        let part = Backward {
            x: &x[start..][..dx.len()],
            norms: &norms[first..],
            gain: gain.map(|gain| &gain[first..]),
            eps,
            dy: &dy[start..][..dx.len()],
        };
        dispatch(Backwards { part, width, dx, dgain });
    });
}

struct Backwards<'a, T> {
    part: Backward<'a, T>,
    width: usize,
    dx: &'a mut [T],
    dgain: &'a mut [T],
}

impl<T: Float> Kernel for Backwards<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Backward { x, norms, gain, eps, dy } = self.part;
        let rows = x.chunks_exact(self.width).zip(dy.chunks_exact(self.width));
        let outputs = self.dx.chunks_exact_mut(self.width).zip(self.dgain);
        for (i, ((x, dy), (dx, dgain))) in rows.zip(outputs).enumerate() {
            let length = norms[i].larger(eps);
            // dx holds the products until it is overwritten.
            for ((product, x), dy) in dx.iter_mut().zip(x).zip(dy) {
                *product = *x * *dy;
            }
            let dot = lanes::sum(dx) / length;
            *dgain = dot;
            let scale = gain.map_or(T::ONE, |gain| gain[i]) / length;
            // Below eps the divisor is a constant, so only the direct term is left.
            let pull = if norms[i] > eps { dot / length } else { T::ZERO };
            for ((dx, x), dy) in dx.iter_mut().zip(x).zip(dy) {
                *dx = (*dy - *x * pull) * scale;
            }
        }
    }
}
