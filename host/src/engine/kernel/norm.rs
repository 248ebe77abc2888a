//! Layer norm and rms norm over the last dimension, forward and backward.

use super::dispatch::{Kernel, dispatch};
use super::{Float, lanes, threads};

/// What a normalised vector is multiplied by and what is added to it, `[D]` each.
#[derive(Clone, Copy, Debug)]
pub struct Affine<'a, T> {
    /// The factors; 1 where left out.
    pub weight: Option<&'a [T]>,
    /// The summands; 0 where left out.
    pub bias: Option<&'a [T]>,
}

/// What the forward pass keeps per row for the backward pass.
#[derive(Debug)]
pub struct Saved<'a, T> {
    /// The mean, `[rows]`.
    pub mean: &'a mut [T],
    /// 1 / sqrt(var + eps), `[rows]`.
    pub rstd: &'a mut [T],
}

/// `y = (x - mean) / sqrt(var + eps) weight + bias` per row of x `[rows, D]`, where var is the mean
/// squared distance from the mean; rows = `mean.len()`.
///
/// # Panics
/// When the lengths don't fit together.
pub fn layer_norm<T: Float>(
    x: &[T],
    affine: Affine<'_, T>,
    eps: T,
    y: &mut [T],
    Saved { mean, rstd }: Saved<'_, T>,
) {
    let Some(width) = row_width(x.len(), mean.len()) else { return };
    assert_eq!(x.len(), y.len(), "the result of a norm has the length of its input");
    assert_eq!(mean.len(), rstd.len(), "mean and rstd have one number per row");
    let weight = or_fill(affine.weight, width, T::ONE);
    let bias = or_fill(affine.bias, width, T::ZERO);
    let rows = threads::rows_per_task(width);
    let chunk = rows * width;
    threads::chunks3((y, chunk), (mean, rows), (rstd, rows), |i, y, mean, rstd| {
        let x = &x[i * chunk..][..y.len()];
        dispatch(Forward { x, weight: &weight, bias: &bias, eps, y, mean, rstd });
    });
}

/// The length of a row; `None` where there is nothing to do.
fn row_width(len: usize, rows: usize) -> Option<usize> {
    if len == 0 {
        return None;
    }
    assert!(rows > 0 && len.is_multiple_of(rows), "{len} numbers don't make {rows} rows");
    Some(len / rows)
}

/// `given`, or a vector of `fill`.
fn or_fill<T: Float>(given: Option<&[T]>, width: usize, fill: T) -> std::borrow::Cow<'_, [T]> {
    match given {
        Some(given) => {
            assert_eq!(given.len(), width, "a norm's weight and bias have the length of a row");
            given.into()
        }
        None => vec![fill; width].into(),
    }
}

struct Forward<'a, T> {
    x: &'a [T],
    weight: &'a [T],
    bias: &'a [T],
    eps: T,
    y: &'a mut [T],
    mean: &'a mut [T],
    rstd: &'a mut [T],
}

impl<T: Float> Kernel for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let width = self.weight.len();
        let scale = T::ONE / T::from_usize(width);
        let rows = self.x.chunks_exact(width).zip(self.y.chunks_exact_mut(width));
        for ((x, y), (mean, rstd)) in rows.zip(self.mean.iter_mut().zip(self.rstd.iter_mut())) {
            let m = lanes::sum(x) * scale;
            let var = lanes::sum_of(x, |x| (x - m) * (x - m)) * scale;
            let r = T::ONE / (var + self.eps).sqrt();
            (*mean, *rstd) = (m, r);
            for ((y, x), (w, b)) in y.iter_mut().zip(x).zip(self.weight.iter().zip(self.bias)) {
                *y = ((*x - m) * r).fma::<FMA>(*w, *b);
            }
        }
    }
}

/// `(x - mean) rstd weight + bias` per row, on the calling thread.
pub(super) fn normalize_rows<T: Float>(
    x: &[T],
    (mean, rstd): (&[T], &[T]),
    (weight, bias): (&[T], &[T]),
    y: &mut [T],
) {
    dispatch(Normalize { x, mean, rstd, weight, bias, y });
}

