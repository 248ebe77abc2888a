//! What a method declares: modules, parameters, buffers, teachers, schedules, streams. The host owns,
//! optimises, averages and saves them all.

use crate::abi::call::{self, Held};
use crate::abi::value::{Handle, Value};
use crate::error::{Error, Result};
use crate::stage;
use crate::tensor::Tensor;

/// How a parameter or buffer starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// The same value everywhere.
    Constant(f64),
    /// Normal with mean 0 and this standard deviation, cut at 2 in absolute value, as the field's
    /// `trunc_normal_` does.
    TruncatedNormal(f64),
    /// Normal with mean 0 and this standard deviation.
    Normal(f64),
    /// Uniform between the two.
    Uniform(f64, f64),
}

impl Init {
    fn settings(self) -> Vec<(&'static str, Value)> {
        let (kind, numbers) = match self {
            Self::Constant(value) => ("constant", (value, 0.0)),
            Self::TruncatedNormal(std) => ("truncated-normal", (std, 0.0)),
            Self::Normal(std) => ("normal", (std, 0.0)),
            Self::Uniform(low, high) => ("uniform", (low, high)),
        };
        vec![
            ("init", Value::text(kind)),
            ("init_a", Value::float(numbers.0)),
            ("init_b", Value::float(numbers.1)),
        ]
    }
}

/// How the optimiser treats a parameter or a module's parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Group {
    /// Multiplies the learning rate.
    pub lr_multiplier: f64,
    /// Whether weight decay applies (1-D parameters are exempt unless the recipe says otherwise).
    pub weight_decay: bool,
    /// Epochs at the start without an update.
    pub frozen_epochs: f64,
    /// Steps at the start without an update.
    pub frozen_steps: u64,
    /// Whether every row is divided by its norm before each step, in place.
    pub unit_rows: bool,
}

impl Default for Group {
    fn default() -> Self {
        Self {
            lr_multiplier: 1.0,
            weight_decay: true,
            frozen_epochs: 0.0,
            frozen_steps: 0,
            unit_rows: false,
        }
    }
}

impl Group {
    fn settings(self) -> Vec<(&'static str, Value)> {
        let mut values = vec![
            ("lr_multiplier", Value::float(self.lr_multiplier)),
            ("weight_decay", Value::int(i64::from(self.weight_decay))),
            ("frozen_epochs", Value::float(self.frozen_epochs)),
            ("frozen_steps", Value::int(self.frozen_steps.cast_signed())),
        ];
        if self.unit_rows {
            values.push(("constraint", Value::text("unit-rows")));
        }
        values
    }
}

/// The value of a block's setting; `.into()` makes one of a number, a flag or a word.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Setting<'a> {
    /// A flag.
    Flag(bool),
    /// A whole number.
    Int(i64),
    /// A real number.
    Float(f64),
    /// A word.
    Text(&'a str),
}

impl Setting<'_> {
    fn value(self) -> Value {
        match self {
            Self::Flag(value) => Value::int(i64::from(value)),
            Self::Int(value) => Value::int(value),
            Self::Float(value) => Value::float(value),
            Self::Text(value) => Value::text(value),
        }
    }
}

impl From<bool> for Setting<'_> {
    fn from(value: bool) -> Self {
        Self::Flag(value)
    }
}

impl From<i32> for Setting<'_> {
    fn from(value: i32) -> Self {
        Self::Int(i64::from(value))
    }
}

impl From<i64> for Setting<'_> {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<usize> for Setting<'_> {
    fn from(value: usize) -> Self {
        Self::Int(value.cast_signed() as i64)
    }
}

impl From<f64> for Setting<'_> {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl<'a> From<&'a str> for Setting<'a> {
    fn from(value: &'a str) -> Self {
        Self::Text(value)
    }
}

/// What the host builds for a method.
#[derive(Debug)]
pub struct Builder(pub(crate) ());

impl Builder {
    /// Which of the run's trainings this is, from 0.
    ///
    /// # Errors
    /// When an earlier declaration failed.
    pub fn training(&self) -> Result<usize> {
        stage::training()
    }

    /// The student's backbone, as the recipe asks for it.
    ///
    /// # Errors
    /// When the recipe's backbone doesn't fit the data or its options are wrong.
    pub fn backbone(&mut self, name: &str) -> Result<Module> {
        self.module(name, "backbone", &[])
    }

