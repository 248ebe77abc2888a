//! alpha-ReQ: how fast the spectrum of the features falls.
//!
//! Agrawal et al. 2022, <https://arxiv.org/abs/2210.11471>: the eigenvalues of the features' covariance
//! follow `lambda_k ~ k^-alpha`; good features have alpha near 1, collapsing ones a larger one.

use super::{Features, MetricDef, squared_singular_values};
use crate::{Error, Result};

/// Eigenvalues below this share of the largest are rounding.
const FLOOR: f64 = 1e-10;

inventory::submit! {
    MetricDef {
        name: "alpha_req",
        summary: "alpha-ReQ: decay of the spectrum, good near 1, large when few dimensions dominate",
        measure: alpha_req,
    }
}

/// The exponent alpha fitted to the eigenvalues of the covariance of `features` `[N, D]`.
///
/// The line through `log lambda_k` over `log k` is fitted with the weights 1/k, so that each octave
/// counts the same and the long tail doesn't decide alone. With fewer than two eigenvalues above
/// rounding the features are a line or a point: infinity.
///
/// # Errors
/// With fewer than two rows.
pub fn alpha_req(features: Features<'_>) -> Result<f64> {
    let (n, width) = (features.rows(), features.width());
    if n < 2 {
        return Err(Error::failed("the spectrum of fewer than two features"));
    }
    let mean = features.mean();
    let rows: Vec<f64> = features
        .values()
        .iter()
        .enumerate()
        .map(|(i, value)| f64::from(*value) - mean[i % width])
        .collect();
    let values = squared_singular_values(&rows, width)?;
    let floor = values.first().map_or(0.0, |largest| largest * FLOOR);
    let points: Vec<_> = values
        .iter()
        .enumerate()
        .filter(|(_, value)| **value > floor)
        .map(|(k, value)| (((k + 1) as f64).ln(), value.ln(), 1.0 / (k + 1) as f64))
        .collect();
    Ok(-slope(&points).unwrap_or(f64::NEG_INFINITY))
}

/// The slope of the weighted least-squares line through (x, y, weight); none for fewer than two.
fn slope(points: &[(f64, f64, f64)]) -> Option<f64> {
    let total: f64 = points.iter().map(|(_, _, w)| w).sum();
    let mean_x = points.iter().map(|(x, _, w)| w * x).sum::<f64>() / total;
    let mean_y = points.iter().map(|(_, y, w)| w * y).sum::<f64>() / total;
    let both: f64 = points.iter().map(|(x, y, w)| w * (x - mean_x) * (y - mean_y)).sum();
    let alone: f64 = points.iter().map(|(x, _, w)| w * (x - mean_x).powi(2)).sum();
    (points.len() > 1 && alone > 0.0).then(|| both / alone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_law_gives_its_exponent() {
        // Rows plus and minus sqrt(k^-alpha) along axis k: mean 0, eigenvalues 2 k^-alpha.
        for alpha in [0.5, 1.0, 2.0] {
            let width = 12;
            let mut values = vec![0.0_f32; 2 * width * width];
            for k in 0..width {
                let length = ((k + 1) as f64).powf(-alpha / 2.0) as f32;
                values[2 * k * width + k] = length;
                values[(2 * k + 1) * width + k] = -length;
            }
            let got = alpha_req(Features::new(&values, width).unwrap()).unwrap();
            assert!((got - alpha).abs() < 1e-5, "{got} for {alpha}");
        }
    }

    #[test]
    fn a_line_of_features_falls_infinitely_fast() {
        let features = Features::new(&[1.0, 1.0, 2.0, 2.0, 3.0, 3.0], 2).unwrap();
        assert_eq!(alpha_req(features).unwrap(), f64::INFINITY);
    }
}
