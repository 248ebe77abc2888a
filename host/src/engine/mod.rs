//! The engine: a tape over candle tensors, and every op that a network or an objective is made of.
//!
//! Candle supplies tensors, storage and devices; its autograd is not used (`docs/decisions/0002`).
//! An op is one file in [`ops`]: forward, backward, and the samples of its gradient check.

pub mod checkpoint;
pub mod cuda;
pub mod device;
pub mod gradient_check;
pub mod kernel;
pub mod op;
pub mod ops;
pub mod portable;
pub mod profile;
pub mod storage;
pub mod tape;

#[cfg(test)]
mod candle_nn_tests;

pub use op::{Arg, Args, Gradient, OpDef, Sample};
pub use tape::{Gradients, Incoming, LeafGradients, Precision, Tape, Var};