    /// A block of a `kind` that the host offers (`linear`, `mlp`, `transformer`), with its settings, such as
    /// `[("in", 384.into()), ("activation", "relu".into()), ("bias", false.into())]`.
    ///
    /// # Errors
    /// When the host doesn't offer the kind, or refuses a setting.
    pub fn module(
        &mut self,
        name: &str,
        kind: &str,
        settings: &[(&str, Setting<'_>)],
    ) -> Result<Module> {
        let mut values = vec![("kind", Value::text(kind))];
        values.extend(settings.iter().map(|(key, value)| (*key, value.value())));
        Ok(Module { handle: call::declare("module@1", name, &values)? })
    }

    /// A parameter of `shape`.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn parameter(
        &mut self,
        name: &str,
        shape: &[usize],
        init: Init,
        group: Group,
    ) -> Result<Parameter> {
        let sizes = sizes(shape);
        let mut values = vec![("shape", Value::ints(&sizes))];
        values.extend(init.settings());
        values.extend(group.settings());
        Ok(Parameter { handle: call::declare("parameter@1", name, &values)? })
    }

    /// A buffer of `shape`: kept in checkpoints, changed by the method itself.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn buffer(&mut self, name: &str, shape: &[usize], init: Init) -> Result<Buffer> {
        let sizes = sizes(shape);
        let mut values = vec![("shape", Value::ints(&sizes))];
        values.extend(init.settings());
        Ok(Buffer { handle: call::declare("buffer@1", name, &values)? })
    }

    /// A teacher of `modules` and `parameters`: a copy that starts equal and follows by average, with
    /// `decay` by step, after the optimiser's update. Its copies take no gradient.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn teacher(
        &mut self,
        name: &str,
        modules: &[Module],
        parameters: &[Parameter],
        decay: Schedule,
    ) -> Result<Teacher> {
        let handles: Vec<i64> = (modules.iter().map(|module| module.handle))
            .chain(parameters.iter().map(|parameter| parameter.handle))
            .map(u64::cast_signed)
            .collect();
        let values = [
            ("kind", Value::text("ema")),
            ("of", Value::ints(&handles)),
            ("decay", Value::handle(decay.handle)),
        ];
        Ok(Teacher { handle: call::declare("teacher@1", name, &values)? })
    }

    /// A number as a function of the step.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn schedule(&mut self, name: &str, curve: Curve) -> Result<Schedule> {
        let values = [
            ("shape", Value::text(curve.shape)),
            ("start", Value::float(curve.start)),
            ("end", Value::float(curve.end)),
            ("warmup_start", Value::float(curve.warmup_start)),
            ("warmup_epochs", Value::float(curve.warmup_epochs)),
            ("span_epochs", Value::float(curve.span_epochs)),
            ("per_epoch", Value::int(i64::from(curve.per_epoch))),
        ];
        Ok(Schedule { handle: call::declare("schedule@1", name, &values)? })
    }

    /// A stream of randomness that depends on the seed, its name and the step.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn stream(&mut self, name: &str) -> Result<Stream> {
        Ok(Stream { handle: call::declare("stream@1", name, &[])? })
    }
}

fn sizes(shape: &[usize]) -> Vec<i64> {
    shape.iter().map(|size| size.cast_signed() as i64).collect()
}

/// A network that the host built.
#[derive(Clone, Copy, Debug)]
pub struct Module {
    handle: Handle,
}

impl Module {
    /// Runs it on named inputs; gives the outputs asked for, in that order.
    pub fn call<const N: usize>(
        self,
        inputs: &[(&str, Tensor)],
        outputs: [&str; N],
    ) -> [Tensor; N] {
        let inputs: Vec<(&str, Value)> =
            inputs.iter().map(|(name, tensor)| (*name, tensor.value())).collect();
        let mut results = [0; N];
        call::module_call(self.handle, &inputs, &outputs, &mut results);
        results.map(Tensor::new)
    }

    /// Runs a block on `x`: its one output.
    pub fn forward(self, x: Tensor) -> Tensor {
        let [out] = self.call(&[("x", x)], ["out"]);
        out
    }

    /// A fact about it, such as `dim`, the width of its output.
    ///
    /// # Errors
    /// When the module has no such fact.
    pub fn fact(self, name: &str) -> Result<usize> {
        match call::fact(self.handle, name)? {
            Held::Int(value) => Ok(value as usize),
            other => Err(Error::failed(format!("a module's `{name}` is {other:?}, not a number"))),
        }
    }
}

