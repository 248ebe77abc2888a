//! Metrics: numbers that say, without labels, whether features are alive or collapsing.
//!
//! A metric is one file and its `mod` line: it registers a [`MetricDef`], and the loop, the report
//! and the help find it here.

pub mod alpha_req;
pub mod eigen;
pub mod lidar;
pub mod rank;
pub mod spread;

use crate::engine::kernel::matmul::{Matrix, Write, matmul};
use crate::{Error, Result};

/// Features of N samples, row by row: `[N, D]`.
#[derive(Clone, Copy, Debug)]
pub struct Features<'a> {
    values: &'a [f32],
    width: usize,
}

impl<'a> Features<'a> {
    /// The features `values` `[N, D]` with D = `width`.
    ///
    /// # Errors
    /// When `values` isn't made of whole rows, or isn't finite everywhere.
    pub fn new(values: &'a [f32], width: usize) -> Result<Self> {
        if width == 0 || !values.len().is_multiple_of(width) {
            let message = format!("{} values are not rows of {width}", values.len());
            return Err(Error::failed(message));
        }
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(Self { values, width }),
            Some(at) => Err(Error::failed(format!("feature {} is not finite", at % width))
                .because(format!("sample {} has {}", at / width, values[at]))),
        }
    }

    /// All values, row by row.
    pub fn values(&self) -> &'a [f32] {
        self.values
    }

    /// D.
    pub fn width(&self) -> usize {
        self.width
    }

    /// N.
    pub fn rows(&self) -> usize {
        self.values.len() / self.width
    }

    /// The mean row, `[D]`; zeros where there is no row.
    pub fn mean(&self) -> Vec<f64> {
        let mut mean = vec![0.0; self.width];
        for row in self.values.chunks_exact(self.width) {
            mean.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
        }
        let rows = self.rows().max(1) as f64;
        for sum in &mut mean {
            *sum /= rows;
        }
        mean
    }
}

/// A metric on features, as the registry knows it.
#[derive(Debug)]
pub struct MetricDef {
    /// Its name in records, charts and the CLI.
    pub name: &'static str,
    /// One line of advice: what it says, and what is good.
    pub summary: &'static str,
    /// Computes it.
    pub measure: fn(Features<'_>) -> Result<f64>,
}

inventory::collect!(MetricDef);

/// Every registered metric, by name.
pub fn all() -> Vec<&'static MetricDef> {
    let mut all: Vec<_> = inventory::iter::<MetricDef>().collect();
    all.sort_by_key(|metric| metric.name);
    all
}

/// The squared singular values of `rows` `[N, D]`, largest first: eigenvalues of whichever of
/// `X^T X` and `X X^T` is smaller.
fn squared_singular_values(rows: &[f64], width: usize) -> Result<Vec<f64>> {
    let n = rows.len() / width;
    let x = Matrix::new(rows, n, width);
    let size = n.min(width);
    let mut gram = vec![0.0; size * size];
    let (left, right) = if n < width { (x, x.transposed()) } else { (x.transposed(), x) };
    matmul(1.0, left, right, Write::Set, &mut gram);
    let mut values = eigen::values(gram, size)?;
    // Rounding can leave a tiny negative where the truth is zero.
    for value in &mut values {
        *value = value.max(0.0);
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_names_every_metric_once() {
        let names: Vec<_> = all().iter().map(|metric| metric.name).collect();
        assert_eq!(names, ["alpha_req", "rank", "spread"]);
    }

    #[test]
    fn a_feature_that_is_not_finite_is_named() {
        let error = Features::new(&[1.0, 2.0, f32::NAN, 4.0], 2).unwrap_err().to_string();
        assert!(error.contains("feature 0") && error.contains("sample 1"), "{error}");
        assert!(Features::new(&[1.0, 2.0, 3.0], 2).is_err());
    }

    #[test]
    fn wide_and_tall_matrices_have_the_same_singular_values() {
        let tall = [3.0, 0.0, 0.0, 4.0, 0.0, 0.0];
        let wide = [3.0, 0.0, 0.0, 0.0, 4.0, 0.0];
        let of_tall = squared_singular_values(&tall, 2).unwrap();
        let of_wide = squared_singular_values(&wide, 3).unwrap();
        for values in [of_tall, of_wide] {
            assert!((values[0] - 16.0).abs() < 1e-12 && (values[1] - 9.0).abs() < 1e-12);
        }
    }
}
