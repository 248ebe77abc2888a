//! Batch norm of rows `[R, C]`, each column over all rows, with what stands behind it in a network: an
//! addition and max(x, 0), done while the row is in the cache.

use std::mem::MaybeUninit;

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
    let body = |(): &mut (), i: usize, y: &mut [MaybeUninit<T>]| {
        let at = i * piece..i * piece + y.len();
        let residual = after.residual.map(|residual| &residual[at.clone()]);
        let affine = Affine { mean: norm.mean, scale: &scale, bias };
        dispatch(Apply { x: &x[at], affine, residual, relu: after.relu, y });
    };
    // SAFETY: `Apply` writes every element of its rows, and pieces are whole rows.
    unsafe { threads::filled((x.len(), piece), || (), body) }
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
    y: &'a mut [MaybeUninit<T>],
}

impl<T: Float> Kernel for Apply<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { x, affine, residual, relu, y } = self;
        let columns = affine.mean.len();
        // NaN stays NaN.
        let last = |y: T| if relu && y < T::ZERO { T::ZERO } else { y };
        for (i, (x, y)) in x.chunks_exact(columns).zip(y.chunks_exact_mut(columns)).enumerate() {
            let Affine { mean, scale, bias } = affine;
            let affine = mean.iter().zip(scale).zip(bias);
            match residual {
                Some(residual) => {
                    let residual = &residual[i * columns..][..columns];
                    for (((x, r), y), ((mean, scale), bias)) in
                        x.iter().zip(residual).zip(y).zip(affine)
                    {
                        y.write(last((*x - *mean).fma::<FMA>(*scale, *bias) + *r));
                    }
                }
                None => {
                    for ((x, y), ((mean, scale), bias)) in x.iter().zip(y).zip(affine) {
                        y.write(last((*x - *mean).fma::<FMA>(*scale, *bias)));
                    }
                }
            }
        }
    }
}

/// Where a gradient passes.
#[derive(Clone, Copy, Debug)]
pub enum Gate<'a, T> {
    /// Everywhere.
    Open,
    /// Where this output, `[R, C]`, is above 0: max(x, 0) stands behind the norm and what was added to it.
    Output(&'a [T]),
    /// Where the norm with these weights and biases is above 0: max(x, 0) stands right behind it. It costs less to
    /// take the norm again than to read what it gave.
    Norm(Option<&'a [T]>, Option<&'a [T]>),
}

/// What the way back through a batch norm reads.
#[derive(Clone, Copy, Debug)]
pub struct Backward<'a, T> {
    /// The input, `[R, C]`.
    pub x: &'a [T],
    /// Where the gradient of the output passes.
    pub gate: Gate<'a, T>,
    /// Means of the columns.
    pub mean: &'a [T],
    /// 1 / sqrt(var + eps).
    pub rstd: &'a [T],
}

impl<T: Float> Backward<'_, T> {
    fn piece(self, at: std::ops::Range<usize>) -> Self {
        let gate = match self.gate {
            Gate::Output(y) => Gate::Output(&y[at.clone()]),
            other => other,
        };
        Self { x: &self.x[at], gate, ..self }
    }

    /// What [`Gate::Norm`] multiplies by and adds, with zeros for all other gates.
    fn affine(self) -> (Vec<T>, Vec<T>) {
        let zeros = || vec![T::ZERO; self.mean.len()];
        let Gate::Norm(weight, bias) = self.gate else { return (zeros(), zeros()) };
        let norm = Norm { mean: self.mean, rstd: self.rstd, weight, bias };
        (norm.scale(), bias.map_or_else(zeros, <[T]>::to_vec))
    }
}

/// Sums over all rows of g and of g (x - mean) rstd, where g is what passes of the gradient `dy`: the gradients to
/// bias and weight. Where an output is the gate, `dy` becomes g.
///
/// # Panics
/// When a slice is of another size.
pub fn sums<T: Float>(back: Backward<'_, T>, dy: &mut [T]) -> (Vec<T>, Vec<T>) {
    let columns = back.mean.len();
    let (mut bias, mut weight) = (vec![T::ZERO; columns], vec![T::ZERO; columns]);
    assert_eq!(back.x.len(), dy.len(), "a gradient of a batch norm");
    if dy.is_empty() {
        return (bias, weight);
    }
    let (scale, shift) = back.affine();
    let affine = Affine { mean: back.mean, scale: &scale, bias: &shift };
    let part = rows_per_partial_sum(dy.len() / columns, columns) * columns;
    let mut parts = vec![T::ZERO; dy.len().div_ceil(part) * 2 * columns];
    threads::chunks2((dy, part), (&mut parts, 2 * columns), |i, dy, part_of| {
        let back = back.piece(i * part..i * part + dy.len());
        let (bias, weight) = part_of.split_at_mut(columns);
        dispatch(Sums { back, affine, dy, bias, weight });
    });
    for part in parts.chunks_exact(2 * columns) {
        bias.iter_mut().zip(&part[..columns]).for_each(|(sum, x)| *sum += *x);
        weight.iter_mut().zip(&part[columns..]).for_each(|(sum, x)| *sum += *x);
    }
    (bias, weight)
}

/// What of a gradient passes max(x, 0) where that gave `y`.
#[inline(always)]
fn passes<T: Float>(y: T, dy: T) -> T {
    if y > T::ZERO { dy } else { T::ZERO }
}

struct Sums<'a, T> {
    back: Backward<'a, T>,
    affine: Affine<'a, T>,
    dy: &'a mut [T],
    bias: &'a mut [T],
    weight: &'a mut [T],
}

