//! Spread: how far apart the directions of the features lie.
//!
//! Chen and He 2021, <https://arxiv.org/abs/2011.10566>, section 4.1: the standard deviation of each
//! dimension of l2-normalised features is 1/sqrt(D) when they fill the sphere and 0 when they
//! collapse. Times sqrt(D), so that the scale is 0 to about 1 for any width.

use super::{Features, MetricDef};
use crate::{Error, Result};

inventory::submit! {
    MetricDef {
        name: "spread",
        summary: "mean deviation of l2-normalised features: 0 when collapsed, 1 when they fill the sphere",
        measure: spread,
    }
}

/// sqrt(D) times the mean over dimensions of the (unbiased) standard deviation of the l2-normalised
/// `features` `[N, D]`.
///
/// # Errors
/// With fewer than two rows.
pub fn spread(features: Features<'_>) -> Result<f64> {
    let (n, width) = (features.rows(), features.width());
    if n < 2 {
        return Err(Error::failed("the spread of fewer than two features"));
    }
    let mut sums = vec![0.0; width];
    let mut squares = vec![0.0; width];
    // Deviations are taken from the first direction: when all are the same, nothing is left to round.
    let first = normalized(&features.values()[..width]);
    for row in features.values().chunks_exact(width) {
        for (j, value) in normalized(row).into_iter().enumerate() {
            let apart = value - first[j];
            sums[j] += apart;
            squares[j] += apart * apart;
        }
    }
    let count = n as f64;
    let deviation = |(sum, square): (&f64, &f64)| {
        ((square - sum * sum / count).max(0.0) / (count - 1.0)).sqrt()
    };
    let mean = sums.iter().zip(&squares).map(deviation).sum::<f64>() / width as f64;
    Ok(mean * (width as f64).sqrt())
}

fn normalized(row: &[f32]) -> Vec<f64> {
    let norm = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt().max(1e-12);
    row.iter().map(|x| f64::from(*x) / norm).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    fn of(values: &[f32], width: usize) -> f64 {
        spread(Features::new(values, width).unwrap()).unwrap()
    }

    #[test]
    fn one_direction_has_no_spread_whatever_its_lengths() {
        assert!(of(&[1.0, 2.0, 2.0, 4.0, 0.5, 1.0], 2) < 1e-7);
    }

    #[test]
    fn two_axes_are_worked_by_hand() {
        // (1, 0) and (0, 1): each dimension has the values 1 and 0, deviation sqrt(1/2).
        assert!((of(&[3.0, 0.0, 0.0, 5.0], 2) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn normal_features_fill_the_sphere() {
        let mut stream = Stream::new(0, "spread", 0, 0);
        let values: Vec<f32> = (0..2000 * 32).map(|_| stream.normal() as f32).collect();
        assert!((of(&values, 32) - 1.0).abs() < 0.01);
    }
}
