//! The linear probe: multinomial logistic regression on frozen features.
//!
//! On standardised features x it finds the W `[K, D]` and b `[K]` with the least
//! `mean CE(softmax(W x + b)) + strength / 2 |W|^2` over all samples at once, by L-BFGS: nothing is drawn and
//! nothing depends on the number of threads. scikit-learn's `LogisticRegression` has the same with
//! `C = 1 / (strength N)`. The strength is the one that does best on a fifth of the training samples, held
//! out; then all are fitted.

use std::cell::RefCell;

use super::knn::{Labelled, share_equal};
use super::lbfgs::{Limits, minimize};
use crate::engine::kernel::matmul::{Matrix, Write, matmul};
use crate::metric::Features;
use crate::{Error, Result};

/// Strengths that are tried, from the strongest on.
const STRENGTHS: [f64; 5] = [1.0, 1e-1, 1e-2, 1e-3, 1e-4];
/// Every so many samples one is held out.
const HELD_OUT: usize = 5;
/// Far beyond what accuracy needs.
const LIMITS: Limits = Limits { iterations: 200, gradient: 1e-5 };
/// Enough to tell which strength does better.
const LIMITS_OF_CHOICE: Limits = Limits { iterations: 60, gradient: 1e-4 };

/// Samples that a probe needs at least to learn from.
pub const LEAST: usize = 2 * HELD_OUT;

/// What the probe said.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinearAnswer {
    /// Share of queries whose class was named: 0 to 1.
    pub accuracy: f64,
    /// The strength of regularisation that was chosen.
    pub strength: f64,
}

/// Fits `bank` and asks about `queries`.
///
/// # Errors
/// When there is no query, fewer than ten samples of the bank, or their widths differ.
pub fn probe(bank: Labelled<'_>, queries: Labelled<'_>) -> Result<LinearAnswer> {
    if bank.labels().len() < LEAST || queries.labels().is_empty() {
        return Err(Error::failed("a linear probe needs ten samples to learn from and one query"));
    }
    if bank.features().width() != queries.features().width() {
        let (queries, bank) = (queries.features().width(), bank.features().width());
        return Err(Error::failed(format!("queries have {queries} features, the bank {bank}")));
    }
    let strength = choose(bank)?;
    let fit = Fit::new(bank, strength);
    Ok(LinearAnswer { accuracy: fit.accuracy(queries), strength })
}

/// The strength that does best on held-out samples of `bank`, of equals the strongest. Once a weaker one does
/// worse, those that are weaker still are left out: they take longest.
fn choose(bank: Labelled<'_>) -> Result<f64> {
    let part = |held_out: bool| -> (Vec<f32>, Vec<u32>) {
        let chosen = |i: &usize| (i % HELD_OUT == HELD_OUT - 1) == held_out;
        let rows: Vec<usize> = (0..bank.labels().len()).filter(chosen).collect();
        let width = bank.features().width();
        let row = |i: &usize| &bank.features().values()[i * width..][..width];
        (
            rows.iter().flat_map(row).copied().collect(),
            rows.iter().map(|i| bank.labels()[*i]).collect(),
        )
    };
    let ((values, labels), (held, answers)) = (part(false), part(true));
    let width = bank.features().width();
    let rest = Labelled::new(Features::new(&values, width)?, &labels)?;
    let held = Labelled::new(Features::new(&held, width)?, &answers)?;
    let (mut best, mut chosen) = (-1.0, STRENGTHS[0]);
    let mut last: Option<Fit> = None;
    for strength in STRENGTHS {
        let fit = Fit::search(rest, strength, LIMITS_OF_CHOICE, last.as_ref());
        let accuracy = fit.accuracy(held);
        if accuracy < best {
            break;
        }
        if accuracy > best {
            (best, chosen) = (accuracy, strength);
        }
        last = Some(fit);
    }
    Ok(chosen)
}

/// Weights that were found.
#[derive(Clone, Debug)]
pub struct Fit {
    /// Means of the features, taken from them.
    mean: Vec<f64>,
    /// What they are then multiplied by: 1 over their standard deviations.
    scale: Vec<f64>,
    classes: usize,
    /// W `[K, D]`, then b `[K]`.
    weights: Vec<f64>,
}

/// Features that differ by less than this share of their size are constants.
const CONSTANT: f64 = 1e-6;

