//! Softmax over rows, and the cross-entropies of rows, forward and backward.

use super::dispatch::{Kernel, dispatch};
use super::{Float, lanes, threads};

/// Rows of logits and what they are divided by.
#[derive(Clone, Copy, Debug)]
pub struct Logits<'a, T> {
    /// The numbers, `[rows, width]`.
    pub data: &'a [T],
    /// The length of a row, K.
    pub width: usize,
    /// What they are divided by; above 0.
    pub temperature: T,
}

impl<'a, T: Float> Logits<'a, T> {
    fn part(&self, start: usize, len: usize) -> Self {
        Self { data: &self.data[start..][..len], ..*self }
    }

    /// The elements of one piece of work.
    fn chunk(&self) -> usize {
        threads::rows_per_task(self.width) * self.width
    }

    #[inline(always)]
    fn rows(&self) -> std::slice::ChunksExact<'a, T> {
        self.data.chunks_exact(self.width.max(1))
    }
}

/// Which of the two a kernel works out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Softmax {
    /// `exp(x / t) / sum exp(x / t)`.
    Plain,
    /// Its logarithm.
    Log,
}

/// `y = softmax(x / temperature)` or its logarithm, per row.
///
/// # Panics
/// When the lengths differ.
pub fn softmax<T: Float>(kind: Softmax, x: Logits<'_, T>, y: &mut [T]) {
    assert_eq!(x.data.len(), y.len(), "the result has the length of the input");
    let chunk = x.chunk();
    if y.is_empty() {
        return;
    }
    threads::chunks(y, chunk, |i, y| {
        let x = x.part(i * chunk, y.len());
        dispatch(Forward { kind, x, y });
    });
}

struct Forward<'a, T> {
    kind: Softmax,
    x: Logits<'a, T>,
    y: &'a mut [T],
}

impl<T: Float> Kernel for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let scale = T::ONE / self.x.temperature;
        for (x, y) in self.x.rows().zip(self.y.chunks_exact_mut(self.x.width)) {
            let max = lanes::max(x);
            if self.kind == Softmax::Plain {
                for (y, x) in y.iter_mut().zip(x) {
                    *y = ((*x - max) * scale).exp::<FMA>();
                }
                let factor = T::ONE / lanes::sum(y);
                for y in y.iter_mut() {
                    *y *= factor;
                }
            } else {
                let log = sum_exp::<T, FMA>(x, max, scale).ln();
                for (y, x) in y.iter_mut().zip(x) {
                    *y = (*x - max) * scale - log;
                }
            }
        }
    }
}

/// `sum exp((x - max) scale)`.
#[inline(always)]
fn sum_exp<T: Float, const FMA: bool>(x: &[T], max: T, scale: T) -> T {
    lanes::sum_of(x, |x| ((x - max) * scale).exp::<FMA>())
}

/// The gradient of [`softmax`] to x, from its result `y` (as in [`Logits`]) and the gradient `dy`:
/// `dx = y (dy - sum y dy) / t`, and for the logarithm `dx = (dy - exp(y) sum dy) / t`.
///
/// # Panics
/// When the lengths differ.
pub fn softmax_backward<T: Float>(kind: Softmax, y: Logits<'_, T>, dy: &[T], dx: &mut [T]) {
    assert_eq!(y.data.len(), dx.len(), "the gradient has the length of the result");
    assert_eq!(y.data.len(), dy.len(), "the gradient has the length of the result");
    let chunk = y.chunk();
    if dx.is_empty() {
        return;
    }
    threads::chunks(dx, chunk, |i, dx| {
        let dy = &dy[i * chunk..][..dx.len()];
        let y = y.part(i * chunk, dx.len());
        dispatch(Backward { kind, y, dy, dx });
    });
}

struct Backward<'a, T> {
    kind: Softmax,
    y: Logits<'a, T>,
    dy: &'a [T],
    dx: &'a mut [T],
}

impl<T: Float> Kernel for Backward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let scale = T::ONE / self.y.temperature;
        let width = self.y.width;
        let rows = self.y.rows().zip(self.dy.chunks_exact(width));
        for ((y, dy), dx) in rows.zip(self.dx.chunks_exact_mut(width)) {
            if self.kind == Softmax::Plain {
                let inner = lanes::sum_of_two(y, dy, |y, dy| y * dy);
                for ((dx, y), dy) in dx.iter_mut().zip(y).zip(dy) {
                    *dx = *y * (*dy - inner) * scale;
                }
            } else {
                let sum = lanes::sum(dy);
                for ((dx, y), dy) in dx.iter_mut().zip(y).zip(dy) {
                    *dx = (*dy - y.exp::<FMA>() * sum) * scale;
                }
            }
        }
    }
}

