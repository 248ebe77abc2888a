//! A run from its recipe to its report: opens what it needs, then turns the loop.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::evaluate::{Evaluation, Figures};
use super::finish::{Baselines, Ending, Work, finish};
use super::event::{Event, Observer, StepReport};
use super::optimizer::{Clip, Optimizer, Rule};
use super::schedule::{Progress, Schedule};
use super::step::{Learner, Rules, Taken, Trainer};
use super::views::{BatchViews, largest_crop, plan};
use crate::config::Recipe;
use crate::config::recipe::{ClipMode, OptimizerKind, Train};
use crate::data::dataset::{Content, Dataset, OpenOptions, Split, open};
use crate::data::loader::{Loader, LoaderOptions};
use crate::data::view::ViewPlan;
use crate::module::Forward;
use crate::plugin::{Building, Found, Session, Told, load};
use crate::run::{Checkpoint, Keep, Machine, Manifest, Name, PluginRecord, Record, Run};
use crate::state::{Frozen, ParamId, State};
use crate::{Error, Result};

/// Images that stay decoded in memory, at most.
const CACHE_BYTES: usize = 1 << 30;
/// Steps over which speed and waiting are averaged.
const WINDOW: u64 = 20;

/// What to run.
#[derive(Debug)]
pub struct Request<'a> {
    /// Every key resolved.
    pub recipe: Recipe,
    /// The plugin that holds the method.
    pub plugin: &'a Found,
    /// A run folder to go on with.
    pub resume: Option<&'a Path>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The run folder.
    pub run: PathBuf,
    /// Named figures of the last probe, and of its baselines.
    pub figures: Vec<(String, f64)>,
}

/// A method ready to learn: its session, what it learns, and the data that it sees.
#[derive(Debug)]
pub struct Prepared {
    /// The method in use.
    pub session: Session,
    /// Its parameters, optimiser and teachers.
    pub trainer: Trainer,
    /// What it is trained on.
    pub data: Arc<dyn Dataset>,
    /// What probes ask about, where the data has such a part.
    pub test: Option<Arc<dyn Dataset>>,
    /// The views that it asked for.
    pub plan: ViewPlan,
    /// Side of the images that probes show, in pixels; 0 for vectors.
    pub side: usize,
    /// Steps of one epoch.
    pub steps_per_epoch: u64,
    /// Steps of the run.
    pub total_steps: u64,
}

impl Learner for Session {
    type Batch = BatchViews;

    fn learn(&mut self, f: &Forward<'_>, batch: &BatchViews, at: Progress) -> Result<Told> {
        self.step(f, batch, at)
    }
}

/// Opens data and plugin and builds what the recipe asks for; writes nothing.
///
/// # Errors
/// When the data can't be opened, the method refuses its options, or the parts don't fit.
pub fn prepare(recipe: &Recipe, plugin: &Found) -> Result<Prepared> {
    let data = open_split(recipe, &recipe.data.source, &recipe.data.split, true)?;
    let test = open_split(recipe, recipe.data.asked_about(), &recipe.data.test_split, false).ok();
    let table = load::open(&plugin.path, &recipe.method)?;
    let mut session = Session::open(&recipe.method, table, recipe.options.clone())?;
    let plan = plan(&session.views())?;
    let side = largest_crop(&plan)?.unwrap_or(0);
    let shape = match data.content() {
        Content::Vectors { dim } => vec![dim],
        Content::Images => vec![3, side, side],
    };
    let building = Building {
        state: State::new(recipe.seed),
        averages: Vec::new(),
        shape,
        backbone: recipe.backbone.kind.clone(),
        backbone_options: recipe.backbone.options.to_map(),
    };
    let Building { mut state, averages, .. } = session.build(building)?;
    exempt_vectors(&mut state);
    let steps_per_epoch = (data.len() / recipe.train.batch) as u64 / recipe.train.accumulate.max(1);
    if steps_per_epoch == 0 {
        let (n, batch) = (data.len(), recipe.train.batch as u64 * recipe.train.accumulate);
        return Err(Error::asked_wrongly(format!("{n} samples don't fill one batch of {batch}"))
            .hint(format!("train with `batch={}` or less", n.min(32))));
    }
    let total_steps = match recipe.train.steps {
        0 => (recipe.train.epochs * steps_per_epoch as f64).round().max(1.0) as u64,
        steps => steps,
    };
    let optimizer = Optimizer::new(rule(&recipe.train), &state);
    let rules = rules(recipe);
    let trainer = Trainer { state, optimizer, averages, rules };
    Ok(Prepared { session, trainer, data, test, plan, side, steps_per_epoch, total_steps })
}

