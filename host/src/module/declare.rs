//! How a module declares its parameters: named under its prefix, kept in order.

use crate::Result;
use crate::state::{BufferId, Frozen, Group, Init, ParamId, State};

/// The weights' start of every transformer here: normal of 0.02, cut at 2 (as timm and DINO do, so in
/// effect never).
pub const WEIGHT: Init = Init::TruncatedNormal { std: 0.02, cut: 2.0 };

/// All zeros.
pub const ZEROS: Init = Init::Constant(0.0);

/// All ones.
pub const ONES: Init = Init::Constant(1.0);

/// Declares parameters for one module.
#[derive(Debug)]
pub struct Declare<'a> {
    state: &'a mut State,
    prefix: String,
    trainable: bool,
    ids: Vec<ParamId>,
}

impl<'a> Declare<'a> {
    /// Declares into `state` under `prefix`. Without `trainable` every parameter is frozen for good:
    /// a teacher, which an average or a copy moves.
    pub fn new(state: &'a mut State, prefix: &str, trainable: bool) -> Self {
        Self { state, prefix: prefix.to_owned(), trainable, ids: Vec::new() }
    }

    /// Declares the parameter `name`.
    pub fn parameter(&mut self, name: &str, shape: &[usize], init: Init) -> Result<ParamId> {
        let frozen = if self.trainable { Frozen::Never } else { Frozen::Always };
        self.grouped(name, shape, init, frozen)
    }

    /// Declares the buffer `name`, which the module itself sets. A teacher's copy has one of its own, that no
    /// average moves.
    pub fn buffer(&mut self, name: &str, shape: &[usize], init: Init) -> Result<BufferId> {
        self.state.buffer(&join(&self.prefix, name), shape, init)
    }

    /// Declares a parameter that nothing trains, with `value` in it: fixed position embeddings.
    pub fn fixed(&mut self, name: &str, value: &candle_core::Tensor) -> Result<ParamId> {
        let id = self.grouped(name, value.dims(), ZEROS, Frozen::Always)?;
        self.state.assign(id, value)?;
        Ok(id)
    }

    /// Declares a parameter that starts with `value` in it: one that depends on how another starts.
    pub fn starting(&mut self, name: &str, value: &candle_core::Tensor) -> Result<ParamId> {
        let id = self.parameter(name, value.dims(), ZEROS)?;
        self.state.assign(id, value)?;
        Ok(id)
    }

    /// What parameter `id` starts with.
    pub fn start_of(&self, id: ParamId) -> &candle_core::Tensor {
        &self.state.get(id).value
    }

    fn grouped(
        &mut self,
        name: &str,
        shape: &[usize],
        init: Init,
        frozen: Frozen,
    ) -> Result<ParamId> {
        let group = Group { frozen, ..Group::default() };
        let id = self.state.parameter(&join(&self.prefix, name), shape, init, group)?;
        self.ids.push(id);
        Ok(id)
    }

    /// What was declared so far, in order.
    pub fn declared(&self) -> &[ParamId] {
        &self.ids
    }

    /// What was declared, in order.
    pub fn finish(self) -> Vec<ParamId> {
        self.ids
    }
}

/// `name` below `prefix`, with a dot between where both are given.
pub fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() || name.is_empty() {
        format!("{prefix}{name}")
    } else {
        format!("{prefix}.{name}")
    }
}
