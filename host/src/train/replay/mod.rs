//! Training steps on recorded tensors: what a method makes of a batch that another program wrote down,
//! with every gradient and every tensor that the step changed. No data is opened.
//!
//! The steps are those of [`Trainer::step`], nothing else: what a replay shows
//! is what training does. Names and shapes of all tensors: [`names()`].

mod names;
mod recording;
mod weights;

use std::path::Path;

use candle_core::Tensor;

pub use names::{Listed, Place, names};
use recording::{Recorded, Recording};

use super::absent::prepare_without_data;
use super::prepare::Prepared;
use super::start::Start;
use super::step::{Learner, Taken, Trainer};
use crate::config::Recipe;
use crate::engine::LeafGradients;
use crate::module::Forward;
use crate::plugin::{Found, Session, Told};
use crate::run::NamedTensors;
use crate::schedule::Progress;
use crate::state::{Frozen, ParamId, State, StepVars};
use crate::{Error, Result};

/// What to replay.
#[derive(Debug)]
pub struct Request<'a> {
    /// Every key resolved. Its batch is that of the recording, and nothing is accumulated.
    pub recipe: &'a Recipe,
    /// The plugin that holds the method.
    pub plugin: &'a Found,
    /// The recorded views.
    pub batch: &'a Path,
    /// Parameters and buffers to start from; without them the run's own start.
    pub weights: Option<&'a Path>,
    /// How many steps; without it as many as are recorded.
    pub steps: Option<u64>,
    /// Steps that count as done before.
    pub start: u64,
    /// Steps of one epoch, for schedules.
    pub steps_per_epoch: u64,
}

/// What the steps did.
#[derive(Debug)]
pub struct Replayed {
    /// In numbers, step by step.
    pub steps: Vec<Taken>,
    /// In tensors, by the names of [`names()`].
    pub tensors: NamedTensors,
    /// What the weights left as it was, in a line each.
    pub notes: Vec<String>,
}

/// Takes the steps.
///
/// # Errors
/// When a tensor is missing, unknown or of another shape or type, or a step fails.
pub fn replay(request: &Request<'_>) -> Result<Replayed> {
    let recording = Recording::open(request.batch)?;
    let recipe = recording.recipe(request.recipe);
    let dim = |view: &str| recording.dim(view);
    let prepared =
        prepare_without_data(&recipe, request.plugin, (request.steps_per_epoch, 0), dim)?;
    let Prepared { mut session, mut trainer, plan, data, total_steps, .. } = prepared;
    let mut notes = Start::read(&recipe, &session, &trainer)?.apply(&mut trainer)?;
    if let Some(path) = request.weights {
        notes.extend(weights::load(&mut trainer, path, &recipe.method)?);
    }
    let expected = names::fields(&plan, data.content())?;
    let n = request.steps.unwrap_or(recording.steps());
    let mut replayed = Replayed { steps: Vec::new(), tensors: NamedTensors::new(), notes };
    for number in 0..n {
        let at = Progress {
            step: request.start + number,
            steps_per_epoch: request.steps_per_epoch,
            total_steps,
        };
        let views = recording.step(number, &expected)?;
        let (taken, made) = take(&mut session, &mut trainer, at, &views)?;
        let prefix = recording.prefix(number, n);
        let made = made.into_iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor));
        replayed.tensors.extend(made);
        replayed.steps.push(taken);
    }
    Ok(replayed)
}

/// Takes one step on `views`: what it did in numbers, and in tensors.
fn take(
    session: &mut Session,
    trainer: &mut Trainer,
    at: Progress,
    views: &Recorded,
) -> Result<(Taken, NamedTensors)> {
    let mut watched = Watched { session, views, gradients: NamedTensors::new() };
    let taken = trainer.step(&mut watched, at, || Ok(()))?;
    let gradients = watched.gradients;
    let made = numbers(&taken)?.into_iter().chain(gradients).chain(after(&trainer.state)?);
    Ok((taken, made.collect()))
}

/// The method on one recorded batch, and the gradients that came back.
struct Watched<'a> {
    session: &'a mut Session,
    views: &'a Recorded,
    gradients: NamedTensors,
}

impl Learner for Watched<'_> {
    type Batch = ();

    fn learn(&mut self, f: &Forward<'_>, (): &(), at: Progress) -> Result<Told> {
        self.views.put_on(f.tape)?;
        self.session.step(f, self.views, at)
    }

    fn arrived(&mut self, vars: &StepVars<'_>, arrived: &LeafGradients) -> Result<()> {
        for (name, leaf) in self.views.leaves() {
            let gradient = arrived.get(&leaf).map_or_else(|| leaf.value().zeros_like(), copied)?;
            self.gradients.push((format!("gradient.{name}"), gradient));
        }
        for (index, parameter) in vars.state().parameters().iter().enumerate() {
            if parameter.group.frozen == Frozen::Always {
                continue;
            }
            let leaf = vars.used(ParamId(index));
            let gradient = leaf.and_then(|leaf| arrived.get(&leaf).map(copied));
            let gradient = gradient.unwrap_or_else(|| parameter.value.zeros_like())?;
            self.gradients.push((format!("gradient.{}", parameter.name), gradient));
        }
        Ok(())
    }
}

/// A tensor of its own: the step goes on to change gradients and parameters in place.
fn copied(tensor: &Tensor) -> candle_core::Result<Tensor> {
    tensor.copy()?.to_device(&candle_core::Device::Cpu)
}

/// Loss, metrics and rates of a step, one number each.
fn numbers(taken: &Taken) -> Result<NamedTensors> {
    let mut numbers = vec![
        ("loss".to_owned(), taken.loss),
        ("gradient_norm".to_owned(), taken.gradient_norm),
        ("lr".to_owned(), taken.lr),
        ("weight_decay".to_owned(), taken.weight_decay),
    ];
    numbers.extend(taken.teacher_decay.map(|decay| ("teacher_decay".to_owned(), decay)));
    numbers.extend(taken.metrics.iter().map(|(name, value)| (format!("metric.{name}"), *value)));
    let tensor = |(name, value)| Ok((name, Tensor::new(value, &candle_core::Device::Cpu)?));
    numbers.into_iter().map(tensor).collect()
}

/// Parameters and buffers as the step left them.
fn after(state: &State) -> Result<NamedTensors> {
    let parameters = state.parameters().iter().map(|p| (&p.name, &p.value));
    let all = parameters.chain(state.buffers().iter().map(|b| (&b.name, &b.value)));
    all.map(|(name, value)| Ok((format!("after.{name}"), copied(value)?))).collect()
}

/// An error about a file whose tensors are not those expected: exit code 2.
fn refused(message: String, hint: String) -> Error {
    Error::asked_wrongly(message).hint(hint)
}
