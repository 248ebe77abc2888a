//! Where the run stands, and what a step may say besides its loss.

use crate::abi::call::{self, Held};
use crate::error::{Error, Result};
use crate::stage;
use crate::tensor::Tensor;

/// The present step.
#[derive(Debug)]
pub struct Step(pub(crate) ());

impl Step {
    fn fact(name: &str) -> Result<u64> {
        match call::fact(0, name)? {
            Held::Int(value) => Ok(value.cast_unsigned()),
            other => Err(Error::failed(format!("the step's `{name}` is {other:?}"))),
        }
    }

    /// Steps done before this one.
    ///
    /// # Errors
    /// When an earlier op of the callback failed; so for every function here.
    pub fn number(&self) -> Result<u64> {
        Self::fact("step")
    }

    /// Epochs done before this step.
    ///
    /// # Errors
    /// When an earlier op of the callback failed.
    pub fn epoch(&self) -> Result<u64> {
        Self::fact("epoch")
    }

    /// Steps of one epoch.
    ///
    /// # Errors
    /// When an earlier op of the callback failed.
    pub fn steps_per_epoch(&self) -> Result<u64> {
        Self::fact("steps_per_epoch")
    }

    /// Samples of this batch, on this rank.
    ///
    /// # Errors
    /// When an earlier op of the callback failed.
    pub fn batch(&self) -> Result<usize> {
        Ok(Self::fact("batch")? as usize)
    }

    /// How many ranks train together.
    ///
    /// # Errors
    /// When an earlier op of the callback failed.
    pub fn world(&self) -> Result<usize> {
        Ok(Self::fact("world")? as usize)
    }

    /// Which of the run's trainings this is, from 0.
    ///
    /// # Errors
    /// When an earlier op of the callback failed.
    pub fn training(&self) -> Result<usize> {
        stage::training()
    }

    /// Records a figure of this step: a tensor of one element, not read before it is written down.
    ///
    /// # Errors
    /// When an earlier op of the callback failed.
    pub fn metric(&self, name: &str, value: Tensor) -> Result<()> {
        call::metric(name, value.handle)
    }

    /// Writes a line to the run's log.
    pub fn log(&self, message: &str) {
        call::log(0, message);
    }

    /// Warns in the run's log.
    pub fn warn(&self, message: &str) {
        call::log(1, message);
    }

    /// Whether the run is being stopped; long computations may look.
    pub fn cancelled(&self) -> bool {
        call::cancelled()
    }
}