/// Every published ViT recipe leaves biases and norms, which are 1-D, out of weight decay.
fn exempt_vectors(state: &mut State) {
    for index in 0..state.parameters().len() {
        let id = ParamId(index);
        let parameter = state.get(id);
        if parameter.value.rank() <= 1 {
            let mut group = parameter.group;
            group.weight_decay = false;
            state.set_group(id, group);
        }
    }
}

fn open_split(
    recipe: &Recipe,
    source: &str,
    split: &str,
    train: bool,
) -> Result<Arc<dyn Dataset>> {
    let data = &recipe.data;
    // Built-in sets take their size and count in their name.
    let source = match source {
        "shapes" if data.size > 0 && data.n > 0 => format!("shapes:{}:{}", data.size, data.n),
        "shapes" if data.size > 0 => format!("shapes:{}", data.size),
        other => other.to_owned(),
    };
    let split = match split {
        "train" => Split::Train,
        "test" | "val" => Split::Test,
        other => {
            return Err(Error::asked_wrongly(format!("data has no split `{other}`"))
                .hint("`train` or `test`"));
        }
    };
    let options = OpenOptions {
        split,
        limit: (train && data.limit > 0).then_some(data.limit),
        seed: recipe.seed,
        cache_bytes: if data.cache == "off" { 0 } else { CACHE_BYTES },
    };
    open(&source, &options)
}

fn rule(train: &Train) -> Rule {
    match train.optimizer {
        OptimizerKind::AdamW => Rule::AdamW { betas: train.betas, eps: train.eps },
        OptimizerKind::Sgd => Rule::Sgd { momentum: train.momentum },
    }
}

fn rules(recipe: &Recipe) -> Rules {
    let train = &recipe.train;
    Rules {
        seed: recipe.seed,
        precision: recipe.precision,
        accumulate: train.accumulate,
        lr: Schedule::cosine(train.effective_lr(), train.lr_final).warmup(0.0, train.warmup_epochs),
        weight_decay: Schedule::cosine(train.weight_decay, train.weight_decay_end),
        clip: match (train.clip, train.clip_mode) {
            (limit, _) if limit <= 0.0 => Clip::Off,
            (limit, ClipMode::Tensor) => Clip::Tensor(limit),
            (limit, ClipMode::Global) => Clip::Global(limit),
        },
    }
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
    let mut prepared = prepare(recipe, request.plugin)?;
    let (mut folder, checkpoint) = open_folder(request, observer)?;
    let from_step = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.step);
    observer.event(Event::Started {
        run: folder.path().display().to_string(),
        plan: describe(recipe, &prepared),
        from_step,
        total_steps: prepared.total_steps,
    });
    observer.event(Event::Phase("asking the untrained backbone".to_owned()));
    let evaluation = evaluation(recipe, &prepared)?;
    let baselines = Baselines::of(&evaluation, &prepared)?;
    if let Some(checkpoint) = checkpoint {
        restore(&mut prepared.trainer, checkpoint)?;
    }
    let mut steps = Steps { recipe, folder: &mut folder, evaluation: &evaluation, observer, stop };
    if let Err(error) = steps.turn(&mut prepared, from_step) {
        return Err(name_checkpoint(error, folder.path()));
    }
    let samples =
        (prepared.total_steps - from_step) * recipe.train.batch as u64 * recipe.train.accumulate;
    let work = Work { seconds: started.elapsed().as_secs_f64(), samples };
    finish(&Ending { recipe, prepared: &prepared, evaluation: &evaluation, baselines, work }, &mut folder, observer)
}

fn evaluation(recipe: &Recipe, prepared: &Prepared) -> Result<Evaluation> {
    let side = if recipe.data.size > 0 { recipe.data.size } else { prepared.side };
    Evaluation::new(&prepared.data, prepared.test.as_ref(), side.max(1), recipe)
}

impl Baselines {
    /// Asks the network as it was built, before any step, and the inputs themselves.
    fn of(evaluation: &Evaluation, prepared: &Prepared) -> Result<Self> {
        let backbone = prepared
            .session
            .backbone()
            .ok_or_else(|| Error::failed("the method asked for no backbone"))?;
        let untrained = evaluation.ask(&backbone, &prepared.trainer.state)?;
        Ok(Self { untrained, raw: evaluation.raw()? })
    }
}

