//! `pretext data info`: what a source holds, and what of it is broken.

use std::collections::BTreeMap;
use std::sync::Arc;

use clap::{Args, Subcommand};
use rayon::prelude::*;
use serde_json::{Value, json};

use super::words::{colour_on_stderr, say, say_json, tell, warning_text};
use crate::data::dataset::{
    self, Dataset, LabelRule, OpenOptions, Patterns, SPEECH_RATE, Sample, Split,
};
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
    /// A folder, a tar, a file, or built-in data such as `shapes` or `speech`
    #[arg(value_name = "PATH")]
    source: String,
    /// Where a file's class stands: `folder`, or `name:0` for the first part of its name
    #[arg(long, value_name = "RULE", default_value = "folder")]
    label: String,
    /// Only samples whose names match, such as `*_anna_*,*_bob_*`
    #[arg(long, value_name = "PATTERNS", default_value = "")]
    include: String,
    /// No samples whose names match
    #[arg(long, value_name = "PATTERNS", default_value = "")]
    exclude: String,
    /// Values a second that sounds are brought to
    #[arg(long, value_name = "HZ", default_value_t = SPEECH_RATE, value_parser = clap::value_parser!(u32).range(1000..=192_000))]
    rate: u32,
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
    /// Smallest and largest width and height of the images; none for other data.
    sides: Option<[usize; 4]>,
    /// Shortest and longest sound, and all together, in seconds; none for other data.
    seconds: Option<[f64; 3]>,
    /// Name and reason of each broken sample.
    broken: Vec<(String, String)>,
}

impl Info {
    fn run(&self) -> Result<()> {
        let (label, rate) = (LabelRule::parse(&self.label)?, self.rate);
        let (include, exclude) = (Patterns::parse(&self.include)?, Patterns::parse(&self.exclude)?);
        let options = OpenOptions { rate, include, exclude, label, ..OpenOptions::default() };
        let open = |split| dataset::open(&self.source, &OpenOptions { split, ..options.clone() });
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

/// How large a sample is: width and height of an image, seconds of a sound.
#[derive(Clone, Copy, Debug)]
enum Size {
    Image([usize; 2]),
    Sound(f64),
    Vector,
}

/// Reads every sample, on all cores.
fn survey(dataset: &Arc<dyn Dataset>) -> Survey {
    let read: Vec<Result<Size, Error>> = (0..dataset.len())
        .into_par_iter()
        .map_init(Sample::default, |sample, i| {
            dataset.read(i, sample)?;
            Ok(match sample {
                Sample::Image(image) => Size::Image([image.width, image.height]),
                Sample::Sound(sound) => Size::Sound(sound.seconds()),
                Sample::Vector(_) => Size::Vector,
            })
        })
        .collect();
    let mut classes = BTreeMap::new();
    let labels = (0..dataset.len()).filter_map(|i| dataset.label(i));
    for name in labels.filter_map(|label| dataset.class_names().get(label as usize)) {
        *classes.entry(name.clone()).or_insert(0) += 1;
    }
    let (mut sides, mut seconds): (Option<[usize; 4]>, Option<[f64; 3]>) = (None, None);
    let mut broken = Vec::new();
    for (i, outcome) in read.into_iter().enumerate() {
        match outcome {
            Ok(Size::Image([w, h])) => {
                let [w0, w1, h0, h1] = sides.unwrap_or([w, w, h, h]);
                sides = Some([w0.min(w), w1.max(w), h0.min(h), h1.max(h)]);
            }
            Ok(Size::Sound(long)) => {
                let [shortest, longest, all] = seconds.unwrap_or([long, long, 0.0]);
                seconds = Some([shortest.min(long), longest.max(long), all + long]);
            }
            Ok(Size::Vector) => {}
            Err(error) => broken.push((dataset.name(i), error.to_string())),
        }
    }
    let (split, line) = (dataset.split(), dataset.describe());
    Survey { split, line, n: dataset.len(), classes, sides, seconds, broken }
}

impl Survey {
    fn tell(&self) -> Result<()> {
        say(&self.line)?;
        if let Some([w0, w1, h0, h1]) = self.sides {
            say(format!("  width {w0} to {w1}, height {h0} to {h1} pixels"))?;
        }
        if let Some([shortest, longest, all]) = self.seconds {
            let minutes = all / 60.0;
            say(format!(
                "  {shortest:.2} to {longest:.2} seconds each, {minutes:.1} minutes in all"
            ))?;
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
        let seconds = self.seconds.map(|[shortest, longest, all]| {
            json!({ "shortest": shortest, "longest": longest, "all": all })
        });
        json!({
            "split": self.split.to_string(), "about": self.line, "samples": self.n,
            "classes": self.classes, "sides": sides, "seconds": seconds, "broken": broken,
        })
    }
}
