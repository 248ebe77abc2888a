//! Batch norm of rows `[R, C]`, each column over all rows, with what stands behind it in a network: an
//! addition and max(x, 0), done while the row is in the cache.

use super::Float;
use super::dispatch::{Kernel, dispatch};
use super::threads::{self, rows_per_partial_sum, rows_per_task};

/// Numbers whose mean and spread are taken at a time: 32 KiB of f32, so that they stay in L1.
const BLOCK: usize = 8 * 1024;

/// Means and mean squared distances of the columns of `x` `[R, C]`. Blocks that lie in the cache are gone
/// through twice, and put together by Chan's formula, so that a large mean costs no digits.
///
/// # Panics
/// When `x` is no whole number of rows.
pub fn moments<T: Float>(x: &[T], columns: usize) -> (Vec<T>, Vec<T>) {
    let (mut mean, mut var) = (vec![T::ZERO; columns], vec![T::ZERO; columns]);
    let rows = x.len() / columns.max(1);
    assert_eq!(rows * columns, x.len(), "rows of a batch norm");
    if x.is_empty() {
        return (mean, var);
    }
    let part = rows_per_partial_sum(rows, columns);
    let mut parts = vec![T::ZERO; rows.div_ceil(part) * 2 * columns];
    threads::chunks(&mut parts, 2 * columns, |first, parts| {
        for (i, part_of) in (first..).zip(parts.chunks_exact_mut(2 * columns)) {
            let x = &x[i * part * columns..((i + 1) * part * columns).min(x.len())];
            let (mean, spread) = part_of.split_at_mut(columns);
            let mut block = vec![T::ZERO; 2 * columns];
            dispatch(Moments { x, columns, mean, spread, block: &mut block });
        }
    });
    let mut seen = 0;
    for (i, part_of) in parts.chunks_exact(2 * columns).enumerate() {
        let count = part.min(rows - i * part);
        let (other, spread) = part_of.split_at(columns);
        merge((&mut mean, &mut var, seen), (other, spread, count));
        seen += count;
    }
    var.iter_mut().for_each(|var| *var = *var / T::from_usize(rows));
    (mean, var)
}

/// Puts the moments of `count` more rows to those of `seen`: means and sums of squared distances.
#[inline(always)]
fn merge<T: Float>(
    (mean, spread, seen): (&mut [T], &mut [T], usize),
    (other, more, count): (&[T], &[T], usize),
) {
    let share = T::from_f64(count as f64 / (seen + count) as f64);
    let weight = T::from_f64(seen as f64 * count as f64 / (seen + count) as f64);
    for (((mean, spread), other), more) in mean.iter_mut().zip(spread).zip(other).zip(more) {
        let away = *other - *mean;
        *mean += away * share;
        *spread += *more + away * away * weight;
    }
}

struct Moments<'a, T> {
    x: &'a [T],
    columns: usize,
    mean: &'a mut [T],
    spread: &'a mut [T],
    block: &'a mut [T],
}

impl<T: Float> Kernel for Moments<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { x, columns, mean, spread, block } = self;
        let rows = (BLOCK / columns).max(1);
        let mut seen = 0;
        for x in x.chunks(rows * columns) {
            let count = x.len() / columns;
            block.fill(T::ZERO);
            let (middle, away) = block.split_at_mut(columns);
            for row in x.chunks_exact(columns) {
                middle.iter_mut().zip(row).for_each(|(sum, x)| *sum += *x);
            }
            let share = T::ONE / T::from_usize(count);
            middle.iter_mut().for_each(|sum| *sum *= share);
            for row in x.chunks_exact(columns) {
                for ((sum, middle), x) in away.iter_mut().zip(&*middle).zip(row) {
                    let distance = *x - *middle;
                    *sum = distance.fma::<FMA>(distance, *sum);
                }
            }
            merge((mean, spread, seen), (middle, away, count));
            seen += count;
        }
    }
}

/// What a batch norm multiplies by and adds, per column.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a, T> {
    /// Means.
    pub mean: &'a [T],
    /// 1 / sqrt(var + eps).
    pub rstd: &'a [T],
    /// Weights; 1 where there are none.
    pub weight: Option<&'a [T]>,
    /// Biases; 0 where there are none.
    pub bias: Option<&'a [T]>,
}

impl<T: Float> Norm<'_, T> {
    /// rstd weight, per column.
    fn scale(&self) -> Vec<T> {
        let weight = |c: usize| self.weight.map_or(T::ONE, |weight| weight[c]);
        self.rstd.iter().enumerate().map(|(c, rstd)| *rstd * weight(c)).collect()
    }
}

