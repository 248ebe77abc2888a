//! Mini-batch k-means, as scikit-learn's `MiniBatchKMeans` does it and HuBERT's authors use it.
//!
//! Sculley 2010, "Web-scale k-means clustering": a centroid moves towards the rows of a batch that are
//! nearest to it, by 1 over all rows that it ever got. Several starts by k-means++ are tried, and the one
//! with the lowest inertia on rows drawn for that goes on. It stops when the smoothed inertia of the
//! batches has not improved for a while.

use super::codebook::{Codebook, Nearest};
use super::start::plus_plus;
use crate::random::Stream;
use crate::{Error, Result};

/// Rows that can be asked for by their numbers.
pub trait Points {
    /// How many there are.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Numbers of a row.
    fn width(&self) -> usize;

    /// Puts the rows `numbers`, in that order, into `out`, in place of what it held.
    ///
    /// # Errors
    /// When they can't be read.
    fn gather(&self, numbers: &[usize], out: &mut Vec<f32>) -> Result<()>;
}

/// Rows in memory: values, and numbers of a row.
impl Points for (&[f32], usize) {
    fn len(&self) -> usize {
        self.0.len() / self.1
    }

    fn width(&self) -> usize {
        self.1
    }

    fn gather(&self, numbers: &[usize], out: &mut Vec<f32>) -> Result<()> {
        out.clear();
        for number in numbers {
            out.extend_from_slice(&self.0[number * self.1..][..self.1]);
        }
        Ok(())
    }
}

/// How clusters are sought; the defaults are those of HuBERT's authors (`learn_kmeans.py`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KMeans {
    /// K.
    pub clusters: usize,
    /// Rows of a batch.
    pub batch: usize,
    /// Times through the rows, at most.
    pub epochs: usize,
    /// Starts that are tried.
    pub tries: usize,
    /// Batches without an improvement of the smoothed inertia before it stops; 0 never stops.
    pub patience: usize,
    /// A cluster that got fewer than this share of the rows of the largest one starts again at a random
    /// row; 0 leaves all where they are.
    pub reassign: f64,
    /// Seed of every draw.
    pub seed: u64,
}

