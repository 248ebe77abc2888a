//! Training: the loop and what it turns on every step.

pub mod event;
pub mod optimizer;
pub mod schedule;
pub mod step;
pub mod teacher;

pub use event::{Event, Observer, StepReport};
