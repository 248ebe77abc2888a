//! A run from its recipe to its report: opens what it needs, then turns the loop.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::evaluate::Evaluation;
use super::event::{Event, Observer, StepReport};
use super::finish::{Ending, Work, finish};
use super::layers;
use super::pace::Pace;
use super::prepare::{Opened, Prepared, checkpoint, describe, prepare_training};
use super::probing::{Baselines, already_asked, ask, ask_fully, evaluation, write_figures};
use super::resume::Resume;
use super::stage::Stages;
use super::start::Start;
use super::step::Taken;
use super::trainings::Trainings;
use super::views::BatchViews;
use crate::config::Recipe;
use crate::data::loader::{Loader, LoaderOptions};
use crate::error::Class;
use crate::plugin::{AskedStage, Found};
use crate::run::{Checkpoint, Keep, Machine, Manifest, Name, PluginRecord, Record, Run};
use crate::schedule::Progress;
use crate::store::Store;
use crate::{Error, Result};

/// What to run.
#[derive(Debug)]
pub struct Request<'a> {
    /// Every key resolved.
    pub recipe: Recipe,
    /// The plugin that holds the method.
    pub plugin: &'a Found,
    /// A run to go on with.
    pub resume: Option<Resume<'a>>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The run folder.
    pub run: PathBuf,
    /// Named figures of the last probe, and of its baselines.
    pub figures: Vec<(String, f64)>,
}

/// Runs `request` to its end, or to the step at which `stop` is set.
///
/// # Errors
/// When anything fails; the newest checkpoint is named. An interrupted run leaves a checkpoint.
pub fn run(
    request: &Request<'_>,
    observer: &mut dyn Observer,
    stop: &AtomicBool,
) -> Result<Outcome> {
    let started = Instant::now();
    let recipe = &request.recipe;
    request.resume.iter().try_for_each(|resume| resume.check(recipe))?;
    let opened = Opened::new(recipe)?;
    let mut prepared = prepare_training(recipe, request.plugin, &opened, 0)?;
    layers::check(recipe, &prepared)?;
    // Weights that don't fit are refused before there is a folder; a run that goes on may not need them.
    let read = |prepared: &Prepared| Start::read(recipe, &prepared.session, &prepared.trainer);
    let start = if request.resume.is_none() { Some(read(&prepared)?) } else { None };
    let (mut folder, checkpoint) = open_folder(request, &opened, &prepared, observer)?;
    let from_step = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.step);
    observer.event(Event::Started {
        run: folder.path().display().to_string(),
        plan: describe(recipe, &prepared),
        from_step,
        total_steps: prepared.run_steps(),
    });
    observer.event(Event::Phase("asking the untrained backbone".to_owned()));
    let evaluation = evaluation(recipe, &prepared)?;
    let baselines = Baselines::of(&evaluation, &prepared)?;
    let first = prepared.training_of(from_step);
    if checkpoint.is_none() {
        let start = start.map_or_else(|| read(&prepared), Ok)?;
        for note in start.apply(&mut prepared.trainer)? {
            observer.event(Event::Note(note));
        }
    }
    let samples =
        (prepared.run_steps() - from_step) * recipe.train.batch as u64 * recipe.train.accumulate;
    let steps = Steps { recipe, folder: &mut folder, evaluation: &evaluation, observer, stop };
    let mut trainings = Trainings { steps, plugin: request.plugin, opened };
    let prepared = match trainings.go(prepared, first, checkpoint) {
        Ok(prepared) => prepared,
        Err(error) => return Err(name_checkpoint(error, folder.path(), recipe)),
    };
    let work = Work { seconds: started.elapsed().as_secs_f64(), samples };
    let (prepared, evaluation) = (&prepared, &evaluation);
    finish(Ending { recipe, prepared, evaluation, baselines, work }, &mut folder, observer)
}

/// The run's folder, new or gone on with, and the checkpoint to go on from.
fn open_folder(
    request: &Request<'_>,
    opened: &Opened,
    prepared: &Prepared,
    observer: &mut dyn Observer,
) -> Result<(Run, Option<Checkpoint>)> {
    let recipe = &request.recipe;
    let keep = Keep { newest: recipe.train.keep.max(1), ..Keep::default() };
    if let Some(resume) = &request.resume {
        let (folder, checkpoint) = resume.open(request, opened, prepared, observer)?;
        return Ok((folder.keeping(keep), checkpoint));
    }
    let data = Path::new(&recipe.data.source)
        .file_stem()
        .map_or_else(|| "data".to_owned(), |stem| stem.to_string_lossy().replace(['{', '}'], ""));
    let name = if recipe.run.is_empty() {
        Name::Numbered { method: &recipe.method, data: &data }
    } else {
        Name::Given(&recipe.run)
    };
    let folder = Run::create(&recipe.runs, name)?.keeping(keep);
    folder.write_recipe(&recipe.to_table()?)?;
    folder.write_manifest(&manifest(request, prepared.run_steps()))?;
    Ok((folder, None))
}