/// A parameter that the host owns.
#[derive(Clone, Copy, Debug)]
pub struct Parameter {
    handle: Handle,
}

impl Parameter {
    /// Its value in this step; gradients flow into it, unless it is a teacher's.
    pub fn tensor(self) -> Tensor {
        Tensor::new(call::view(self.handle, 0, "value"))
    }
}

/// A buffer that the host keeps.
#[derive(Clone, Copy, Debug)]
pub struct Buffer {
    handle: Handle,
}

impl Buffer {
    /// Its value in this step.
    pub fn tensor(self) -> Tensor {
        Tensor::new(call::view(self.handle, 0, "value"))
    }

    /// Sets its value from the next batch on; a step that is refused (a loss that is not finite)
    /// leaves it as it was.
    ///
    /// # Errors
    /// When the shape differs, or an earlier op of the callback failed.
    pub fn set(self, value: Tensor) -> Result<()> {
        call::buffer_set(self.handle, value.handle)
    }
}

/// Copies that follow the student.
#[derive(Clone, Copy, Debug)]
pub struct Teacher {
    handle: Handle,
}

impl Teacher {
    /// The teacher's copy of `module`.
    ///
    /// # Errors
    /// When the teacher was not declared with it.
    pub fn module(self, module: Module) -> Result<Module> {
        Ok(Module { handle: call::teacher_of(self.handle, module.handle)? })
    }

    /// The teacher's copy of `parameter`.
    ///
    /// # Errors
    /// When the teacher was not declared with it.
    pub fn parameter(self, parameter: Parameter) -> Result<Parameter> {
        Ok(Parameter { handle: call::teacher_of(self.handle, parameter.handle)? })
    }
}

/// How a [`Schedule`] goes. After a straight warm-up from `warmup_start` to `start` it goes from `start`
/// to `end` over the rest of its span (the whole run where `span_epochs` is 0), and stays there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Curve {
    shape: &'static str,
    start: f64,
    end: f64,
    warmup_start: f64,
    warmup_epochs: f64,
    span_epochs: f64,
    per_epoch: bool,
}

impl Curve {
    const fn new(shape: &'static str, start: f64, end: f64) -> Self {
        Self {
            shape,
            start,
            end,
            warmup_start: start,
            warmup_epochs: 0.0,
            span_epochs: 0.0,
            per_epoch: false,
        }
    }

    /// The same value at every step.
    pub const fn constant(value: f64) -> Self {
        Self::new("constant", value, value)
    }

    /// A straight line over the run.
    pub const fn linear(start: f64, end: f64) -> Self {
        Self::new("linear", start, end)
    }

    /// Half a cosine over the run.
    pub const fn cosine(start: f64, end: f64) -> Self {
        Self::new("cosine", start, end)
    }

    /// A straight warm-up of `epochs` from `from`, in front.
    #[must_use]
    pub const fn warmup(mut self, from: f64, epochs: f64) -> Self {
        self.warmup_start = from;
        self.warmup_epochs = epochs;
        self
    }

    /// Ends after `epochs` instead of with the run.
    #[must_use]
    pub const fn span(mut self, epochs: f64) -> Self {
        self.span_epochs = epochs;
        self
    }

    /// Changes only at the start of an epoch.
    #[must_use]
    pub const fn per_epoch(mut self) -> Self {
        self.per_epoch = true;
        self
    }
}

/// A number as a function of the step.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    handle: Handle,
}

impl Schedule {
    /// Its value at this step.
    ///
    /// # Errors
    /// When an earlier op of the callback failed.
    pub fn value(self) -> Result<f64> {
        match call::fact(self.handle, "value")? {
            Held::Float(value) => Ok(value),
            other => Err(Error::failed(format!("a schedule's value is {other:?}"))),
        }
    }
}

/// A stream of the host's randomness; it starts anew at every step.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    pub(crate) handle: Handle,
}

impl Stream {
    /// The next `N` 64-bit numbers.
    ///
    /// # Errors
    /// When an earlier op of the callback failed.
    pub fn numbers<const N: usize>(self) -> Result<[u64; N]> {
        let mut numbers = [0; N];
        call::random(self.handle, &mut numbers)?;
        Ok(numbers)
    }
}