/// What a cross-entropy gives per row, and keeps for its gradient; `[rows]` each.
#[derive(Debug)]
pub struct Losses<'a, T> {
    /// The loss.
    pub loss: &'a mut [T],
    /// The row's largest logit.
    pub max: &'a mut [T],
    /// What the gradient multiplies exp((x - max) / t) by: `sum targets / sum exp((x - max) / t)`.
    pub share: &'a mut [T],
}

/// `loss[r] = sum_k targets[r, k] (lse[r] - x[r, k] / t)`: cross-entropy with targets `[rows, width]`
/// that need not sum to 1.
///
/// For the gradient it keeps the largest logit and not lse, which a low temperature makes so large
/// that its rounding would be seen in every probability.
///
/// # Panics
/// When the lengths don't fit together.
pub fn soft_cross_entropy<T: Float>(
    x: Logits<'_, T>,
    targets: &[T],
    Losses { loss, max, share }: Losses<'_, T>,
) {
    assert_eq!(x.data.len(), targets.len(), "targets have the shape of the logits");
    assert_eq!(x.data.len(), x.width * loss.len(), "one loss per row");
    let rows = threads::rows_per_task(x.width);
    threads::chunks3((loss, rows), (max, rows), (share, rows), |i, loss, max, share| {
        let (start, len) = (i * rows * x.width, loss.len() * x.width);
        let targets = &targets[start..][..len];
        let losses = Losses { loss, max, share };
        dispatch(SoftForward { x: x.part(start, len), targets, losses });
    });
}

struct SoftForward<'a, T> {
    x: Logits<'a, T>,
    targets: &'a [T],
    losses: Losses<'a, T>,
}

impl<T: Float> Kernel for SoftForward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let scale = T::ONE / self.x.temperature;
        let Losses { loss, max, share } = self.losses;
        let rows = self.x.rows().zip(self.targets.chunks_exact(self.x.width.max(1)));
        for (i, (x, targets)) in rows.enumerate() {
            let largest = lanes::max(x);
            let sum = sum_exp::<T, FMA>(x, largest, scale);
            // Distances from the largest logit: no large numbers that cancel.
            let below = lanes::sum_of_two(x, targets, |x, t| t * (largest - x));
            let mass = lanes::sum(targets);
            max[i] = largest;
            share[i] = mass / sum;
            loss[i] = below * scale + mass * sum.ln();
        }
    }
}

/// What the gradient of a cross-entropy reads per row; `[rows]` each.
#[derive(Clone, Copy, Debug)]
pub struct LossGradient<'a, T> {
    /// The gradient of the row's loss.
    pub dloss: &'a [T],
    /// The saved largest logits.
    pub max: &'a [T],
    /// The saved shares.
    pub share: &'a [T],
}

/// The gradient of [`soft_cross_entropy`] to the logits:
/// `dx = dloss (mass softmax(x / t) - targets) / t`.
///
/// # Panics
/// When the lengths don't fit together.
pub fn soft_cross_entropy_backward<T: Float>(
    x: Logits<'_, T>,
    targets: &[T],
    gradient: LossGradient<'_, T>,
    dx: &mut [T],
) {
    assert_eq!(x.data.len(), dx.len(), "the gradient has the length of the logits");
    assert_eq!(x.data.len(), targets.len(), "targets have the shape of the logits");
    let chunk = x.chunk();
    if dx.is_empty() {
        return;
    }
    threads::chunks(dx, chunk, |i, dx| {
        let first = i * chunk / x.width;
        let LossGradient { dloss, max, share } = gradient;
        let gradient =
            LossGradient { dloss: &dloss[first..], max: &max[first..], share: &share[first..] };
        let targets = &targets[i * chunk..][..dx.len()];
        dispatch(SoftBackward { x: x.part(i * chunk, dx.len()), targets, gradient, dx });
    });
}

struct SoftBackward<'a, T> {
    x: Logits<'a, T>,
    targets: &'a [T],
    gradient: LossGradient<'a, T>,
    dx: &'a mut [T],
}

