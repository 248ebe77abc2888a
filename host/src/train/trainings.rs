//! The course of a run: its trainings one after the other, and before each its stages.

use super::prepare::{Opened, Prepared, prepare_training, restore};
use super::run::Steps;
use super::stage::{inputs, samples};
use super::start::Start;
use crate::data::units::Units;
use crate::plugin::{AskedStage, Found};
use crate::run::Checkpoint;
use crate::store::Store;
use crate::{Error, Result};

/// The trainings of a run, and the stages before each.
pub(super) struct Trainings<'a> {
    pub(super) steps: Steps<'a>,
    pub(super) plugin: &'a Found,
    pub(super) opened: Opened,
}

impl Trainings<'_> {
    /// Everything from training `first` on, in which `checkpoint` lies; `untrained` is the first of all.
    /// Gives the last one.
    pub(super) fn go(
        &mut self,
        untrained: Prepared,
        first: usize,
        mut checkpoint: Option<Checkpoint>,
    ) -> Result<Prepared> {
        let (course, spans) = (untrained.course.clone(), untrained.spans.clone());
        let staged = course.stages_before(spans.len()).next().is_some();
        if staged && self.steps.recipe.data.max_seconds > 0.0 {
            return Err(Error::asked_wrongly(
                "units are those of whole sounds, and `data.max_seconds` cuts them",
            )
            .hint("data.max_seconds=0; the method has an option for the part that it sees"));
        }
        self.steps.folder.keep_steps(spans.iter().map(|(_, end)| *end).collect());
        let mut untrained = Some(untrained);
        let (mut units, mut chain) = (Units::default(), String::new());
        let (source, data) = (&self.steps.recipe.data.source, self.opened.data.as_ref());
        let samples = if staged { samples(source, data)? } else { String::new() };
        for (training, (asked, span)) in course.0.iter().zip(&spans).enumerate() {
            for stage in &asked.stages {
                chain = inputs(stage, self.steps.recipe, &samples, (&chain, span.0))?;
                let found = self.stage(stage, &chain, (training, span.0), untrained.as_ref())?;
                self.steps.report_stage(stage, span.0, &found)?;
                units.insert(stage.name.clone(), found);
            }
            if training < first {
                continue;
            }
            let mut prepared = match untrained.take() {
                Some(untrained) if training == 0 => untrained,
                _ => self.prepare(training)?,
            };
            prepared.units = units.clone();
            let mut from = span.0;
            if let Some(checkpoint) = checkpoint.take() {
                from = checkpoint.step;
                restore(&mut prepared.trainer, checkpoint)?;
            } else if training > 0 {
                // The first training has its weights, and what there is to say of them was said.
                let trainer = &mut prepared.trainer;
                Start::read(self.steps.recipe, &prepared.session, trainer)?.apply(trainer)?;
            }
            self.steps.turn(&mut prepared, from)?;
            if training + 1 == course.0.len() {
                return Ok(prepared);
            }
            self.steps.probe_at_end(&prepared)?;
        }
        Err(Error::failed("the run has no training"))
    }

    fn prepare(&self, training: usize) -> Result<Prepared> {
        prepare_training(self.steps.recipe, self.plugin, &self.opened, training)
    }

    /// The units of `stage`, which is run if it is not done: with `untrained` before the first training,
    /// else with the weights that the training before number `training` ended with, at `step`.
    fn stage(
        &mut self,
        stage: &AskedStage,
        inputs: &str,
        (training, step): (usize, u64),
        untrained: Option<&Prepared>,
    ) -> Result<Store<u32>> {
        if let Some(found) = self.steps.stages().done(stage, inputs) {
            return Ok(found);
        }
        if let (0, Some(untrained)) = (training, untrained) {
            return self.steps.stages().run(stage, inputs, untrained);
        }
        let mut source = self.prepare(training - 1)?;
        let name = format!("checkpoints/step-{step:06}");
        let checkpoint = Checkpoint::read(&self.steps.folder.path().join(name))?;
        restore(&mut source.trainer, checkpoint)?;
        self.steps.stages().run(stage, inputs, &source)
    }
}
