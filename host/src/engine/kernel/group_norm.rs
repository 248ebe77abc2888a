//! Group norm over frames: mean and variance of a sample's channels, taken in groups, over all of time.
//!
//! Frames are rows, `[B, T, C]`, as convolutions over time leave them. With one channel per group this is
//! the norm in the first layer of wav2vec 2.0 and `HuBERT`.

use super::dispatch::{Kernel, dispatch};
use super::{Float, threads};

/// Numbers of one piece of work: 256 KiB of f32, which stay in the cache for a second look.
const PIECE: usize = 64 * 1024;

/// The sizes of a norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Samples, B.
    pub batch: usize,
    /// Frames per sample, T.
    pub frames: usize,
    /// Numbers per frame, C.
    pub channels: usize,
    /// Groups, a divisor of C.
    pub groups: usize,
}

impl Sizes {
    /// Channels of a group.
    fn width(&self) -> usize {
        self.channels / self.groups
    }

    /// Frames of one piece of work.
    fn rows(&self) -> usize {
        (PIECE / self.channels.max(1)).max(1)
    }

    /// Pieces of work per sample.
    fn pieces(&self) -> usize {
        self.frames.div_ceil(self.rows())
    }

    /// The frames of piece `index`, as places of numbers, and its sample.
    fn piece(&self, index: usize) -> (std::ops::Range<usize>, usize) {
        let (sample, piece) = (index / self.pieces(), index % self.pieces());
        let first = piece * self.rows();
        let end = self.frames.min(first + self.rows());
        let at = |frame: usize| (sample * self.frames + frame) * self.channels;
        (at(first)..at(end), sample)
    }

    /// Sums of two kinds per channel, made piece by piece in parallel: `[B pieces, 2, C]`.
    fn partial_sums<T: Float>(
        &self,
        body: impl Fn(std::ops::Range<usize>, usize, [&mut [T]; 2]) + Sync,
    ) -> Vec<T> {
        let mut partials = vec![T::ZERO; self.batch * self.pieces() * 2 * self.channels];
        if !partials.is_empty() {
            threads::chunks(&mut partials, 2 * self.channels, |i, partial| {
                let (range, sample) = self.piece(i);
                let (first, second) = partial.split_at_mut(self.channels);
                body(range, sample, [first, second]);
            });
        }
        partials
    }
}

/// Mean and 1 / sqrt(var + eps) of each group, `[B, groups]` each.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics<T> {
    /// The means.
    pub mean: Vec<T>,
    /// 1 / sqrt(var + eps), where var is the mean squared distance from the mean.
    pub rstd: Vec<T>,
}

/// The statistics of x `[B, T, C]`. Each piece takes distances from its first frame, then from its own means,
/// so that a mean far from 0 costs no digits.
///
/// # Panics
/// When x has another length.
pub fn statistics<T: Float>(x: &[T], sizes: &Sizes, eps: T) -> Statistics<T> {
    assert_eq!(x.len(), sizes.batch * sizes.frames * sizes.channels, "x is [B, T, C]");
    let channels = sizes.channels;
    let partials = sizes.partial_sums(|range, _, [mean, squares]| {
        dispatch(Spread { x: &x[range], mean, squares });
    });
    let (mut means, mut rstds) = (Vec::new(), Vec::new());
    let per_sample = (sizes.pieces() * 2 * channels).max(1);
    for parts in partials.chunks_exact(per_sample) {
        let (mut mean, mut squares) = (vec![T::ZERO; channels], vec![T::ZERO; channels]);
        let mut seen = 0;
        for (piece, part) in parts.chunks_exact(2 * channels).enumerate() {
            let count = sizes.rows().min(sizes.frames - piece * sizes.rows());
            let (part_mean, part_squares) = part.split_at(channels);
            let share = T::from_f64(count as f64 / (seen + count) as f64);
            let weight = T::from_f64((seen * count) as f64 / (seen + count) as f64);
            for c in 0..channels {
                let step = part_mean[c] - mean[c];
                mean[c] += step * share;
                squares[c] += part_squares[c] + step * step * weight;
            }
            seen += count;
        }
        let width = sizes.width();
        for (mean, squares) in mean.chunks_exact(width).zip(squares.chunks_exact(width)) {
            let total = |terms: &mut dyn Iterator<Item = T>| terms.fold(T::ZERO, |sum, x| sum + x);
            let middle = total(&mut mean.iter().copied()) / T::from_usize(width);
            let away = total(&mut mean.iter().map(|m| (*m - middle) * (*m - middle)));
            let inside = total(&mut squares.iter().copied());
            let frames = T::from_usize(sizes.frames);
            let var = (inside + away * frames) / (frames * T::from_usize(width));
            means.push(middle);
            rstds.push(T::ONE / (var + eps).sqrt());
        }
    }
    Statistics { mean: means, rstd: rstds }
}

