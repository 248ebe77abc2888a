//! Helpers of the integration tests.

pub mod binary;
pub mod reference;
pub mod tree;

pub use binary::{Outcome, Workplace, built, pretext};