/// What stands behind a batch norm.
#[derive(Clone, Copy, Debug)]
pub struct After<'a, T> {
    /// What is added, `[R, C]`.
    pub residual: Option<&'a [T]>,
    /// Whether max(x, 0) is taken at the end.
    pub relu: bool,
}

/// `(x - mean) rstd weight + bias`, then what stands behind it.
///
/// # Panics
/// When a slice is of another size.
pub fn forward<T: Float>(x: &[T], norm: Norm<'_, T>, after: After<'_, T>) -> Vec<T> {
    let columns = norm.mean.len();
    assert!(columns == 0 || x.len().is_multiple_of(columns), "rows of a batch norm");
    let (scale, zeros) = (norm.scale(), vec![T::ZERO; columns]);
    let bias = norm.bias.unwrap_or(&zeros);
    let piece = rows_per_task(columns) * columns;
    threads::made(
        (x.len(), piece),
        || (),
        |(), i, y: &mut [T]| {
            let at = i * piece..i * piece + y.len();
            let residual = after.residual.map(|residual| &residual[at.clone()]);
            let affine = Affine { mean: norm.mean, scale: &scale, bias };
            dispatch(Apply { x: &x[at], affine, residual, relu: after.relu, y });
        },
    )
}

#[derive(Clone, Copy)]
struct Affine<'a, T> {
    mean: &'a [T],
    scale: &'a [T],
    bias: &'a [T],
}

struct Apply<'a, T> {
    x: &'a [T],
    affine: Affine<'a, T>,
    residual: Option<&'a [T]>,
    relu: bool,
    y: &'a mut [T],
}

impl<T: Float> Kernel for Apply<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { x, affine: Affine { mean, scale, bias }, residual, relu, y } = self;
        let columns = mean.len();
        for (i, (x, y)) in x.chunks_exact(columns).zip(y.chunks_exact_mut(columns)).enumerate() {
            let affine = mean.iter().zip(scale).zip(bias);
            for ((x, y), ((mean, scale), bias)) in x.iter().zip(&mut *y).zip(affine) {
                *y = (*x - *mean).fma::<FMA>(*scale, *bias);
            }
            if let Some(residual) = residual {
                let residual = &residual[i * columns..][..columns];
                y.iter_mut().zip(residual).for_each(|(y, r)| *y += *r);
            }
            if relu {
                // NaN stays NaN.
                y.iter_mut().for_each(|y| *y = if *y < T::ZERO { T::ZERO } else { *y });
            }
        }
    }
}

/// What the way back through a batch norm reads.
#[derive(Clone, Copy, Debug)]
pub struct Backward<'a, T> {
    /// The input, `[R, C]`.
    pub x: &'a [T],
    /// The output, where max(x, 0) stands behind the norm: the gradient passes where it is above 0.
    pub y: Option<&'a [T]>,
    /// The gradient of the output.
    pub dy: &'a [T],
    /// Means of the columns.
    pub mean: &'a [T],
    /// 1 / sqrt(var + eps).
    pub rstd: &'a [T],
}

/// Sums over all rows of g and of g (x - mean) rstd, where g is the gradient that passes: the gradients to
/// bias and weight.
///
/// # Panics
/// When a slice is of another size.
pub fn sums<T: Float>(back: Backward<'_, T>) -> (Vec<T>, Vec<T>) {
    let columns = back.mean.len();
    let (mut bias, mut weight) = (vec![T::ZERO; columns], vec![T::ZERO; columns]);
    if back.x.is_empty() {
        return (bias, weight);
    }
    let part = rows_per_partial_sum(back.x.len() / columns, columns) * columns;
    let mut parts = vec![T::ZERO; back.x.len().div_ceil(part) * 2 * columns];
    threads::chunks(&mut parts, 2 * columns, |first, parts| {
        for (i, part_of) in (first..).zip(parts.chunks_exact_mut(2 * columns)) {
            let back = back.piece(i * part..((i + 1) * part).min(back.x.len()));
            let (bias, weight) = part_of.split_at_mut(columns);
            dispatch(Sums { back, bias, weight });
        }
    });
    for part in parts.chunks_exact(2 * columns) {
        bias.iter_mut().zip(&part[..columns]).for_each(|(sum, x)| *sum += *x);
        weight.iter_mut().zip(&part[columns..]).for_each(|(sum, x)| *sum += *x);
    }
    (bias, weight)
}

impl<T> Backward<'_, T> {
    fn piece(self, at: std::ops::Range<usize>) -> Self {
        Self { x: &self.x[at.clone()], y: self.y.map(|y| &y[at.clone()]), dy: &self.dy[at], ..self }
    }
}

