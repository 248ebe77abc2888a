//! What was learned: features of labelled data, asked by nearest neighbours, beside two baselines.

use std::rc::Rc;
use std::sync::Arc;

use super::inputs::{Asked, Inputs, Wanted};
use crate::config::Recipe;
use crate::data::dataset::Dataset;
use crate::data::view::Grid;
use crate::engine::Precision;
use crate::metric::{Features, rank::rank, spread::spread};
use crate::module::Module;
use crate::probe::knn::{Knn, Labelled};
use crate::probe::linear;
use crate::state::State;
use crate::{Error, Result};

/// Labelled data in memory, ready to ask a backbone about.
#[derive(Debug)]
pub struct Evaluation {
    /// Samples whose labels vote.
    pub bank: Inputs,
    /// Samples that are asked about; none where the data has no test part.
    pub queries: Inputs,
    knn: Knn,
    /// Whether the recipe wants a linear probe.
    linear: bool,
    precision: Precision,
    /// The backbone's output that is asked.
    output: String,
    grid: Grid,
}

/// Figures of one backbone.
#[derive(Clone, Debug, PartialEq)]
pub struct Figures {
    /// Share of queries whose class the neighbours named; none without labels.
    pub knn: Option<f64>,
    /// Share of queries whose class a logistic regression named; none without labels or where it wasn't
    /// asked, see [`Evaluation::ask_fully`].
    pub linear: Option<f64>,
    /// `RankMe` of the bank's features.
    pub rank: f64,
    /// Mean spread of the bank's normalised features.
    pub spread: f64,
}

impl Figures {
    /// Named, in order, for records and lines.
    pub fn named(&self) -> Vec<(String, f64)> {
        let shares = [("knn", self.knn), ("linear", self.linear)];
        let known = shares.into_iter().filter_map(|(name, share)| Some((name.to_owned(), share?)));
        known.chain([("rank".to_owned(), self.rank), ("spread".to_owned(), self.spread)]).collect()
    }
}

/// What a backbone makes of the data, and what that is worth.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Features of the bank, `[N, D]`.
    pub bank: Vec<f32>,
    /// Features of the queries, `[Q, D]`.
    pub queries: Vec<f32>,
    /// D.
    pub dim: usize,
    /// What they are worth.
    pub figures: Figures,
}

/// The widest inputs that a logistic regression is asked about: pictures of 32 x 32.
const RAW_WIDTH: usize = 3 * 32 * 32;
/// Rows that go into rank and spread: the spectrum of a few thousand says as much as that of all.
const SPECTRUM_ROWS: usize = 2048;

impl Evaluation {
    /// The bank from the training data, the queries from `test`, as `wanted`; `grid` says how many tokens it makes of a sound.
    ///
    /// # Errors
    /// When the data can't be brought to the form, or nothing of it can be read.
    pub fn new(
        train: &Arc<dyn Dataset>,
        test: Option<&Arc<dyn Dataset>>,
        wanted: &Wanted,
        grid: Grid,
        recipe: &Recipe,
    ) -> Result<Self> {
        let probe = &recipe.probe;
        let bank = Inputs::read(train, probe.bank, wanted)?;
        if bank.is_empty() {
            return Err(Error::failed("no sample of the training data can be read")
                .hint("`pretext data info PATH` says what is broken"));
        }
        let queries = match test {
            Some(test) => Inputs::read(test, probe.queries, wanted)?,
            None => Inputs::read(train, 0, wanted)?,
        };
        let knn = Knn { k: probe.k, temperature: probe.temperature };
        let output = match probe.layer {
            0 => "pooled".to_owned(),
            layer => format!("layer.{layer}"),
        };
        let (linear, precision) = (probe.linear, recipe.precision);
        Ok(Self { bank, queries, knn, linear, precision, output, grid })
    }

    /// Whether there are labels to ask about.
    pub fn labelled(&self) -> bool {
        !self.bank.labels.is_empty() && !self.queries.labels.is_empty()
    }

    /// What naming the most frequent class for every query would reach.
    pub fn chance(&self) -> Option<f64> {
        let labels = &self.queries.labels;
        let most =
            labels.iter().map(|label| labels.iter().filter(|l| *l == label).count()).max()?;
        Some(most as f64 / labels.len() as f64)
    }

