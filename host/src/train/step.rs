//! One step: forward, backward, clip, update, average; and what it takes to go on after a stop.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use candle_core::Tensor;

use super::on_device::{checked, measure};
use super::optimizer::{Clip, Optimizer, Rates, clip};
use crate::engine::ops::l2_normalize::l2_normalize;
use crate::engine::portable::update;
use crate::engine::profile::Profile;
use crate::engine::{LeafGradients, Precision, Tape, Var, storage};
use crate::module::Forward;
use crate::plugin::Told;
use crate::random::Stream;
use crate::schedule::{Progress, Schedule};
use crate::state::{BufferId, Constraint, ParamId, State, StepVars};
use crate::teacher::Average;
use crate::{Error, Result};

/// A method, as the step sees it.
pub trait Learner {
    /// A batch as the loader makes it.
    type Batch;

    /// Computes the loss of `batch`.
    fn learn(
        &mut self,
        forward: &Forward<'_>,
        batch: &Self::Batch,
        progress: Progress,
    ) -> Result<Told>;

    /// Sees the gradients of a batch before they are averaged, clipped and given to the optimiser.
    ///
    /// # Errors
    /// When the learner can't keep what it wants of them; then nothing is updated.
    fn arrived(&mut self, _vars: &StepVars<'_>, _gradients: &LeafGradients) -> Result<()> {
        Ok(())
    }
}

/// The numbers that the recipe fixes for every step.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Seed of drop path and dropout.
    pub seed: u64,
    /// Arithmetic of matrix products.
    pub precision: Precision,
    /// Batches whose gradients are averaged before one update.
    pub accumulate: u64,
    /// The learning rate by step.
    pub lr: Schedule,
    /// Weight decay by step.
    pub weight_decay: Schedule,
    /// Clipping of gradients.
    pub clip: Clip,
}

/// What one step did, in numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Taken {
    /// The loss, averaged over accumulated batches.
    pub loss: f64,
    /// The learning rate.
    pub lr: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Norm of all gradients before clipping.
    pub gradient_norm: f64,
    /// Decay of the first teacher, if there is one.
    pub teacher_decay: Option<f64>,
    /// The method's figures, averaged over accumulated batches.
    pub metrics: Vec<(String, f64)>,
    /// Lines that the method wrote; true marks a warning.
    pub log: Vec<(bool, String)>,
}

/// Everything that steps change.
#[derive(Debug)]
pub struct Trainer {
    /// Parameters and buffers.
    pub state: State,
    /// The optimiser and its moments.
    pub optimizer: Optimizer,
    /// The teachers.
    pub averages: Vec<Average>,
    /// What the recipe fixed.
    pub rules: Rules,
    /// Where the time of every op and part is written down; none measures nothing.
    pub profile: Option<Rc<Profile>>,
}

impl Trainer {
    /// Takes one step on the batches that `next` gives, one per accumulated gradient.
    ///
    /// # Errors
    /// When the method fails, or the loss or a gradient is not finite; then nothing was updated.
    pub fn step<L: Learner>(
        &mut self,
        learner: &mut L,
        progress: Progress,
        next: impl FnMut() -> Result<L::Batch>,
    ) -> Result<Taken> {
        let buffers: Vec<Tensor> = self.state.buffers().iter().map(|b| b.value.clone()).collect();
        let unconstrained = constrain(&mut self.state)?;
        let taken = self.try_step(learner, progress, next);
        if taken.is_err() {
            // Rows of length 1 made so again may differ in their last bits.
            for (id, value) in &unconstrained {
                self.state.assign(*id, value)?;
            }
            for (index, value) in buffers.into_iter().enumerate() {
                self.state.set_buffer(BufferId(index), value)?;
            }
        }
        taken
    }

    /// Bytes that a forward pass over `batch` keeps for the way back, about.
    ///
    /// # Errors
    /// When the method fails.
    pub fn kept_bytes<L: Learner>(
        &self,
        learner: &mut L,
        batch: &L::Batch,
        progress: Progress,
    ) -> Result<u64> {
        let tape = Tape::new(self.rules.precision).on(self.state.device());
        let vars = StepVars::learning(&self.state);
        let stream = Rc::new(RefCell::new(Stream::new(self.rules.seed, "forward", 0, 0)));
        let forward = Forward { tape: &tape, vars: &vars, training: true, stream };
        learner.learn(&forward, batch, progress)?;
        Ok(tape.peak_bytes())
    }

