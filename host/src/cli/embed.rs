//! `pretext embed`: features of data, for whatever comes next.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::asked::Asked;
use super::export::Which;
use super::plugin::Places;
use super::words::{say, say_json, tell_warnings};
use crate::Result;
use crate::train::kept::Kept;

/// Write a run's features of data, with labels and sample names: safetensors or npy
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  pretext embed RUN --out features.safetensors                      the run's own data
  pretext embed RUN data=PATH split=test --out features.npy         others, with features.json beside it
The file has `features` [N, D], `labels` [N] (-1 where none) and `indices` [N]; names of samples and classes stand in
its metadata, or beside an npy file in a JSON file.")]
pub(super) struct Embed {
    /// The run's folder
    run: PathBuf,
    /// Keys of the recipe to change, such as `data=PATH` or `split=test`
    #[arg(value_name = "KEY=VALUE")]
    words: Vec<String>,
    #[command(flatten)]
    which: Which,
    /// The file: its name ends in `.safetensors` or `.npy`
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    places: Places,
    /// Write one JSON object instead of a line
    #[arg(long)]
    json: bool,
}

impl Embed {
    /// Computes and writes.
    pub(super) fn run(&self) -> Result<()> {
        let asked = Asked::run(&self.run, &self.words, &self.places)?;
        asked.take_threads()?;
        let kept = Kept {
            folder: &self.run,
            recipe: &asked.recipe,
            plugin: &asked.plugin,
            network: self.which.network(),
        };
        let features = kept.embed(&self.out)?;
        tell_warnings(&features.warnings);
        if features.broken > 0 {
            tell_warnings(&[format!(
                "{} samples can't be read and were left out",
                features.broken
            )]);
        }
        let (network, out) = (features.network.word(), self.out.display());
        if self.json {
            return say_json(&json!({
                "out": self.out, "network": network, "step": features.step, "samples": features.samples,
                "dim": features.dim, "classes": features.classes, "broken": features.broken,
            }));
        }
        let (n, dim) = (features.samples, features.dim);
        say(format!(
            "{n} features of {dim} numbers, by the {network} after step {}, in {out}",
            features.step
        ))
    }
}
