//! Stores: one file that holds the frames of every sample of a data set: features or units.
//!
//! ```text
//! magic 8 | kind u32, width u32 | samples u64
//! frames, sample by sample              `width` f32 or u32 each
//! (up to 7 zeros)                       so that what follows is aligned
//! samples + 1 offsets u64               where each sample's frames begin, counted in frames
//! description (JSON)                    what it holds, made from what, at which rate
//! length of the description u64
//! SHA-256 of all that stands before     32 bytes
//! ```
//!
//! A file is written aside and renamed, and checked from its length to its hash when it is opened: there
//! is a whole store or none. A sample's frames are read with one positioned read, which the page cache
//! serves as it would a mapping (decision 0015). Bytes are little-endian.

mod read;
mod write;

use serde::{Deserialize, Serialize};

pub use read::Store;
pub use write::Writer;

const MAGIC: [u8; 8] = *b"PTXSTOR1";
/// Bytes before the frames.
const HEADER: usize = 24;
/// Bytes of the hash at the end.
const DIGEST: usize = 32;

/// What a frame is made of.
pub trait Element: bytemuck::Pod {
    /// Its number in the header.
    const KIND: u32;
}

impl Element for f32 {
    const KIND: u32 = 1;
}

impl Element for u32 {
    const KIND: u32 = 2;
}

/// What a store holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// What it was made from: a hash of everything that went in.
    pub inputs: String,
    /// How its frames lie in a sample.
    pub layout: Layout,
    /// Clusters that its units count; 0 of features.
    pub clusters: usize,
    /// Named figures of what it holds.
    pub figures: Vec<(String, f64)>,
}

/// How frames lie in a sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// One after the other in time.
    Rate {
        /// Frames a second.
        frames: f64,
        /// Values of the sound a second.
        values: f64,
    },
    /// Patches of a picture, row by row.
    Grid {
        /// From top to bottom.
        rows: usize,
        /// From left to right.
        cols: usize,
    },
    /// One frame for the sample.
    #[default]
    Single,
}

impl Layout {
    /// What frames lie in, in words.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Rate { .. } => "row of frames",
            Self::Grid { .. } => "grid of patches",
            Self::Single => "single frame",
        }
    }
}