/// Means of the columns of x, and sums of squared distances from them.
struct Spread<'a, T> {
    x: &'a [T],
    mean: &'a mut [T],
    squares: &'a mut [T],
}

impl<T: Float> Kernel for Spread<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let width = self.mean.len();
        let first = &self.x[..width];
        for row in self.x.chunks_exact(width) {
            for ((sum, x), first) in self.mean.iter_mut().zip(row).zip(first) {
                *sum += *x - *first;
            }
        }
        let scale = T::ONE / T::from_usize(self.x.len() / width);
        for (mean, first) in self.mean.iter_mut().zip(first) {
            *mean = mean.fma::<FMA>(scale, *first);
        }
        for row in self.x.chunks_exact(width) {
            for ((sum, x), mean) in self.squares.iter_mut().zip(row).zip(self.mean.iter()) {
                let away = *x - *mean;
                *sum = away.fma::<FMA>(away, *sum);
            }
        }
    }
}

/// `(x - mean) rstd weight + bias`, with weight and bias `[C]` (1 and 0 where left out).
///
/// # Panics
/// When a slice has another length.
pub fn forward<T: Float>(
    x: &[T],
    sizes: &Sizes,
    statistics: &Statistics<T>,
    weight: Option<&[T]>,
    bias: Option<&[T]>,
) -> Vec<T> {
    let (channels, width) = (sizes.channels, sizes.width());
    // Per sample and channel: y = scale x + shift.
    let (mut scales, mut shifts) = (Vec::new(), Vec::new());
    for i in 0..sizes.batch * channels {
        let (group, channel) = (i / width, i % channels);
        let scale = statistics.rstd[group] * weight.map_or(T::ONE, |weight| weight[channel]);
        scales.push(scale);
        let bias = bias.map_or(T::ZERO, |bias| bias[channel]);
        shifts.push(bias - statistics.mean[group] * scale);
    }
    let piece = sizes.rows() * channels;
    threads::made(
        (x.len(), piece),
        || (),
        |(), i, y: &mut [T]| {
            let x = &x[i * piece..][..y.len()];
            for (row, (x, y)) in
                x.chunks_exact(channels).zip(y.chunks_exact_mut(channels)).enumerate()
            {
                let at = (i * sizes.rows() + row) / sizes.frames * channels;
                let (scale, shift) = (&scales[at..][..channels], &shifts[at..][..channels]);
                dispatch(Apply { x, scale, shift, y });
            }
        },
    )
}

/// `y = scale x + shift`, elementwise.
struct Apply<'a, T> {
    x: &'a [T],
    scale: &'a [T],
    shift: &'a [T],
    y: &'a mut [T],
}

impl<T: Float> Kernel for Apply<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for ((y, x), (scale, shift)) in
            self.y.iter_mut().zip(self.x).zip(self.scale.iter().zip(self.shift))
        {
            *y = x.fma::<FMA>(*scale, *shift);
        }
    }
}

/// The gradients to x `[B, T, C]`, weight and bias `[C]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Gradients<T> {
    /// To x.
    pub x: Vec<T>,
    /// To the weight.
    pub weight: Vec<T>,
    /// To the bias.
    pub bias: Vec<T>,
}

