//! Features of data: what a run's backbone makes of every sample, with labels and names.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use serde_json::{Value, json};

use super::again::newest;
use super::inputs::{Asked, Inputs};
use super::kept::{Kept, Network};
use super::prepare::{Opened, prepare_training, restore, training_in};
use super::probing::wanted;
use crate::data::dataset::Dataset;
use crate::run::{check_place, replace, write_described, write_npy};
use crate::{Error, Result};

/// Samples that are in memory at a time.
const AT_ONCE: usize = 1024;

/// What was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedded {
    /// Whose features.
    pub network: Network,
    /// Steps done.
    pub step: u64,
    /// How many samples.
    pub samples: usize,
    /// How many numbers each.
    pub dim: usize,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// Samples that couldn't be read.
    pub broken: usize,
    /// One line for each damaged checkpoint that was passed over.
    pub warnings: Vec<String>,
}

/// Features, by sample.
#[derive(Default)]
struct Features {
    /// `[N, D]`, row-major.
    values: Vec<f32>,
    dim: usize,
    /// Places in the data.
    indices: Vec<usize>,
}

impl Kept<'_> {
    /// Writes the backbone's `pooled` output for every sample of the recipe's data to `out`: safetensors, or
    /// npy with a JSON file beside it.
    ///
    /// # Errors
    /// When the file's ending is neither, the run has no checkpoint or no such network, no sample can be
    /// read, or the file can't be written.
    pub fn embed(&self, out: &Path) -> Result<Embedded> {
        let npy = is_npy(out)?;
        check_place(out)?;
        let (checkpoint, warnings) = newest(self.folder)?;
        let step = checkpoint.step;
        // Whatever is asked, one sample is enough.
        let mut recipe = self.recipe.clone();
        (recipe.train.batch, recipe.train.accumulate) = (1, 1);
        let (opened, training) = (Opened::new(&recipe)?, training_in(&checkpoint));
        let mut prepared = prepare_training(&recipe, self.plugin, &opened, training)?;
        restore(&mut prepared.trainer, checkpoint)?;
        let data = Arc::clone(&prepared.data);
        let (network, module) = self.backbone(&prepared)?;
        let wanted = wanted(self.recipe, &prepared);
        let asked = Asked {
            backbone: &module,
            state: &prepared.trainer.state,
            precision: self.recipe.precision,
            output: "pooled",
            grid: &prepared.plan.grid,
        };
        let mut features = Features::default();
        let all: Vec<usize> = (0..data.len()).collect();
        for part in all.chunks(AT_ONCE) {
            let inputs = Inputs::of(&data, part, &wanted)?;
            if !inputs.is_empty() {
                let (values, dim) = inputs.features(&asked)?;
                features.values.extend(values);
                features.dim = dim;
            }
            features.indices.extend(inputs.indices);
        }
        if features.indices.is_empty() {
            let source = &self.recipe.data.source;
            return Err(Error::failed(format!("no sample of `{source}` can be read"))
                .hint("`pretext data info PATH` says what is broken"));
        }
        if npy {
            features.write_npy(&data, out)?;
        } else {
            features.write(&data, out)?;
        }
        Ok(Embedded {
            network,
            step,
            samples: features.indices.len(),
            dim: features.dim,
            classes: data.class_names().to_vec(),
            broken: data.len() - features.indices.len(),
            warnings,
        })
    }
}

/// Whether the file is to be npy, and not safetensors.
fn is_npy(out: &Path) -> Result<bool> {
    match out.extension().and_then(|ending| ending.to_str()) {
        Some("npy") => Ok(true),
        Some("safetensors") => Ok(false),
        _ => Err(Error::asked_wrongly(format!("`{}` has no known ending", out.display()))
            .hint("end it in `.safetensors` or `.npy`")),
    }
}

impl Features {
    /// The class of each sample; -1 where none is known.
    fn labels(&self, data: &Arc<dyn Dataset>) -> Vec<i64> {
        self.indices.iter().map(|index| data.label(*index).map_or(-1, i64::from)).collect()
    }

    fn names(&self, data: &Arc<dyn Dataset>) -> Vec<String> {
        self.indices.iter().map(|index| data.name(*index)).collect()
    }

    fn write(&self, data: &Arc<dyn Dataset>, out: &Path) -> Result<()> {
        let (n, device) = (self.indices.len(), &Device::Cpu);
        let indices: Vec<i64> = self.indices.iter().map(|index| *index as i64).collect();
        let tensors = [
            ("features", Tensor::from_slice(&self.values, (n, self.dim), device)?),
            ("labels", Tensor::from_vec(self.labels(data), n, device)?),
            ("indices", Tensor::from_vec(indices, n, device)?),
        ];
        let texts = [
            ("names", json!(self.names(data)).to_string()),
            ("classes", json!(data.class_names()).to_string()),
        ];
        write_described(out, &tensors.map(|(name, tensor)| (name.to_owned(), tensor)), &texts)
    }

    fn write_npy(&self, data: &Arc<dyn Dataset>, out: &Path) -> Result<()> {
        write_npy(out, &self.values, self.dim)?;
        let beside: Value = json!({
            "indices": self.indices, "labels": self.labels(data), "names": self.names(data),
            "classes": data.class_names(),
        });
        replace(&out.with_extension("json"), beside.to_string().as_bytes())
    }
}
