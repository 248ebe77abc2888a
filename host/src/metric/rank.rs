//! `RankMe`: how many dimensions the features really use.
//!
//! Garrido et al. 2023, <https://arxiv.org/abs/2210.02885>: with the singular values s of the
//! features `[N, D]` and `p_k = s_k / sum s + 1e-7`, the rank is `exp(-sum_k p_k log p_k)`.

use super::{Features, MetricDef, squared_singular_values};
use crate::{Error, Result};

const EPSILON: f64 = 1e-7;

inventory::submit! {
    MetricDef {
        name: "rank",
        summary: "RankMe: dimensions in use, 1 when collapsed, at most the features' width",
        measure: rank,
    }
}

/// The effective rank of `features` `[N, D]`: 1 to min(N, D); 1 when all are the same, or zero.
///
/// # Errors
/// When there is no row.
pub fn rank(features: Features<'_>) -> Result<f64> {
    if features.rows() == 0 {
        return Err(Error::failed("the rank of no features"));
    }
    let rows: Vec<f64> = features.values().iter().map(|value| f64::from(*value)).collect();
    let squared = squared_singular_values(&rows, features.width())?;
    Ok(effective_rank(&squared.iter().map(|value| value.sqrt()).collect::<Vec<_>>()))
}

/// exp of the entropy of `values` as shares of their sum.
pub(super) fn effective_rank(values: &[f64]) -> f64 {
    let sum: f64 = values.iter().sum();
    if sum == 0.0 {
        return 1.0;
    }
    let share = |value: &f64| value / sum + EPSILON;
    let entropy: f64 = values.iter().map(share).map(|p| -p * p.ln()).sum();
    entropy.exp()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    fn of(values: &[f32], width: usize) -> f64 {
        rank(Features::new(values, width).unwrap()).unwrap()
    }

    #[test]
    fn equal_singular_values_count_fully_and_one_direction_counts_once() {
        let identity = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
        assert!((of(&identity, 3) - 3.0).abs() < 1e-5);
        assert!((of(&[1.0, 2.0, 2.0, 4.0, 3.0, 6.0], 2) - 1.0).abs() < 1e-5);
        assert_eq!(of(&[0.0; 6], 2), 1.0);
    }

    #[test]
    fn singular_values_of_three_to_one_are_worked_by_hand() {
        // p = (3/4, 1/4): exp(-0.75 ln 0.75 - 0.25 ln 0.25) = 4 / 3^0.75.
        let want = 4.0 / 3_f64.powf(0.75);
        assert!((of(&[3.0, 0.0, 0.0, 1.0], 2) - want).abs() < 1e-5);
    }

    #[test]
    fn few_rows_bound_the_rank_of_wide_features() {
        let mut stream = Stream::new(0, "rank", 0, 0);
        let values: Vec<f32> = (0..5 * 64).map(|_| stream.normal() as f32).collect();
        let rank = of(&values, 64);
        assert!(rank > 4.5 && rank < 5.0 + 1e-4, "{rank}");
    }
}
