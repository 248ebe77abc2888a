//! What a run owns and a checkpoint keeps: parameters and buffers, by name, in order of declaration.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use candle_core::{DType, Device, Tensor};

use crate::engine::{Tape, Var, storage};
use crate::random::Stream;
use crate::{Error, Result};

/// How a parameter or buffer starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// The same value everywhere.
    Constant(f64),
    /// Normal with mean 0, cut at `cut` (in units of the value, as the field's `trunc_normal_`).
    TruncatedNormal {
        /// Standard deviation before cutting.
        std: f64,
        /// Largest absolute value.
        cut: f64,
    },
    /// Normal with mean 0.
    Normal {
        /// Standard deviation.
        std: f64,
    },
    /// Uniform in `[low, high)`.
    Uniform {
        /// Lower bound.
        low: f64,
        /// Upper bound.
        high: f64,
    },
}

impl Init {
    /// A tensor of `shape` in f32, drawn from `stream`.
    pub fn tensor(self, shape: &[usize], stream: &mut Stream) -> Result<Tensor> {
        let draw = |stream: &mut Stream| match self {
            Self::Constant(value) => value,
            Self::TruncatedNormal { std, cut } => loop {
                let value = std * stream.normal();
                if value.abs() <= cut {
                    break value;
                }
            },
            Self::Normal { std } => std * stream.normal(),
            Self::Uniform { low, high } => stream.range(low, high),
        };
        let elements = (0..shape.iter().product()).map(|_| draw(stream) as f32).collect();
        storage::tensor::<f32>(elements, shape)
    }
}

/// Until when a parameter gets no update.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Frozen {
    /// Updated from the first step.
    #[default]
    Never,
    /// Frozen for that many steps.
    Steps(u64),
    /// Frozen for that many epochs.
    Epochs(f64),
    /// Never updated by the optimiser: a teacher, or a fixed position embedding.
    Always,
}

impl Frozen {
    /// Whether the parameter is frozen at `step` (counted from 0).
    pub fn at(self, step: u64, steps_per_epoch: u64) -> bool {
        match self {
            Self::Never => false,
            Self::Steps(steps) => step < steps,
            Self::Epochs(epochs) => (step as f64) < epochs * steps_per_epoch as f64,
            Self::Always => true,
        }
    }
}

/// What the host holds a parameter to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Constraint {
    /// Nothing.
    #[default]
    None,
    /// Every row (the first dimension counts them) is divided by its norm before each step.
    UnitRows,
}

/// How the optimiser treats a parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Group {
    /// Multiplies the learning rate.
    pub lr_multiplier: f64,
    /// Whether weight decay applies; 1-D parameters are exempt in any case unless the recipe says
    /// otherwise.
    pub weight_decay: bool,
    /// Until when it is frozen.
    pub frozen: Frozen,
    /// What holds of it before each step, frozen or not.
    pub constraint: Constraint,
}

impl Default for Group {
    fn default() -> Self {
        Self {
            lr_multiplier: 1.0,
            weight_decay: true,
            frozen: Frozen::Never,
            constraint: Constraint::None,
        }
    }
}

/// Names a parameter of a [`State`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ParamId(pub usize);

/// Names a buffer of a [`State`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BufferId(pub usize);

/// A tensor that the optimiser or a teacher's average updates, in place.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Full name, such as `student.backbone.blocks.0.attn.qkv.weight`.
    pub name: String,
    /// The f32 master value; its storage stays the same over the run.
    pub value: Tensor,
    /// How the optimiser treats it.
    pub group: Group,
}

/// A tensor that a method or module updates itself: a center, a queue, running statistics.
#[derive(Clone, Debug)]
pub struct Buffer {
    /// Full name.
    pub name: String,
    /// The present value.
    pub value: Tensor,
}

/// Every parameter and buffer of a run.
#[derive(Debug)]
pub struct State {
    seed: u64,
    device: Device,
    parameters: Vec<Parameter>,
    buffers: Vec<Buffer>,
    names: BTreeSet<String>,
}