/// What of a gradient passes max(x, 0) where that gave `y`.
#[inline(always)]
fn passes<T: Float>(y: T, dy: T) -> T {
    if y > T::ZERO { dy } else { T::ZERO }
}

struct Sums<'a, T> {
    back: Backward<'a, T>,
    bias: &'a mut [T],
    weight: &'a mut [T],
}

impl<T: Float> Kernel for Sums<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { back: Backward { x, y, dy, mean, rstd }, bias, weight } = self;
        let columns = mean.len();
        for (i, (x, dy)) in x.chunks_exact(columns).zip(dy.chunks_exact(columns)).enumerate() {
            let places = bias.iter_mut().zip(&mut *weight).zip(mean);
            match y.map(|y| &y[i * columns..][..columns]) {
                Some(y) => {
                    for (((x, y), dy), ((bias, weight), mean)) in
                        x.iter().zip(y).zip(dy).zip(places)
                    {
                        let g = passes(*y, *dy);
                        *bias += g;
                        *weight = g.fma::<FMA>(*x - *mean, *weight);
                    }
                }
                None => {
                    for ((x, dy), ((bias, weight), mean)) in x.iter().zip(dy).zip(places) {
                        *bias += *dy;
                        *weight = dy.fma::<FMA>(*x - *mean, *weight);
                    }
                }
            }
        }
        weight.iter_mut().zip(rstd).for_each(|(weight, rstd)| *weight *= *rstd);
    }
}

/// The gradient to x: rstd w (g - `bias` - (x - mean) rstd `weight`), where `bias` and `weight` are the
/// means over all rows of what [`sums`] adds up, or 0 where the statistics were given; and, where
/// `residual`, the gradient g that passes to what was added.
///
/// # Panics
/// When a slice is of another size.
pub fn grad_input<T: Float>(
    back: Backward<'_, T>,
    w: Option<&[T]>,
    (bias, weight): (&[T], &[T]),
    residual: bool,
) -> (Vec<T>, Option<Vec<T>>) {
    let columns = back.mean.len();
    let one = |c: usize| w.map_or(T::ONE, |w| w[c]);
    let scale: Vec<T> = (0..columns).map(|c| back.rstd[c] * one(c)).collect();
    let slope: Vec<T> = (0..columns).map(|c| back.rstd[c] * weight[c]).collect();
    let piece = rows_per_task(columns) * columns;
    let at = |i: usize, len: usize| back.piece(i * piece..i * piece + len);
    let constants = Constants { scale: &scale, bias, slope: &slope };
    if !residual {
        let dx = threads::made(
            (back.x.len(), piece),
            || (),
            |(), i, dx: &mut [T]| {
                dispatch(GradInput { back: at(i, dx.len()), constants, dx, passed: None });
            },
        );
        return (dx, None);
    }
    let mut passed = threads::zeros(back.x.len());
    let mut dx = threads::zeros(back.x.len());
    threads::chunks2((&mut dx, piece), (&mut passed, piece), |i, dx, passed| {
        dispatch(GradInput { back: at(i, dx.len()), constants, dx, passed: Some(passed) });
    });
    (dx, Some(passed))
}

#[derive(Clone, Copy)]
struct Constants<'a, T> {
    scale: &'a [T],
    bias: &'a [T],
    slope: &'a [T],
}

struct GradInput<'a, T> {
    back: Backward<'a, T>,
    constants: Constants<'a, T>,
    dx: &'a mut [T],
    passed: Option<&'a mut [T]>,
}

impl<T: Float> Kernel for GradInput<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { back: Backward { x, y, dy, mean, .. }, constants, dx, mut passed } = self;
        let columns = mean.len();
        for (i, dx) in dx.chunks_exact_mut(columns).enumerate() {
            let at = i * columns..(i + 1) * columns;
            let (x, dy) = (&x[at.clone()], &dy[at.clone()]);
            // What passes is made in dx first.
            match y.map(|y| &y[at.clone()]) {
                Some(y) => {
                    for ((dx, y), dy) in dx.iter_mut().zip(y).zip(dy) {
                        *dx = passes(*y, *dy);
                    }
                }
                None => dx.copy_from_slice(dy),
            }
            if let Some(passed) = &mut passed {
                passed[at].copy_from_slice(dx);
            }
            let Constants { scale, bias, slope } = constants;
            let columns = mean.iter().zip(scale).zip(bias).zip(slope);
            for ((dx, x), (((mean, scale), bias), slope)) in dx.iter_mut().zip(x).zip(columns) {
                *dx = (*dx - *bias - (*x - *mean) * *slope) * *scale;
            }
        }
    }
}
