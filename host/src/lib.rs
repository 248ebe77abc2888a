//! Pretext: a host that pre-trains networks without labels. Every method is a plugin.

pub mod cli;
pub mod config;
pub mod data;
pub mod engine;
pub mod error;
pub mod module;
pub mod random;
pub mod state;
pub mod train;

pub use error::{Error, Result};
