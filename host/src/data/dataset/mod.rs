//! Datasets: what can be opened, and the list of kinds from which help, checks and "did you mean" are made.
//!
//! A new kind is a file here, its `mod` line, and one `inventory::submit!` of a [`Kind`].

pub mod cached;
mod cifar10;
mod figures;
mod folder;
mod layout;
mod manifest;
mod npy;
pub mod pattern;
mod phones;
mod shapes;
mod speech;
pub mod subset;
mod tar;
mod vectors;
mod voice;
mod webdataset;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

pub use self::layout::LabelRule;
pub use self::pattern::Patterns;
use crate::error::did_you_mean;
use crate::{Error, Result};

/// Which part of the data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Split {
    /// What a method learns from.
    #[default]
    Train,
    /// What probes are measured on.
    Test,
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Train => "train",
            Self::Test => "test",
        })
    }
}

/// A decoded picture: RGB, 8 bits a channel, `[height, width, 3]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `height * width * 3` bytes, row by row.
    pub pixels: Vec<u8>,
}

/// A decoded sound of one channel.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sound {
    /// Values a second, that of [`Content::Sounds`].
    pub rate: u32,
    /// -1 to 1.
    pub wave: Vec<f32>,
}

impl Sound {
    /// How long it is, in seconds.
    pub fn seconds(&self) -> f64 {
        self.wave.len() as f64 / f64::from(self.rate.max(1))
    }
}

/// One sample, before any transform.
#[derive(Clone, Debug, PartialEq)]
pub enum Sample {
    /// A picture.
    Image(Image),
    /// A vector `[D]`.
    Vector(Vec<f32>),
    /// A sound.
    Sound(Sound),
}

impl Default for Sample {
    fn default() -> Self {
        Self::Image(Image::default())
    }
}

impl Sample {
    /// This sample as a picture to be written into; its buffer is kept if it was one.
    pub fn image_mut(&mut self) -> &mut Image {
        if !matches!(self, Self::Image(_)) {
            *self = Self::Image(Image::default());
        }
        match self {
            Self::Image(image) => image,
            _ => unreachable!("made a picture above"),
        }
    }

    /// This sample as a vector to be written into; its buffer is kept if it was one.
    pub fn vector_mut(&mut self) -> &mut Vec<f32> {
        if !matches!(self, Self::Vector(_)) {
            *self = Self::Vector(Vec::new());
        }
        match self {
            Self::Vector(vector) => vector,
            _ => unreachable!("made a vector above"),
        }
    }

    /// This sample as a sound to be written into; its buffer is kept if it was one.
    pub fn sound_mut(&mut self) -> &mut Sound {
        if !matches!(self, Self::Sound(_)) {
            *self = Self::Sound(Sound::default());
        }
        match self {
            Self::Sound(sound) => sound,
            _ => unreachable!("made a sound above"),
        }
    }
}

/// What the samples of a dataset are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Pictures, each of its own size.
    Images,
    /// Vectors of `dim` numbers.
    Vectors {
        /// Length of every vector.
        dim: usize,
    },
    /// Sounds, each of its own length.
    Sounds {
        /// Values a second.
        rate: u32,
    },
}

impl Content {
    /// The word for several samples.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Images => "pictures",
            Self::Vectors { .. } => "vectors",
            Self::Sounds { .. } => "sounds",
        }
    }
}

/// A finite, indexed set of samples. Reading is thread-safe and always gives the same sample for an index.
pub trait Dataset: fmt::Debug + Send + Sync {
    /// How many samples.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Pictures, vectors or sounds.
    fn content(&self) -> Content {
        Content::Images
    }

    /// Reads and decodes sample `index` into `sample`, reusing its buffer.
    ///
    /// # Errors
    /// When the sample can't be read or is broken.
    fn read(&self, index: usize, sample: &mut Sample) -> Result<()>;

    /// Sample `index`, in a buffer of its own.
    ///
    /// # Errors
    /// As [`Dataset::read`].
    fn sample(&self, index: usize) -> Result<Sample> {
        let mut sample = Sample::default();
        self.read(index, &mut sample)?;
        Ok(sample)
    }

    /// The class of sample `index`, an index into [`Dataset::class_names`], if known. Only probes look.
    fn label(&self, index: usize) -> Option<u32>;

    /// Names of the classes; empty where there are no labels.
    fn class_names(&self) -> &[String];

    /// What to call sample `index` in a warning: its file name.
    fn name(&self, index: usize) -> String;

    /// How long sample `index` is, where that is known without reading it, in a unit that all samples of the
    /// dataset share: bytes of its file, or values. Serves to put samples of about one length into a batch.
    fn extent(&self, _index: usize) -> Option<u64> {
        None
    }

    /// Which part of the data this is.
    fn split(&self) -> Split;

    /// One line for people: what it is, how many samples and classes.
    fn describe(&self) -> String;
}

/// `N samples in K classes (split)`, for [`Dataset::describe`].
fn counted(dataset: &dyn Dataset, noun: &str) -> String {
    let (len, classes) = (dataset.len(), dataset.class_names().len());
    let labels = if classes == 0 { "no labels".to_owned() } else { format!("{classes} classes") };
    format!("{len} {noun}, {labels}, {} split", dataset.split())
}

/// How to open a dataset.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Which part.
    pub split: Split,
    /// Only the first `limit` samples of a seeded permutation.
    pub limit: Option<usize>,
    /// Seed of the limit's permutation and of procedural data.
    pub seed: u64,
    /// How many bytes of decoded samples may be kept in memory; a dataset that doesn't fit isn't kept at all.
    pub cache_bytes: usize,
    /// Values a second that sounds are brought to.
    pub rate: u32,
    /// Only samples whose names match; none takes all.
    pub include: Patterns,
    /// No samples whose names match.
    pub exclude: Patterns,
    /// Where the class of a file stands.
    pub label: LabelRule,
}