    /// kNN accuracy on the inputs themselves; of sounds on mean and deviation of MFCC, each brought to one
    /// scale, since loudness counts in tens where the slope of a coefficient counts in tenths.
    ///
    /// # Errors
    /// When an input is not finite.
    pub fn raw(&self) -> Result<Option<f64>> {
        if !self.labelled() {
            return Ok(None);
        }
        let ((mut bank, dim), (mut queries, _)) = (self.bank.raw(), self.queries.raw());
        if self.bank.is_sound() {
            standardise(&mut bank, &mut queries, dim);
        }
        let bank = Labelled::new(Features::new(&bank, dim)?, &self.bank.labels)?;
        let queries = Labelled::new(Features::new(&queries, dim)?, &self.queries.labels)?;
        self.knn.accuracy(bank, queries).map(Some)
    }

    /// Accuracy of a logistic regression on the inputs themselves; none where they are so wide that it
    /// would take minutes.
    ///
    /// # Errors
    /// When an input is not finite.
    pub fn raw_linear(&self) -> Result<Option<f64>> {
        let (bank, dim) = self.bank.raw();
        if !self.labelled() || dim > RAW_WIDTH {
            return Ok(None);
        }
        let queries = self.queries.raw().0;
        self.regress(Features::new(&bank, dim)?, Features::new(&queries, dim)?)
    }

    /// Accuracy of a logistic regression on features of bank and queries; none where the recipe wants
    /// none, or the bank is too small.
    fn regress(&self, bank: Features<'_>, queries: Features<'_>) -> Result<Option<f64>> {
        if !self.linear || bank.rows() < linear::LEAST {
            return Ok(None);
        }
        let bank = Labelled::new(bank, &self.bank.labels)?;
        let queries = Labelled::new(queries, &self.queries.labels)?;
        linear::probe(bank, queries).map(|answer| Some(answer.accuracy))
    }

    /// Asks `backbone`, and with a logistic regression too, which takes seconds.
    ///
    /// # Errors
    /// As [`Evaluation::ask`].
    pub fn ask_fully(&self, backbone: &Rc<dyn Module>, state: &State) -> Result<Answer> {
        let mut answer = self.ask(backbone, state)?;
        if self.labelled() {
            let (bank, queries) = (&answer.bank, &answer.queries);
            let of = |values| Features::new(values, answer.dim);
            answer.figures.linear = self.regress(of(bank)?, of(queries)?)?;
        }
        Ok(answer)
    }

    /// Asks `backbone`.
    ///
    /// # Errors
    /// When its features are not finite.
    pub fn ask(&self, backbone: &Rc<dyn Module>, state: &State) -> Result<Answer> {
        let (precision, output, grid) = (self.precision, self.output.as_str(), &self.grid);
        let asked = Asked { backbone, state, precision, output, grid };
        let (bank, dim) = self.bank.features(&asked)?;
        let (queries, _) = self.queries.features(&asked)?;
        let features = Features::new(&bank, dim)?;
        let knn = if self.labelled() {
            let queries = Labelled::new(Features::new(&queries, dim)?, &self.queries.labels)?;
            Some(self.knn.accuracy(Labelled::new(features, &self.bank.labels)?, queries)?)
        } else {
            None
        };
        let some = Features::new(&bank[..features.rows().min(SPECTRUM_ROWS) * dim], dim)?;
        let figures = Figures { knn, linear: None, rank: rank(some)?, spread: spread(some)? };
        Ok(Answer { bank, queries, dim, figures })
    }
}

/// Brings every column of `bank` to mean 0 and deviation 1, and those of `queries` by the same numbers.
fn standardise(bank: &mut [f32], queries: &mut [f32], dim: usize) {
    let n = (bank.len() / dim.max(1)).max(1) as f64;
    for column in 0..dim {
        let values = || bank.iter().skip(column).step_by(dim).map(|x| f64::from(*x));
        let mean = values().sum::<f64>() / n;
        let deviation = (values().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt();
        let scale = if deviation > 0.0 { 1.0 / deviation } else { 0.0 };
        for rows in [&mut *bank, &mut *queries] {
            for value in rows.iter_mut().skip(column).step_by(dim) {
                *value = ((f64::from(*value) - mean) * scale) as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_brought_to_one_scale_by_the_banks_numbers() {
        let (mut bank, mut queries) = (vec![1.0, 500.0, 3.0, 500.0], vec![5.0, 501.0]);
        standardise(&mut bank, &mut queries, 2);
        assert_eq!((bank, queries), (vec![-1.0, 0.0, 1.0, 0.0], vec![3.0, 0.0]));
    }
}
