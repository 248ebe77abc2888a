//! Training: the loop and what it turns on every step.

pub mod event;

pub use event::{Event, Observer, StepReport};
