//! From a recipe to something that can learn: data, method, parameters, optimiser, schedules.

use std::sync::Arc;

use super::layers;
use super::optimizer::{Clip, Optimizer, Rule};
use super::start::Start;
use super::step::{Learner, Rules, Trainer};
use super::views::{BatchViews, largest_input, plan, random_views};
use crate::config::{ClipMode, Data, OptimizerKind, Recipe, Train};
use crate::data::dataset::{Content, Dataset, LabelRule, OpenOptions, Patterns, Split, open};
use crate::data::transform::preprocess::Preprocess;
use crate::data::units::Units;
use crate::data::view::ViewPlan;
use crate::engine::device;
use crate::module::Forward;
use crate::plugin::{Building, Course, Found, Session, Told, load};
use crate::run::Checkpoint;
use crate::schedule::{Progress, Schedule};
use crate::state::{Frozen, ParamId, State};
use crate::{Error, Result};

/// Bytes of decoded samples that stay in memory, at most.
const CACHE_BYTES: usize = 1 << 30;

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
    /// Shape of one sample of the largest view: `[C, S, S]`, `[T]` of a waveform, `[D]`.
    pub shape: Vec<usize>,
    /// What that view does to every sample, and so do stages and probes.
    pub preprocess: Preprocess,
    /// Steps of one epoch.
    pub steps_per_epoch: u64,
    /// Steps of this training.
    pub total_steps: u64,
    /// What its stages have found.
    pub units: Units,
    /// What the run consists of.
    pub course: Course,
    /// Which of its trainings this is.
    pub training: usize,
    /// Where each training begins and ends, in steps of the run.
    pub spans: Vec<(u64, u64)>,
}

impl Prepared {
    /// Steps of the run before this training.
    pub fn first_step(&self) -> u64 {
        self.spans[self.training].0
    }

    /// Steps of the run when this training ends.
    pub fn last_step(&self) -> u64 {
        self.spans[self.training].1
    }

    /// Steps of the run.
    pub fn run_steps(&self) -> u64 {
        self.spans.last().map_or(0, |(_, end)| *end)
    }

    /// The training's name; empty where the method declares none.
    pub fn phase(&self) -> &str {
        &self.course.0[self.training].name
    }

    /// The training in which step `step` of the run was taken; the first where none was.
    pub fn training_of(&self, step: u64) -> usize {
        self.spans.iter().position(|(_, end)| step <= *end).unwrap_or(self.training)
    }
}

/// The data of a run, opened.
#[derive(Clone, Debug)]
pub struct Opened {
    /// What it trains on.
    pub data: Arc<dyn Dataset>,
    /// What probes ask about, where the data has such a part.
    pub test: Option<Arc<dyn Dataset>>,
}

impl Opened {
    /// Opens what the recipe trains on and what its probes ask about.
    ///
    /// # Errors
    /// When either can't be opened.
    pub fn new(recipe: &Recipe) -> Result<Self> {
        let data = open_split(recipe, &recipe.data.source, &recipe.data.split, true)?;
        let test = open_split(recipe, recipe.data.asked_about(), &recipe.data.test_split, false);
        // Data without a test split is no error, but what the recipe names must be there.
        let named = !recipe.data.test_source.is_empty() || !recipe.data.test_include.is_empty();
        let test = if named { Some(test?) } else { test.ok() };
        Ok(Self { data, test })
    }
}

impl Learner for Session {
    type Batch = BatchViews;

    fn learn(&mut self, f: &Forward<'_>, batch: &BatchViews, at: Progress) -> Result<Told> {
        self.step(f, batch, at)
    }
}

/// Opens data and plugin and builds what the recipe asks for, for its first training; writes nothing.
///
/// # Errors
/// When the data can't be opened, the method refuses its options, or the parts don't fit.
pub fn prepare(recipe: &Recipe, plugin: &Found) -> Result<Prepared> {
    prepare_training(recipe, plugin, &Opened::new(recipe)?, 0)
}

