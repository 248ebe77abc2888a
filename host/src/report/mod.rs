//! The report: one page that says how a run went, in one file without outside resources.
//!
//! Everything it shows is given as plain data in a [`ReportInput`]; [`render`] returns the page.

mod charts;
mod figures;
mod map;
mod page;
mod scatter;
mod sheet;
mod text;

pub use map::tsne;

use crate::Result;
use crate::run::Record;

/// A picture, `rgb` row by row, three bytes a pixel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picture {
    /// Pixels from left to right.
    pub width: usize,
    /// Pixels from top to bottom.
    pub height: usize,
    /// `[height, width, 3]`.
    pub rgb: Vec<u8>,
}

/// What a probe said, as shares between 0 and 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProbeFigures {
    /// On features of the trained backbone.
    pub trained: f64,
    /// On features of the same backbone before training.
    pub untrained: Option<f64>,
    /// On the raw pixels, without any network.
    pub pixels: Option<f64>,
    /// What guessing the most frequent class would give.
    pub chance: Option<f64>,
}

/// The views that a method saw of a few samples.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ViewSheet {
    /// What each view of a sample is, such as `global`, `global`, `local`.
    pub names: Vec<String>,
    /// One row per sample: its views, in the order of the names.
    pub samples: Vec<Vec<Picture>>,
}

/// A picture with its class, if it has one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labelled {
    /// The picture.
    pub picture: Picture,
    /// The name of its class.
    pub class: Option<String>,
}

/// A sample and those that its features are nearest to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Query {
    /// The sample asked about.
    pub sample: Labelled,
    /// Its neighbours with their cosine similarity, nearest first.
    pub neighbours: Vec<(Labelled, f64)>,
}

/// Features to draw as a map in two dimensions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MapInput {
    /// `[N, D]`; the first 1,000 rows are drawn.
    pub features: Vec<f32>,
    /// D.
    pub width: usize,
    /// The class of each row, as an index of `classes`; empty where there are no labels.
    pub labels: Vec<u32>,
    /// The classes' names.
    pub classes: Vec<String>,
    /// Seed of the run.
    pub seed: u64,
}

/// Everything that the page shows; what is empty is left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReportInput {
    /// The run's name.
    pub run: String,
    /// The method's name.
    pub method: String,
    /// The data, in a few words.
    pub data: String,
    /// The backbone, in a few words.
    pub backbone: String,
    /// Figures of the nearest neighbours.
    pub knn: Option<ProbeFigures>,
    /// Figures of the linear probe.
    pub linear: Option<ProbeFigures>,
    /// RankMe of the features, and their width.
    pub rank: Option<(f64, usize)>,
    /// Spread of the features, 0 to about 1.
    pub spread: Option<f64>,
    /// Images (samples) per second over the run.
    pub samples_per_second: Option<f64>,
    /// Seconds that the run took, stops left out.
    pub wall_seconds: Option<f64>,
    /// The records of `metrics.jsonl`: each numeric key becomes a chart.
    pub metrics: Vec<Record>,
    /// The stages before trainings, with named figures of the clusters that each found.
    pub stages: Vec<(String, Vec<(String, f64)>)>,
    /// Those keys of the records that are schedules.
    pub schedules: Vec<String>,
    /// What deserves attention, such as skipped files or signs of collapse.
    pub warnings: Vec<String>,
    /// The views that the method saw.
    pub views: ViewSheet,
    /// A few samples with their nearest neighbours.
    pub queries: Vec<Query>,
    /// Features for the map.
    pub map: Option<MapInput>,
    /// The resolved recipe, as TOML.
    pub recipe: String,
    /// The manifest, name and value.
    pub manifest: Vec<(String, String)>,
}

/// The page as HTML.
///
/// # Errors
/// When a picture has too few bytes for its size, or features aren't finite.
pub fn render(input: &ReportInput) -> Result<String> {
    page::render(input)
}
