//! What a run consists of: stages and trainings, in the order in which a method declares them.

use serde::Serialize;

use super::declare::{Settings, Thing};
use super::session::{Context, Setting};
use crate::error::did_you_mean;
use crate::{Error, Result};

/// What a stage clusters, frame by frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum StageFeatures {
    /// Cepstral coefficients of sound.
    Mfcc,
    /// The pixels of each patch of an image.
    Patches,
    /// The vector itself.
    Values,
    /// Tokens of a backbone after a block, counted from 1.
    Layer {
        /// The block.
        layer: usize,
        /// Whether it is the teacher's backbone.
        teacher: bool,
    },
}

impl StageFeatures {
    fn parse(text: &str) -> Option<Self> {
        let layer = |rest: &str, teacher| {
            let layer = rest.parse().ok().filter(|layer| *layer > 0)?;
            Some(Self::Layer { layer, teacher })
        };
        match text {
            "mfcc" => Some(Self::Mfcc),
            "patches" => Some(Self::Patches),
            "values" => Some(Self::Values),
            _ => match text.strip_prefix("teacher.layer.") {
                Some(rest) => layer(rest, true),
                None => layer(text.strip_prefix("layer.")?, false),
            },
        }
    }
}

impl std::fmt::Display for StageFeatures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mfcc => f.write_str("mfcc"),
            Self::Patches => f.write_str("patches"),
            Self::Values => f.write_str("values"),
            Self::Layer { layer, teacher: false } => write!(f, "layer.{layer}"),
            Self::Layer { layer, teacher: true } => write!(f, "teacher.layer.{layer}"),
        }
    }
}

/// A stage that clusters features and gives every frame the number of its cluster.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AskedStage {
    /// Its name, which is that of its files too.
    pub name: String,
    /// What is clustered.
    pub features: StageFeatures,
    /// How many clusters.
    pub clusters: usize,
    /// Share of the samples whose features are clustered.
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
    /// Whether the features of each sample of two frames or more get mean 0 and deviation 1 before they are clustered.
    pub normalise: bool,
}

/// A training, and the stages before it.
#[derive(Clone, Debug, PartialEq)]
pub struct AskedTraining {
    /// Its name; empty where the method declares no course.
    pub name: String,
    /// Its share of the run's steps, beside the shares of the others.
    pub share: f64,
    /// What is done before it, in order.
    pub stages: Vec<AskedStage>,
}

/// Everything that a run does, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Course(pub Vec<AskedTraining>);

impl Default for Course {
    fn default() -> Self {
        Self(vec![AskedTraining { name: String::new(), share: 1.0, stages: Vec::new() }])
    }
}

impl Course {
    /// Where each training begins and ends, in steps of the run, of which there are `total`.
    ///
    /// # Errors
    /// When a training would get no step.
    pub fn spans(&self, total: u64) -> Result<Vec<(u64, u64)>> {
        let shares: f64 = self.0.iter().map(|training| training.share).sum();
        let (mut spans, mut done, mut begin) = (Vec::new(), 0.0, 0);
        for training in &self.0 {
            done += training.share;
            let end = (total as f64 * done / shares).round() as u64;
            if end <= begin {
                let (name, n) = (&training.name, self.0.len());
                return Err(Error::asked_wrongly(format!(
                    "{total} steps are too few: none is left for the training `{name}`"
                ))
                .hint(format!("train for at least {} steps", 10 * n)));
            }
            spans.push((begin, end));
            begin = end;
        }
        Ok(spans)
    }

    /// The stages that are done before training number `training` begins.
    pub fn stages_before(&self, training: usize) -> impl Iterator<Item = &AskedStage> {
        self.0.iter().take(training + 1).flat_map(|training| &training.stages)
    }
}

/// What was declared so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Parts {
    trainings: Vec<AskedTraining>,
    /// Stages after the last training.
    waiting: Vec<AskedStage>,
}

impl Parts {
    /// All of it as a course; a method that declared nothing is trained once.
    pub(super) fn finish(self) -> Result<Course> {
        if let Some(stage) = self.waiting.first() {
            return Err(Error::failed(format!("the stage `{}` serves no training", stage.name))
                .hint("declare the training after it"));
        }
        Ok(if self.trainings.is_empty() { Course::default() } else { Course(self.trainings) })
    }
}

impl Context {
    fn staging(&mut self) -> Result<&mut Parts> {
        if self.staging {
            return Ok(&mut self.parts);
        }
        Err(Error::failed("stages and trainings are declared in `stages` only"))
    }

