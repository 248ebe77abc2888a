//! Training: the loop and what it turns on every step.

mod absent;
pub mod again;
mod embed;
pub mod evaluate;
pub mod event;
mod finish;
mod frames;
pub mod inputs;
pub mod kept;
mod layers;
mod on_device;
pub mod optimizer;
mod pace;
mod page;
pub mod prepare;
pub mod probing;
pub mod replay;
pub mod resume;
pub mod run;
mod sketch;
mod stage;
mod start;
pub mod step;
pub mod time;
mod trainings;
pub mod views;

pub use event::{Event, Observer, StepReport};
pub use prepare::plan_lines;
