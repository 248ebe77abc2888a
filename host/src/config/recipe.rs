//! The typed recipe.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use toml::Table;

use super::print::recipe_text;
use super::values::Values;
use crate::engine::Precision;
use crate::{Error, Result};

/// What to run, every key resolved and checked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// Name of the method.
    pub method: String,
    /// Seed of all randomness.
    pub seed: u64,
    /// Name of the run folder; empty where one is to be chosen.
    pub run: String,
    /// Folder in which runs lie.
    pub runs: PathBuf,
    /// Weights that the backbone starts from: a file, a folder, a run; empty where it starts anew.
    pub init: String,
    /// Where the network is computed: `cpu`, `cuda` or `cuda:N`.
    pub device: String,
    /// Arithmetic of matrix products.
    #[serde(with = "PrecisionWord")]
    pub precision: Precision,
    /// Threads of the engine; 0 takes every core.
    pub threads: usize,
    /// What is trained on.
    pub data: Data,
    /// The network that is kept.
    pub backbone: Backbone,
    /// How it is trained.
    pub train: Train,
    /// The probes.
    pub probe: Probe,
    /// The method's options, all of them, in the order of its table.
    pub options: Values,
}

/// `[data]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Data {
    /// Built-in set or path.
    pub source: String,
    /// The part of the source to train on.
    pub split: String,
    /// Where probe queries come from; empty means the source, see [`Data::asked_about`].
    pub test_source: String,
    /// The part of the test source that probes ask about.
    pub test_split: String,
    /// Where the class of a file stands, see [`LabelRule::parse`](crate::data::dataset::LabelRule::parse).
    pub label: String,
    /// Patterns of the names of the only samples that are taken, see
    /// [`Patterns::parse`](crate::data::dataset::Patterns::parse); empty takes all.
    pub include: String,
    /// Patterns of the names of samples that are left out.
    pub exclude: String,
    /// Patterns of the names of the samples that probes ask about; training leaves them out.
    pub test_include: String,
    /// Train on the first so many samples; 0 takes all.
    pub limit: usize,
    /// Image side of built-in sets and probes, in pixels; 0 takes the dataset's own.
    pub size: usize,
    /// Samples of a built-in set.
    pub n: usize,
    /// Values a second that sounds are brought to.
    pub rate: u32,
    /// Seconds of the random part that longer sounds are cut to; 0 cuts none.
    pub max_seconds: f64,
    /// Threads that decode and make views; 0 chooses by cores.
    pub workers: usize,
    /// Batches made ahead.
    pub prefetch: usize,
    /// Whether decoded samples are kept: `auto`, `memory` or `off`.
    pub cache: String,
    /// Share of broken samples above which a run stops, 0 to 1.
    pub max_broken_share: f64,
}

impl Data {
    /// Where probe queries come from.
    pub fn asked_about(&self) -> &str {
        if self.test_source.is_empty() { &self.source } else { &self.test_source }
    }
}

/// `[backbone]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backbone {
    /// Kind of network, such as `vit`.
    pub kind: String,
    /// The options of that kind; those without a default only where given.
    #[serde(flatten)]
    pub options: Values,
}

/// The rule of the update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// AdamW.
    AdamW,
    /// SGD with momentum.
    Sgd,
    /// SGD with momentum, its gradients scaled by layer.
    Larc,
}

/// Whose norm a clip limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClipMode {
    /// Each tensor's own.
    Tensor,
    /// That of all tensors together.
    Global,
}