/// The gradients of [`forward`]. With `n = (x - mean) rstd` and `g = dy weight`:
/// `dx = rstd (g - mean(g) - n mean(g n))` with means over a group, `dweight = sum dy n`, `dbias = sum dy`.
///
/// # Panics
/// When a slice has another length.
pub fn backward<T: Float>(
    (x, dy): (&[T], &[T]),
    sizes: &Sizes,
    statistics: &Statistics<T>,
    weight: Option<&[T]>,
) -> Gradients<T> {
    assert_eq!(x.len(), dy.len(), "the gradient has the length of the input");
    let (channels, width) = (sizes.channels, sizes.width());
    let partials = sizes.partial_sums(|range, sample, [plain, normed]| {
        let groups = sample * sizes.groups..(sample + 1) * sizes.groups;
        let mean = &statistics.mean[groups.clone()];
        let rstd = &statistics.rstd[groups];
        let (x, dy) = (&x[range.clone()], &dy[range]);
        dispatch(Sums { x, dy, mean, rstd, width, plain, normed });
    });
    let (mut dweight, mut dbias) = (vec![T::ZERO; channels], vec![T::ZERO; channels]);
    // Per sample and channel: dx = by_dy dy + by_x x + shift.
    let mut factors: [Vec<T>; 3] = Default::default();
    let per_sample = (sizes.pieces() * 2 * channels).max(1);
    for (sample, parts) in partials.chunks_exact(per_sample).enumerate() {
        let mut total = vec![T::ZERO; 2 * channels];
        threads::add_partial_sums(parts, &mut total);
        let (plain, normed) = total.split_at(channels);
        for c in 0..channels {
            dbias[c] += plain[c];
            dweight[c] += normed[c];
        }
        for group in 0..sizes.groups {
            let at = sample * sizes.groups + group;
            let (mean, rstd) = (statistics.mean[at], statistics.rstd[at]);
            let count = T::from_usize(sizes.frames * width);
            let factor = |c: usize| weight.map_or(T::ONE, |weight| weight[c]);
            let of = |sums: &[T]| {
                let terms = (group * width..(group + 1) * width).map(|c| sums[c] * factor(c));
                terms.fold(T::ZERO, |sum, term| sum + term) / count
            };
            let (first, second) = (of(plain), of(normed));
            for c in group * width..(group + 1) * width {
                factors[0].push(rstd * factor(c));
                factors[1].push(-(rstd * rstd * second));
                factors[2].push(rstd * (mean * rstd * second - first));
            }
        }
    }
    let piece = sizes.rows() * channels;
    let dx = threads::made(
        (x.len(), piece),
        || (),
        |(), i, dx: &mut [T]| {
            let (x, dy) = (&x[i * piece..][..dx.len()], &dy[i * piece..][..dx.len()]);
            for (row, dx) in dx.chunks_exact_mut(channels).enumerate() {
                let at = (i * sizes.rows() + row) / sizes.frames * channels;
                let factors = [0, 1, 2].map(|f: usize| &factors[f][at..][..channels]);
                let (x, dy) = (&x[row * channels..][..channels], &dy[row * channels..][..channels]);
                dispatch(Combine { x, dy, factors, dx });
            }
        },
    );
    Gradients { x: dx, weight: dweight, bias: dbias }
}

/// Adds `dy` and `dy n` over rows.
struct Sums<'a, T> {
    x: &'a [T],
    dy: &'a [T],
    mean: &'a [T],
    rstd: &'a [T],
    width: usize,
    plain: &'a mut [T],
    normed: &'a mut [T],
}

impl<T: Float> Kernel for Sums<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let (plain, normed) = (self.plain, self.normed);
        let channels = plain.len();
        let mean: Vec<T> = (0..channels).map(|c| self.mean[c / self.width]).collect();
        for (x, dy) in self.x.chunks_exact(channels).zip(self.dy.chunks_exact(channels)) {
            for (sum, dy) in plain.iter_mut().zip(dy) {
                *sum += *dy;
            }
            for (((sum, dy), x), mean) in normed.iter_mut().zip(dy).zip(x).zip(&mean) {
                *sum = (*x - *mean).fma::<FMA>(*dy, *sum);
            }
        }
        for (c, sum) in normed.iter_mut().enumerate() {
            *sum *= self.rstd[c / self.width];
        }
    }
}

