//! `pretext export`: a run's backbone for other programs.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::asked::Asked;
use super::plugin::Places;
use super::words::{say, say_json, tell_warnings};
use crate::train::kept::{Kept, Network};
use crate::{Error, Result};

/// Write a run's backbone for other programs: safetensors, timm, a Hugging Face folder
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  pretext export RUN --out vit.safetensors                  our names, which are timm's
  pretext export RUN --format timm --out vit.safetensors    what timm's model loads as it is
  pretext export RUN --format hf --out folder               config.json and model.safetensors
  pretext train METHOD init=vit.safetensors                 go on from it, as from weights of timm or Hugging Face
`docs/weights.md` explains names, and what to type in Python.")]
pub(super) struct Export {
    /// The run's folder
    run: PathBuf,
    /// The format
    #[arg(long, default_value = "safetensors", value_parser = ["safetensors", "timm", "hf"])]
    format: String,
    #[command(flatten)]
    which: Which,
    /// Write the whole network, heads and all, by the run's own names
    #[arg(long)]
    heads: bool,
    /// The file, or the folder for `hf`
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    #[command(flatten)]
    places: Places,
    /// Write one JSON object instead of a line
    #[arg(long)]
    json: bool,
}

/// Which of a run's networks.
#[derive(Args, Debug)]
pub(super) struct Which {
    /// Whose weights; without it the teacher's, or the student's where there is no teacher
    #[arg(long, value_name = "NETWORK")]
    which: Option<Word>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Word {
    Teacher,
    Student,
}

impl Which {
    /// The network.
    pub(super) fn network(&self) -> Option<Network> {
        self.which.map(|word| match word {
            Word::Teacher => Network::Teacher,
            Word::Student => Network::Student,
        })
    }
}

impl Export {
    /// Writes.
    pub(super) fn run(&self) -> Result<()> {
        let asked = Asked::run(&self.run, &[], &self.places)?;
        let kept = Kept {
            folder: &self.run,
            recipe: &asked.recipe,
            plugin: &asked.plugin,
            network: self.which.network(),
        };
        let written = match (self.heads, self.format.as_str()) {
            (false, format) => kept.export(format, &self.out)?,
            (true, "safetensors") => kept.export_whole(&self.out)?,
            (true, format) => {
                let message = format!("`{format}` has no names for the heads of a method");
                return Err(Error::asked_wrongly(message).hint("leave out `--format` or `--heads`"));
            }
        };
        tell_warnings(&written.warnings);
        let (network, out) = (written.network.word(), self.out.display());
        if self.json {
            return say_json(&json!({
                "out": self.out, "format": self.format, "network": network,
                "step": written.step, "tensors": written.tensors,
            }));
        }
        let n = written.tensors;
        say(format!("{n} tensors of the {network} after step {} in {out}", written.step))
    }
}