/// The same for training number `training` of the method's course, on data that are open. What a stage
/// has found is not in its views yet.
///
/// # Errors
/// As [`prepare`], and when there is no such training.
pub fn prepare_training(
    recipe: &Recipe,
    plugin: &Found,
    opened: &Opened,
    training: usize,
) -> Result<Prepared> {
    let device = device::open(&recipe.device)?;
    let Opened { data, test } = opened.clone();
    let table = load::open(&plugin.path, &recipe.method)?;
    let options = recipe.options.clone();
    let mut session = Session::open_training(&recipe.method, table, options, training)?;
    let course = session.course();
    let backbone_options = recipe.backbone.options.to_map();
    let plan = plan(&session.views(), &recipe.backbone.kind, &backbone_options)?;
    crate::data::check(&plan, data.content())?;
    let (shape, preprocess) = largest_input(&plan, data.content())?.unwrap_or_else(|| {
        let shape = match data.content() {
            Content::Vectors { dim } => vec![dim],
            Content::Images => vec![3, 0, 0],
            Content::Sounds { .. } => vec![1, 0, 0],
        };
        (shape, Preprocess::default())
    });
    let building = Building {
        state: State::new(recipe.seed),
        averages: Vec::new(),
        shape: shape.clone(),
        backbone: recipe.backbone.kind.clone(),
        backbone_options,
    };
    let Building { mut state, averages, .. } = session.build(building)?;
    state.move_to(&device)?;
    if !recipe.train.decay_vectors {
        exempt_vectors(&mut state);
    }
    let steps_per_epoch = (data.len() / recipe.train.batch) as u64 / recipe.train.accumulate.max(1);
    if steps_per_epoch == 0 {
        return Err(too_few(data.len() as u64, &recipe.train));
    }
    let run_steps = match recipe.train.steps {
        0 if recipe.train.epochs <= 0.0 => {
            return Err(Error::asked_wrongly(
                "`epochs` of 0 and no `steps`: nothing would be trained",
            )
            .hint("`epochs=10`, or `steps=1000`"));
        }
        0 => (recipe.train.epochs * steps_per_epoch as f64).round().max(1.0) as u64,
        steps => steps,
    };
    let spans = course.spans(run_steps)?;
    let total_steps = spans[training].1 - spans[training].0;
    let optimizer = Optimizer::new(rule(&recipe.train), &state);
    let rules = rules(recipe);
    let trainer = Trainer { state, optimizer, averages, rules, profile: None };
    Ok(Prepared {
        session,
        trainer,
        data,
        test,
        plan,
        shape,
        preprocess,
        steps_per_epoch,
        total_steps,
        units: Units::default(),
        course,
        training,
        spans,
    })
}

/// Says that `n` samples make no step, and which of the two sizes to lower.
fn too_few(n: u64, train: &Train) -> Error {
    let (batch, accumulate) = (train.batch as u64, train.accumulate.max(1));
    let hint = match (n / accumulate, n / batch.max(1)) {
        (_, fit @ 1..) if accumulate > 1 => format!("train with `accumulate={fit}` or less"),
        (fit @ 1.., _) => format!("train with `batch={fit}` or less"),
        _ => format!("train with `accumulate=1 batch={}` or less", n.max(1)),
    };
    Error::asked_wrongly(format!("{n} samples don't fill one batch of {}", batch * accumulate))
        .hint(hint)
}

/// Most published recipes leave biases and norms, which are 1-D, out of weight decay.
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

fn open_split(recipe: &Recipe, source: &str, split: &str, train: bool) -> Result<Arc<dyn Dataset>> {
    let data = &recipe.data;
    // Built-in sets take their size and count in their name.
    let source = match source {
        "shapes" if data.size > 0 => format!("shapes:{}:{}", data.size, data.n),
        "shapes" => format!("shapes::{}", data.n),
        "speech" => format!("speech:{}", data.n),
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
        rate: data.rate,
        label: LabelRule::parse(&data.label)?,
        ..patterns(data, train)?
    };
    open(&source, &options)
}