struct Normalize<'a, T> {
    x: &'a [T],
    mean: &'a [T],
    rstd: &'a [T],
    weight: &'a [T],
    bias: &'a [T],
    y: &'a mut [T],
}

impl<T: Float> Kernel for Normalize<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let width = self.weight.len();
        let rows = self.x.chunks_exact(width).zip(self.y.chunks_exact_mut(width));
        for ((x, y), (m, r)) in rows.zip(self.mean.iter().zip(self.rstd)) {
            for ((y, x), (w, b)) in y.iter_mut().zip(x).zip(self.weight.iter().zip(self.bias)) {
                *y = ((*x - *m) * *r).fma::<FMA>(*w, *b);
            }
        }
    }
}

/// Mean and 1 / sqrt(var + eps) of each row of x `[rows, width]`.
pub fn statistics<T: Float>(x: &[T], width: usize, eps: T) -> (Vec<T>, Vec<T>) {
    let count = x.len() / width.max(1);
    let (mut mean, mut rstd) = (vec![T::ZERO; count], vec![T::ZERO; count]);
    let rows = threads::rows_per_task(width);
    threads::chunks2((&mut mean, rows), (&mut rstd, rows), |i, mean, rstd| {
        let x = &x[i * rows * width..][..mean.len() * width];
        dispatch(Statistics { x, width, eps, mean, rstd });
    });
    (mean, rstd)
}

struct Statistics<'a, T> {
    x: &'a [T],
    width: usize,
    eps: T,
    mean: &'a mut [T],
    rstd: &'a mut [T],
}

impl<T: Float> Kernel for Statistics<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let scale = T::ONE / T::from_usize(self.width.max(1));
        let rows = self.x.chunks_exact(self.width.max(1));
        for (x, (mean, rstd)) in rows.zip(self.mean.iter_mut().zip(self.rstd)) {
            let m = lanes::sum(x) * scale;
            let var = lanes::sum_of(x, |x| (x - m) * (x - m)) * scale;
            (*mean, *rstd) = (m, T::ONE / (var + self.eps).sqrt());
        }
    }
}

/// Turns the gradient of a layer norm's output into that of its input, on the calling thread, and adds
/// to the sums of its weight's and bias' gradients.
pub(super) fn backward_in_place<T: Float>(
    x: &[T],
    (mean, rstd): (&[T], &[T]),
    weight: &[T],
    dy: &mut [T],
    sums: [&mut [T]; 2],
) {
    dispatch(InPlace { x, mean, rstd, weight, dy, sums });
}

struct InPlace<'a, T> {
    x: &'a [T],
    mean: &'a [T],
    rstd: &'a [T],
    weight: &'a [T],
    dy: &'a mut [T],
    sums: [&'a mut [T]; 2],
}

impl<T: Float> Kernel for InPlace<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let width = self.weight.len();
        let scale = T::ONE / T::from_usize(width);
        let [dweight, dbias] = self.sums;
        let mut normed = vec![T::ZERO; width];
        let rows = self.x.chunks_exact(width).zip(self.dy.chunks_exact_mut(width));
        for ((x, dy), (m, r)) in rows.zip(self.mean.iter().zip(self.rstd)) {
            for (n, x) in normed.iter_mut().zip(x) {
                *n = (*x - *m) * *r;
            }
            for ((sum, n), dy) in dweight.iter_mut().zip(&normed).zip(dy.iter()) {
                *sum = n.fma::<FMA>(*dy, *sum);
            }
            for (sum, dy) in dbias.iter_mut().zip(dy.iter()) {
                *sum += *dy;
            }
            let (c1, c2) = means::<T>(&normed, dy, self.weight, true);
            let (c1, c2) = (c1 * scale, c2 * scale);
            for ((dy, n), w) in dy.iter_mut().zip(&normed).zip(self.weight) {
                *dy = ((-*n).fma::<FMA>(c2, *dy * *w) - c1) * *r;
            }
        }
    }
}

