//! `pretext step`: training steps on recorded tensors, to compare them with another program's.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::asked::Asked;
use super::plugin::Places;
use super::words::{colour_on_stdout, say, say_json, table, tell};
use crate::run::write_tensors;
use crate::train::replay::{Listed, Request, names, replay};
use crate::train::step::Taken;
use crate::{Error, Result};

/// Take training steps on recorded tensors and write down loss, gradients and all that they changed
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  pretext step METHOD --names                                    what the files hold: names, types, shapes
  pretext step METHOD --batch in.safetensors --out out.safetensors
  pretext step METHOD --batch in.safetensors --weights w.safetensors --out out.safetensors lr=1e-3
  pretext step METHOD --batch in.safetensors --out out.safetensors backbone=identity OPTION=VALUE
`docs/step.md` explains the files.")]
pub(super) struct Step {
    /// A method's name, `METHOD:RECIPE`, or the path of a recipe
    #[arg(value_name = "METHOD|RECIPE")]
    target: String,
    /// Keys of the recipe, such as `backbone.width=24` or `lr_batch=0`
    #[arg(value_name = "KEY=VALUE")]
    words: Vec<String>,
    /// The recorded views, `VIEW.COPY.FIELD`, or `step.J.VIEW.COPY.FIELD` of several steps
    #[arg(long, value_name = "FILE")]
    batch: Option<PathBuf>,
    /// Parameters and buffers to start from; without it the run's own start
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// Where what the steps made is written
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// How many steps; without it as many as are recorded
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    steps: Option<u64>,
    /// Steps that count as done before, for schedules and freezing
    #[arg(long, default_value_t = 0)]
    start: u64,
    /// Steps of one epoch, for schedules and freezing
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    steps_per_epoch: u64,
    /// Print the names, types and shapes of all tensors instead
    #[arg(long)]
    names: bool,
    #[command(flatten)]
    places: Places,
    /// Write JSON instead of tables
    #[arg(long)]
    json: bool,
}

impl Step {
    /// Steps, or lists.
    pub(super) fn run(&self) -> Result<()> {
        let asked = Asked::target(&self.target, &self.words, &self.places)?;
        asked.take_threads()?;
        if self.names {
            let names = names(&asked.recipe, &asked.plugin, self.batch.as_deref())?;
            return self.say_names(&names);
        }
        let needed = |option: &str| {
            let (target, option) = (&self.target, option.to_owned());
            Error::asked_wrongly(format!("`pretext step` needs `{option}`"))
                .hint(format!("`pretext step {target} --names` lists what its files hold"))
        };
        let batch = self.batch.as_ref().ok_or_else(|| needed("--batch FILE"))?;
        let out = self.out.as_ref().ok_or_else(|| needed("--out FILE"))?;
        let request = Request {
            recipe: &asked.recipe,
            plugin: &asked.plugin,
            batch,
            weights: self.weights.as_deref(),
            steps: self.steps,
            start: self.start,
            steps_per_epoch: self.steps_per_epoch,
        };
        let replayed = replay(&request)?;
        replayed.notes.iter().for_each(|note| tell(format!("note: {note}")));
        write_tensors(out, &replayed.tensors)?;
        if self.json {
            let steps: Vec<Value> = replayed.steps.iter().map(object).collect();
            return say_json(&json!({ "out": out, "steps": steps }));
        }
        let heading = ["step", "loss", "gradient norm", "lr"].map(str::to_owned).to_vec();
        let rows = replayed.steps.iter().enumerate().map(|(number, taken)| {
            let numbers = [taken.loss, taken.gradient_norm, taken.lr].map(|x| format!("{x:.6e}"));
            [vec![(self.start + number as u64).to_string()], numbers.to_vec()].concat()
        });
        let rows: Vec<Vec<String>> = std::iter::once(heading).chain(rows).collect();
        say(table(&rows, colour_on_stdout()))?;
        say(format!("\n{} tensors in {}", replayed.tensors.len(), out.display()))
    }

    fn say_names(&self, names: &[Listed]) -> Result<()> {
        if self.json {
            let all = names.iter().map(|listed| {
                json!({
                    "file": listed.place.word(), "name": listed.name,
                    "type": listed.dtype.as_str(), "sizes": listed.sizes,
                })
            });
            return say_json(&Value::Array(all.collect()));
        }
        let mut rows = vec![["file", "tensor", "type", "shape"].map(str::to_owned).to_vec()];
        rows.extend(names.iter().map(|listed| {
            let (file, kind) = (listed.place.word().to_owned(), listed.dtype.as_str().to_owned());
            vec![file, listed.name.clone(), kind, listed.shape_text()]
        }));
        say(table(&rows, colour_on_stdout()))
    }
}

fn object(taken: &Taken) -> Value {
    let metrics: serde_json::Map<String, Value> =
        taken.metrics.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    json!({
        "loss": taken.loss, "gradient_norm": taken.gradient_norm, "lr": taken.lr,
        "weight_decay": taken.weight_decay, "teacher_decay": taken.teacher_decay, "metrics": metrics,
    })
}
