//! Data that is not there: what a method is built for where no sample will be read.

use std::sync::Arc;

use super::prepare::{Opened, Prepared, prepare_training};
use crate::config::Recipe;
use crate::data::dataset::{Content, Dataset, Sample, Split};
use crate::plugin::{AskedView, Found, Session, load};
use crate::{Error, Result};

/// Samples of some content, of which none can be read.
#[derive(Debug)]
struct Absent {
    content: Content,
    len: usize,
}

impl Dataset for Absent {
    fn len(&self) -> usize {
        self.len
    }

    fn content(&self) -> Content {
        self.content
    }

    fn read(&self, _: usize, _: &mut Sample) -> Result<()> {
        Err(Error::failed("no data is open"))
    }

    fn label(&self, _: usize) -> Option<u32> {
        None
    }

    fn class_names(&self) -> &[String] {
        &[]
    }

    fn name(&self, index: usize) -> String {
        index.to_string()
    }

    fn split(&self) -> Split {
        Split::Train
    }

    fn describe(&self) -> String {
        "no data".to_owned()
    }
}

/// Builds what the recipe asks for in training number `training`, on no data, of which an epoch has `steps_per_epoch` steps. Its content is
/// what the method's views are made of; `dim` says how long the vectors of a view are.
///
/// # Errors
/// As [`prepare_training`], and when `dim` fails.
pub(super) fn prepare_without_data(
    recipe: &Recipe,
    plugin: &Found,
    (steps_per_epoch, training): (u64, usize),
    dim: impl FnOnce(&str) -> Result<usize>,
) -> Result<Prepared> {
    let table = load::open(&plugin.path, &recipe.method)?;
    let views = Session::open(&recipe.method, table, recipe.options.clone())?.views();
    let content = content(&views, recipe.data.rate, dim)?;
    let len = recipe.train.batch * (recipe.train.accumulate * steps_per_epoch) as usize;
    let data = Arc::new(Absent { content, len });
    prepare_training(recipe, plugin, &Opened { data, test: None }, training)
}

/// What views of these kinds are made of; sounds have `rate` values a second.
fn content(
    views: &[AskedView],
    rate: u32,
    dim: impl FnOnce(&str) -> Result<usize>,
) -> Result<Content> {
    let of = |kind: &str| views.iter().find(|view| view.kind.starts_with(kind));
    if let Some(view) = of("vector@") {
        return Ok(Content::Vectors { dim: dim(&view.name)? });
    }
    let sound = of("waveform@").or_else(|| of("spectrogram@")).is_some();
    Ok(if sound { Content::Sounds { rate } } else { Content::Images })
}
