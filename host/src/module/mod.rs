//! Modules: networks that the host builds for methods, from parts of the engine.
//!
//! A backbone (`vit`, `resnet`, `wave`, `identity`) is chosen by the recipe; `linear`, `mlp` and `transformer`
//! are blocks that methods ask for by kind. A module owns no tensor: it holds the names of its
//! parameters in the run's [`State`](crate::state::State), so that a teacher is the same module
//! built a second time under another prefix.

pub mod batch_norm;
pub mod declare;
mod identity;
pub mod linear;
mod mlp;
pub mod position;
pub mod registry;
mod resnet;
#[cfg(test)]
pub(crate) mod testing;
pub mod transformer;
mod vit;
mod wave;

use std::cell::RefCell;
use std::rc::Rc;

use crate::engine::{Tape, Var};
use crate::random::Stream;
use crate::state::{ParamId, StepVars};
use crate::{Error, Result};

/// Everything that a forward pass needs besides its inputs.
#[derive(Debug)]
pub struct Forward<'a> {
    /// Where ops are recorded.
    pub tape: &'a Tape,
    /// The parameters of this step.
    pub vars: &'a StepVars<'a>,
    /// Whether drop path and dropout act.
    pub training: bool,
    /// Randomness of drop path and dropout.
    pub stream: Rc<RefCell<Stream>>,
}

impl Forward<'_> {
    /// Whether a batch norm goes by the batch's statistics: in a step of training, a teacher's too; not where
    /// a network is asked.
    pub fn batch_statistics(&self) -> bool {
        self.training || self.vars.learns()
    }

    /// Parameter `id` of this step.
    pub fn param(&self, id: ParamId) -> Var {
        self.vars.get(self.tape, id)
    }
}

/// One named input of a module.
#[derive(Clone, Debug)]
pub struct Input {
    /// Its name: `images` `[B, C, H, W]`, `vectors` `[B, D]`, `tokens` `[B, N, D]`,
    /// `keep` (u32 indices of tokens to see, `[B, K]`), `mask` (u8 `[B, N]`), ...
    pub name: String,
    /// Its value.
    pub value: Var,
}

/// A network.
pub trait Module: std::fmt::Debug {
    /// Computes the asked outputs, in the order asked.
    ///
    /// Backbones offer `pooled` `[B, D]`, `cls` `[B, D]`, `tokens` `[B, N, D]` and `layer.K` (tokens after
    /// block K, counted from 1); blocks offer `out`.
    ///
    /// # Errors
    /// When an input is missing or has the wrong shape, or an output is not offered.
    fn call(&self, forward: &Forward<'_>, inputs: &[Input], outputs: &[&str]) -> Result<Vec<Var>>;

    /// A fact about the module, such as `dim` (width of its output), `patch`, `depth`.
    fn fact(&self, name: &str) -> Option<i64>;

    /// Its parameters, in order of declaration.
    fn parameters(&self) -> &[ParamId];
}

/// The input called `name` of a module of kind `kind`.
///
/// # Errors
/// When it was not given.
pub fn input<'a>(kind: &str, inputs: &'a [Input], name: &str) -> Result<&'a Var> {
    optional_input(inputs, name).ok_or_else(|| {
        let given: Vec<&str> = inputs.iter().map(|input| input.name.as_str()).collect();
        Error::failed(format!("`{kind}` needs the input `{name}`, got `{}`", given.join("`, `")))
    })
}

/// The input called `name`, if given.
pub fn optional_input<'a>(inputs: &'a [Input], name: &str) -> Option<&'a Var> {
    inputs.iter().find(|input| input.name == name).map(|input| &input.value)
}

/// The asked `outputs` of a module of kind `kind`, in order, each from `offer`.
///
/// # Errors
/// When `offer` has no such output.
pub fn select(
    kind: &str,
    outputs: &[&str],
    mut offer: impl FnMut(&str) -> Result<Option<Var>>,
) -> Result<Vec<Var>> {
    outputs
        .iter()
        .map(|name| {
            offer(name)?.ok_or_else(|| Error::failed(format!("`{kind}` has no output `{name}`")))
        })
        .collect()
}

/// Channels, height and width that a backbone of kind `kind` for images is built for.
///
/// # Errors
/// When the sample is none.
fn image_shape(kind: &str, sample: &[usize]) -> Result<[usize; 3]> {
    <[usize; 3]>::try_from(sample).map_err(|_| {
        Error::asked_wrongly(format!("the backbone `{kind}` takes images, not sounds or vectors"))
            .hint("use `backbone=wave` for sounds, `backbone=identity` for vectors")
    })
}