/// What made the run of `request`, which has `steps` steps.
pub(super) fn manifest(request: &Request<'_>, steps: u64) -> Manifest {
    let (plugin, recipe) = (request.plugin, &request.recipe);
    Manifest {
        pretext: env!("CARGO_PKG_VERSION").to_owned(),
        contract: plugin.info.contract.clone(),
        plugin: PluginRecord {
            id: plugin.info.package.clone(),
            method: recipe.method.clone(),
            version: plugin.info.version.clone(),
            sha256: plugin.sha256.clone(),
            path: plugin.path.display().to_string(),
        },
        device: recipe.device.clone(),
        threads: rayon::current_num_threads(),
        seed: recipe.seed,
        steps,
        machine: Machine::here(),
        started_at: crate::run::utc(std::time::SystemTime::now()),
        resumed: Vec::new(),
    }
}

/// How to go on at a lower rate: from the newest checkpoint, or from the one before where the step that diverged was the
/// first after it, whose views and weights no rate changes.
fn after_divergence(newest: Option<(u64, PathBuf)>, run: &Path, recipe: &Recipe) -> String {
    let go_on =
        format!("`pretext train --resume {} lr={:.0e}`", run.display(), recipe.train.lr / 5.0);
    let records = crate::run::read(&run.join("metrics.jsonl")).unwrap_or_default();
    let last = records.iter().rev().find_map(|record| record.get("step")?.as_u64());
    match newest {
        Some((step, path)) if last == Some(step) => format!(
            "what stands after step {step} leads there again: remove `{}` and go on from before it with {go_on}",
            path.display()
        ),
        Some((step, _)) => format!("go on after step {step} at a lower rate with {go_on}"),
        None => format!("start over at a lower rate with {go_on}, or with a longer warm-up"),
    }
}

/// Says in the hint of an error that stopped a run how to go on from its newest checkpoint.
fn name_checkpoint(error: Error, run: &Path, recipe: &Recipe) -> Error {
    let newest =
        crate::run::list(&run.join("checkpoints")).ok().and_then(|all| all.first().cloned());
    if error.class() == Class::Diverged {
        return error.hint(after_divergence(newest, run, recipe));
    }
    let go_on = newest.map(|(step, _)| {
        format!("go on after step {step} with `pretext train --resume {}`", run.display())
    });
    let hint = match (error.hint_text(), go_on) {
        (Some(hint), _) if hint.contains("--resume") => return error,
        (Some(hint), Some(go_on)) => format!("{hint}; then {go_on}"),
        (None, Some(go_on)) => go_on,
        (Some(_), None) => return error,
        (None, None) => "there is no checkpoint yet: mend the cause and start again".to_owned(),
    };
    error.hint(hint)
}

/// The loop, and what it reports to.
pub(super) struct Steps<'a> {
    pub(super) recipe: &'a Recipe,
    pub(super) folder: &'a mut Run,
    evaluation: &'a Evaluation,
    observer: &'a mut dyn Observer,
    stop: &'a AtomicBool,
}

