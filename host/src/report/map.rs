//! A map of features in two dimensions: principal components, then exact t-SNE.
//!
//! Van der Maaten and Hinton 2008. It starts from the first two components, so the same features give
//! the same map; all pairs are computed, which is meant for up to about a thousand points.

use rayon::prelude::*;

use crate::engine::kernel::matmul::{Matrix, Write, matmul};
use crate::metric::{Features, eigen};
use crate::random::Stream;
use crate::{Error, Result};

/// Components kept before neighbours are looked for, as is usual.
const COMPONENTS: usize = 50;
const PERPLEXITY: f64 = 30.0;
const STEPS: usize = 500;
/// While attraction is exaggerated, clusters find their places.
const EARLY_STEPS: usize = 120;
const EXAGGERATION: f64 = 12.0;

/// A place on the map.
type Point = [f64; 2];

/// Places of the rows of `features` `[N, D]`, near for rows that are near.
///
/// With fewer than five rows, which have no neighbourhoods, the first two components themselves.
///
/// # Errors
/// When the features' covariance has no eigenvalues, which finite features don't do.
pub fn tsne(features: Features<'_>, seed: u64) -> Result<Vec<[f64; 2]>> {
    let (n, width) = (features.rows(), features.width());
    let (components, count) = principal_components(features, COMPONENTS.min(n).min(width))?;
    let start = |i: usize| [0, 1].map(|j| if j < count { components[i * count + j] } else { 0.0 });
    let mut places: Vec<Point> = (0..n).map(start).collect();
    if n < 5 {
        return Ok(places);
    }
    spread_start(&mut places, seed);
    let attraction = neighbourhoods(&components, count);
    let mut layout = Layout { velocity: vec![[0.0; 2]; n], gains: vec![[1.0; 2]; n], places };
    for step in 0..STEPS {
        let exaggeration = if step < EARLY_STEPS { EXAGGERATION } else { 1.0 };
        let momentum = if step < EARLY_STEPS { 0.5 } else { 0.8 };
        layout.step(&attraction, exaggeration, momentum);
    }
    if layout.places.iter().flatten().all(|x| x.is_finite()) {
        return Ok(layout.places);
    }
    Err(Error::failed("the map of the features did not settle"))
}

/// The first `count` principal components of the rows, `[N, count]`, and `count`.
fn principal_components(features: Features<'_>, count: usize) -> Result<(Vec<f64>, usize)> {
    let (n, width) = (features.rows(), features.width());
    let mean = features.mean();
    let centered = features.values().iter().enumerate();
    let rows: Vec<f64> = centered.map(|(i, v)| f64::from(*v) - mean[i % width]).collect();
    let x = Matrix::new(&rows, n, width);
    let mut out = vec![0.0; n * count];
    if width <= n {
        let mut covariance = vec![0.0; width * width];
        matmul(1.0, x.transposed(), x, Write::Set, &mut covariance);
        let eigen = eigen::decompose(covariance, width)?;
        let axes = Matrix::new(&eigen.vectors[..count * width], count, width);
        matmul(1.0, x, axes.transposed(), Write::Set, &mut out);
    } else {
        // The scores are the eigenvectors of X X^T, each as long as its singular value.
        let mut gram = vec![0.0; n * n];
        matmul(1.0, x, x.transposed(), Write::Set, &mut gram);
        let eigen = eigen::decompose(gram, n)?;
        for (i, row) in out.chunks_exact_mut(count).enumerate() {
            for (k, score) in row.iter_mut().enumerate() {
                *score = eigen.vectors[k * n + i] * eigen.values[k].max(0.0).sqrt();
            }
        }
    }
    Ok((out, count))
}

/// Shrinks the start so that forces are even, and moves points that coincide apart.
fn spread_start(places: &mut [Point], seed: u64) {
    let mut stream = Stream::new(seed, "report.map", 0, 0);
    let squares: f64 = places.iter().map(|place| place[0] * place[0]).sum();
    let deviation = (squares / places.len() as f64).sqrt().max(1e-12);
    for place in places {
        *place = place.map(|x| 1e-4 * (x / deviation + 0.01 * stream.normal()));
    }
}

/// The symmetric probabilities of being neighbours, `[N, N]`.
fn neighbourhoods(points: &[f64], width: usize) -> Vec<f64> {
    let n = points.len() / width;
    let row = |i: usize| &points[i * width..(i + 1) * width];
    let squared = |i: usize, j: usize| -> f64 {
        row(i).iter().zip(row(j)).map(|(a, b)| (a - b) * (a - b)).sum()
    };
    let target = PERPLEXITY.min((n - 1) as f64 / 3.0).ln();
    let mut conditional = vec![0.0; n * n];
    conditional.par_chunks_mut(n).enumerate().for_each(|(i, out)| {
        let distances: Vec<f64> = (0..n).map(|j| squared(i, j)).collect();
        bell(&distances, i, target, out);
    });
    let mut joint = vec![0.0; n * n];
    joint.par_chunks_mut(n).enumerate().for_each(|(i, out)| {
        for (j, p) in out.iter_mut().enumerate() {
            *p = (conditional[i * n + j] + conditional[j * n + i]) / (2 * n) as f64;
        }
    });
    joint
}

