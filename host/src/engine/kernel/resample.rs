//! Bicubic resampling as a pair of matrices, so that its gradient is a product as well.

use super::Float;
use super::matmul::{Matrix, Stack, Write, matmul, matmul_batched};

/// The cubic's parameter, that of PyTorch's `interpolate`.
const A: f64 = -0.75;

/// The weights `[to, from]` that resample a line of `from` numbers to `to` numbers, as PyTorch's
/// `interpolate(mode="bicubic", align_corners=False)`: half-pixel centres, borders repeated.
///
/// With `offset` 0 a step is `from / to`. DINO's released code asks for position embeddings by the
/// scale `(to + 0.1) / from`: that is an `offset` of 0.1, and a step of `from / (to + offset)`.
pub fn bicubic_weights<T: Float>(from: usize, to: usize, offset: f64) -> Vec<T> {
    let mut weights = vec![0.0; from * to];
    if from == 0 {
        return Vec::new();
    }
    let step = from as f64 / (to as f64 + offset);
    for (i, row) in weights.chunks_exact_mut(from).enumerate() {
        let place = (i as f64 + 0.5) * step - 0.5;
        let fraction = place - place.floor();
        let first = place.floor() as i64 - 1;
        for (tap, weight) in (first..).zip(taps(fraction)) {
            row[tap.clamp(0, from as i64 - 1) as usize] += weight;
        }
    }
    weights.into_iter().map(T::from_f64).collect()
}

/// The weights of the four neighbours of a place `t` behind the second one (Keys 1981).
fn taps(t: f64) -> [f64; 4] {
    let near = |x: f64| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f64| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)]
}

/// `y = rows x cols^T` for every plane of x `[planes, h, w]`: rows `[h', h]`, cols `[w', w]`, y
/// `[planes, h', w']`. The gradient to x is the same with both matrices transposed.
///
/// # Panics
/// When the lengths don't fit the sizes.
pub fn resample<T: Float>(x: &[T], rows: Matrix<'_, T>, cols: Matrix<'_, T>, y: &mut [T]) {
    let plane = rows.cols() * cols.cols();
    if x.is_empty() || y.is_empty() {
        return;
    }
    assert!(x.len().is_multiple_of(plane), "x holds whole planes");
    let planes = x.len() / plane;
    assert_eq!(y.len(), planes * rows.rows() * cols.rows(), "y holds as many planes as x");
    let lines = Matrix::new(x, planes * rows.cols(), cols.cols());
    let mut wide = vec![T::ZERO; lines.rows() * cols.rows()];
    matmul(T::ONE, lines, cols.transposed(), Write::Set, &mut wide);
    let left = Stack::strided(rows.data(), [rows.rows(), rows.cols()], rows.strides(), 0);
    let right = Stack::new(&wide, rows.cols(), cols.rows());
    matmul_batched(T::ONE, left, right, Write::Set, y);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::kernel::testing::{assert_close, numbers};

    #[test]
    fn weights_of_a_row_sum_to_1_and_the_same_size_is_the_identity() {
        for (from, to, offset) in [(1, 1, 0.0), (3, 7, 0.0), (14, 6, 0.1), (1, 5, 0.0), (8, 8, 0.1)]
        {
            let weights: Vec<f64> = bicubic_weights(from, to, offset);
            assert_eq!(weights.len(), from * to);
            for row in weights.chunks_exact(from) {
                assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            }
        }
        let identity: Vec<f64> = bicubic_weights(3, 3, 0.0);
        assert_close(&identity, &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0], 1e-12);
    }

    #[test]
    fn doubling_gives_the_known_weights_of_a_quarter_step() {
        // At t = 1/4 and A = -3/4 the cubic's taps are -27/256, 225/256, 67/256, -9/256.
        let weights: Vec<f64> = bicubic_weights(8, 16, 0.0);
        let row = &weights[7 * 8..][..8];
        let want = [0.0, 0.0, -27.0, 225.0, 67.0, -9.0, 0.0, 0.0].map(|w| w / 256.0);
        assert_close(row, &want, 1e-12);
    }

    #[test]
    fn planes_are_resampled_by_both_matrices_and_the_gradient_is_transposed() {
        let (h, w, to_h, to_w, planes) = (5, 3, 7, 4, 3);
        let rows_data: Vec<f64> = bicubic_weights(h, to_h, 0.1);
        let cols_data: Vec<f64> = bicubic_weights(w, to_w, 0.0);
        let (rows, cols) = (Matrix::new(&rows_data, to_h, h), Matrix::new(&cols_data, to_w, w));
        let (x, dy) = (numbers(1, planes * h * w), numbers(2, planes * to_h * to_w));
        let mut y = vec![0.0; planes * to_h * to_w];
        resample(&x, rows, cols, &mut y);
        let mut want = Vec::new();
        for plane in x.chunks_exact(h * w) {
            for (i, j) in (0..to_h).flat_map(|i| (0..to_w).map(move |j| (i, j))) {
                let pixels = plane.iter().enumerate();
                want.push(
                    pixels
                        .map(|(p, x)| rows_data[i * h + p / w] * x * cols_data[j * w + p % w])
                        .sum(),
                );
            }
        }
        assert_close(&y, &want, 1e-12);
        let mut dx = vec![0.0; x.len()];
        resample(&dy, rows.transposed(), cols.transposed(), &mut dx);
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        assert!((dot(&y, &dy) - dot(&x, &dx)).abs() < 1e-10);
    }
}
