//! What an author writes.

use crate::build::Builder;
use crate::descriptor::Descriptor;
use crate::error::Result;
use crate::option::Options;
use crate::stage::StagePlan;
use crate::step::Step;
use crate::tensor::Tensor;
use crate::view::{ViewPlan, Views};

/// A method: it declares, then computes; it never acts.
pub trait Method: Sized + 'static {
    /// What can be known of it without running it.
    const DESCRIPTOR: Descriptor;

    /// Declares the stages and trainings of the run, in order. Without any the method is trained once.
    ///
    /// `plan`, `build` and `step` then run once per training, each time in a new instance, and are told
    /// which one it is by `training()` of what they get.
    ///
    /// # Errors
    /// When options don't fit each other, or the host refuses a stage.
    fn stages(_options: Options, _run: &mut StagePlan) -> Result<()> {
        Ok(())
    }

    /// Asks for views. Runs before data is opened.
    ///
    /// # Errors
    /// When options don't fit each other, or the host refuses a view.
    fn plan(options: Options, plan: &mut ViewPlan) -> Result<()>;

    /// Declares modules, parameters, buffers, teachers and schedules.
    ///
    /// # Errors
    /// When the host refuses a declaration.
    fn build(options: Options, host: &mut Builder) -> Result<Self>;

    /// Computes the loss of the present batch: one number.
    ///
    /// # Errors
    /// When something that only shows at run time is wrong. Failed ops need no check: their first
    /// error comes out by itself.
    fn step(&mut self, views: &Views<'_>, step: &Step) -> Result<Tensor>;
}
