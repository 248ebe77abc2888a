//! k-means++: centroids to start from, far from each other.
//!
//! Arthur and Vassilvitskii 2007, "k-means++: the advantages of careful seeding". As in scikit-learn
//! each centroid is the best of `2 + ln K` candidates (the paper's greedy variant).

use super::codebook::Codebook;
use crate::Result;
use crate::random::Stream;

/// `clusters` rows of `rows` `[N, width]` as centroids, in a flat list.
pub(super) fn plus_plus(
    rows: &[f32],
    width: usize,
    clusters: usize,
    stream: &mut Stream,
) -> Result<Vec<f32>> {
    let n = rows.len() / width;
    let candidates = 2 + (clusters as f64).ln() as usize;
    let row = |index: usize| &rows[index * width..][..width];
    let mut centroids = row(stream.below(n)).to_vec();
    let mut nearest = Codebook::new(centroids.clone(), width)?.distances(rows);
    while centroids.len() < clusters * width {
        let sums = running_sums(&nearest);
        let drawn: Vec<usize> = (0..candidates).map(|_| draw(&sums, stream)).collect();
        let book =
            Codebook::new(drawn.iter().flat_map(|index| row(*index)).copied().collect(), width)?;
        let distances = book.distances(rows);
        let potential = |candidate: usize| {
            let to_it = distances[candidate..].iter().step_by(candidates);
            to_it.zip(&nearest).map(|(new, old)| f64::from(new.min(*old))).sum::<f64>()
        };
        let potentials: Vec<f64> = (0..candidates).map(potential).collect();
        let best = (0..candidates).fold(0, |best, candidate| {
            if potentials[candidate] < potentials[best] { candidate } else { best }
        });
        centroids.extend_from_slice(row(drawn[best]));
        for (old, new) in nearest.iter_mut().zip(distances[best..].iter().step_by(candidates)) {
            *old = old.min(*new);
        }
    }
    Ok(centroids)
}

fn running_sums(values: &[f32]) -> Vec<f64> {
    let mut sum = 0.0;
    values
        .iter()
        .map(|value| {
            sum += f64::from(*value);
            sum
        })
        .collect()
}

/// A row with a probability by its distance; any one where all distances are 0.
fn draw(sums: &[f64], stream: &mut Stream) -> usize {
    let total = sums.last().copied().unwrap_or(0.0);
    if total <= 0.0 {
        return stream.below(sums.len());
    }
    let at = stream.uniform() * total;
    sums.partition_point(|sum| *sum <= at).min(sums.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn far_groups_get_a_centroid_each() {
        let mut stream = Stream::new(3, "start", 0, 0);
        let rows: Vec<f32> =
            (0..400).map(|i| (i % 4) as f32 * 100.0 + stream.normal() as f32).collect();
        let mut centroids = plus_plus(&rows, 1, 4, &mut stream).unwrap();
        centroids.sort_by(f32::total_cmp);
        for (group, centroid) in centroids.iter().enumerate() {
            assert!((centroid - 100.0 * group as f32).abs() < 5.0, "{centroids:?}");
        }
    }

    #[test]
    fn equal_rows_give_equal_centroids() {
        let centroids = plus_plus(&[2.0; 10], 2, 3, &mut Stream::new(0, "s", 0, 0)).unwrap();
        assert_eq!(centroids, [2.0; 6]);
    }
}