impl Default for KMeans {
    fn default() -> Self {
        Self {
            clusters: 100,
            batch: 10_000,
            epochs: 100,
            tries: 20,
            patience: 100,
            reassign: 0.0,
            seed: 0,
        }
    }
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Found {
    /// The centroids.
    pub codebook: Codebook,
    /// Batches that were taken.
    pub batches: usize,
}

impl KMeans {
    /// Seeks clusters among `points`. `stop` is asked before every batch, with the batches done and the
    /// most there will be; an error of it ends the search.
    ///
    /// # Errors
    /// When there are fewer rows than clusters, a row can't be read or is not finite, or `stop` says so.
    pub fn fit(
        &self,
        points: &dyn Points,
        mut stop: impl FnMut(usize, usize) -> Result<()>,
    ) -> Result<Found> {
        let n = points.len();
        if n < self.clusters || self.clusters == 0 {
            return Err(Error::asked_wrongly(format!(
                "{n} features don't make {} clusters",
                self.clusters
            ))
            .hint("ask for fewer clusters, or give more data"));
        }
        let batch = self.batch.clamp(1, n);
        let mut stream = Stream::new(self.seed, "k-means", 0, 0);
        let mut rows = Vec::new();
        let draw = |count: usize, stream: &mut Stream, rows: &mut Vec<f32>| {
            let numbers: Vec<usize> = (0..count).map(|_| stream.below(n)).collect();
            points.gather(&numbers, rows)?;
            match rows.iter().position(|x| !x.is_finite()) {
                Some(at) => Err(Error::failed(format!(
                    "feature {} of row {} is not finite",
                    at % points.width(),
                    numbers[at / points.width()]
                ))),
                None => Ok(()),
            }
        };
        let mut best: Option<(f64, Codebook)> = None;
        let mut judges = Vec::new();
        let start_rows = (3 * batch).max(3 * self.clusters).min(n);
        draw(start_rows, &mut stream, &mut judges)?;
        let most = self.epochs.saturating_mul(n) / batch;
        for _ in 0..self.tries.max(1) {
            stop(0, most)?;
            draw(start_rows, &mut stream, &mut rows)?;
            let centroids = plus_plus(&rows, points.width(), self.clusters, &mut stream)?;
            let book = Codebook::new(centroids, points.width())?;
            let far = book.nearest(&judges).mean_distance();
            if best.as_ref().is_none_or(|(least, _)| far < *least) {
                best = Some((far, book));
            }
        }
        let (_, mut codebook) = best.ok_or_else(|| Error::failed("no start was tried"))?;
        let mut moving = Moving::new(self, batch as f64 * 2.0 / (n as f64 + 1.0), &codebook);
        let mut batches = 0;
        while batches < most && !moving.settled(self.patience) {
            stop(batches, most)?;
            draw(batch, &mut stream, &mut rows)?;
            let nearest = codebook.nearest(&rows);
            codebook = moving.step(&rows, &nearest, &mut stream)?;
            batches += 1;
        }
        Ok(Found { codebook, batches })
    }
}

/// Centroids on their way.
struct Moving {
    centroids: Vec<f64>,
    width: usize,
    /// Rows that each got so far.
    weights: Vec<f64>,
    reassign: f64,
    since_reassigned: usize,
    /// How much the newest batch counts in the smoothed inertia.
    newest: f64,
    smoothed: Option<f64>,
    least: f64,
    without_progress: usize,
    seen: usize,
}

impl Moving {
    fn new(settings: &KMeans, newest: f64, from: &Codebook) -> Self {
        Self {
            centroids: from.centroids().iter().map(|x| f64::from(*x)).collect(),
            width: from.width(),
            weights: vec![0.0; from.clusters()],
            reassign: settings.reassign,
            since_reassigned: 0,
            newest: newest.min(1.0),
            smoothed: None,
            least: f64::INFINITY,
            without_progress: 0,
            seen: 0,
        }
    }

    fn settled(&self, patience: usize) -> bool {
        patience > 0 && self.without_progress >= patience
    }

    /// Moves the centroids towards the rows of a batch.
    fn step(&mut self, rows: &[f32], nearest: &Nearest, stream: &mut Stream) -> Result<Codebook> {
        let width = self.width;
        for (row, unit) in rows.chunks_exact(width).zip(&nearest.units) {
            let unit = *unit as usize;
            self.weights[unit] += 1.0;
            let rate = 1.0 / self.weights[unit];
            let centroid = &mut self.centroids[unit * width..][..width];
            for (c, x) in centroid.iter_mut().zip(row) {
                *c += rate * (f64::from(*x) - *c);
            }
        }
        if self.reassign > 0.0 {
            self.start_again(rows, stream);
        }
        self.judge(nearest.mean_distance());
        Codebook::new(self.centroids.iter().map(|x| *x as f32).collect(), width)
    }

    /// Smooths the inertia, of which the first batch tells only how the start was.
    fn judge(&mut self, inertia: f64) {
        self.seen += 1;
        if self.seen == 1 {
            return;
        }
        let smoothed = match self.smoothed {
            None => inertia,
            Some(before) => before * (1.0 - self.newest) + inertia * self.newest,
        };
        self.smoothed = Some(smoothed);
        if smoothed < self.least {
            (self.least, self.without_progress) = (smoothed, 0);
        } else {
            self.without_progress += 1;
        }
    }