    fn try_step<L: Learner>(
        &mut self,
        learner: &mut L,
        progress: Progress,
        mut next: impl FnMut() -> Result<L::Batch>,
    ) -> Result<Taken> {
        let (mut numbers, mut log) = (Vec::new(), Vec::new());
        let mut gradients: BTreeMap<ParamId, Tensor> = BTreeMap::new();
        for part in 0..self.rules.accumulate {
            let batch = next()?;
            let draw = progress.step * self.rules.accumulate + part;
            let told = self.accumulate(learner, &batch, progress, draw, &mut gradients)?;
            numbers.push(told.numbers);
            log.extend(told.log);
            for (id, value) in told.buffers {
                self.state.set_buffer(id, value)?;
            }
        }
        let mut gradients: Vec<(ParamId, Tensor)> = gradients.into_iter().collect();
        let (lr, weight_decay) = (self.rules.lr.at(progress), self.rules.weight_decay.at(progress));
        let rates = Rates { lr, weight_decay };
        let mut taken = Taken { lr, weight_decay, log, ..Taken::default() };
        if self.state.device().is_cpu() {
            taken.gradient_norm = self.update(&mut gradients, rates)?;
            taken.teacher_decay = self.average(progress, None)?;
            (taken.loss, taken.metrics) = mean(&numbers, &read(&numbers)?);
            return Ok(taken);
        }
        // Everything is enqueued before anything is read.
        let losses: Vec<Tensor> = numbers.iter().map(|numbers| numbers.loss.clone()).collect();
        let profile = self.profile.clone();
        let measured =
            timed(profile.as_deref(), "(clip)", || measure(&gradients, &losses, self.rules.clip))?;
        timed(profile.as_deref(), "(optimizer)", || {
            self.optimizer.step_on_device(&self.state, &gradients, &measured, rates)
        })?;
        taken.teacher_decay = self.average(progress, Some(&measured.gate))?;
        let told = tensors(&numbers);
        let read = update::read(&[told.as_slice(), &measured.numbers()].concat())?;
        let (told, measured) = read.split_at(told.len());
        (taken.loss, taken.metrics) = mean(&numbers, told);
        let norm = check(&numbers, told).and_then(|()| checked(&self.state, &gradients, measured));
        match norm {
            Ok(norm) => Ok(Taken { gradient_norm: norm, ..taken }),
            Err(error) => {
                self.optimizer.forget(&gradients);
                Err(error)
            }
        }
    }

    /// Clips, and updates the parameters; returns the norm of all gradients before that.
    fn update(&mut self, gradients: &mut [(ParamId, Tensor)], rates: Rates) -> Result<f64> {
        let profile = self.profile.clone();
        let norm =
            timed(profile.as_deref(), "(clip)", || clip(&self.state, gradients, self.rules.clip))?;
        timed(profile.as_deref(), "(optimizer)", || {
            self.optimizer.step(&self.state, gradients, rates)
        })?;
        Ok(norm)
    }

    /// Moves the teachers, where `gate` is open if there is one; returns the decay of the first.
    fn average(&self, progress: Progress, gate: Option<&Tensor>) -> Result<Option<f64>> {
        let mut first = None;
        for average in &self.averages {
            let decay = timed(self.profile.as_deref(), "(teacher)", || {
                average.update_where(&self.state, progress, gate)
            })?;
            first.get_or_insert(decay);
        }
        Ok(first)
    }

    /// Adds the gradients of one batch, divided by the number of accumulated batches.
    fn accumulate<L: Learner>(
        &self,
        learner: &mut L,
        batch: &L::Batch,
        progress: Progress,
        draw: u64,
        gradients: &mut BTreeMap<ParamId, Tensor>,
    ) -> Result<Learned> {
        let tape =
            Tape::new(self.rules.precision).on(self.state.device()).profiled(self.profile.clone());
        let vars = StepVars::learning(&self.state);
        let stream = Rc::new(RefCell::new(Stream::new(self.rules.seed, "forward", draw, 0)));
        let forward = Forward { tape: &tape, vars: &vars, training: true, stream };
        let told = learner.learn(&forward, batch, progress)?;
        let metrics = told.metrics.into_iter().map(|(name, var)| (name, var.value().clone()));
        let numbers = Numbers { loss: told.loss.value().clone(), metrics: metrics.collect() };
        if self.state.device().is_cpu() {
            check(std::slice::from_ref(&numbers), &read(std::slice::from_ref(&numbers))?)?;
        }
        let seed = storage::ones_like(told.loss.value())?;
        let seed = seed.affine(1.0 / self.rules.accumulate as f64, 0.0)?;
        let mut arrived = tape.backward_from(&told.loss, seed)?;
        learner.arrived(&vars, &arrived)?;
        for (index, parameter) in self.state.parameters().iter().enumerate() {
            let id = ParamId(index);
            let Some(leaf) = vars.used(id) else { continue };
            let Some(gradient) = arrived.take_own(&leaf)? else { continue };
            if parameter.group.frozen.at(progress.step, progress.steps_per_epoch) {
                continue;
            }
            let sum = match gradients.remove(&id) {
                Some(sum) => storage::add_into(sum, &gradient)?,
                None => gradient.contiguous()?,
            };
            gradients.insert(id, sum);
        }
        Ok(Learned { numbers, buffers: told.buffers, log: told.log })
    }
}