/// `dx = factors[0] dy + factors[1] x + factors[2]`, elementwise.
struct Combine<'a, T> {
    x: &'a [T],
    dy: &'a [T],
    factors: [&'a [T]; 3],
    dx: &'a mut [T],
}

impl<T: Float> Kernel for Combine<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let [by_dy, by_x, shift] = self.factors;
        let places = self.dx.iter_mut().zip(self.x.iter().zip(self.dy));
        for (((dx, (x, dy)), by_dy), (by_x, shift)) in places.zip(by_dy).zip(by_x.iter().zip(shift))
        {
            *dx = dy.fma::<FMA>(*by_dy, x.fma::<FMA>(*by_x, *shift));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::kernel::testing::{assert_close, numbers, slope, to};

    const EPS: f64 = 1e-5;

    fn naive(x: &[f64], weight: &[f64], bias: &[f64], sizes: &Sizes) -> Vec<f64> {
        let Sizes { batch, frames, channels, groups } = *sizes;
        let width = channels / groups;
        let mut y = vec![0.0; x.len()];
        for sample in 0..batch {
            for group in 0..groups {
                let places: Vec<usize> = (0..frames * width)
                    .map(|i| (sample * frames + i / width) * channels + group * width + i % width)
                    .collect();
                let count = places.len() as f64;
                let mean = places.iter().map(|i| x[*i]).sum::<f64>() / count;
                let var = places.iter().map(|i| (x[*i] - mean).powi(2)).sum::<f64>() / count;
                for i in places {
                    let n = (x[i] - mean) / (var + EPS).sqrt();
                    y[i] = n * weight[i % channels] + bias[i % channels];
                }
            }
        }
        y
    }

    fn check<T: Float>(sizes: &Sizes, offset: f64, tolerance: f64) {
        let n = sizes.batch * sizes.frames * sizes.channels;
        let x: Vec<f64> = numbers(1, n).iter().map(|x| f64::from((x + offset) as f32)).collect();
        let (w, b) = (numbers(2, sizes.channels), numbers(3, sizes.channels));
        let (xt, wt, bt) = (to::<T>(&x), to::<T>(&w), to::<T>(&b));
        let saved = statistics(&xt, sizes, T::from_f64(EPS));
        let y = forward(&xt, sizes, &saved, Some(&wt), Some(&bt));
        assert_close(&y, &naive(&x, &w, &b, sizes), tolerance);
        if n > 200 {
            return;
        }
        let dy = numbers(4, n);
        let made = backward((&xt, &to::<T>(&dy)), sizes, &saved, Some(&wt));
        assert_close(&made.x, &slope(&x, &dy, |x| naive(x, &w, &b, sizes)), tolerance * 1e3);
        assert_close(&made.weight, &slope(&w, &dy, |w| naive(&x, w, &b, sizes)), tolerance * 1e3);
        assert_close(&made.bias, &slope(&b, &dy, |b| naive(&x, &w, b, sizes)), tolerance * 1e3);
    }

    #[test]
    fn group_norms_and_their_gradients_agree_with_their_formulas() {
        for (batch, frames, channels, groups) in
            [(1, 1, 4, 2), (2, 7, 6, 3), (3, 5, 4, 4), (1, 9, 5, 1), (2, 700, 200, 200)]
        {
            let sizes = Sizes { batch, frames, channels, groups };
            check::<f64>(&sizes, 0.0, 1e-9);
            check::<f32>(&sizes, 0.0, 1e-5);
        }
        // A mean far from 0: what is left of f32's digits.
        check::<f32>(&Sizes { batch: 1, frames: 900, channels: 150, groups: 150 }, 30.0, 3e-5);
    }

    #[test]
    fn the_number_of_threads_changes_no_bit_of_a_group_norm() {
        let sizes = Sizes { batch: 2, frames: 1500, channels: 64, groups: 64 };
        let x = to::<f32>(&numbers(1, 2 * 1500 * 64));
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let saved = statistics(&x, &sizes, 1e-5);
                let made = backward((&x, &x), &sizes, &saved, None);
                (saved.mean, saved.rstd, made.weight, made.x)
            })
        };
        assert_eq!(run(1), run(3));
    }
}