/// The rate of most published models of speech, in values a second.
pub const SPEECH_RATE: u32 = 16_000;

/// The most samples of a built-in set, as `data.n` has it: an order of them has to fit into memory.
const MOST_SAMPLES: usize = 100_000_000;

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            split: Split::Train,
            limit: None,
            seed: 0,
            cache_bytes: 0,
            rate: SPEECH_RATE,
            include: Patterns::default(),
            exclude: Patterns::default(),
            label: LabelRule::default(),
        }
    }
}

/// How sure a kind is that a source is its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Certainty {
    /// Not mine.
    No,
    /// Mine if nobody else wants it.
    Perhaps,
    /// Mine.
    Yes,
}

/// A kind of dataset.
#[derive(Debug)]
pub struct Kind {
    /// Its name; `NAME:SOURCE` asks for it in so many words.
    pub name: &'static str,
    /// What it opens, as a path pattern.
    pub opens: &'static str,
    /// One line of help.
    pub help: &'static str,
    /// Whether `source` (without `NAME:`) is of this kind.
    pub recognise: fn(source: &str) -> Certainty,
    /// Opens `source`.
    pub open: fn(source: &str, options: &OpenOptions) -> Result<Arc<dyn Dataset>>,
}

inventory::collect!(Kind);

/// Every kind, by name.
pub fn kinds() -> Vec<&'static Kind> {
    let mut kinds: Vec<_> = inventory::iter::<Kind>().collect();
    kinds.sort_by_key(|kind| kind.name);
    kinds
}

/// Opens `source`: a path, the name of built-in data (`shapes`), or either after `KIND:`.
///
/// # Errors
/// When nothing is there, no kind of dataset opens it, it holds no sample of the split, or it can't be read.
pub fn open(source: &str, options: &OpenOptions) -> Result<Arc<dyn Dataset>> {
    let kinds = kinds();
    let (kind, rest) = choose(source, &kinds)?;
    let mut dataset = pattern::select((kind.open)(rest, options)?, options)?;
    if let Some(limit) = options.limit {
        dataset = Arc::new(subset::Subset::limit(dataset, limit, options.seed));
    }
    if dataset.is_empty() {
        return Err(Error::asked_wrongly(format!("`{source}` holds no sample"))
            .hint("give data with at least one sample, or a limit above 0"));
    }
    Ok(cached::if_it_fits(dataset, options.cache_bytes))
}

fn choose<'a, 's>(source: &'s str, kinds: &[&'a Kind]) -> Result<(&'a Kind, &'s str)> {
    let (prefix, rest) = source.split_once(':').unwrap_or((source, ""));
    if let Some(kind) = kinds.iter().find(|kind| kind.name == prefix)
        && (source.contains(':') || !Path::new(source).exists())
    {
        return Ok((kind, rest));
    }
    let best = kinds
        .iter()
        .map(|kind| ((kind.recognise)(source), *kind))
        .max_by_key(|(certainty, kind)| (*certainty, std::cmp::Reverse(kind.name)));
    match best {
        Some((certainty, kind)) if certainty > Certainty::No => Ok((kind, source)),
        _ => Err(unknown(source, kinds)),
    }
}

fn unknown(source: &str, kinds: &[&Kind]) -> Error {
    let path = Path::new(source);
    if path.exists() {
        let known: Vec<_> = kinds.iter().map(|kind| kind.opens).collect();
        return Error::asked_wrongly(format!("`{source}` is no kind of data that this host opens"))
            .hint(format!("it opens: {}", known.join("; ")));
    }
    let error = Error::asked_wrongly(format!("there is no data at `{source}`"));
    match did_you_mean(source, kinds.iter().map(|kind| kind.name)) {
        Some(name) => error.hint(format!("did you mean `data={name}`?")),
        None => {
            error.hint("check the path, or start without any with `data=shapes` or `data=speech`")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_listed_by_name() {
        let names: Vec<_> = kinds().iter().map(|kind| kind.name).collect();
        assert_eq!(names, ["cifar10", "folder", "manifest", "shapes", "speech", "tar", "vectors"]);
    }

    #[test]
    fn a_misspelt_kind_and_a_missing_path_get_a_hint() {
        let error = open("shaeps", &OpenOptions::default()).unwrap_err();
        assert_eq!(error.hint_text(), Some("did you mean `data=shapes`?"));
        let error = open("no/such/folder", &OpenOptions::default()).unwrap_err();
        assert_eq!(error.to_string(), "there is no data at `no/such/folder`");
        assert!(error.hint_text().unwrap().contains("data=shapes"));
    }

    #[test]
    fn a_file_of_an_unknown_kind_is_refused_with_the_list_of_known_ones() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.txt");
        std::fs::write(&path, "x").unwrap();
        let error = open(path.to_str().unwrap(), &OpenOptions::default()).unwrap_err();
        assert!(error.hint_text().unwrap().contains(".npy"));
    }

    #[test]
    fn the_limit_takes_that_many_and_zero_is_refused() {
        let options = OpenOptions { limit: Some(7), ..Default::default() };
        assert_eq!(open("shapes", &options).unwrap().len(), 7);
        let options = OpenOptions { limit: Some(0), ..Default::default() };
        assert!(open("shapes", &options).is_err());
    }
}
