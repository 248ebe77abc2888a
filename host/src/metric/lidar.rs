//! `LiDAR`: the rank of what tells samples apart, once what tells views of a sample apart is removed.
//!
//! Thilak et al. 2024, <https://arxiv.org/abs/2312.04000>: with the covariance between samples `B`
//! and the one within samples `W + delta`, the effective rank of the eigenvalues of
//! `W^(-1/2) B W^(-1/2)`.

use super::Features;
use super::eigen;
use super::rank::effective_rank;
use crate::engine::kernel::matmul::{Matrix, Write, matmul};
use crate::{Error, Result};

/// Added to the diagonal of the covariance within samples, as in the paper.
const DELTA: f64 = 1e-4;

/// `LiDAR` of the features `[N Q, D]` of N samples with Q = `views` views each, those of a sample
/// side by side: 1 to min(N - 1, D).
///
/// # Errors
/// With fewer than two samples or views, or a broken group.
pub fn lidar(features: Features<'_>, views: usize) -> Result<f64> {
    let (rows, width) = (features.rows(), features.width());
    if views < 2 || rows < 2 * views || !rows.is_multiple_of(views) {
        return Err(Error::failed(format!(
            "{rows} features are not two or more groups of {views}"
        )));
    }
    let samples = rows / views;
    let mean = features.mean();
    let mut between = Vec::with_capacity(samples * width);
    let mut within = Vec::with_capacity(rows * width);
    for group in features.values().chunks_exact(views * width) {
        let center = Features { values: group, width }.mean();
        between.extend(center.iter().zip(&mean).map(|(c, m)| c - m));
        within.extend(group.iter().enumerate().map(|(i, v)| f64::from(*v) - center[i % width]));
    }
    let within = covariance(&within, width, (samples * (views - 1)) as f64, DELTA);
    let root = inverse_root(within, width)?;
    // Whitening the samples' means and then taking their covariance is W^(-1/2) B W^(-1/2).
    let mut white = vec![0.0; samples * width];
    let means = Matrix::new(&between, samples, width);
    matmul(1.0, means, Matrix::new(&root, width, width), Write::Set, &mut white);
    let values = super::squared_singular_values(&white, width)?;
    Ok(effective_rank(&values))
}

fn covariance(rows: &[f64], width: usize, count: f64, delta: f64) -> Vec<f64> {
    let x = Matrix::new(rows, rows.len() / width, width);
    let mut covariance = vec![0.0; width * width];
    matmul(1.0 / count, x.transposed(), x, Write::Set, &mut covariance);
    (0..width).for_each(|i| covariance[i * width + i] += delta);
    covariance
}

/// `matrix^(-1/2)` of a positive definite matrix `[n, n]`.
fn inverse_root(matrix: Vec<f64>, n: usize) -> Result<Vec<f64>> {
    let eigen = eigen::decompose(matrix, n)?;
    let mut scaled = eigen.vectors.clone();
    for (row, value) in scaled.chunks_exact_mut(n).zip(&eigen.values) {
        let scale = 1.0 / value.max(DELTA).sqrt();
        for x in row {
            *x *= scale;
        }
    }
    let mut root = vec![0.0; n * n];
    let vectors = Matrix::new(&eigen.vectors, n, n);
    matmul(1.0, vectors.transposed(), Matrix::new(&scaled, n, n), Write::Set, &mut root);
    Ok(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[f32], width: usize, views: usize) -> f64 {
        lidar(Features::new(values, width).unwrap(), views).unwrap()
    }

    #[test]
    fn directions_that_only_tell_views_apart_do_not_count() {
        // Dimension 0 tells four samples apart, dimension 1 only the two views of each.
        let mut values = Vec::new();
        for sample in 0..4_u8 {
            for view in [-1.0, 1.0] {
                values.extend([f32::from(sample), view]);
            }
        }
        assert!((of(&values, 2, 2) - 1.0).abs() < 1e-4);
    }

    #[test]
    fn samples_on_three_axes_with_even_noise_have_rank_three() {
        let mut values = Vec::new();
        for sample in 0..6 {
            for noise in 0..6 {
                let mut row = [0.0_f32; 3];
                row[sample / 2] = if sample % 2 == 0 { 1.0 } else { -1.0 };
                row[noise / 2] += if noise % 2 == 0 { 0.1 } else { -0.1 };
                values.extend(row);
            }
        }
        assert!((of(&values, 3, 6) - 3.0).abs() < 1e-4);
    }

    #[test]
    fn groups_that_do_not_fit_are_refused() {
        let values = [0.0_f32; 12];
        let features = Features::new(&values, 2).unwrap();
        assert!(lidar(features, 4).is_err() && lidar(features, 1).is_err());
    }
}