impl<T: Float> Kernel for SoftBackward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let scale = T::ONE / self.x.temperature;
        let width = self.x.width;
        let rows = self.x.rows().zip(self.targets.chunks_exact(width));
        for (i, ((x, targets), dx)) in rows.zip(self.dx.chunks_exact_mut(width)).enumerate() {
            let LossGradient { dloss, max, share } = self.gradient;
            let (factor, max, share) = (dloss[i] * scale, max[i], share[i]);
            for ((dx, x), t) in dx.iter_mut().zip(x).zip(targets) {
                let e = ((*x - max) * scale).exp::<FMA>();
                *dx = factor * share.fma::<FMA>(e, -*t);
            }
        }
    }
}

/// `loss[r] = lse[r] - x[r, targets[r]] / t`: cross-entropy with one class per row. It keeps for the
/// gradient what [`soft_cross_entropy`] keeps, for the same reason.
///
/// # Panics
/// When the lengths don't fit together or a target isn't below `width`.
pub fn cross_entropy<T: Float>(
    x: Logits<'_, T>,
    targets: &[u32],
    Losses { loss, max, share }: Losses<'_, T>,
) {
    assert_eq!(targets.len(), loss.len(), "one target and one loss per row");
    assert_eq!(x.data.len(), x.width * loss.len(), "one loss per row");
    let rows = threads::rows_per_task(x.width);
    threads::chunks3((loss, rows), (max, rows), (share, rows), |i, loss, max, share| {
        let x = x.part(i * rows * x.width, loss.len() * x.width);
        let targets = &targets[i * rows..][..loss.len()];
        dispatch(HardForward { x, targets, losses: Losses { loss, max, share } });
    });
}

struct HardForward<'a, T> {
    x: Logits<'a, T>,
    targets: &'a [u32],
    losses: Losses<'a, T>,
}

impl<T: Float> Kernel for HardForward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let scale = T::ONE / self.x.temperature;
        let Losses { loss, max, share } = self.losses;
        for (i, (x, target)) in self.x.rows().zip(self.targets).enumerate() {
            let largest = lanes::max(x);
            let sum = sum_exp::<T, FMA>(x, largest, scale);
            max[i] = largest;
            share[i] = T::ONE / sum;
            loss[i] = (largest - x[*target as usize]) * scale + sum.ln();
        }
    }
}

/// The gradient of [`cross_entropy`] to the logits:
/// `dx = dloss (softmax(x / t) - one_hot(target)) / t`.
///
/// # Panics
/// When the lengths don't fit together or a target isn't below `width`.
pub fn cross_entropy_backward<T: Float>(
    x: Logits<'_, T>,
    targets: &[u32],
    gradient: LossGradient<'_, T>,
    dx: &mut [T],
) {
    assert_eq!(x.data.len(), dx.len(), "the gradient has the length of the logits");
    assert_eq!(x.data.len(), x.width * targets.len(), "one target per row");
    let chunk = x.chunk();
    if dx.is_empty() {
        return;
    }
    threads::chunks(dx, chunk, |i, dx| {
        let (first, count) = (i * chunk / x.width, dx.len() / x.width);
        let LossGradient { dloss, max, share } = gradient;
        let gradient =
            LossGradient { dloss: &dloss[first..], max: &max[first..], share: &share[first..] };
        let targets = &targets[first..][..count];
        dispatch(HardBackward { x: x.part(i * chunk, dx.len()), targets, gradient, dx });
    });
}

struct HardBackward<'a, T> {
    x: Logits<'a, T>,
    targets: &'a [u32],
    gradient: LossGradient<'a, T>,
    dx: &'a mut [T],
}

impl<T: Float> Kernel for HardBackward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let scale = T::ONE / self.x.temperature;
        let width = self.x.width;
        let rows = self.x.rows().zip(self.targets);
        for (i, ((x, target), dx)) in rows.zip(self.dx.chunks_exact_mut(width)).enumerate() {
            let LossGradient { dloss, max, share } = self.gradient;
            let (factor, max) = (dloss[i] * scale, max[i]);
            for (dx, x) in dx.iter_mut().zip(x) {
                *dx = factor * (share[i] * ((*x - max) * scale).exp::<FMA>());
            }
            dx[*target as usize] -= factor;
        }
    }
}

#[cfg(test)]
#[path = "softmax_tests.rs"]
mod tests;