    /// Puts clusters that got few rows on random rows of the batch, at most half as many as those.
    fn start_again(&mut self, rows: &[f32], stream: &mut Stream) {
        let n = rows.len() / self.width;
        self.since_reassigned += n;
        let empty = self.weights.contains(&0.0);
        if !empty && self.since_reassigned < 10 * self.weights.len() {
            return;
        }
        self.since_reassigned = 0;
        let most = self.weights.iter().copied().fold(0.0, f64::max);
        let mut few: Vec<usize> = (0..self.weights.len())
            .filter(|unit| self.weights[*unit] < self.reassign * most)
            .collect();
        few.sort_by(|a, b| self.weights[*a].total_cmp(&self.weights[*b]));
        few.truncate(n / 2);
        let others = (0..self.weights.len()).filter(|unit| !few.contains(unit));
        let least = others.map(|unit| self.weights[unit]).fold(f64::INFINITY, f64::min);
        let mut order: Vec<usize> = (0..n).collect();
        stream.shuffle(&mut order);
        for (unit, row) in few.into_iter().zip(order) {
            let row = &rows[row * self.width..][..self.width];
            let centroid = &mut self.centroids[unit * self.width..][..self.width];
            centroid.iter_mut().zip(row).for_each(|(c, x)| *c = f64::from(*x));
            self.weights[unit] = if least.is_finite() { least } else { 1.0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `n` rows of two numbers around `groups` points of a circle.
    fn groups(n: usize, groups: usize) -> Vec<f32> {
        let mut stream = Stream::new(1, "groups", 0, 0);
        let row = |i: usize| {
            let turn = std::f64::consts::TAU * (i % groups) as f64 / groups as f64;
            [turn.cos(), turn.sin()].map(|x| (10.0 * x + 0.3 * stream.normal()) as f32)
        };
        (0..n).flat_map(row).collect()
    }

    fn few() -> KMeans {
        KMeans { clusters: 6, batch: 200, epochs: 20, tries: 3, ..KMeans::default() }
    }

    fn fit(settings: KMeans, rows: &[f32]) -> Found {
        settings.fit(&(rows, 2), |_, _| Ok(())).unwrap()
    }

    #[test]
    fn groups_that_lie_apart_become_the_clusters() {
        let rows = groups(3000, 6);
        let found = fit(few(), &rows);
        let far = found.codebook.nearest(&rows).mean_distance();
        assert!(far < 2.0 * 0.3 * 0.3 * 1.1, "{far}");
    }

    #[test]
    fn the_clusters_follow_from_the_seed_whatever_the_threads() {
        let rows = groups(2000, 9);
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| fit(few(), &rows).codebook.centroids().to_vec())
        };
        let one = on(1);
        assert_eq!(one, on(3));
        assert_ne!(one, fit(KMeans { seed: 1, ..few() }, &rows).codebook.centroids());
    }

    #[test]
    fn it_stops_when_nothing_improves_for_a_while() {
        let rows = groups(2000, 6);
        let found = fit(KMeans { epochs: 1000, patience: 5, ..few() }, &rows);
        assert!((6..5000).contains(&found.batches), "{}", found.batches);
        let all = fit(KMeans { epochs: 3, patience: 0, ..few() }, &rows);
        assert_eq!(all.batches, 30);
    }

    #[test]
    fn a_cluster_that_gets_nothing_starts_again_where_that_is_asked_for() {
        // Twice the clusters that there are groups: without a new start some stay nearly empty.
        let rows = groups(400, 2);
        let settings = KMeans { clusters: 12, tries: 1, reassign: 0.3, ..few() };
        let found = fit(settings, &rows);
        let mut counts = vec![0; 12];
        for unit in found.codebook.nearest(&rows).units {
            counts[unit as usize] += 1;
        }
        assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    }

    #[test]
    fn too_few_rows_and_rows_that_are_not_finite_are_refused() {
        let error = KMeans::default().fit(&(&[0.0; 20][..], 2), |_, _| Ok(())).unwrap_err();
        assert_eq!(error.message(), "10 features don't make 100 clusters");
        let error = few().fit(&(&[f32::NAN; 20][..], 2), |_, _| Ok(())).unwrap_err();
        assert!(error.message().ends_with("is not finite"), "{error}");
    }

    #[test]
    fn whoever_watches_can_end_it() {
        let rows = groups(400, 2);
        let stop = |done, _| if done < 2 { Ok(()) } else { Err(Error::interrupted("enough")) };
        assert_eq!(few().fit(&(&rows[..], 2), stop).unwrap_err().message(), "enough");
    }
}