/// What the backward pass of a norm reads.
#[derive(Clone, Copy, Debug)]
pub struct Backward<'a, T> {
    /// The input, `[rows, D]`.
    pub x: &'a [T],
    /// The saved means, `[rows]`; `None` for rms norm.
    pub mean: Option<&'a [T]>,
    /// The saved 1 / sqrt(var + eps), `[rows]`.
    pub rstd: &'a [T],
    /// The factors; 1 where left out.
    pub weight: Option<&'a [T]>,
    /// The gradient of the output, `[rows, D]`.
    pub dy: &'a [T],
}

/// The gradients of a norm: dx `[rows, D]`, and the sums `dweight`, `dbias` `[D]`, all replaced.
///
/// With `n = (x - mean) rstd` and `g = dy weight`:
/// `dx = rstd (g - mean(g) - n mean(g n))` (without `mean(g)` in rms norm), `dweight = sum dy n`,
/// `dbias = sum dy`.
///
/// # Panics
/// When the lengths don't fit together.
pub fn norm_backward<T: Float>(
    backward: Backward<'_, T>,
    dx: &mut [T],
    dweight: Option<&mut [T]>,
    dbias: Option<&mut [T]>,
) {
    let Backward { x, mean, rstd, weight, dy } = backward;
    let sums = [dweight, dbias];
    let Some(width) = row_width(x.len(), rstd.len()) else {
        sums.into_iter().flatten().for_each(|sum| sum.fill(T::ZERO));
        return;
    };
    assert_eq!(x.len(), dy.len(), "the gradient has the length of the input");
    assert_eq!(x.len(), dx.len(), "the gradient has the length of the input");
    let weight = or_fill(weight, width, T::ONE);
    let rows = threads::rows_per_partial_sum(rstd.len(), width);
    let chunk = rows * width;
    let mut partials = vec![T::ZERO; rstd.len().div_ceil(rows) * 2 * width];
    threads::chunks2((dx, chunk), (&mut partials, 2 * width), |i, dx, partial| {
        let part = i * chunk..i * chunk + dx.len();
        let first = i * rows;
        let (dweight, dbias) = partial.split_at_mut(width);
        dispatch(Backwards {
            x: &x[part.clone()],
            dy: &dy[part],
            mean: mean.map(|mean| &mean[first..]),
            rstd: &rstd[first..],
            weight: &weight,
            dx,
            sums: [dweight, dbias],
        });
    });
    let mut total = vec![T::ZERO; 2 * width];
    threads::add_partial_sums(&partials, &mut total);
    for (sum, total) in sums.into_iter().zip(total.chunks_exact(width)) {
        if let Some(sum) = sum {
            sum.copy_from_slice(total);
        }
    }
}

struct Backwards<'a, T> {
    x: &'a [T],
    dy: &'a [T],
    mean: Option<&'a [T]>,
    rstd: &'a [T],
    weight: &'a [T],
    dx: &'a mut [T],
    sums: [&'a mut [T]; 2],
}

impl<T: Float> Kernel for Backwards<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let width = self.weight.len();
        let scale = T::ONE / T::from_usize(width);
        let [dweight, dbias] = self.sums;
        let rows = self.x.chunks_exact(width).zip(self.dy.chunks_exact(width));
        for (i, ((x, dy), dx)) in rows.zip(self.dx.chunks_exact_mut(width)).enumerate() {
            let m = self.mean.map_or(T::ZERO, |mean| mean[i]);
            let r = self.rstd[i];
            // dx holds the normalised row until it is overwritten.
            for (n, x) in dx.iter_mut().zip(x) {
                *n = (*x - m) * r;
            }
            for ((sum, n), dy) in dweight.iter_mut().zip(dx.iter()).zip(dy) {
                *sum = n.fma::<FMA>(*dy, *sum);
            }
            for (sum, dy) in dbias.iter_mut().zip(dy) {
                *sum += *dy;
            }
            let (c1, c2) = means::<T>(dx, dy, self.weight, self.mean.is_some());
            let (c1, c2) = (c1 * scale, c2 * scale);
            for ((dx, dy), w) in dx.iter_mut().zip(dy).zip(self.weight) {
                *dx = ((-*dx).fma::<FMA>(c2, *dy * *w) - c1) * r;
            }
        }
    }
}