/// The smallest norm that a row is divided by.
const LEAST_NORM: f64 = 1e-12;

/// Makes every parameter hold to its constraint, and returns those that have one as they were.
fn constrain(state: &mut State) -> Result<Vec<(ParamId, Tensor)>> {
    let mut before = Vec::new();
    for index in 0..state.parameters().len() {
        let (id, parameter) = (ParamId(index), &state.parameters()[index]);
        if parameter.group.constraint == Constraint::UnitRows {
            let shape = parameter.value.dims().to_vec();
            let rows = Var::constant(parameter.value.flatten_from(1)?);
            let unit = l2_normalize(&Tape::default(), &rows, 1, LEAST_NORM)?;
            before.push((id, parameter.value.copy()?));
            state.assign(id, &unit.value().reshape(shape)?)?;
        }
    }
    Ok(before)
}

/// Runs `body`, as a part of the step called `name` where there is a profile.
fn timed<T>(profile: Option<&Profile>, name: &'static str, body: impl FnOnce() -> T) -> T {
    match profile {
        Some(profile) => profile.forward(name, body),
        None => body(),
    }
}

/// The loss and the figures of one batch, where they were computed.
struct Numbers {
    loss: Tensor,
    metrics: Vec<(String, Tensor)>,
}

/// What one batch taught.
struct Learned {
    numbers: Numbers,
    buffers: Vec<(BufferId, Tensor)>,
    log: Vec<(bool, String)>,
}

/// Of each batch its loss and then its figures, one number each.
fn tensors(numbers: &[Numbers]) -> Vec<Tensor> {
    let tensors = numbers.iter().flat_map(|numbers| {
        let metrics = numbers.metrics.iter().map(|(_, value)| value.clone());
        std::iter::once(numbers.loss.clone()).chain(metrics)
    });
    tensors.collect()
}

/// The same, read at once.
fn read(numbers: &[Numbers]) -> Result<Vec<f64>> {
    update::read(&tensors(numbers))
}

/// Pairs each batch with its part of what [`read`] gave.
fn parts<'a>(
    numbers: &'a [Numbers],
    read: &'a [f64],
) -> impl Iterator<Item = (&'a Numbers, &'a [f64])> {
    let mut rest = read;
    numbers.iter().map(move |numbers| {
        let (part, after) = rest.split_at(1 + numbers.metrics.len());
        rest = after;
        (numbers, part)
    })
}

/// Refuses a loss that is not finite, naming a figure that is not finite either.
fn check(numbers: &[Numbers], read: &[f64]) -> Result<()> {
    for (numbers, part) in parts(numbers, read) {
        let loss = part[0];
        if loss.is_finite() {
            continue;
        }
        let mut named = numbers.metrics.iter().zip(&part[1..]);
        let term = named.find(|(_, value)| !value.is_finite());
        let term =
            term.map_or_else(String::new, |((name, _), value)| format!("; `{name}` is {value}"));
        return Err(Error::diverged(format!("the loss is {loss}{term}")));
    }
    Ok(())
}

