//! `pretext train`: from data to a backbone.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::asked::Asked;
use super::interrupt::on_ctrl_c;
use super::plugin::Places;
use super::progress::renderer;
use super::words::{bytes_text, say, say_json};
use crate::config::Recipe;
use crate::train::resume::Resume;
use crate::train::{plan_lines, run};
use crate::{Error, Result};

/// Train a backbone with a method, on built-in data or your own
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  pretext train METHOD                           built-in images, ends with a report
  pretext train METHOD data=PATH epochs=100      a folder of images, a tar, CIFAR-10
  pretext train METHOD:RECIPE data=PATH          another recipe of the method
  pretext train recipe.toml train.lr=1e-3        a recipe of your own, one key changed
  pretext train --resume runs/METHOD-shapes-1    go on after a stop
  pretext plugin info METHOD                     every option of a method")]
pub(super) struct Train {
    /// A method's name, `METHOD:RECIPE`, or the path of a recipe; with --resume nothing but words
    #[arg(value_name = "METHOD|RECIPE")]
    target: Option<String>,
    /// Keys of the recipe, such as `data=PATH`, `epochs=100` or `backbone.width=192`; with --resume they are written
    /// into the run's recipe
    #[arg(value_name = "KEY=VALUE")]
    words: Vec<String>,
    /// Go on with the run in this folder, from its newest checkpoint
    #[arg(long, value_name = "RUN")]
    resume: Option<PathBuf>,
    /// Print the resolved recipe and the plan, and train nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    places: Places,
    /// Write one JSON object per event instead of lines; with --dry-run one for all
    #[arg(long)]
    json: bool,
}

impl Train {
    /// Trains.
    pub(super) fn run(&self) -> Result<()> {
        let (asked, before) = self.asked()?;
        asked.take_threads()?;
        let going_on = self.resume.as_deref().zip(before.as_ref());
        let resume = going_on.map(|(folder, before)| Resume { folder, before });
        if self.dry_run {
            resume.iter().try_for_each(|resume| resume.check(&asked.recipe))?;
            return dry_run(&asked, self.json);
        }
        let stop = on_ctrl_c()?;
        let mut observer = renderer(self.json, asked.recipe.train.log_every, &stop);
        let Asked { recipe, plugin } = asked;
        let request = run::Request { recipe, plugin: &plugin, resume };
        run::run(&request, observer.as_mut(), &stop).map(|_| ())
    }

    /// What is asked for; with `--resume` also the run's recipe as it stands.
    fn asked(&self) -> Result<(Asked, Option<Recipe>)> {
        match (&self.target, &self.resume) {
            (Some(target), None) => Ok((Asked::target(target, &self.words, &self.places)?, None)),
            (target, Some(folder)) => {
                let words: Vec<String> = target.iter().chain(&self.words).cloned().collect();
                if let Some(word) = words.iter().find(|word| !word.contains('=')) {
                    return Err(Error::asked_wrongly(format!(
                        "`{word}` can't be given with --resume: the run's own recipe is used"
                    ))
                    .hint(format!("pretext train --resume {}", folder.display())));
                }
                let (asked, before) = Asked::changed(folder, &words, &self.places)?;
                Ok((asked, Some(before)))
            }
            (None, None) => Err(Error::asked_wrongly("train what? name a method or a recipe")
                .hint("pretext train METHOD; `pretext plugin list` shows the methods")),
        }
    }
}

fn dry_run(asked: &Asked, as_json: bool) -> Result<()> {
    let plan = plan_lines(&asked.recipe, &asked.plugin)?;
    if as_json {
        return say_json(&json!({
            "recipe": asked.recipe, "plan": plan.lines, "memory_bytes": plan.memory,
        }));
    }
    say(asked.recipe.to_toml()?)?;
    for line in &plan.lines {
        say(format!("# {line}"))?;
    }
    let memory = bytes_text(plan.memory);
    say(format!(
        "# memory    about {memory} for weights and a step, measured on a small one; data comes on top"
    ))?;
    match super::doctor::memory("MemTotal:") {
        Some(there) if there < plan.memory => say(format!(
            "# warning   this machine has {}: choose a smaller `batch`, or `backbone.checkpoint_blocks`",
            bytes_text(there)
        )),
        _ => Ok(()),
    }
}