impl Fit {
    /// The weights for `bank` at `strength`.
    pub fn new(bank: Labelled<'_>, strength: f64) -> Self {
        Self::search(bank, strength, LIMITS, None)
    }

    /// The weights for `bank` at `strength`, sought from those of `start` on.
    fn search(bank: Labelled<'_>, strength: f64, limits: Limits, start: Option<&Self>) -> Self {
        let (features, labels) = (bank.features(), bank.labels());
        let (rows, width) = (features.rows(), features.width());
        let classes = labels.iter().max().map_or(1, |most| *most as usize + 1);
        let mean = features.mean();
        let mut variance = vec![0.0; width];
        for row in features.values().chunks_exact(width) {
            for ((sum, x), mean) in variance.iter_mut().zip(row).zip(&mean) {
                *sum += (f64::from(*x) - mean).powi(2) / rows as f64;
            }
        }
        let scale = |(variance, mean): (&f64, &f64)| {
            let std = variance.sqrt();
            if std > CONSTANT * mean.abs().max(1e-6) { 1.0 / std } else { 0.0 }
        };
        let scale = variance.iter().zip(&mean).map(scale).collect();
        let mut fit = Self { mean, scale, classes, weights: Vec::new() };
        let x = fit.standardized(features);
        let begin = match start {
            Some(start) if start.weights.len() == classes * (width + 1) => start.weights.clone(),
            _ => vec![0.0; classes * (width + 1)],
        };
        let objective = Objective::new(&x, labels, classes, strength);
        fit.weights = minimize(begin, limits, |w, gradient| objective.value(w, gradient));
        fit
    }

    /// W `[K, D]` of standardised features, and b `[K]`.
    pub fn weights(&self) -> (&[f64], &[f64]) {
        self.weights.split_at(self.classes * self.mean.len())
    }

    /// The likeliest class of each row.
    pub fn classify(&self, features: Features<'_>) -> Vec<u32> {
        let x = self.standardized(features);
        let mut logits = logits(&x, &self.weights, self.classes);
        let largest = |row: &mut [f32]| {
            let best = (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best });
            best as u32
        };
        logits.chunks_exact_mut(self.classes).map(largest).collect()
    }

    /// The share of `queries` whose class it names.
    pub fn accuracy(&self, queries: Labelled<'_>) -> f64 {
        share_equal(&self.classify(queries.features()), queries.labels())
    }

    fn standardized(&self, features: Features<'_>) -> Vec<f32> {
        let rows = features.values().chunks_exact(features.width());
        rows.flat_map(|row| {
            row.iter()
                .zip(self.mean.iter().zip(&self.scale))
                .map(|(x, (mean, scale))| ((f64::from(*x) - mean) * scale) as f32)
        })
        .collect()
    }
}

/// `W x + b` of every row of `x` `[N, D]`: `[N, K]`.
fn logits(x: &[f32], weights: &[f64], classes: usize) -> Vec<f32> {
    let width = weights.len() / classes - 1;
    let single: Vec<f32> = weights.iter().map(|w| *w as f32).collect();
    let (w, b) = single.split_at(classes * width);
    let rows = x.len() / width;
    let mut logits = b.repeat(rows);
    let (x, w) = (Matrix::new(x, rows, width), Matrix::new(w, classes, width));
    matmul(1.0, x, w.transposed(), Write::Add, &mut logits);
    logits
}

/// The regression's function of its weights.
struct Objective<'a> {
    /// Standardised features `[N, D]`.
    x: &'a [f32],
    labels: &'a [u32],
    classes: usize,
    strength: f64,
    /// The gradient to W, `[K, D]`.
    product: RefCell<Vec<f32>>,
}

impl<'a> Objective<'a> {
    fn new(x: &'a [f32], labels: &'a [u32], classes: usize, strength: f64) -> Self {
        let width = x.len() / labels.len();
        Self { x, labels, classes, strength, product: RefCell::new(vec![0.0; classes * width]) }
    }