/// The sums over a row of `dy weight` (0 where the mean isn't taken off) and of `dy weight n`.
#[inline(always)]
fn means<T: Float>(n: &[T], dy: &[T], weight: &[T], centred: bool) -> (T, T) {
    let mut lanes = [[T::ZERO; lanes::LANES]; 2];
    let mut chunk = |n: &[T], dy: &[T], weight: &[T]| {
        let [first, second] = &mut lanes;
        for (i, n) in n.iter().enumerate() {
            let g = dy[i] * weight[i];
            first[i] += g;
            second[i] += g * *n;
        }
    };
    let width = lanes::LANES;
    let rest = n.len() - n.len() % width;
    for start in (0..rest).step_by(width) {
        chunk(&n[start..][..width], &dy[start..][..width], &weight[start..][..width]);
    }
    chunk(&n[rest..], &dy[rest..], &weight[rest..]);
    let sum = if centred { lanes::sum(&lanes[0]) } else { T::ZERO };
    (sum, lanes::sum(&lanes[1]))
}

/// `y = x / sqrt(mean x^2 + eps) weight` per row of x `[rows, D]`; keeps the factor per row in `rstd`.
///
/// # Panics
/// When the lengths don't fit together.
pub fn rms_norm<T: Float>(x: &[T], weight: Option<&[T]>, eps: T, y: &mut [T], rstd: &mut [T]) {
    let Some(width) = row_width(x.len(), rstd.len()) else { return };
    assert_eq!(x.len(), y.len(), "the result of a norm has the length of its input");
    let weight = or_fill(weight, width, T::ONE);
    let rows = threads::rows_per_task(width);
    let chunk = rows * width;
    threads::chunks2((y, chunk), (rstd, rows), |i, y, rstd| {
        let x = &x[i * chunk..][..y.len()];
        dispatch(ForwardRms { x, weight: &weight, eps, y, rstd });
    });
}

struct ForwardRms<'a, T> {
    x: &'a [T],
    weight: &'a [T],
    eps: T,
    y: &'a mut [T],
    rstd: &'a mut [T],
}