/// The mean loss, and the mean of each figure by its name.
fn mean(numbers: &[Numbers], read: &[f64]) -> (f64, Vec<(String, f64)>) {
    let n = numbers.len() as f64;
    let mut loss = 0.0;
    let mut metrics: Vec<(String, f64)> = Vec::new();
    for (numbers, part) in parts(numbers, read) {
        loss += part[0];
        for ((name, _), value) in numbers.metrics.iter().zip(&part[1..]) {
            match metrics.iter_mut().find(|(known, _)| known == name) {
                Some((_, sum)) => *sum += value,
                None => metrics.push((name.clone(), *value)),
            }
        }
    }
    (loss / n, metrics.into_iter().map(|(name, sum)| (name, sum / n)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ops::add::add;
    use crate::state::{Frozen, Group, Init};
    use crate::train::optimizer::Rule;
    use candle_core::Device;

    /// The loss is the parameter plus the batch's number: its gradient is 1.
    struct Slope(ParamId);

    impl Learner for Slope {
        type Batch = f32;

        fn learn(&mut self, f: &Forward<'_>, batch: &f32, _: Progress) -> Result<Told> {
            let constant = Var::constant(Tensor::new(&[*batch], &Device::Cpu)?);
            let loss = add(f.tape, &f.param(self.0), &constant)?;
            Ok(Told {
                metrics: vec![("batch".into(), constant)],
                loss,
                buffers: Vec::new(),
                log: Vec::new(),
            })
        }
    }

    fn trainer(accumulate: u64, frozen: Frozen) -> (Trainer, Slope) {
        let mut state = State::new(0);
        let group = Group { frozen, ..Group::default() };
        let id = state.parameter("w", &[1], Init::Constant(5.0), group).unwrap();
        let rules = Rules {
            seed: 0,
            precision: Precision::F32,
            accumulate,
            lr: Schedule::constant(1.0),
            weight_decay: Schedule::constant(0.0),
            clip: Clip::Off,
        };
        let optimizer = Optimizer::new(Rule::Sgd { momentum: 0.0 }, &state);
        (Trainer { state, optimizer, averages: Vec::new(), rules, profile: None }, Slope(id))
    }

    fn progress(step: u64) -> Progress {
        Progress { step, steps_per_epoch: 1, total_steps: 10 }
    }

    #[test]
    fn accumulated_gradients_are_averaged_and_so_are_loss_and_metrics() {
        let (mut trainer, mut slope) = trainer(2, Frozen::Never);
        let mut batches = [1.0, 3.0].into_iter();
        let taken = trainer.step(&mut slope, progress(0), || Ok(batches.next().unwrap())).unwrap();
        assert_eq!((taken.loss, taken.gradient_norm), (7.0, 1.0));
        assert_eq!(taken.metrics, [("batch".to_owned(), 2.0)]);
        assert_eq!(storage::scalar(&trainer.state.get(slope.0).value).unwrap(), 4.0);
    }

    /// The loss is the sum of two parameters, whose gradients are one tensor.
    struct Pair(ParamId, ParamId);

    impl Learner for Pair {
        type Batch = ();

        fn learn(&mut self, f: &Forward<'_>, (): &(), _: Progress) -> Result<Told> {
            let loss = add(f.tape, &f.param(self.0), &f.param(self.1))?;
            Ok(Told { metrics: Vec::new(), loss, buffers: Vec::new(), log: Vec::new() })
        }
    }

    #[test]
    fn parameters_that_share_a_gradient_are_each_moved_by_it_once() {
        let (mut trainer, first) = trainer(2, Frozen::Never);
        let start = Init::Constant(5.0);
        let second = trainer.state.parameter("v", &[1], start, Group::default()).unwrap();
        trainer.optimizer = Optimizer::new(Rule::Sgd { momentum: 0.0 }, &trainer.state);
        trainer.step(&mut Pair(first.0, second), progress(0), || Ok(())).unwrap();
        for id in [first.0, second] {
            assert_eq!(storage::scalar(&trainer.state.get(id).value).unwrap(), 4.0);
        }
    }

    #[test]
    fn a_step_that_fails_leaves_rows_as_long_as_they_were() {
        let mut state = State::new(0);
        let group = Group { constraint: Constraint::UnitRows, ..Group::default() };
        let id = state.parameter("w", &[1, 2], Init::Constant(5.0), group).unwrap();
        let (mut trainer, _) = trainer(1, Frozen::Never);
        trainer.state = state;
        let failed = trainer.step(&mut Slope(id), progress(0), || Err(Error::failed("no data")));
        assert!(failed.is_err());
        assert_eq!(storage::to_f64(&trainer.state.get(id).value).unwrap(), [5.0, 5.0]);
    }

    #[test]
    fn a_frozen_parameter_moves_only_after_its_epochs() {
        let (mut trainer, mut slope) = trainer(1, Frozen::Epochs(1.0));
        let value = |t: &Trainer| storage::scalar(&t.state.parameters()[0].value).unwrap();
        trainer.step(&mut slope, progress(0), || Ok(0.0)).unwrap();
        assert_eq!(value(&trainer), 5.0);
        trainer.step(&mut slope, progress(1), || Ok(0.0)).unwrap();
        assert_eq!(value(&trainer), 4.0);
    }

    #[test]
    fn rows_are_made_unit_before_the_step_also_while_they_are_frozen() {
        let mut state = State::new(0);
        let group = Group {
            frozen: Frozen::Steps(1),
            constraint: Constraint::UnitRows,
            ..Group::default()
        };
        let id = state.parameter("w", &[2, 2], Init::Constant(3.0), group).unwrap();
        constrain(&mut state).unwrap();
        let values = storage::to_f64(&state.get(id).value).unwrap();
        assert!(values.iter().all(|x| (x - 0.5_f64.sqrt()).abs() < 1e-6), "{values:?}");
    }

    #[test]
    fn a_loss_that_is_not_finite_stops_before_any_update_and_names_the_term() {
        let (mut trainer, mut slope) = trainer(1, Frozen::Never);
        let error = trainer.step(&mut slope, progress(0), || Ok(f32::NAN)).unwrap_err();
        assert!(error.to_string().contains("`batch` is NaN"));
        assert_eq!(storage::scalar(&trainer.state.get(slope.0).value).unwrap(), 5.0);
    }
}
