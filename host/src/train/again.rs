//! Looking at a run that lies in its folder: its newest checkpoint asked again, its report made anew.

use std::path::{Path, PathBuf};

use super::evaluate::{Answer, Evaluation};
use super::page::{Look, page};
use super::prepare::{Opened, Prepared, prepare_training, restore};
use super::probing::{Baselines, ask_fully, evaluation};
use crate::config::Recipe;
use crate::data::units::Units;
use crate::plugin::Found as Plugin;
use crate::run::{Checkpoint, Found, find_newest};
use crate::{Error, Result};

/// A run as its newest checkpoint has it, and what its backbone answered.
#[derive(Debug)]
pub struct Again {
    /// Steps done.
    pub step: u64,
    /// The method, its data and the checkpoint's weights.
    pub prepared: Prepared,
    /// What the backbone was asked about.
    pub evaluation: Evaluation,
    /// What to compare with.
    pub baselines: Baselines,
    /// What the backbone answered.
    pub answer: Answer,
    /// One line for each damaged checkpoint that was passed over.
    pub warnings: Vec<String>,
}

/// The newest whole checkpoint of the run in `folder`, and one line for each damaged one that was passed over.
pub(super) fn newest(folder: &Path) -> Result<(Checkpoint, Vec<String>)> {
    let Found { newest, warnings } = find_newest(&folder.join("checkpoints"))?;
    let (_, checkpoint) = newest.ok_or_else(|| {
        let folder = folder.display();
        Error::asked_wrongly(format!("`{folder}` has no whole checkpoint"))
            .hint(format!("train it with `pretext train --resume {folder}`"))
    })?;
    Ok((checkpoint, warnings))
}

/// Builds the network of `recipe`, asks it untrained, then with the newest checkpoint of the run in
/// `folder`.
///
/// # Errors
/// When the run has no whole checkpoint, or it doesn't fit the recipe.
pub fn again(folder: &Path, recipe: &Recipe, plugin: &Plugin) -> Result<Again> {
    let (checkpoint, warnings) = newest(folder)?;
    let opened = Opened::new(recipe)?;
    let mut prepared = prepare_training(recipe, plugin, &opened, 0)?;
    let training = prepared.training_of(checkpoint.step);
    if training > 0 {
        prepared = prepare_training(recipe, plugin, &opened, training)?;
    }
    let evaluation = evaluation(recipe, &prepared)?;
    let baselines = Baselines::of(&evaluation, &prepared)?;
    // The report shows views, not their units.
    prepared.units = Units::blank();
    let step = checkpoint.step;
    restore(&mut prepared.trainer, checkpoint)?;
    let answer = ask_fully(&evaluation, &prepared)?;
    Ok(Again { step, prepared, evaluation, baselines, answer, warnings })
}

impl Again {
    /// Writes the report of the run in `folder` and returns its path.
    ///
    /// # Errors
    /// When the run's files can't be read, or the page can't be written.
    pub fn write_report(&self, folder: &Path, recipe: &Recipe) -> Result<PathBuf> {
        let Self { prepared, evaluation, baselines, answer, .. } = self;
        let look = Look { recipe, prepared, evaluation, baselines, answer };
        crate::run::write_report(folder, &page(&look, folder)?)
    }
}