impl Steps<'_> {
    /// The stages of this run.
    pub(super) fn stages(&mut self) -> Stages<'_> {
        let Self { recipe, observer, stop, .. } = self;
        Stages { run: self.folder.path(), recipe, observer: &mut **observer, stop }
    }

    /// Writes down what a stage found before step `step`, unless it stands there from before a stop.
    pub(super) fn report_stage(
        &mut self,
        stage: &AskedStage,
        step: u64,
        found: &Store<u32>,
    ) -> Result<()> {
        let records = crate::run::read(&self.folder.path().join("metrics.jsonl"))?;
        let named = |record: &Record| {
            record.get("stage").and_then(serde_json::Value::as_str) == Some(&stage.name)
        };
        if records.iter().any(named) {
            return Ok(());
        }
        let mut record = Record::new();
        record.insert("step".into(), step.into());
        record.insert("stage".into(), stage.name.as_str().into());
        let figures = &found.about().figures;
        for (name, value) in figures {
            record.insert(name.clone(), (*value).into());
        }
        self.folder.metric(&record)?;
        let (stage, figures) = (stage.name.clone(), figures.clone());
        self.observer.event(Event::Stage { stage, step, figures });
        Ok(())
    }

    /// Asks the backbone at the end of a training that is not the last, unless it was asked before a stop.
    pub(super) fn probe_at_end(&mut self, prepared: &Prepared) -> Result<()> {
        let step = prepared.last_step();
        if already_asked(self.folder, step)? {
            return Ok(());
        }
        self.observer.event(Event::Phase("asking the trained backbone".to_owned()));
        let figures = ask_fully(self.evaluation, prepared)?.figures.named();
        write_figures(self.folder, step, &figures)?;
        self.observer.event(Event::Probe { step, figures });
        Ok(())
    }

    /// Steps of a training, from step `from` of the run to the training's end.
    pub(super) fn turn(&mut self, prepared: &mut Prepared, from: u64) -> Result<()> {
        let first = prepared.first_step();
        let from = from - first;
        if from == prepared.total_steps {
            return Ok(());
        }
        let mut loader = self.loader(prepared, from)?;
        let every = match self.recipe.train.checkpoint_every {
            0 => prepared.steps_per_epoch,
            steps => steps,
        };
        let mut pace = Pace::new();
        let mut saved = from;
        for step in from..prepared.total_steps {
            let at = Progress {
                step,
                steps_per_epoch: prepared.steps_per_epoch,
                total_steps: prepared.total_steps,
            };
            let taken = match self.step(prepared, &mut loader, at, &mut pace) {
                Ok(taken) => taken,
                // Nothing of the step was kept: what stands is the end of the step before. Before a training's
                // first step that is the end of the training before, whose checkpoint this state is not.
                // From these weights the same views lead to the same end, at any rate.
                Err(error) if step > saved && error.class() != Class::Diverged => {
                    return Err(self.save_after(error, prepared, first + step));
                }
                Err(error) => return Err(error),
            };
            self.report(prepared, &taken, at, &mut pace)?;
            let done = step + 1;
            // Before the checkpoint, which promises every record up to it.
            if let Err(error) = self.probe(prepared, at) {
                return Err(self.save_after(error, prepared, first + done));
            }
            let stopped = self.stop.load(Ordering::Relaxed);
            if done % every == 0 || done == prepared.total_steps || stopped {
                self.save(prepared, first + done)?;
                saved = done;
            }
            if stopped && first + done < prepared.run_steps() {
                let run = self.folder.path().display();
                let done = first + done;
                return Err(Error::interrupted(format!("interrupted after step {done}"))
                    .hint(format!("go on with `pretext train --resume {run}`")));
            }
        }
        self.count_broken(&loader, prepared.data.len());
        Ok(())
    }

    /// Says how many samples were left out, each of which was named when it was met.
    fn count_broken(&mut self, loader: &Loader, n: usize) {
        let broken = loader.report().broken_names;
        let line = match broken {
            0 => return,
            1 => format!("1 of {n} samples is broken and was left out"),
            _ => format!("{broken} of {n} samples are broken and were left out"),
        };
        self.observer.event(Event::Warning(line));
    }

    /// Saves what stands after `step` steps because of `error`, which it gives back.
    fn save_after(&mut self, error: Error, prepared: &Prepared, step: u64) -> Error {
        match self.save(prepared, step) {
            Ok(()) => error,
            Err(unsaved) if unsaved.class() == Class::Diverged => unsaved.because(error),
            Err(unsaved) => error.because(unsaved),
        }
    }

    /// Writes a checkpoint of the state after `step` steps, of which there is none before the first.
    fn save(&mut self, prepared: &Prepared, step: u64) -> Result<()> {
        if step == 0 {
            return Ok(());
        }
        // Whoever goes on from numbers that are not finite only meets them again: older ones are worth more.
        if let Some(name) = prepared.trainer.state.not_finite()? {
            let text =
                format!("`{name}` is not finite after step {step}, so no checkpoint was written");
            return Err(Error::diverged(text));
        }
        let path = self.folder.save(&checkpoint(prepared, step)?)?;
        self.observer.event(Event::Checkpoint(path.display().to_string()));
        Ok(())
    }

    fn loader(&self, prepared: &Prepared, from: u64) -> Result<Loader> {
        let (data, train) = (&self.recipe.data, &self.recipe.train);
        let default = LoaderOptions::default();
        let options = LoaderOptions {
            batch: train.batch,
            seed: self.recipe.seed,
            workers: if data.workers == 0 { default.workers } else { data.workers },
            prefetch: data.prefetch.max(1),
            max_seconds: data.max_seconds,
            max_broken_share: data.max_broken_share,
            start: from * train.accumulate,
            end: Some(prepared.total_steps * train.accumulate),
            units: prepared.units.clone(),
            ..default
        };
        Loader::new(prepared.data.clone(), &prepared.plan, options)
    }

    fn step(
        &mut self,
        prepared: &mut Prepared,
        loader: &mut Loader,
        at: Progress,
        pace: &mut Pace,
    ) -> Result<Taken> {
        let Prepared { session, trainer, plan, .. } = prepared;
        let device = trainer.state.device().clone();
        let observer = &mut *self.observer;
        let started = Instant::now();
        let mut waited = Duration::ZERO;
        let mut samples = 0;
        let next = || {
            let batch =
                loader.next_batch()?.ok_or_else(|| Error::failed("the data ended early"))?;
            for broken in &batch.broken {
                let (name, reason) = (&broken.name, &broken.reason);
                observer.event(Event::Warning(format!("skipped `{name}`: {reason}")));
            }
            waited += batch.wait;
            samples += batch.len() as u64;
            BatchViews::new(batch, plan)?.move_to(&device)
        };
        let taken = trainer
            .step(session, at, next)
            .map_err(|error| error.context(format!("training stopped at step {}", at.step + 1)))?;
        pace.add(started.elapsed(), waited, samples);
        Ok(taken)
    }

    /// Writes the step down and tells the observer.
    fn report(
        &mut self,
        prepared: &Prepared,
        taken: &Taken,
        at: Progress,
        pace: &mut Pace,
    ) -> Result<()> {
        let step = prepared.first_step() + at.step + 1;
        let epoch = (at.step + 1) as f64 / at.steps_per_epoch as f64;
        let mut record = Record::new();
        record.insert("step".into(), step.into());
        if !prepared.phase().is_empty() {
            record.insert("training".into(), prepared.phase().into());
        }
        record.insert("epoch".into(), epoch.into());
        record.insert("loss".into(), taken.loss.into());
        record.insert("lr".into(), taken.lr.into());
        record.insert("weight_decay".into(), taken.weight_decay.into());
        record.insert("gradient_norm".into(), taken.gradient_norm.into());
        if let Some(decay) = taken.teacher_decay {
            record.insert("teacher_decay".into(), decay.into());
        }
        for (name, value) in &taken.metrics {
            record.insert(name.clone(), (*value).into());
        }
        self.folder.metric(&record)?;
        let mut timing = Record::new();
        timing.insert("step".into(), step.into());
        timing.insert("seconds".into(), pace.last_seconds().into());
        timing.insert("samples_per_second".into(), pace.samples_per_second().into());
        timing.insert("data_wait".into(), pace.data_wait().into());
        self.folder.timing(&timing)?;
        for (warning, line) in &taken.log {
            let event = if *warning { Event::Warning } else { Event::Note };
            self.observer.event(event(line.clone()));
        }
        let mut figures = vec![("gradient_norm".to_owned(), taken.gradient_norm)];
        figures.extend(taken.metrics.iter().cloned());
        self.observer.event(Event::Step(StepReport {
            step,
            total_steps: prepared.run_steps(),
            epoch,
            loss: taken.loss,
            lr: taken.lr,
            figures,
            samples_per_second: pace.samples_per_second(),
            data_wait: pace.data_wait(),
            time_left: pace.time_left(prepared.run_steps() - step),
        }));
        Ok(())
    }

    /// Asks the backbone where the recipe wants it asked after this step, but not after the last one,
    /// which has a probe of its own.
    fn probe(&mut self, prepared: &Prepared, at: Progress) -> Result<()> {
        let (every, done) = (self.recipe.probe.every, at.step + 1);
        if every <= 0.0 || done == at.total_steps {
            return Ok(());
        }
        let probes = |step: u64| (step as f64 / at.steps_per_epoch as f64 / every).floor() as u64;
        if probes(done) == probes(at.step) {
            return Ok(());
        }
        let figures = ask(self.evaluation, prepared)?.figures.named();
        let done = prepared.first_step() + done;
        write_figures(self.folder, done, &figures)?;
        self.observer.event(Event::Probe { step: done, figures });
        Ok(())
    }
}