/// The run's folder, new or gone on with, and the checkpoint to go on from.
fn open_folder(
    request: &Request<'_>,
    observer: &mut dyn Observer,
) -> Result<(Run, Option<Checkpoint>)> {
    let recipe = &request.recipe;
    let keep = Keep { newest: recipe.train.keep.max(1), every: None };
    if let Some(path) = request.resume {
        let (folder, found) = Run::resume(path)?;
        found.warnings.into_iter().for_each(|warning| observer.event(Event::Warning(warning)));
        return Ok((folder.keeping(keep), found.newest.map(|(_, checkpoint)| checkpoint)));
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
    folder.write_manifest(&manifest(request))?;
    Ok((folder, None))
}

fn manifest(request: &Request<'_>) -> Manifest {
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
        machine: Machine::here(),
        started_at: crate::run::utc(std::time::SystemTime::now()),
        resumed: Vec::new(),
    }
}

/// Puts a checkpoint into the trainer.
fn restore(trainer: &mut Trainer, checkpoint: Checkpoint) -> Result<()> {
    let Trainer { state, optimizer, .. } = trainer;
    if checkpoint.parameters.len() != state.parameters().len() {
        return Err(Error::failed("the checkpoint has other parameters than the recipe builds")
            .hint("resume with the run's own recipe and plugin"));
    }
    for (name, value) in &checkpoint.parameters {
        let id = state.find(name).ok_or_else(|| {
            Error::failed(format!("the checkpoint's parameter `{name}` is not the recipe's"))
        })?;
        state.assign(id, value)?;
    }
    for (index, (_, value)) in checkpoint.buffers.into_iter().enumerate() {
        state.set_buffer(crate::state::BufferId(index), value)?;
    }
    optimizer.import(state, &checkpoint.moments)
}

/// A checkpoint of the trainer after `step` steps.
fn checkpoint(trainer: &Trainer, step: u64) -> Result<Checkpoint> {
    let state = &trainer.state;
    Ok(Checkpoint {
        step,
        parameters: state.parameters().iter().map(|p| (p.name.clone(), p.value.clone())).collect(),
        buffers: state.buffers().iter().map(|b| (b.name.clone(), b.value.clone())).collect(),
        moments: trainer.optimizer.export(state)?,
        state: Record::new(),
    })
}

/// Names the newest whole checkpoint in an error that stopped a run.
fn name_checkpoint(error: Error, run: &Path) -> Error {
    let hinted = error.hint_text().is_some();
    let newest = crate::run::list(&run.join("checkpoints")).ok().and_then(|all| all.into_iter().next());
    match newest {
        _ if hinted => error,
        Some((step, path)) => error
            .because(format!("the newest checkpoint is `{}`, after step {step}", path.display()))
            .hint(format!("go on from it with `pretext train --resume {}`", run.display())),
        None => error.hint("there is no checkpoint yet: try a lower `lr` or a longer warm-up"),
    }
}

fn describe(recipe: &Recipe, prepared: &Prepared) -> Vec<String> {
    let state = &prepared.trainer.state;
    let count = |trained: bool| -> usize {
        state
            .parameters()
            .iter()
            .filter(|p| (p.group.frozen != Frozen::Always) == trained)
            .map(|p| p.value.elem_count())
            .sum()
    };
    let train = &recipe.train;
    let mut plan = vec![
        format!("data      {}", prepared.data.describe()),
        format!(
            "backbone  {}, {:.2} M parameters trained with the heads, {:.2} M averaged",
            recipe.backbone.kind,
            count(true) as f64 / 1e6,
            count(false) as f64 / 1e6
        ),
        format!(
            "training  {} steps of {} samples, {} steps an epoch; {}",
            prepared.total_steps,
            train.batch as u64 * train.accumulate,
            prepared.steps_per_epoch,
            train.lr_rule()
        ),
    ];
    if prepared.test.is_none() {
        plan.push("probes    none: the data has no labelled test split".to_owned());
    }
    plan
}

/// The loop, and what it reports to.
struct Steps<'a> {
    recipe: &'a Recipe,
    folder: &'a mut Run,
    evaluation: &'a Evaluation,
    observer: &'a mut dyn Observer,
    stop: &'a AtomicBool,
}

