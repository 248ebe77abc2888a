//! Data: what is opened (`dataset`), how bytes become pixels or a waveform (`decode`), what is computed from
//! sound (`sound`), what happens to pixels (`transform`), which views a batch has (`view`), in which order
//! (`sampler`), and the threads that make it all in time (`loader`).
//!
//! Nothing in here knows what a method is: a method's wishes arrive as a [`view::ViewPlan`].
//! Every number drawn depends on (seed, epoch, index of the sample or batch, view and copy) only, so
//! batches are the same bytes with one worker or sixteen, and after resume.

pub mod batch;
pub mod dataset;
pub mod decode;
pub mod field;
pub mod loader;
mod make;
pub mod sampler;
pub mod sound;
pub mod transform;
pub mod units;
pub mod view;

pub use batch::{Batch, BrokenSample, Trace, ViewBatch};
pub use dataset::{Content, Dataset, Image, OpenOptions, Sample, Sound, Split, open};
pub use field::{Field, Form, Values};
pub use loader::{Loader, LoaderOptions, LoaderReport};
pub use make::{check, rehearse};
pub use view::{Grid, Value, ViewPlan, ViewRequest};