    pub(super) fn declare_stage(&mut self, name: &str, settings: &mut Settings) -> Result<Thing> {
        let parts = self.staging()?;
        let fine = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if !name.chars().all(fine) || name.is_empty() || name.starts_with('.') {
            return Err(Error::failed(format!("`{name}` can't name a stage's files"))
                .hint("use letters, digits, `-`, `_` and `.`"));
        }
        let features = settings.text("features")?;
        let stage = AskedStage {
            name: name.to_owned(),
            features: StageFeatures::parse(&features).ok_or_else(|| {
                let known = ["mfcc", "patches", "values", "layer.K", "teacher.layer.K"];
                let error = Error::failed(format!("this host has no features `{features}`"));
                match did_you_mean(&features, known) {
                    Some(near) => error.hint(format!("did you mean `{near}`?")),
                    None => error.hint(format!("it has `{}`", known.join("`, `"))),
                }
            })?,
            clusters: settings.within("clusters", None, (1.0, 1e6))? as usize,
            share: settings.within("share", Some(1.0), (1e-6, 1.0))?,
            batch: settings.within("batch", Some(1e4), (1.0, 1e9))? as usize,
            epochs: settings.within("epochs", Some(100.0), (1.0, 1e6))? as usize,
            tries: settings.within("tries", Some(20.0), (1.0, 1e4))? as usize,
            patience: settings.within("patience", Some(100.0), (0.0, 1e9))? as usize,
            reassign: settings.within("reassign", Some(0.0), (0.0, 1.0))?,
            normalise: settings.within("normalise", Some(0.0), (0.0, 1.0))? > 0.0,
        };
        if stage.normalise && stage.features == StageFeatures::Values {
            return Err(Error::asked_wrongly(format!(
                "the stage `{name}` can't `normalise` `values`: one frame would become zeros"
            ))
            .hint("leave `normalise` out; it is for features with several frames in a sample"));
        }
        parts.waiting.push(stage);
        Ok(Thing::Stage)
    }

    pub(super) fn declare_training(
        &mut self,
        name: &str,
        settings: &mut Settings,
    ) -> Result<Thing> {
        let parts = self.staging()?;
        let share = settings.within("share", Some(1.0), (1e-9, 1e9))?;
        let stages = std::mem::take(&mut parts.waiting);
        parts.trainings.push(AskedTraining { name: name.to_owned(), share, stages });
        Ok(Thing::Training)
    }

    /// Refuses a view that names a stage which is not done before this training.
    pub(super) fn check_stage_of(
        &self,
        view: &str,
        settings: &std::collections::BTreeMap<String, Setting>,
    ) -> Result<()> {
        let Some(Setting::Text(stage)) = settings.get("stage") else { return Ok(()) };
        let mut done = self.course.stages_before(self.training);
        if done.any(|known| known.name == *stage) {
            return Ok(());
        }
        Err(Error::failed(format!("no stage `{stage}` is done before the view `{view}` is made"))
            .hint("declare it in `stages`, before this training"))
    }
}

impl Settings {
    /// A number from `low` to `high`; `default` where it is left out, or refused where there is none.
    fn within(&mut self, key: &str, default: Option<f64>, (low, high): (f64, f64)) -> Result<f64> {
        let Some(value) = self.optional_float(key)?.or(default) else {
            return Err(self.wrong(key, "a number"));
        };
        if (low..=high).contains(&value) {
            return Ok(value);
        }
        Err(Error::asked_wrongly(format!("`{key}` is {value}, not from {low} to {high}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn course(shares: &[f64]) -> Course {
        let training =
            |share: &f64| AskedTraining { name: "t".to_owned(), share: *share, stages: Vec::new() };
        Course(shares.iter().map(training).collect())
    }

    #[test]
    fn steps_are_shared_out_without_a_gap() {
        assert_eq!(course(&[1.0]).spans(7).unwrap(), [(0, 7)]);
        assert_eq!(course(&[2.0, 3.0]).spans(11).unwrap(), [(0, 4), (4, 11)]);
        assert_eq!(course(&[250.0, 400.0]).spans(650).unwrap(), [(0, 250), (250, 650)]);
        let error = course(&[1.0, 1.0, 1e-6]).spans(10).unwrap_err();
        assert!(error.message().contains("too few"), "{error}");
    }

    #[test]
    fn features_are_written_as_they_are_read() {
        for text in ["mfcc", "patches", "values", "layer.6", "teacher.layer.12"] {
            assert_eq!(StageFeatures::parse(text).unwrap().to_string(), text);
        }
        for text in ["layer.0", "layer.x", "teacher.mfcc", ""] {
            assert_eq!(StageFeatures::parse(text), None);
        }
    }
}