/// Fills `out` with a normal bell over `distances` (squared) whose entropy is `target`, by bisection;
/// `own` gets nothing.
fn bell(distances: &[f64], own: usize, target: f64, out: &mut [f64]) {
    let others = || distances.iter().enumerate().filter(|(j, _)| *j != own).map(|(_, d)| *d);
    let nearest = others().fold(f64::INFINITY, f64::min);
    let scale = others().sum::<f64>() / distances.len() as f64;
    let (mut low, mut high, mut precision) = (0.0, f64::INFINITY, 1.0 / scale.max(1e-200));
    for _ in 0..64 {
        let mut sum = 0.0;
        for (j, (p, d)) in out.iter_mut().zip(distances).enumerate() {
            // Relative to the nearest, so that the sum can't underflow to zero.
            *p = if j == own { 0.0 } else { (-(d - nearest) * precision).exp() };
            sum += *p;
        }
        let mean = out.iter().zip(distances).map(|(p, d)| p * (d - nearest)).sum::<f64>() / sum;
        let entropy = sum.ln() + precision * mean;
        for p in out.iter_mut() {
            *p /= sum;
        }
        if (entropy - target).abs() < 1e-5 {
            return;
        }
        if entropy > target {
            low = precision;
            precision = if high.is_finite() { f64::midpoint(low, high) } else { precision * 2.0 };
        } else {
            high = precision;
            precision = f64::midpoint(low, high);
        }
    }
}

/// The places and how they move.
struct Layout {
    places: Vec<Point>,
    velocity: Vec<Point>,
    gains: Vec<Point>,
}

impl Layout {
    /// One step down the Kullback-Leibler divergence.
    fn step(&mut self, attraction: &[f64], exaggeration: f64, momentum: f64) {
        let n = self.places.len();
        let places = &self.places;
        // Each row sums in order, and so does the total: threads change no bit.
        let sums: Vec<f64> = places.par_iter().map(|a| row_sum(*a, places)).collect();
        let total: f64 = sums.iter().sum::<f64>() - n as f64;
        let gradient: Vec<Point> = places
            .par_iter()
            .enumerate()
            .map(|(i, a)| force(*a, places, &attraction[i * n..(i + 1) * n], exaggeration, total))
            .collect();
        let rate = (n as f64 / EXAGGERATION).max(50.0);
        for (i, slope) in gradient.iter().enumerate() {
            for (axis, slope) in slope.iter().enumerate() {
                let (gain, velocity) = (&mut self.gains[i][axis], &mut self.velocity[i][axis]);
                let turning = slope.signum() == velocity.signum();
                *gain = if turning { (*gain * 0.8).max(0.01) } else { *gain + 0.2 };
                *velocity = momentum * *velocity - rate * *gain * slope;
                self.places[i][axis] += *velocity;
            }
        }
    }
}

/// Student's kernel of two places.
fn kernel(a: Point, b: Point) -> f64 {
    let (x, y) = (a[0] - b[0], a[1] - b[1]);
    1.0 / (1.0 + x * x + y * y)
}

fn row_sum(a: Point, places: &[Point]) -> f64 {
    places.iter().map(|b| kernel(a, *b)).sum()
}

fn force(a: Point, places: &[Point], attraction: &[f64], exaggeration: f64, total: f64) -> Point {
    let mut force = [0.0; 2];
    for (b, p) in places.iter().zip(attraction) {
        let q = kernel(a, *b);
        let pull = 4.0 * (exaggeration * p - q / total) * q;
        force[0] += pull * (a[0] - b[0]);
        force[1] += pull * (a[1] - b[1]);
    }
    force
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two clouds far apart in `width` dimensions, 60 points each, in turn.
    fn clouds(width: usize) -> Vec<f32> {
        let mut stream = Stream::new(0, "clouds", 0, 0);
        let mut values = Vec::new();
        for i in 0..120 {
            for j in 0..width {
                let center = if i % 2 == j % 2 { 3.0 } else { -3.0 };
                values.push((center + stream.normal()) as f32);
            }
        }
        values
    }

    #[test]
    fn two_clouds_stay_apart_on_the_map() {
        // One case for each side of the choice between X^T X and X X^T.
        for width in [10, 150] {
            let values = clouds(width);
            let places = tsne(Features::new(&values, width).unwrap(), 0).unwrap();
            let distance = |i: usize, j: usize| {
                let (a, b) = (places[i], places[j]);
                (a[0] - b[0]).hypot(a[1] - b[1])
            };
            for i in 0..120 {
                let nearest = (0..120)
                    .filter(|j| *j != i)
                    .min_by(|a, b| distance(i, *a).total_cmp(&distance(i, *b)))
                    .unwrap();
                assert_eq!(i % 2, nearest % 2, "width {width}, point {i}");
            }
        }
    }

    #[test]
    fn the_same_features_give_the_same_map_on_any_number_of_threads() {
        let values = clouds(8);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| tsne(Features::new(&values, 8).unwrap(), 7).unwrap())
        };
        assert_eq!(run(1), run(2));
    }

    #[test]
    fn equal_or_few_features_have_places() {
        for (values, width) in [(vec![1.0; 60], 3), (vec![1.0, 2.0], 1), (vec![0.5; 7], 7)] {
            let places = tsne(Features::new(&values, width).unwrap(), 0).unwrap();
            assert_eq!(places.len(), values.len() / width);
            assert!(places.iter().flatten().all(|x| x.is_finite()));
        }
    }

    #[test]
    fn a_bell_has_the_entropy_asked_for() {
        let distances: Vec<f64> = (0..50).map(|j| f64::from(j * j)).collect();
        let mut out = vec![0.0; 50];
        bell(&distances, 0, 8_f64.ln(), &mut out);
        let entropy: f64 = out.iter().filter(|p| **p > 0.0).map(|p| -p * p.ln()).sum();
        assert!((entropy - 8_f64.ln()).abs() < 1e-4 && out[0] == 0.0);
    }
}
