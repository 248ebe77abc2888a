//! Helpers of the integration tests.

pub mod binary;
pub mod fixture;
pub mod noise;
pub mod parity;
pub mod reference;
pub mod tree;
pub mod watched;

pub use binary::{Outcome, Workplace, built, pretext};
pub use fixture::fixture;
pub use noise::noise;
pub use watched::Watched;
