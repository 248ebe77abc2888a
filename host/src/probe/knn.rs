//! The weighted nearest-neighbour probe: no training, so it tells at once what features are worth.
//!
//! Wu et al. 2018, <https://arxiv.org/abs/1805.01978>, as DINO evaluates: a query's k nearest in the
//! bank by cosine similarity s vote for their class with the weight exp(s / temperature).

use rayon::prelude::*;

use crate::engine::kernel::matmul::{Matrix, Write, matmul};
use crate::metric::Features;
use crate::{Error, Result};

/// Queries and rows of the bank whose similarities are computed at a time: 4 MiB, which stays in
/// the cache until each query has picked its neighbours.
const QUERIES: usize = 256;
const BANK: usize = 4096;

/// The probe's settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Knn {
    /// How many neighbours vote.
    pub k: usize,
    /// Of the votes: smaller trusts the nearest more.
    pub temperature: f64,
}

impl Default for Knn {
    fn default() -> Self {
        Self { k: 20, temperature: 0.07 }
    }
}

/// Features `[N, D]` and the class of each sample.
#[derive(Clone, Copy, Debug)]
pub struct Labelled<'a> {
    features: Features<'a>,
    labels: &'a [u32],
}

impl<'a> Labelled<'a> {
    /// Pairs `features` `[N, D]` with `labels` `[N]`.
    ///
    /// # Errors
    /// When the lengths differ.
    pub fn new(features: Features<'a>, labels: &'a [u32]) -> Result<Self> {
        if features.rows() != labels.len() {
            let message = format!("{} features have {} labels", features.rows(), labels.len());
            return Err(Error::failed(message));
        }
        Ok(Self { features, labels })
    }

    /// `[N, D]`.
    pub fn features(&self) -> Features<'a> {
        self.features
    }

    /// `[N]`.
    pub fn labels(&self) -> &'a [u32] {
        self.labels
    }
}

/// A sample of the bank near a query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Neighbour {
    /// Its row in the bank.
    pub index: usize,
    /// Cosine similarity to the query: -1 to 1.
    pub similarity: f32,
}

impl Knn {
    /// The share of `queries` whose class the `bank`'s votes get right: 0 to 1.
    ///
    /// # Errors
    /// When there is no query, no bank, or their widths differ.
    pub fn accuracy(self, bank: Labelled<'_>, queries: Labelled<'_>) -> Result<f64> {
        let said = self.classify(bank, queries.features)?;
        Ok(share_equal(&said, queries.labels))
    }

    /// Like [`Knn::accuracy`] with each sample of `bank` as a query that doesn't see itself.
    ///
    /// # Errors
    /// With fewer than two samples.
    pub fn accuracy_within(self, bank: Labelled<'_>) -> Result<f64> {
        let found = neighbours_within(bank.features, self.k)?;
        let said: Vec<_> = found.iter().map(|near| self.vote(near, bank.labels)).collect();
        Ok(share_equal(&said, bank.labels))
    }

    /// The class that the `bank`'s votes give each query; among equals the lowest.
    ///
    /// # Errors
    /// When there is no query, no bank, or their widths differ.
    pub fn classify(self, bank: Labelled<'_>, queries: Features<'_>) -> Result<Vec<u32>> {
        let found = neighbours(bank.features, queries, self.k)?;
        Ok(found.iter().map(|near| self.vote(near, bank.labels)).collect())
    }