    /// The value at `weights`; writes the gradient.
    fn value(&self, weights: &[f64], gradient: &mut [f64]) -> f64 {
        let (classes, rows) = (self.classes, self.labels.len());
        let width = self.x.len() / rows;
        let mut errors = logits(self.x, weights, classes);
        let (w, _) = weights.split_at(classes * width);
        let (dw, db) = gradient.split_at_mut(classes * width);
        db.fill(0.0);
        let mut sum = 0.0;
        // Logits become the errors (p - y) / N in their place.
        for (row, label) in errors.chunks_exact_mut(classes).zip(self.labels) {
            sum += cross_entropy(row, *label as usize);
            for (x, db) in row.iter_mut().zip(&mut *db) {
                *db += f64::from(*x) / rows as f64;
                *x /= rows as f32;
            }
        }
        let mut product = self.product.borrow_mut();
        let (e, x) = (Matrix::new(&errors, rows, classes), Matrix::new(self.x, rows, width));
        matmul(1.0, e.transposed(), x, Write::Set, &mut product);
        for ((dw, w), product) in dw.iter_mut().zip(w).zip(product.iter()) {
            *dw = f64::from(*product) + self.strength * w;
        }
        let squares: f64 = w.iter().map(|w| w * w).sum();
        sum / rows as f64 + 0.5 * self.strength * squares
    }
}

/// Turns the logits of one row into softmax minus one-hot; returns the cross-entropy.
fn cross_entropy(row: &mut [f32], label: usize) -> f64 {
    let most = row.iter().fold(f32::NEG_INFINITY, |most, x| most.max(*x));
    let target = f64::from(row[label] - most);
    let mut sum = 0.0;
    for x in row.iter_mut() {
        *x = (*x - most).exp();
        sum += f64::from(*x);
    }
    for x in row.iter_mut() {
        *x = (f64::from(*x) / sum) as f32;
    }
    row[label] -= 1.0;
    sum.ln() - target
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    /// Four classes in 12 dimensions, of which two tell them apart; one dimension is constant.
    fn samples(n: usize, name: &str) -> (Vec<f32>, Vec<u32>) {
        let mut stream = Stream::new(0, name, 0, 0);
        let labels: Vec<u32> = (0..n).map(|_| stream.below(4) as u32).collect();
        let mut values = Vec::new();
        for label in &labels {
            for dim in 0..12 {
                let noise = if dim == 11 { 0.0 } else { stream.normal() };
                let bit = if dim < 2 { f64::from(label >> dim & 1) } else { 0.0 };
                values.push((100.0 * f64::from(u8::from(dim == 3)) + 3.0 * bit + noise) as f32);
            }
        }
        (values, labels)
    }

    #[test]
    fn it_names_classes_that_a_plane_can_part_and_repeats_itself() {
        let ((bank, labels), (queries, answers)) = (samples(600, "bank"), samples(300, "queries"));
        let ask = || {
            let bank = Labelled::new(Features::new(&bank, 12).unwrap(), &labels).unwrap();
            let queries = Labelled::new(Features::new(&queries, 12).unwrap(), &answers).unwrap();
            probe(bank, queries).unwrap()
        };
        let answer = ask();
        // Two bits at 1.5 deviations from the middle: 0.933^2.
        assert!((0.83..0.92).contains(&answer.accuracy), "{answer:?}");
        assert_eq!(answer, ask());
        assert!(STRENGTHS.contains(&answer.strength));
    }

    #[test]
    fn the_gradient_is_that_of_the_value() {
        let (x, labels) = samples(40, "gradient");
        let objective = Objective::new(&x[..40 * 3], &labels, 4, 0.3);
        let mut stream = Stream::new(0, "weights", 0, 0);
        let weights: Vec<f64> = (0..16).map(|_| 0.1 * stream.normal()).collect();
        let mut gradient = vec![0.0; 16];
        objective.value(&weights, &mut gradient);
        for i in 0..16 {
            let value = |step: f64| {
                let mut moved = weights.clone();
                moved[i] += step;
                objective.value(&moved, &mut [0.0; 16])
            };
            let slope = (value(1e-2) - value(-1e-2)) / 2e-2;
            assert!((slope - gradient[i]).abs() < 2e-3, "{i}: {slope} {}", gradient[i]);
        }
    }

    #[test]
    fn too_little_to_learn_from_is_an_error() {
        let (values, labels) = samples(6, "few");
        let few = Labelled::new(Features::new(&values, 12).unwrap(), &labels).unwrap();
        assert!(probe(few, few).is_err());
    }
}
