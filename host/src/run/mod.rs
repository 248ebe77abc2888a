//! The run folder: what a run was asked, where it ran, what it measured, and what resuming needs.
//!
//! ```text
//! runs/dino-synthetic-1/
//!   recipe.toml        resolved: every option with its value, as last changed by `--resume`
//!   manifest.json      versions, the plugin's hash, the machine, the seed, each resumption and what it changed
//!   metrics.jsonl      one record a line; holds no clock, so equal runs write equal bytes
//!   timings.jsonl      what depends on the machine: speed, waiting, wall time
//!   checkpoints/       step-000123/: safetensors, state.json, SHA256SUMS
//!   report.html        one page to look at
//! ```
//!
//! Files are the truth; everything else is derived from them.

mod checkpoint;
mod clock;
pub(crate) mod disk;
mod folder;
mod lock;
mod log;
mod machine;
mod manifest;
mod name;
mod npy;
mod tensors;

pub use checkpoint::{Checkpoint, Found, Keep, NamedTensors, find_newest, list};
pub use clock::utc;
pub use disk::{check_place, replace, sha256_of};
pub use folder::{Run, write_report};
pub use log::{Record, read};
pub use machine::Machine;
pub use manifest::{Manifest, PluginRecord, Resumption};
pub use name::{Name, check_name};
pub use npy::write_npy;
pub use tensors::{read_tensors, write_described, write_tensors};