impl<T: Float> Kernel for ForwardRms<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let width = self.weight.len();
        let scale = T::ONE / T::from_usize(width);
        let rows = self.x.chunks_exact(width).zip(self.y.chunks_exact_mut(width));
        for ((x, y), rstd) in rows.zip(self.rstd) {
            let r = T::ONE / (lanes::sum_of(x, |x| x * x) * scale + self.eps).sqrt();
            *rstd = r;
            for ((y, x), w) in y.iter_mut().zip(x).zip(self.weight) {
                *y = *x * r * *w;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::kernel::testing::{assert_close, numbers, slope, to};

    const EPS: f64 = 1e-6;

    fn naive(x: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
        let d = weight.len();
        let mut y = Vec::new();
        for row in x.chunks_exact(d) {
            let mean = row.iter().sum::<f64>() / d as f64;
            let var = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / d as f64;
            let r = 1.0 / (var + EPS).sqrt();
            y.extend((0..d).map(|j| (row[j] - mean) * r * weight[j] + bias[j]));
        }
        y
    }

    fn naive_rms(x: &[f64], weight: &[f64]) -> Vec<f64> {
        let d = weight.len();
        let mut y = Vec::new();
        for row in x.chunks_exact(d) {
            let square = row.iter().map(|x| x * x).sum::<f64>() / d as f64;
            y.extend((0..d).map(|j| row[j] / (square + EPS).sqrt() * weight[j]));
        }
        y
    }

    fn check_forward<T: Float>(rows: usize, d: usize, tolerance: f64) {
        let (x, w, b) = (numbers(1, rows * d), numbers(2, d), numbers(3, d));
        let (xt, wt, bt) = (to::<T>(&x), to::<T>(&w), to::<T>(&b));
        let mut y = vec![T::ZERO; rows * d];
        let (mut mean, mut rstd) = (vec![T::ZERO; rows], vec![T::ZERO; rows]);
        let saved = Saved { mean: &mut mean, rstd: &mut rstd };
        let affine = Affine { weight: Some(&wt), bias: Some(&bt) };
        layer_norm(&xt, affine, T::from_f64(EPS), &mut y, saved);
        assert_close(&y, &naive(&x, &w, &b), tolerance);
        rms_norm(&xt, Some(&wt), T::from_f64(EPS), &mut y, &mut rstd);
        assert_close(&y, &naive_rms(&x, &w), tolerance);
    }

    #[test]
    fn norms_agree_with_their_formulas_at_odd_sizes() {
        for (rows, d) in [(1, 1), (3, 1), (1, 5), (7, 33), (300, 65), (5, 768), (0, 4)] {
            check_forward::<f32>(rows, d, 2e-5);
            check_forward::<f64>(rows, d, 1e-11);
        }
    }

    fn check_backward<T: Float>(rows: usize, d: usize, tolerance: f64) {
        let (x, w, b) = (numbers(4, rows * d), numbers(5, d), numbers(6, d));
        let dy = numbers(7, rows * d);
        let (xt, wt, dyt) = (to::<T>(&x), to::<T>(&w), to::<T>(&dy));
        let eps = T::from_f64(EPS);
        let mut y = vec![T::ZERO; rows * d];
        let (mut mean, mut rstd) = (vec![T::ZERO; rows], vec![T::ZERO; rows]);
        let saved = Saved { mean: &mut mean, rstd: &mut rstd };
        layer_norm(&xt, Affine { weight: None, bias: None }, eps, &mut y, saved);
        let (mut dx, mut dw, mut db) = (vec![T::ONE; rows * d], vec![T::ONE; d], vec![T::ONE; d]);
        let read = Backward { x: &xt, mean: Some(&mean), rstd: &rstd, weight: Some(&wt), dy: &dyt };
        norm_backward(read, &mut dx, Some(&mut dw), Some(&mut db));
        assert_close(&dx, &slope(&x, &dy, |x| naive(x, &w, &b)), tolerance);
        assert_close(&dw, &slope(&w, &dy, |w| naive(&x, w, &b)), tolerance);
        assert_close(&db, &slope(&b, &dy, |b| naive(&x, &w, b)), tolerance);
        rms_norm(&xt, None, eps, &mut y, &mut rstd);
        let read = Backward { x: &xt, mean: None, rstd: &rstd, weight: Some(&wt), dy: &dyt };
        norm_backward(read, &mut dx, Some(&mut dw), None);
        assert_close(&dx, &slope(&x, &dy, |x| naive_rms(x, &w)), tolerance);
        assert_close(&dw, &slope(&w, &dy, |w| naive_rms(&x, w)), tolerance);
    }

    #[test]
    fn gradients_of_norms_agree_with_central_differences() {
        for (rows, d) in [(1, 3), (5, 2), (3, 37), (13, 16)] {
            check_backward::<f32>(rows, d, 1e-3);
            check_backward::<f64>(rows, d, 1e-6);
        }
    }

    #[test]
    fn a_constant_row_has_no_spread_and_stays_finite() {
        let (mut y, mut mean, mut rstd) = (vec![0.0_f32; 8], vec![0.0; 1], vec![0.0; 1]);
        let saved = Saved { mean: &mut mean, rstd: &mut rstd };
        layer_norm(&[3.0; 8], Affine { weight: None, bias: None }, 1e-6, &mut y, saved);
        assert_eq!(y, [0.0; 8]);
        assert!((rstd[0] - 1000.0).abs() < 1.0);
    }
}