impl<T: Float> Kernel for Sums<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { back: Backward { x, gate, rstd, .. }, affine, dy, bias, weight } = self;
        let Affine { mean, scale, bias: shift } = affine;
        let columns = mean.len();
        for (i, (x, dy)) in x.chunks_exact(columns).zip(dy.chunks_exact_mut(columns)).enumerate() {
            let places = bias.iter_mut().zip(&mut *weight).zip(mean);
            match gate {
                Gate::Open => {
                    for ((x, dy), ((bias, weight), mean)) in x.iter().zip(dy).zip(places) {
                        *bias += *dy;
                        *weight = dy.fma::<FMA>(*x - *mean, *weight);
                    }
                }
                Gate::Output(y) => {
                    let y = &y[i * columns..][..columns];
                    for (((x, y), dy), ((bias, weight), mean)) in
                        x.iter().zip(y).zip(dy).zip(places)
                    {
                        *dy = passes(*y, *dy);
                        *bias += *dy;
                        *weight = dy.fma::<FMA>(*x - *mean, *weight);
                    }
                }
                Gate::Norm(..) => {
                    let places = places.zip(scale).zip(shift);
                    for ((x, dy), ((((bias, weight), mean), scale), shift)) in
                        x.iter().zip(dy).zip(places)
                    {
                        let away = *x - *mean;
                        let g = passes(away.fma::<FMA>(*scale, *shift), *dy);
                        *bias += g;
                        *weight = g.fma::<FMA>(away, *weight);
                    }
                }
            }
        }
        weight.iter_mut().zip(rstd).for_each(|(weight, rstd)| *weight *= *rstd);
    }
}

/// The gradient to x in the place of `dy`: rstd w (g - `bias` - (x - mean) rstd `weight`), where `bias` and `weight`
/// are the means over all rows of what [`sums`] adds up, or 0 where the statistics were given. An output as the
/// gate counts as open, since [`sums`] left g in its place.
///
/// # Panics
/// When a slice is of another size.
pub fn grad_input<T: Float>(
    back: Backward<'_, T>,
    w: Option<&[T]>,
    sums: (&[T], &[T]),
    dy: &mut [T],
) {
    assert_eq!(back.x.len(), dy.len(), "a gradient of a batch norm");
    let columns = back.mean.len();
    let piece = rows_per_task(columns) * columns;
    let constants = Constants::new(back, w, sums);
    threads::chunks(dy, piece, |i, dx| constants.apply(&back.x[i * piece..][..dx.len()], dx));
}

/// As [`grad_input`], from g, which somebody else wants too.
///
/// # Panics
/// When a slice is of another size.
pub fn grad_input_apart<T: Float>(
    back: Backward<'_, T>,
    w: Option<&[T]>,
    sums: (&[T], &[T]),
    g: &[T],
) -> Vec<T> {
    assert_eq!(back.x.len(), g.len(), "a gradient of a batch norm");
    let columns = back.mean.len();
    let piece = rows_per_task(columns) * columns;
    let constants = Constants::new(back, w, sums);
    let body = |(): &mut (), i: usize, room: &mut [MaybeUninit<T>]| {
        let at = i * piece..i * piece + room.len();
        let dx = room.write_copy_of_slice(&g[at.clone()]);
        constants.apply(&back.x[at], dx);
    };
    // SAFETY: the copy writes all of the piece.
    unsafe { threads::filled((g.len(), piece), || (), body) }
}

/// What the gradient to x takes per column.
struct Constants<'a, T> {
    mean: &'a [T],
    /// What multiplies at the end.
    scale: Vec<T>,
    bias: &'a [T],
    slope: Vec<T>,
    /// What [`Gate::Norm`] multiplies by and adds.
    gate: Option<(Vec<T>, Vec<T>)>,
}

impl<'a, T: Float> Constants<'a, T> {
    fn new(back: Backward<'a, T>, weight: Option<&[T]>, (bias, slope): (&'a [T], &[T])) -> Self {
        let Backward { mean, rstd, gate, .. } = back;
        let scale = Norm { mean, rstd, weight, bias: None }.scale();
        let slope = rstd.iter().zip(slope).map(|(rstd, slope)| *rstd * *slope).collect();
        let gate = matches!(gate, Gate::Norm(..)).then(|| back.affine());
        Self { mean, scale, bias, slope, gate }
    }

    fn apply(&self, x: &[T], dx: &mut [T]) {
        dispatch(GradInput { x, constants: self, dx });
    }
}

struct GradInput<'a, T> {
    x: &'a [T],
    constants: &'a Constants<'a, T>,
    /// The gradient, and then that to x.
    dx: &'a mut [T],
}

impl<T: Float> Kernel for GradInput<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { x, constants: Constants { mean, scale, bias, slope, gate }, dx } = self;
        let columns = mean.len();
        for (x, dx) in x.chunks_exact(columns).zip(dx.chunks_exact_mut(columns)) {
            let places = mean.iter().zip(scale).zip(*bias).zip(slope);
            match gate {
                Some((gate, shift)) => {
                    let places = places.zip(gate).zip(shift);
                    for ((dx, x), (((((mean, scale), bias), slope), gate), shift)) in
                        dx.iter_mut().zip(x).zip(places)
                    {
                        let away = *x - *mean;
                        let g = passes(away.fma::<FMA>(*gate, *shift), *dx);
                        *dx = (g - *bias - away * *slope) * *scale;
                    }
                }
                None => {
                    for ((dx, x), (((mean, scale), bias), slope)) in
                        dx.iter_mut().zip(x).zip(places)
                    {
                        *dx = (*dx - *bias - (*x - *mean) * *slope) * *scale;
                    }
                }
            }
        }
    }
}
