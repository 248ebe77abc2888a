//! Training: the loop and what it turns on every step.

pub mod again;
pub mod evaluate;
pub mod event;
mod finish;
pub mod inputs;
mod on_device;
pub mod optimizer;
mod pace;
mod page;
pub mod prepare;
pub mod probing;
pub mod run;
mod sketch;
pub mod step;
pub mod time;
pub mod views;

pub use event::{Event, Observer, StepReport};
pub use prepare::plan_lines;