impl Steps<'_> {
    /// Steps from `from` to the end of the run.
    fn turn(&mut self, prepared: &mut Prepared, from: u64) -> Result<()> {
        let mut loader = self.loader(prepared, from)?;
        let every = match self.recipe.train.checkpoint_every {
            0 => prepared.steps_per_epoch,
            steps => steps,
        };
        let mut pace = Pace::new();
        for step in from..prepared.total_steps {
            let at = Progress {
                step,
                steps_per_epoch: prepared.steps_per_epoch,
                total_steps: prepared.total_steps,
            };
            let taken = self.step(prepared, &mut loader, at, &mut pace)?;
            self.report(&taken, at, &mut pace)?;
            let done = step + 1;
            let stopped = self.stop.load(Ordering::Relaxed);
            if done % every == 0 || done == prepared.total_steps || stopped {
                let path = self.folder.save(&checkpoint(&prepared.trainer, done)?)?;
                self.observer.event(Event::Checkpoint(path.display().to_string()));
            }
            if stopped && done < prepared.total_steps {
                let run = self.folder.path().display();
                return Err(Error::interrupted(format!("interrupted after step {done}"))
                    .hint(format!("go on with `pretext train --resume {run}`")));
            }
            self.probe(prepared, at)?;
        }
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
            max_broken_share: data.max_broken_share,
            start: from * train.accumulate,
            end: Some(prepared.total_steps * train.accumulate),
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
        let observer = &mut *self.observer;
        let started = Instant::now();
        let mut waited = Duration::ZERO;
        let mut samples = 0;
        let next = || {
            let batch = loader.next_batch()?.ok_or_else(|| Error::failed("the data ended early"))?;
            for broken in &batch.broken {
                let (name, reason) = (&broken.name, &broken.reason);
                observer.event(Event::Warning(format!("skipped `{name}`: {reason}")));
            }
            waited += batch.wait;
            samples += batch.len() as u64;
            BatchViews::new(batch, plan)
        };
        let taken = trainer
            .step(session, at, next)
            .map_err(|error| error.context(format!("training stopped at step {}", at.step + 1)))?;
        pace.add(started.elapsed(), waited, samples);
        Ok(taken)
    }

    /// Writes the step down and tells the observer.
    fn report(&mut self, taken: &Taken, at: Progress, pace: &mut Pace) -> Result<()> {
        let step = at.step + 1;
        let mut record = Record::new();
        record.insert("step".into(), step.into());
        record.insert("epoch".into(), (step as f64 / at.steps_per_epoch as f64).into());
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
        timing.insert("samples_per_second".into(), pace.samples_per_second().into());
        timing.insert("data_wait".into(), pace.data_wait().into());
        self.folder.timing(&timing)?;
        for (warning, line) in &taken.log {
            let line = if *warning { line.clone() } else { format!("note: {line}") };
            self.observer.event(Event::Warning(line));
        }
        let mut figures = vec![("gradient_norm".to_owned(), taken.gradient_norm)];
        figures.extend(taken.metrics.iter().cloned());
        self.observer.event(Event::Step(StepReport {
            step,
            total_steps: at.total_steps,
            epoch: step as f64 / at.steps_per_epoch as f64,
            loss: taken.loss,
            lr: taken.lr,
            figures,
            samples_per_second: pace.samples_per_second(),
            data_wait: pace.data_wait(),
            time_left: pace.time_left(at.total_steps - step),
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
        let figures = ask(self.evaluation, prepared)?.named();
        write_probe(self.folder, done, &figures)?;
        self.observer.event(Event::Probe { step: done, figures });
        Ok(())
    }
}

/// Figures of the teacher's backbone, or the student's where there is no teacher.
pub(super) fn ask(evaluation: &Evaluation, prepared: &Prepared) -> Result<Figures> {
    let backbone = prepared
        .session
        .teacher_backbone()
        .or_else(|| prepared.session.backbone())
        .ok_or_else(|| Error::failed("the method asked for no backbone"))?;
    evaluation.ask(&backbone, &prepared.trainer.state)
}

/// Writes a probe's figures to the run's metrics.
pub(super) fn write_probe(folder: &mut Run, step: u64, figures: &[(String, f64)]) -> Result<()> {
    let mut record = Record::new();
    record.insert("step".into(), step.into());
    for (name, value) in figures {
        record.insert(format!("probe_{name}"), (*value).into());
    }
    folder.metric(&record)
}

/// Speed and waiting over the last steps.
struct Pace {
    steps: std::collections::VecDeque<(Duration, Duration, u64)>,
}

impl Pace {
    fn new() -> Self {
        Self { steps: std::collections::VecDeque::new() }
    }

    fn add(&mut self, took: Duration, waited: Duration, samples: u64) {
        if self.steps.len() as u64 == WINDOW {
            self.steps.pop_front();
        }
        self.steps.push_back((took, waited, samples));
    }

    fn seconds(&self) -> f64 {
        self.steps.iter().map(|step| step.0.as_secs_f64()).sum::<f64>().max(1e-9)
    }

    fn samples_per_second(&self) -> f64 {
        self.steps.iter().map(|step| step.2).sum::<u64>() as f64 / self.seconds()
    }

    fn data_wait(&self) -> f64 {
        self.steps.iter().map(|step| step.1.as_secs_f64()).sum::<f64>() / self.seconds()
    }

    fn time_left(&self, steps: u64) -> Duration {
        let each = self.seconds() / self.steps.len().max(1) as f64;
        Duration::from_secs_f64(each * steps as f64)
    }
}
