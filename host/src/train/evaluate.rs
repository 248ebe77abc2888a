//! What was learned: features of labelled data, asked by nearest neighbours, beside two baselines.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use crate::config::Recipe;
use crate::data::dataset::{Content, Dataset, Image, Sample};
use crate::data::transform::crop::CropBox;
use crate::data::transform::resize::Resample;
use crate::engine::{Precision, Tape, Var, storage};
use crate::metric::{Features, rank::rank, spread::spread};
use crate::module::{Forward, Input, Module};
use crate::probe::knn::{Knn, Labelled};
use crate::probe::linear;
use crate::random::Stream;
use crate::report::Picture;
use crate::state::{State, StepVars};
use crate::{Error, Result};

/// ImageNet's channel means and deviations, by which every view is normalised.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const STD: [f32; 3] = [0.229, 0.224, 0.225];
/// Samples that go through the backbone at a time.
const BATCH: usize = 128;

/// Inputs of one part of the data, in memory, as a backbone takes them.
#[derive(Debug)]
pub struct Inputs {
    /// `[N, ...]`, row-major.
    values: Vec<f32>,
    /// Shape of one sample: `[3, S, S]` or `[D]`.
    shape: Vec<usize>,
    /// The classes; empty where the data has none.
    pub labels: Vec<u32>,
    /// Pictures as the probe sees them, `[S, S, 3]` bytes each; empty for vectors.
    pub pictures: Vec<Vec<u8>>,
    /// Places in the dataset.
    pub indices: Vec<usize>,
}

impl Inputs {
    /// At most `limit` samples of `data`, chosen by `seed`, images resized to `side`. Broken ones are
    /// left out.
    ///
    /// # Errors
    /// When resizing fails.
    pub fn read(data: &Arc<dyn Dataset>, limit: usize, side: usize, seed: u64) -> Result<Self> {
        let mut order: Vec<usize> = (0..data.len()).collect();
        Stream::new(seed, "probe", 0, 0).shuffle(&mut order);
        order.truncate(limit);
        let shape = match data.content() {
            Content::Vectors { dim } => vec![dim],
            Content::Images => vec![3, side, side],
        };
        let mut inputs = Self {
            values: Vec::with_capacity(order.len() * shape.iter().product::<usize>()),
            shape,
            labels: Vec::new(),
            pictures: Vec::new(),
            indices: Vec::new(),
        };
        let labelled = order.iter().all(|index| data.label(*index).is_some());
        let mut resizer = Resample::default();
        for index in order {
            let Ok(sample) = data.sample(index) else { continue };
            match &sample {
                Sample::Vector(vector) => inputs.values.extend_from_slice(vector),
                Sample::Image(image) => inputs.push_image(image, side, &mut resizer)?,
            }
            inputs.indices.push(index);
            if let (true, Some(label)) = (labelled, data.label(index)) {
                inputs.labels.push(label);
            }
        }
        Ok(inputs)
    }

    /// Resizes the shorter side to `side`, cuts the middle square, normalises.
    fn push_image(&mut self, image: &Image, side: usize, resizer: &mut Resample) -> Result<()> {
        let short = image.width.min(image.height);
        let middle = CropBox::centre(short, short, image.width, image.height);
        let mut bytes = Vec::new();
        resizer.apply(image, middle, (side, side), &mut bytes)?;
        for channel in 0..3 {
            self.values.extend(
                bytes
                    .iter()
                    .skip(channel)
                    .step_by(3)
                    .map(|byte| (f32::from(*byte) / 255.0 - MEAN[channel]) / STD[channel]),
            );
        }
        self.pictures.push(bytes);
        Ok(())
    }

    /// How many samples.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// Sample `index` as the probe sees it.
    ///
    /// # Panics
    /// When the inputs are vectors, or fewer.
    pub fn picture(&self, index: usize) -> Picture {
        let side = self.shape[1];
        Picture { width: side, height: side, rgb: self.pictures[index].clone() }
    }

    /// Elements of one sample.
    fn width(&self) -> usize {
        self.shape.iter().product()
    }

    /// The inputs themselves as features: the raw baseline.
    ///
    /// # Errors
    /// When an input is not finite.
    pub fn raw(&self) -> Result<Features<'_>> {
        Features::new(&self.values, self.width())
    }

    /// The `pooled` output of `backbone` for every sample, `[N, D]`.
    ///
    /// # Errors
    /// When the backbone refuses the input.
    pub fn features(
        &self,
        backbone: &Rc<dyn Module>,
        state: &State,
        precision: Precision,
    ) -> Result<(Vec<f32>, usize)> {
        let name = if self.shape.len() == 1 { "vectors" } else { "images" };
        let width = self.width();
        let (mut features, mut dim) = (Vec::new(), 0);
        for chunk in self.values.chunks(BATCH * width.max(1)) {
            let tape = Tape::new(precision);
            let vars = StepVars::new(state);
            let stream = Rc::new(RefCell::new(Stream::new(0, "probe", 0, 0)));
            let forward = Forward { tape: &tape, vars: &vars, training: false, stream };
            let mut shape = vec![chunk.len() / width];
            shape.extend(&self.shape);
            let value = Var::constant(storage::tensor(chunk.to_vec(), shape)?);
            let inputs = [Input { name: name.to_owned(), value }];
            let made = tape.no_grad(|| backbone.call(&forward, &inputs, &["pooled"]))?;
            dim = made[0].dims()[1];
            features.extend(storage::to_f32(made[0].value())?);
        }
        Ok((features, dim))
    }
}

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
    /// The bank from the training data, the queries from `test`, images resized to `side`.
    ///
    /// # Errors
    /// When the data can't be resized, or nothing of it can be read.
    pub fn new(
        train: &Arc<dyn Dataset>,
        test: Option<&Arc<dyn Dataset>>,
        side: usize,
        recipe: &Recipe,
    ) -> Result<Self> {
        let probe = &recipe.probe;
        let bank = Inputs::read(train, probe.bank, side, recipe.seed)?;
        if bank.is_empty() {
            return Err(Error::failed("no sample of the training data can be read")
                .hint("`pretext data info PATH` says what is broken"));
        }
        let queries = match test {
            Some(test) => Inputs::read(test, probe.queries, side, recipe.seed)?,
            None => Inputs::read(train, 0, side, recipe.seed)?,
        };
        let knn = Knn { k: probe.k, temperature: probe.temperature };
        Ok(Self { bank, queries, knn, linear: probe.linear, precision: recipe.precision })
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

    /// kNN accuracy on the inputs themselves.
    ///
    /// # Errors
    /// When an input is not finite.
    pub fn raw(&self) -> Result<Option<f64>> {
        if !self.labelled() {
            return Ok(None);
        }
        let bank = Labelled::new(self.bank.raw()?, &self.bank.labels)?;
        let queries = Labelled::new(self.queries.raw()?, &self.queries.labels)?;
        self.knn.accuracy(bank, queries).map(Some)
    }

    /// Accuracy of a logistic regression on the inputs themselves; none where they are so wide that it
    /// would take minutes.
    ///
    /// # Errors
    /// When an input is not finite.
    pub fn raw_linear(&self) -> Result<Option<f64>> {
        if !self.labelled() || self.bank.width() > RAW_WIDTH {
            return Ok(None);
        }
        self.regress(self.bank.raw()?, self.queries.raw()?)
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
        let (bank, dim) = self.bank.features(backbone, state, self.precision)?;
        let (queries, _) = self.queries.features(backbone, state, self.precision)?;
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