/// What is taken by name: to learn from, all but what probes ask about; for probes, that.
fn patterns(data: &Data, train: bool) -> Result<OpenOptions> {
    let (all, not) = (Patterns::parse(&data.include)?, Patterns::parse(&data.exclude)?);
    let asked = Patterns::parse(&data.test_include)?;
    let (include, exclude) = match (train, asked.is_empty()) {
        (true, _) => (all, not.and(&asked)),
        (false, true) => (all, not),
        (false, false) => (asked, not),
    };
    Ok(OpenOptions { include, exclude, ..OpenOptions::default() })
}

fn rule(train: &Train) -> Rule {
    match train.optimizer {
        OptimizerKind::AdamW => Rule::AdamW { betas: train.betas, eps: train.eps },
        OptimizerKind::Sgd => Rule::Sgd { momentum: train.momentum },
        OptimizerKind::Larc => Rule::Larc {
            momentum: train.momentum,
            trust: train.trust,
            clip: train.trust_clip,
            vectors: train.decay_vectors,
        },
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

/// What to do where a checkpoint and a recipe don't fit.
const OTHER_NETWORK: &str = "give the keys and the plugin that the run has: its recipe.toml and its manifest.json name them";

/// Puts a checkpoint into the trainer.
pub(super) fn restore(trainer: &mut Trainer, checkpoint: Checkpoint) -> Result<()> {
    let Trainer { state, optimizer, .. } = trainer;
    if checkpoint.parameters.len() != state.parameters().len() {
        return Err(Error::failed("the checkpoint has other parameters than the recipe builds")
            .hint(OTHER_NETWORK));
    }
    for (name, value) in &checkpoint.parameters {
        let id = state.find(name).ok_or_else(|| {
            Error::failed(format!("the checkpoint's parameter `{name}` is not the recipe's"))
                .hint(OTHER_NETWORK)
        })?;
        state.assign(id, value)?;
    }
    let unknown = |name: &str| {
        Error::failed(format!("the checkpoint's buffer `{name}` is not the recipe's"))
            .hint(OTHER_NETWORK)
    };
    if checkpoint.buffers.len() < state.buffers().len() {
        return Err(Error::failed("the checkpoint lacks buffers that the recipe builds")
            .hint(OTHER_NETWORK));
    }
    for (name, value) in checkpoint.buffers {
        let id = state.find_buffer(&name).ok_or_else(|| unknown(&name))?;
        state.set_buffer(id, value)?;
    }
    optimizer.import(state, &checkpoint.moments)
}

/// The training of the run that `checkpoint` is of: another has other parameters, such as one row for each of its units.
pub(super) fn training_in(checkpoint: &Checkpoint) -> usize {
    let number = checkpoint.state.get(PLACE[0]).and_then(serde_json::Value::as_u64);
    number.map_or(0, |number| number as usize)
}

/// In a checkpoint's record: which training it is of, and the step of the run at which that began.
const PLACE: [&str; 2] = ["training", "begins"];

/// A checkpoint after `step` steps of the run.
pub(super) fn checkpoint(prepared: &Prepared, step: u64) -> Result<Checkpoint> {
    let Trainer { state, optimizer, .. } = &prepared.trainer;
    let place = [prepared.training as u64, prepared.first_step()];
    Ok(Checkpoint {
        step,
        parameters: state.parameters().iter().map(|p| (p.name.clone(), p.value.clone())).collect(),
        buffers: state.buffers().iter().map(|b| (b.name.clone(), b.value.clone())).collect(),
        moments: optimizer.export(state)?,
        state: PLACE.map(str::to_owned).into_iter().zip(place.map(Into::into)).collect(),
    })
}

/// Refuses to go on from a checkpoint whose training lies elsewhere now, as the run's number of steps was changed:
/// weights of one training would go on in another, or stages would look for an end that was never saved.
pub(super) fn check_place(prepared: &Prepared, checkpoint: &Checkpoint) -> Result<()> {
    let place = PLACE.map(|name| checkpoint.state.get(name).and_then(serde_json::Value::as_u64));
    let [Some(training), Some(begins)] = place else { return Ok(()) };
    let now = prepared.training_of(checkpoint.step);
    if (training, begins) == (now as u64, prepared.spans[now].0) {
        return Ok(());
    }
    Err(Error::asked_wrongly(format!(
        "the checkpoint after step {} is of training {} of the run, from step {begins} on; with this number of steps it \
         would lie elsewhere",
        checkpoint.step,
        training + 1
    ))
    .hint("go on with the run's own `epochs` and `steps`: only a run of one training can be made longer"))
}

/// One line each about data, backbone and schedule.
pub(super) fn describe(recipe: &Recipe, prepared: &Prepared) -> Vec<String> {
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
            prepared.run_steps(),
            train.batch as u64 * train.accumulate,
            prepared.steps_per_epoch,
            train.lr_rule()
        ),
    ];
    if prepared.course.0.iter().any(|training| !training.name.is_empty()) {
        plan.push(format!("course    {}", course_line(prepared)));
    }
    if prepared.test.is_none() {
        plan.push("probes    none: the data has no labelled test split; `label` and `test_include` can name one".to_owned());
    }
    plan
}