    fn vote(self, near: &[Neighbour], labels: &[u32]) -> u32 {
        let mut votes: Vec<(u32, f64)> = Vec::new();
        for neighbour in near {
            let weight = (f64::from(neighbour.similarity) / self.temperature).exp();
            let class = labels[neighbour.index];
            match votes.iter_mut().find(|(voted, _)| *voted == class) {
                Some((_, sum)) => *sum += weight,
                None => votes.push((class, weight)),
            }
        }
        let better = |a: &(u32, f64), b: &(u32, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        votes.into_iter().min_by(better).map_or(0, |(class, _)| class)
    }
}

/// The share of `said` that equals `labels`.
pub(super) fn share_equal(said: &[u32], labels: &[u32]) -> f64 {
    let right = said.iter().zip(labels).filter(|(said, label)| said == label).count();
    right as f64 / labels.len() as f64
}

/// The `k` rows of `bank` nearest to each of `queries`, nearest first, among equals the lower index
/// first; fewer where the bank is smaller.
///
/// # Errors
/// When there is no query, no bank, `k` is 0, or the widths differ.
pub fn neighbours(
    bank: Features<'_>,
    queries: Features<'_>,
    k: usize,
) -> Result<Vec<Vec<Neighbour>>> {
    search(bank, queries, k, false)
}

/// Like [`neighbours`] with each row of `bank` as a query that doesn't find itself.
///
/// # Errors
/// With fewer than two rows, or when `k` is 0.
pub fn neighbours_within(bank: Features<'_>, k: usize) -> Result<Vec<Vec<Neighbour>>> {
    search(bank, bank, k, true)
}

fn search(
    bank: Features<'_>,
    queries: Features<'_>,
    k: usize,
    exclude_self: bool,
) -> Result<Vec<Vec<Neighbour>>> {
    let width = bank.width();
    if queries.width() != width {
        let message = format!("queries have {} features, the bank {width}", queries.width());
        return Err(Error::failed(message));
    }
    if k == 0 || queries.rows() == 0 || bank.rows() < 1 + usize::from(exclude_self) {
        return Err(Error::failed("a search for neighbours needs queries, a bank and k > 0"));
    }
    let (bank, queries) = (normalized(bank), normalized(queries));
    let mut found = vec![Nearest::new(k); queries.len() / width];
    let mut similarities = vec![0.0_f32; QUERIES * BANK];
    for (q, (block, found)) in
        queries.chunks(QUERIES * width).zip(found.chunks_mut(QUERIES)).enumerate()
    {
        for (b, part) in bank.chunks(BANK * width).enumerate() {
            let (rows, cols) = (block.len() / width, part.len() / width);
            let (left, right) = (Matrix::new(block, rows, width), Matrix::new(part, cols, width));
            matmul(1.0, left, right.transposed(), Write::Set, &mut similarities);
            let rows = similarities.par_chunks(cols).zip(found.par_iter_mut()).enumerate();
            rows.for_each(|(i, (row, nearest))| {
                let hidden = exclude_self.then_some(q * QUERIES + i);
                nearest.look_through(row, b * BANK, hidden);
            });
        }
    }
    Ok(found.into_iter().map(|nearest| nearest.found).collect())
}

/// The rows of `features`, each divided by its length.
fn normalized(features: Features<'_>) -> Vec<f32> {
    let mut rows = features.values().to_vec();
    rows.par_chunks_mut(features.width()).for_each(|row| {
        let norm = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt().max(1e-12);
        for x in row {
            *x = (f64::from(*x) / norm) as f32;
        }
    });
    rows
}

/// The best so far of one query, nearest first.
#[derive(Clone, Debug)]
struct Nearest {
    k: usize,
    found: Vec<Neighbour>,
}

impl Nearest {
    fn new(k: usize) -> Self {
        Self { k, found: Vec::new() }
    }

    /// Takes in similarities to the rows from `start` on, in order of the rows: an equal one that
    /// comes later stays behind.
    fn look_through(&mut self, row: &[f32], start: usize, hidden: Option<usize>) {
        let mut least = self.least();
        for (j, similarity) in row.iter().enumerate() {
            if *similarity > least && hidden != Some(start + j) {
                self.insert(Neighbour { index: start + j, similarity: *similarity });
                least = self.least();
            }
        }
    }

    /// What a newcomer must exceed.
    fn least(&self) -> f32 {
        match self.found.last() {
            Some(last) if self.found.len() == self.k => last.similarity,
            _ => f32::NEG_INFINITY,
        }
    }

