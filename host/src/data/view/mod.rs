//! Views: what a method may ask the loader to make of every sample or of every batch.
//!
//! A kind of view is a file here, its `mod` line, and one `inventory::submit!` of a [`ViewDef`].

mod block_mask;
mod crop;
mod kind;
mod random_mask;
mod request;
mod sample_index;
mod settings;
mod span_mask;
mod spectrogram;
mod units;
mod vector;
mod waveform;

pub use kind::{Asked, BatchView, Drawing, SampleView, Tools, View, ViewDef};
pub use request::{Grid, Value, ViewPlan, ViewRequest};
pub use settings::Settings;

pub(super) use kind::draw_key;
