//! Datasets: what can be opened, and the list of kinds from which help, checks and "did you mean" are made.
//!
//! A new kind is a file here, its `mod` line, and one `inventory::submit!` of a [`Kind`].

pub mod cached;
mod cifar10;
mod figures;
mod folder;
mod layout;
mod npy;
mod shapes;
pub mod subset;
mod tar;
mod vectors;
mod webdataset;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

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

/// One sample, before any transform.
#[derive(Clone, Debug, PartialEq)]
pub enum Sample {
    /// A picture.
    Image(Image),
    /// A vector `[D]`.
    Vector(Vec<f32>),
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
            Self::Vector(_) => unreachable!("made a picture above"),
        }
    }

    /// This sample as a vector to be written into; its buffer is kept if it was one.
    pub fn vector_mut(&mut self) -> &mut Vec<f32> {
        if !matches!(self, Self::Vector(_)) {
            *self = Self::Vector(Vec::new());
        }
        match self {
            Self::Vector(vector) => vector,
            Self::Image(_) => unreachable!("made a vector above"),
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
}

/// A finite, indexed set of samples. Reading is thread-safe and always gives the same sample for an index.
pub trait Dataset: fmt::Debug + Send + Sync {
    /// How many samples.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Pictures or vectors.
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
    /// How many bytes of decoded images may be kept in memory; a dataset that doesn't fit isn't kept at all.
    pub cache_bytes: usize,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { split: Split::Train, limit: None, seed: 0, cache_bytes: 0 }
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
    let mut dataset = (kind.open)(rest, options)?;
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
        None => error.hint("check the path, or start without any with `data=shapes`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_listed_by_name() {
        let names: Vec<_> = kinds().iter().map(|kind| kind.name).collect();
        assert_eq!(names, ["cifar10", "folder", "shapes", "tar", "vectors"]);
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