    fn insert(&mut self, new: Neighbour) {
        let at = self.found.partition_point(|old| old.similarity >= new.similarity);
        self.found.truncate(self.k - 1);
        self.found.insert(at, new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    /// Three classes on a noisy circle in 7 dimensions.
    fn samples(n: usize, name: &str) -> (Vec<f32>, Vec<u32>) {
        let mut stream = Stream::new(0, name, 0, 0);
        let labels: Vec<u32> = (0..n).map(|_| stream.below(3) as u32).collect();
        let mut values = Vec::new();
        for label in &labels {
            for dim in 0..7 {
                let center = if dim == *label { 0.8 } else { 0.0 };
                values.push((center + stream.normal()) as f32);
            }
        }
        (values, labels)
    }

    fn labelled<'a>(values: &'a [f32], labels: &'a [u32]) -> Labelled<'a> {
        Labelled::new(Features::new(values, 7).unwrap(), labels).unwrap()
    }

    fn naive_similarity(a: &[f32], b: &[f32]) -> f64 {
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
        };
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
    }

    fn naive_class(knn: Knn, bank: (&[f32], &[u32]), query: &[f32], hidden: Option<usize>) -> u32 {
        let mut all: Vec<(f64, usize)> = bank
            .0
            .chunks_exact(7)
            .enumerate()
            .filter(|(i, _)| Some(*i) != hidden)
            .map(|(i, row)| (naive_similarity(row, query), i))
            .collect();
        all.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let mut votes = [0.0; 3];
        for (similarity, i) in all.iter().take(knn.k) {
            votes[bank.1[*i] as usize] += (similarity / knn.temperature).exp();
        }
        (0..3).max_by(|a, b| votes[*a].total_cmp(&votes[*b])).unwrap() as u32
    }

    #[test]
    fn classes_agree_with_a_plain_sum_in_f64_across_blocks() {
        let (bank, bank_labels) = samples(BANK + 300, "bank");
        let (queries, labels) = samples(QUERIES + 44, "queries");
        let knn = Knn::default();
        let want: Vec<u32> = queries
            .chunks_exact(7)
            .map(|query| naive_class(knn, (&bank, &bank_labels), query, None))
            .collect();
        let features = Features::new(&queries, 7).unwrap();
        let got = knn.classify(labelled(&bank, &bank_labels), features).unwrap();
        assert_eq!(want, got);
        let accuracy =
            knn.accuracy(labelled(&bank, &bank_labels), labelled(&queries, &labels)).unwrap();
        assert!(accuracy > 0.4 && accuracy == share_equal(&got, &labels));
    }

    #[test]
    fn a_sample_does_not_vote_for_itself() {
        let (bank, labels) = samples(500, "bank");
        let knn = Knn { k: 1, temperature: 0.07 };
        assert_eq!(knn.accuracy(labelled(&bank, &labels), labelled(&bank, &labels)).unwrap(), 1.0);
        let want: Vec<u32> = (0..500)
            .map(|i| naive_class(knn, (&bank, &labels), &bank[i * 7..(i + 1) * 7], Some(i)))
            .collect();
        let within = knn.accuracy_within(labelled(&bank, &labels)).unwrap();
        assert_eq!(within, share_equal(&want, &labels));
        assert!(within < 0.9);
    }

    #[test]
    fn among_equals_the_lower_index_comes_first() {
        let bank = Features::new(&[0.0, 1.0, 1.0, 0.0, 2.0, 0.0, 3.0, 0.0], 2).unwrap();
        let found = neighbours(bank, Features::new(&[5.0, 0.0], 2).unwrap(), 2).unwrap();
        let indices: Vec<_> = found[0].iter().map(|near| near.index).collect();
        assert_eq!(indices, [1, 2]);
        assert_eq!(found[0][0].similarity, 1.0);
    }

    #[test]
    fn a_small_bank_gives_what_it_has_and_zero_features_harm_nothing() {
        let bank = Features::new(&[0.0, 0.0, 1.0, 0.0], 2).unwrap();
        let found = neighbours(bank, bank, 20).unwrap();
        assert_eq!(found[1].iter().map(|near| near.index).collect::<Vec<_>>(), [1, 0]);
        assert_eq!(found[0][0].similarity, 0.0);
    }

    #[test]
    fn the_number_of_threads_changes_no_neighbour() {
        let (bank, _) = samples(3000, "bank");
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| neighbours_within(Features::new(&bank, 7).unwrap(), 5).unwrap())
        };
        assert_eq!(run(1), run(3));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let bank = Features::new(&[1.0, 0.0], 2).unwrap();
        let wide = Features::new(&[1.0, 0.0, 0.0], 3).unwrap();
        assert!(neighbours(bank, wide, 1).is_err());
        assert!(neighbours_within(bank, 1).is_err());
        assert!(Labelled::new(bank, &[1, 2]).is_err());
    }
}
