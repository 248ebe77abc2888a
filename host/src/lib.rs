//! Pretext: a host that pre-trains networks without labels. Every method is a plugin.

pub mod cli;
pub mod cluster;
pub mod config;
pub mod data;
pub mod engine;
pub mod error;
pub mod metric;
pub mod module;
pub mod plugin;
pub mod probe;
pub mod random;
pub mod report;
pub mod run;
pub mod schedule;
pub mod state;
pub mod store;
pub mod teacher;
pub mod train;
pub mod weights;

pub use error::{Error, Result};
