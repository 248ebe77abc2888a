//! Sums and largest values of a slice in independent lanes: fast, exact enough, always in one order.

use super::Float;

/// Independent sums per slice: two AVX-512 registers of f32.
pub(super) const LANES: usize = 32;

/// Adds up the lanes pairwise; their number is a power of 2.
#[inline(always)]
pub(super) fn total<T: Float, const N: usize>(mut lanes: [T; N]) -> T {
    let mut width = N / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// The sum of `term(x)`.
#[inline(always)]
pub(super) fn sum_of<T: Float>(x: &[T], term: impl Fn(T) -> T) -> T {
    let mut lanes = [T::ZERO; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += term(*value);
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane += term(*value);
    }
    total(lanes)
}

/// The sum of `term(x, y)` over two slices of the same length.
#[inline(always)]
pub(super) fn sum_of_two<T: Float>(x: &[T], y: &[T], term: impl Fn(T, T) -> T) -> T {
    let mut lanes = [T::ZERO; LANES];
    let (xs, x_rest) = x.as_chunks::<LANES>();
    let (ys, y_rest) = y.as_chunks::<LANES>();
    for (x, y) in xs.iter().zip(ys) {
        for (lane, (x, y)) in lanes.iter_mut().zip(x.iter().zip(y)) {
            *lane += term(*x, *y);
        }
    }
    for (lane, (x, y)) in lanes.iter_mut().zip(x_rest.iter().zip(y_rest)) {
        *lane += term(*x, *y);
    }
    total(lanes)
}

/// The sum of the elements.
#[inline(always)]
pub(super) fn sum<T: Float>(x: &[T]) -> T {
    sum_of(x, |x| x)
}

/// The largest element, minus infinity where there is none; NaN is passed over.
#[inline(always)]
pub(super) fn max<T: Float>(x: &[T]) -> T {
    let mut lanes = [T::NEG_INFINITY; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = value.larger(*lane);
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane = value.larger(*lane);
    }
    lanes.into_iter().fold(T::NEG_INFINITY, Float::larger)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_agree_with_a_plain_loop_at_every_length() {
        for n in 0..100_usize {
            let x: Vec<f64> = (0..n).map(|i| ((i * 37) % 101) as f64 - 50.0).collect();
            assert_eq!(sum(&x), x.iter().sum::<f64>());
            assert_eq!(sum_of_two(&x, &x, |a, b| a * b), x.iter().map(|v| v * v).sum::<f64>());
            assert_eq!(max(&x), x.iter().copied().fold(f64::NEG_INFINITY, f64::max));
        }
    }
}