/// Stages and trainings in order, each with its size.
fn course_line(prepared: &Prepared) -> String {
    let mut parts = Vec::new();
    for (training, (begin, end)) in prepared.course.0.iter().zip(&prepared.spans) {
        for stage in &training.stages {
            parts.push(format!(
                "{} ({} clusters of {})",
                stage.name, stage.clusters, stage.features
            ));
        }
        parts.push(format!("{} ({} steps)", training.name, end - begin));
    }
    parts.join(", ")
}

/// What a recipe comes to, before anything is trained.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// One line each about data, backbone and schedule.
    pub lines: Vec<String>,
    /// Bytes that training takes at its peak, about.
    pub memory: u64,
}

/// Builds what `recipe` asks for and takes one step on few random views, to say what a whole batch
/// costs.
///
/// # Errors
/// As [`prepare`], or when the step fails.
pub fn plan_lines(recipe: &Recipe, plugin: &Found) -> Result<Plan> {
    let mut prepared = prepare(recipe, plugin)?;
    // What a run would be refused for is refused here too.
    layers::check(recipe, &prepared)?;
    Start::read(recipe, &prepared.session, &prepared.trainer)?;
    if !recipe.run.is_empty() {
        crate::run::check_name(&recipe.run)?;
    }
    let lines = describe(recipe, &prepared);
    let memory = memory(recipe, &mut prepared)?;
    Ok(Plan { lines, memory })
}

/// Samples of the small step; two, since one has no neighbour to differ from.
const FEW: usize = 2;

/// Weights, gradients and moments, and what a tape keeps per sample, times the batch.
fn memory(recipe: &Recipe, prepared: &mut Prepared) -> Result<u64> {
    let state = &prepared.trainer.state;
    let bytes = |trained: bool| -> u64 {
        let parameters = state.parameters().iter();
        let counted = parameters.filter(|p| (p.group.frozen != Frozen::Always) == trained);
        counted.map(|p| 4 * p.value.elem_count() as u64).sum()
    };
    // A trained parameter has its value, its gradient and two moments.
    let fixed = 4 * bytes(true) + bytes(false);
    let views = random_views(&prepared.plan, prepared.data.content(), FEW, recipe.seed)?;
    let views = views.move_to(state.device())?;
    let at = Progress {
        step: 0,
        steps_per_epoch: prepared.steps_per_epoch,
        total_steps: prepared.total_steps,
    };
    let kept = prepared.trainer.kept_bytes(&mut prepared.session, &views, at)?;
    Ok(fixed + kept * recipe.train.batch as u64 / FEW as u64)
}
