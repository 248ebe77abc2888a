//! What the tests of modules share: one module with its state, called on a tape.

use std::cell::RefCell;
use std::rc::Rc;

use super::declare::Declare;
use super::registry::{Options, Role, find};
use super::{Forward, Input, Module};
use crate::Result;
use crate::engine::{Tape, Var};
use crate::random::Stream;
use crate::state::{State, StepVars};

/// A module with the state that holds its parameters.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) module: Rc<dyn Module>,
    pub(crate) state: State,
}

impl Bench {
    /// The backbone `kind` with options as TOML, for samples of `shape`.
    pub(crate) fn backbone(kind: &str, options: &str, shape: &[usize]) -> Result<Self> {
        let def = find(Role::Backbone, kind)?;
        let options = toml::from_str(options).unwrap();
        let mut state = State::new(1);
        let declare = Declare::new(&mut state, "", true);
        let module = (def.build)(&Options::new(def, &options)?, shape, declare)?;
        Ok(Self { module, state })
    }

    /// Its outputs, not training.
    pub(crate) fn call(&self, inputs: &[Input], outputs: &[&str]) -> Result<Vec<Var>> {
        self.called(None, inputs, outputs)
    }

    /// Its outputs in the training step number `step`, which decides what is dropped.
    pub(crate) fn train(&self, step: u64, inputs: &[Input], outputs: &[&str]) -> Result<Vec<Var>> {
        self.called(Some(step), inputs, outputs)
    }

    fn called(&self, step: Option<u64>, inputs: &[Input], outputs: &[&str]) -> Result<Vec<Var>> {
        let (tape, vars) = (Tape::default(), StepVars::new(&self.state));
        let stream = Rc::new(RefCell::new(Stream::new(0, "test", step.unwrap_or(0), 0)));
        let forward = Forward { tape: &tape, vars: &vars, training: step.is_some(), stream };
        self.module.call(&forward, inputs, outputs)
    }

    /// The names of its parameters, in order.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.state.parameters().iter().map(|parameter| parameter.name.as_str()).collect()
    }
}

/// `value` as the input `name`.
pub(crate) fn named(name: &str, value: &Var) -> Input {
    Input { name: name.to_owned(), value: value.clone() }
}
