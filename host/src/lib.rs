//! Pretext: a host that pre-trains networks without labels. Every method is a plugin.

pub mod engine;
pub mod error;
pub mod random;

pub use error::{Error, Result};
