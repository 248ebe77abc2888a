//! Stages: work between trainings that a method declares, and that the host runs and resumes.
//!
//! (Contract 1.1.) A method without them is trained once. One with them says, in order, what is to be done: units found by
//! clustering features, a training on them, units from what that training learned, and so on.

use crate::abi::call::{self, Held};
use crate::abi::value::Value;
use crate::error::{Error, Result};

/// What is clustered, frame by frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Features {
    /// 13 cepstral coefficients of sound with their first and second differences, 100 frames a second.
    Mfcc,
    /// The pixels of each patch of an image, as the backbone cuts it.
    Patches,
    /// The vector itself.
    Values,
    /// Tokens after this block of the student's backbone, counted from 1, as the training before left it;
    /// the untrained one before the first training.
    Layer(usize),
    /// The same of the teacher's backbone.
    TeacherLayer(usize),
}

impl Features {
    fn name(self) -> String {
        match self {
            Self::Mfcc => "mfcc".to_owned(),
            Self::Patches => "patches".to_owned(),
            Self::Values => "values".to_owned(),
            Self::Layer(layer) => format!("layer.{layer}"),
            Self::TeacherLayer(layer) => format!("teacher.layer.{layer}"),
        }
    }
}

/// How clusters are sought: mini-batch k-means. The defaults are those of HuBERT's authors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clustering {
    /// How many clusters.
    pub clusters: usize,
    /// Share of the samples whose features are clustered, above 0 to 1; all of them get units.
    pub share: f64,
    /// Frames of a batch.
    pub batch: usize,
    /// Times through the frames, at most.
    pub epochs: usize,
    /// Starts that are tried.
    pub tries: usize,
    /// Batches without an improvement before it stops; 0 never does.
    pub patience: usize,
    /// A cluster with less than this share of the largest one's frames starts again; 0 for none.
    pub reassign: f64,
    /// Whether each sample's features get mean 0 and deviation 1 over its frames before they are clustered, so
    /// that units say less about who speaks and through what. HuBERT's authors don't. A sample of one frame stays as it
    /// is, and the host refuses it with [`Features::Values`], which are one frame.
    pub normalise: bool,
}

impl Clustering {
    /// `clusters`, sought as HuBERT's authors do.
    pub const fn new(clusters: usize) -> Self {
        Self {
            clusters,
            share: 0.1,
            batch: 10_000,
            epochs: 100,
            tries: 20,
            patience: 100,
            reassign: 0.0,
            normalise: false,
        }
    }
}

/// Stages and trainings of a run, in the order in which they are declared.
#[derive(Debug)]
pub struct StagePlan(pub(crate) ());

impl StagePlan {
    /// A stage `name` that clusters `features` and gives each frame of every sample the number of its
    /// cluster. The view `units@1` gives them to a later training.
    ///
    /// # Errors
    /// When the name is taken, or the host refuses the features or a setting.
    pub fn units(&mut self, name: &str, features: Features, how: Clustering) -> Result<()> {
        let int = |value: usize| Value::int(value.cast_signed() as i64);
        let features = features.name();
        let mut settings = vec![
            ("features", Value::text(&features)),
            ("clusters", int(how.clusters)),
            ("share", Value::float(how.share)),
            ("batch", int(how.batch)),
            ("epochs", int(how.epochs)),
            ("tries", int(how.tries)),
            ("patience", int(how.patience)),
            ("reassign", Value::float(how.reassign)),
        ];
        if how.normalise {
            settings.push(("normalise", int(1)));
        }
        call::declare("stage@1", name, &settings).map(|_| ())
    }

    /// A training `name`, from fresh weights, that takes `share` of the run's steps beside the shares of
    /// the others.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn training(&mut self, name: &str, share: f64) -> Result<()> {
        call::declare("training@1", name, &[("share", Value::float(share))]).map(|_| ())
    }
}

/// Which of the run's trainings this is, from 0.
pub(crate) fn training() -> Result<usize> {
    match call::fact(0, "training")? {
        Held::Int(value) => Ok(value as usize),
        other => Err(Error::failed(format!("the number of the training is {other:?}"))),
    }
}