impl State {
    /// No parameters yet; each will start from `(seed, its name)`.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            device: Device::Cpu,
            parameters: Vec::new(),
            buffers: Vec::new(),
            names: BTreeSet::new(),
        }
    }

    /// Moves every parameter and buffer to `device`, where those declared later begin too.
    pub fn move_to(&mut self, device: &Device) -> Result<()> {
        for parameter in &mut self.parameters {
            parameter.value = parameter.value.to_device(device)?;
        }
        for buffer in &mut self.buffers {
            buffer.value = buffer.value.to_device(device)?;
        }
        self.device = device.clone();
        Ok(())
    }

    /// Where parameters and buffers live.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// A parameter or buffer that holds NaN or an infinity, if any does.
    ///
    /// # Errors
    /// When the device fails.
    pub fn not_finite(&self) -> Result<Option<&str>> {
        let parameters = self.parameters.iter().map(|p| (&p.name, &p.value));
        for (name, value) in parameters.chain(self.buffers.iter().map(|b| (&b.name, &b.value))) {
            // Either kind survives a sum, and weights are far from where one of finite numbers overflows.
            if value.dtype().is_float()
                && !value.sum_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()?.is_finite()
            {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    fn claim(&mut self, name: &str) -> Result<()> {
        if !self.names.insert(name.to_owned()) {
            return Err(Error::failed(format!("`{name}` is declared twice")));
        }
        Ok(())
    }

    /// Declares a parameter. Its start depends on the seed and its name, not on the order.
    pub fn parameter(
        &mut self,
        name: &str,
        shape: &[usize],
        init: Init,
        group: Group,
    ) -> Result<ParamId> {
        self.claim(name)?;
        let value = init.tensor(shape, &mut Stream::new(self.seed, name, 0, 0))?;
        let value = value.to_device(&self.device)?;
        self.parameters.push(Parameter { name: name.to_owned(), value, group });
        Ok(ParamId(self.parameters.len() - 1))
    }

    /// Declares a buffer.
    pub fn buffer(&mut self, name: &str, shape: &[usize], init: Init) -> Result<BufferId> {
        self.claim(name)?;
        let value = init.tensor(shape, &mut Stream::new(self.seed, name, 0, 0))?;
        let value = value.to_device(&self.device)?;
        self.buffers.push(Buffer { name: name.to_owned(), value });
        Ok(BufferId(self.buffers.len() - 1))
    }

    /// The parameters, in order of declaration.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The buffers, in order of declaration.
    pub fn buffers(&self) -> &[Buffer] {
        &self.buffers
    }

    /// The parameter `id`.
    pub fn get(&self, id: ParamId) -> &Parameter {
        &self.parameters[id.0]
    }

    /// The value of buffer `id`.
    pub fn get_buffer(&self, id: BufferId) -> &Tensor {
        &self.buffers[id.0].value
    }

    /// Replaces the value of buffer `id` by one of the same shape.
    pub fn set_buffer(&mut self, id: BufferId, value: Tensor) -> Result<()> {
        let buffer = &mut self.buffers[id.0];
        if buffer.value.dims() != value.dims() {
            return Err(Error::failed(format!(
                "buffer `{}` has shape {:?}, not {:?}",
                buffer.name,
                buffer.value.dims(),
                value.dims()
            )));
        }
        let there = value.device().same_device(&self.device);
        buffer.value = if there { value } else { value.to_device(&self.device)? };
        Ok(())
    }

    /// The buffer called `name`.
    pub fn find_buffer(&self, name: &str) -> Option<BufferId> {
        self.buffers.iter().position(|buffer| buffer.name == name).map(BufferId)
    }

    /// The parameter called `name`.
    pub fn find(&self, name: &str) -> Option<ParamId> {
        self.parameters.iter().position(|p| p.name == name).map(ParamId)
    }

    /// Changes how the optimiser treats parameter `id`.
    pub fn set_group(&mut self, id: ParamId, group: Group) {
        self.parameters[id.0].group = group;
    }

    /// Writes `value` (same shape, any float type) over parameter `id`, into the storage it has.
    pub fn assign(&mut self, id: ParamId, value: &Tensor) -> Result<()> {
        let parameter = &self.parameters[id.0];
        if parameter.value.dims() != value.dims() {
            return Err(Error::failed(format!(
                "`{}` has shape {:?}, not {:?}",
                parameter.name,
                parameter.value.dims(),
                value.dims()
            )));
        }
        let value = value.to_device(&self.device)?.to_dtype(DType::F32)?;
        storage::assign(&parameter.value, &value)
    }
}

/// The parameters as one step sees them: tape leaves where the optimiser will want a gradient,
/// constants elsewhere; each is made at its first use. And the buffers as modules have set them so far.
#[derive(Debug)]
pub struct StepVars<'a> {
    state: &'a State,
    vars: RefCell<Vec<Option<Var>>>,
    learns: bool,
    buffers: RefCell<BTreeMap<BufferId, Tensor>>,
}

impl<'a> StepVars<'a> {
    /// The parameters of `state`, none used yet, for asking a network.
    pub fn new(state: &'a State) -> Self {
        Self {
            state,
            vars: RefCell::new(vec![None; state.parameters.len()]),
            learns: false,
            buffers: RefCell::default(),
        }
    }

    /// The same for a step of training, in which teachers too go by the batch's statistics.
    pub fn learning(state: &'a State) -> Self {
        Self { learns: true, ..Self::new(state) }
    }

    /// Parameters that stand on a tape already, and no others: `state` is empty.
    pub fn given(state: &'a State, parameters: impl IntoIterator<Item = (ParamId, Var)>) -> Self {
        let mut vars = Vec::new();
        for (ParamId(id), var) in parameters {
            vars.resize(vars.len().max(id + 1), None);
            vars[id] = Some(var);
        }
        Self { vars: RefCell::new(vars), ..Self::learning(state) }
    }

    /// Whether this is a step of training.
    pub fn learns(&self) -> bool {
        self.learns
    }

    /// Buffer `id` as it stands in this step.
    pub fn buffer(&self, id: BufferId) -> Tensor {
        let set = self.buffers.borrow().get(&id).cloned();
        set.unwrap_or_else(|| self.state.get_buffer(id).clone())
    }

    /// Sets buffer `id`; the state takes it over when the step is accepted.
    pub fn set_buffer(&self, id: BufferId, value: Tensor) {
        self.buffers.borrow_mut().insert(id, value);
    }

    /// The buffers that were set, which are then as before.
    pub fn take_buffers(&self) -> Vec<(BufferId, Tensor)> {
        self.buffers.take().into_iter().collect()
    }

    /// The state behind them.
    pub fn state(&self) -> &'a State {
        self.state
    }

    /// Parameter `id` on `tape`.
    pub fn get(&self, tape: &Tape, id: ParamId) -> Var {
        let mut vars = self.vars.borrow_mut();
        vars[id.0]
            .get_or_insert_with(|| {
                let parameter = self.state.get(id);
                match parameter.group.frozen {
                    Frozen::Always => Var::constant(parameter.value.clone()),
                    _ => tape.leaf(parameter.value.clone()),
                }
            })
            .clone()
    }

    /// The leaf of parameter `id`, if the step used it.
    pub fn used(&self, id: ParamId) -> Option<Var> {
        self.vars.borrow()[id.0].clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_starts_from_the_seed_and_its_name_alone() {
        let init = Init::Normal { std: 1.0 };
        let (mut one, mut two) = (State::new(3), State::new(3));
        one.parameter("a", &[4], init, Group::default()).unwrap();
        let b1 = one.parameter("b", &[4], init, Group::default()).unwrap();
        let b2 = two.parameter("b", &[4], init, Group::default()).unwrap();
        let value = |s: &State, id| storage::to_f64(&s.get(id).value).unwrap();
        assert_eq!(value(&one, b1), value(&two, b2));
        assert_ne!(value(&one, b1), value(&one, ParamId(0)));
    }

    #[test]
    fn a_name_can_be_declared_once() {
        let mut state = State::new(0);
        state.buffer("center", &[1], Init::Constant(0.0)).unwrap();
        assert!(state.parameter("center", &[1], Init::Constant(0.0), Group::default()).is_err());
    }

    #[test]
    fn assigning_keeps_the_storage_and_refuses_another_shape() {
        let mut state = State::new(0);
        let id = state.parameter("w", &[2], Init::Constant(0.0), Group::default()).unwrap();
        let seen = state.get(id).value.clone();
        state.assign(id, &Tensor::new(&[1.0_f32, 2.0], &Device::Cpu).unwrap()).unwrap();
        assert_eq!(storage::to_f64(&seen).unwrap(), [1.0, 2.0]);
        assert!(state.assign(id, &Tensor::new(&[1.0_f32], &Device::Cpu).unwrap()).is_err());
    }

    #[test]
    fn a_step_sees_the_buffers_that_it_set_and_the_state_does_not() {
        let mut state = State::new(0);
        let id = state.buffer("mean", &[1], Init::Constant(0.0)).unwrap();
        let vars = StepVars::learning(&state);
        assert!(vars.learns() && !StepVars::new(&state).learns());
        vars.set_buffer(id, Tensor::new(&[1.0_f32], &Device::Cpu).unwrap());
        assert_eq!(storage::scalar(&vars.buffer(id)).unwrap(), 1.0);
        assert_eq!(storage::scalar(state.get_buffer(id)).unwrap(), 0.0);
        assert_eq!(vars.take_buffers().len(), 1);
        assert_eq!(storage::scalar(&vars.buffer(id)).unwrap(), 0.0);
    }

    #[test]
    fn freezing_ends_after_its_epochs() {
        let frozen = Frozen::Epochs(1.0);
        assert!(frozen.at(9, 10) && !frozen.at(10, 10) && Frozen::Always.at(1000, 1));
    }
}
