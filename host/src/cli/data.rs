//! `pretext data info`: what a source holds, and what of it is broken.

use std::collections::BTreeMap;
use std::sync::Arc;

use clap::{Args, Subcommand};
use rayon::prelude::*;
use serde_json::{Value, json};

use super::words::{colour_on_stderr, say, say_json, tell, warning_text};
use crate::data::dataset::{self, Dataset, OpenOptions, Sample, Split};
use crate::{Error, Result};

/// Broken samples that are named; the rest is counted.
const NAMED: usize = 20;

/// Look at data
#[derive(Args, Debug)]
pub(super) struct Data {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Info(Info),
}

/// Show what a source holds, and read every sample to find the broken ones
#[derive(Args, Debug)]
struct Info {
    /// A folder, a tar, a file, or built-in data such as `shapes`
    #[arg(value_name = "PATH")]
    source: String,
    /// Write one JSON object instead of lines
    #[arg(long)]
    json: bool,
}

impl Data {
    /// Runs the subcommand.
    pub(super) fn run(&self) -> Result<()> {
        match &self.command {
            Command::Info(info) => info.run(),
        }
    }
}

/// What one split of a source holds.
#[derive(Debug)]
struct Survey {
    split: Split,
    line: String,
    n: usize,
    /// Samples per class.
    classes: BTreeMap<String, usize>,
    /// Smallest and largest width and height of the images; none for vectors.
    sides: Option<[usize; 4]>,
    /// Name and reason of each broken sample.
    broken: Vec<(String, String)>,
}

impl Info {
    fn run(&self) -> Result<()> {
        let open =
            |split| dataset::open(&self.source, &OpenOptions { split, ..Default::default() });
        let mut surveys = vec![survey(&open(Split::Train)?)];
        // A source without a test split is whole all the same.
        if let Ok(test) = open(Split::Test) {
            surveys.push(survey(&test));
        }
        if self.json {
            let splits: Vec<Value> = surveys.iter().map(Survey::json).collect();
            return say_json(&json!({ "source": self.source, "splits": splits }));
        }
        surveys.iter().try_for_each(Survey::tell)
    }
}

/// Reads every sample, on all cores.
fn survey(dataset: &Arc<dyn Dataset>) -> Survey {
    let read: Vec<Result<Option<[usize; 2]>, Error>> = (0..dataset.len())
        .into_par_iter()
        .map_init(Sample::default, |sample, i| {
            dataset.read(i, sample)?;
            Ok(match sample {
                Sample::Image(image) => Some([image.width, image.height]),
                Sample::Vector(_) => None,
            })
        })
        .collect();
    let mut classes = BTreeMap::new();
    let labels = (0..dataset.len()).filter_map(|i| dataset.label(i));
    for name in labels.filter_map(|label| dataset.class_names().get(label as usize)) {
        *classes.entry(name.clone()).or_insert(0) += 1;
    }
    let mut sides: Option<[usize; 4]> = None;
    let mut broken = Vec::new();
    for (i, outcome) in read.into_iter().enumerate() {
        match outcome {
            Ok(Some([w, h])) => {
                let [w0, w1, h0, h1] = sides.unwrap_or([w, w, h, h]);
                sides = Some([w0.min(w), w1.max(w), h0.min(h), h1.max(h)]);
            }
            Ok(None) => {}
            Err(error) => broken.push((dataset.name(i), error.to_string())),
        }
    }
    let (split, line) = (dataset.split(), dataset.describe());
    Survey { split, line, n: dataset.len(), classes, sides, broken }
}

impl Survey {
    fn tell(&self) -> Result<()> {
        say(&self.line)?;
        if let Some([w0, w1, h0, h1]) = self.sides {
            say(format!("  width {w0} to {w1}, height {h0} to {h1} pixels"))?;
        }
        for (name, n) in &self.classes {
            say(format!("  {name}: {n}"))?;
        }
        say(format!("  broken: {} of {}", self.broken.len(), self.n))?;
        for (name, reason) in self.broken.iter().take(NAMED) {
            tell(warning_text(&format!("`{name}`: {reason}"), colour_on_stderr()));
        }
        if self.broken.len() > NAMED {
            let more = format!("and {} more broken samples", self.broken.len() - NAMED);
            tell(warning_text(&more, colour_on_stderr()));
        }
        Ok(())
    }

    fn json(&self) -> Value {
        let broken: Vec<Value> = self
            .broken
            .iter()
            .map(|(name, reason)| json!({ "name": name, "reason": reason }))
            .collect();
        let sides =
            self.sides.map(|[w0, w1, h0, h1]| json!({ "width": [w0, w1], "height": [h0, h1] }));
        json!({
            "split": self.split.to_string(), "about": self.line, "samples": self.n,
            "classes": self.classes, "sides": sides, "broken": broken,
        })
    }
}