/// `[train]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Train {
    /// Times through the data.
    pub epochs: f64,
    /// Updates in all; 0 goes by epochs.
    pub steps: u64,
    /// Samples per batch.
    pub batch: usize,
    /// Batches averaged before one update.
    pub accumulate: u64,
    /// The rule of the update.
    pub optimizer: OptimizerKind,
    /// Peak learning rate for a batch of `lr_batch`.
    pub lr: f64,
    /// The batch that `lr` is meant for; 0 takes `lr` as it is.
    pub lr_batch: usize,
    /// Learning rate of the last step.
    pub lr_final: f64,
    /// Epochs in which the learning rate rises from 0.
    pub warmup_epochs: f64,
    /// Weight decay of the first step.
    pub weight_decay: f64,
    /// Weight decay of the last step.
    pub weight_decay_end: f64,
    /// Decay of AdamW's two moments.
    pub betas: (f64, f64),
    /// Added to the root of AdamW's second moment.
    pub eps: f64,
    /// Share of the last update that SGD and LARC keep.
    pub momentum: f64,
    /// LARC's largest change of a tensor, as a share of its norm, at a learning rate of 1.
    pub trust: f64,
    /// Whether LARC only lowers learning rates.
    pub trust_clip: bool,
    /// Whether biases and norms take weight decay, and LARC's scaling, like all else.
    pub decay_vectors: bool,
    /// Largest norm of gradients; 0 clips nothing.
    pub clip: f64,
    /// Whose norm that is.
    pub clip_mode: ClipMode,
    /// Steps between checkpoints; 0 writes one each epoch.
    pub checkpoint_every: u64,
    /// Checkpoints kept.
    pub keep: usize,
    /// Steps between plain lines.
    pub log_every: u64,
}

impl Train {
    /// The peak learning rate after linear scaling: lr x batch x accumulate / `lr_batch`.
    pub fn effective_lr(&self) -> f64 {
        if self.lr_batch == 0 {
            return self.lr;
        }
        self.lr * (self.batch as f64 * self.accumulate as f64) / self.lr_batch as f64
    }

    /// How the peak learning rate came about, in one line.
    pub fn lr_rule(&self) -> String {
        let lr = self.effective_lr();
        if self.lr_batch == 0 {
            return format!("lr {lr:.3e}, not scaled with the batch");
        }
        let (base, batch, accumulate) = (self.lr, self.batch, self.accumulate);
        format!(
            "lr {lr:.3e} = {base:?} x batch {batch} x accumulate {accumulate} / {}",
            self.lr_batch
        )
    }
}

/// `[probe]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// Epochs between probes; 0 probes at the end only.
    pub every: f64,
    /// Training samples that neighbours are taken from.
    pub bank: usize,
    /// Test samples that are asked about.
    pub queries: usize,
    /// Neighbours that vote.
    pub k: usize,
    /// A vote weighs exp(cosine / temperature).
    pub temperature: f64,
    /// Whether a logistic regression is asked too, at the start and the end.
    pub linear: bool,
    /// The block whose tokens' mean is asked, counted from 1; 0 takes what the backbone pools.
    pub layer: usize,
}

impl Recipe {
    /// The recipe as TOML; reading it again gives the same recipe.
    ///
    /// # Errors
    /// When a value has no place in TOML, which a checked recipe never holds.
    pub fn to_toml(&self) -> Result<String> {
        Ok(recipe_text(&self.to_table()?))
    }

    /// The recipe as a TOML table: the keys of the top, then the sections, in the order of the schema.
    ///
    /// # Errors
    /// As [`to_toml`](Self::to_toml).
    pub fn to_table(&self) -> Result<Table> {
        Table::try_from(self)
            .map_err(|error| Error::failed("the recipe can't be written").because(error))
    }

    /// Reads checked values into types.
    pub(super) fn from_table(table: Table) -> Result<Self> {
        let betas = table.get("train").and_then(|train| train.get("betas")?.as_array());
        if let Some(betas) = betas.filter(|betas| betas.len() != 2) {
            let given: Vec<String> = betas.iter().map(toml::Value::to_string).collect();
            let given = given.join(", ");
            return Err(Error::asked_wrongly(format!(
                "`train.betas` takes two numbers, not `{given}`"
            ))
            .hint("`train.betas=0.9,0.999`"));
        }
        table.try_into().map_err(|error: toml::de::Error| {
            Error::asked_wrongly("the recipe can't be used").because(error.message())
        })
    }
}

/// The words for [`Precision`].
#[derive(Serialize, Deserialize)]
#[serde(remote = "Precision", rename_all = "lowercase")]
enum PrecisionWord {
    F32,
    Bf16,
}
