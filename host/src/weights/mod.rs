//! Weights of backbones that travel: read from other programs and from runs, written for them.
//!
//! A backbone's own names are those of timm, below its prefix. A [`Dialect`] says how another program
//! names and shapes the same tensors; whatever is neither is refused by name.

mod apart;
mod fit;
mod hf_vit;
mod hf_wave;
mod source;
mod timm_resnet;
mod timm_vit;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;
use serde_json::Value;

pub use fit::{Expected, fit};
pub use source::{Source, read};

use crate::config::Values;
use crate::run::write_tensors;
use crate::{Error, Result};

/// Tensors by name.
pub type Tensors = BTreeMap<String, Tensor>;

/// Sizes of a backbone that its tensors don't tell.
#[derive(Clone, Copy)]
pub struct Sizes<'a> {
    /// Its facts: `heads`, `rows`, ...
    pub facts: &'a dyn Fn(&str) -> Option<i64>,
    /// Its options in the recipe.
    pub options: &'a Values,
}

impl std::fmt::Debug for Sizes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sizes({:?})", self.options)
    }
}

impl Sizes<'_> {
    /// A fact.
    fn fact(&self, name: &str) -> Result<i64> {
        (self.facts)(name)
            .ok_or_else(|| Error::failed(format!("the backbone has no fact `{name}`")))
    }

    /// An option that is a number.
    fn number(&self, name: &str) -> Result<f64> {
        let number = self.options.float(name);
        number.ok_or_else(|| Error::failed(format!("the backbone has no number `{name}`")))
    }

    /// An option that is a list of whole numbers.
    fn list(&self, name: &str) -> Result<Vec<i64>> {
        let list = self.options.numbers(name);
        let list = list.map(|list| list.into_iter().map(|x| x as i64).collect());
        list.ok_or_else(|| Error::failed(format!("the backbone has no list `{name}`")))
    }
}

/// How another program names and shapes the tensors of one kind of backbone.
#[derive(Debug)]
pub struct Dialect {
    /// The format: `timm` or `hf`.
    pub format: &'static str,
    /// The kind of backbone.
    pub backbone: &'static str,
    /// The model in that program.
    pub model: &'static str,
    /// A tensor that every file of it has, and no other dialect.
    pub anchor: &'static str,
    /// From its names to ours; `grid` is the one that the backbone was built for.
    pub import: fn(tensors: Tensors, grid: [usize; 2]) -> Result<Tensors>,
    /// From our names to its.
    pub export: fn(tensors: Tensors) -> Result<Tensors>,
    /// Its `config.json`, for formats that are folders.
    pub config: Option<fn(tensors: &Tensors, sizes: &Sizes<'_>) -> Result<Value>>,
}

impl Dialect {
    /// Whether it is written as a folder.
    #[must_use]
    pub const fn is_folder(&self) -> bool {
        self.config.is_some()
    }
}

/// Every dialect.
pub const DIALECTS: &[&Dialect] =
    &[&timm_vit::DIALECT, &hf_vit::DIALECT, &timm_resnet::DIALECT, &hf_wave::DIALECT];

/// The dialect `format` of backbones of `kind`; none for `safetensors`, which has our own names.
///
/// # Errors
/// When there is no such format, or it has no such model.
pub fn dialect(format: &str, kind: &str) -> Result<Option<&'static Dialect>> {
    if format == "safetensors" {
        return Ok(None);
    }
    let found = DIALECTS.iter().find(|d| d.format == format && d.backbone == kind);
    found.map(|dialect| Some(*dialect)).ok_or_else(|| {
        let mut formats = vec!["safetensors"];
        formats.extend(DIALECTS.iter().filter(|d| d.backbone == kind).map(|d| d.format));
        Error::asked_wrongly(format!("a backbone `{kind}` can't be written as `{format}`"))
            .hint(format!("it can be written as `{}`", formats.join("`, `")))
    })
}

/// Writes a backbone's `tensors` (by our names, below the prefix) to `path` as `format` has them: a file,
/// or a folder with `config.json` and `model.safetensors`. Returns how many tensors were written.
///
/// # Errors
/// When the format can't hold such a backbone, or the path can't be written.
pub fn export(
    (format, kind): (&str, &str),
    tensors: Tensors,
    sizes: &Sizes<'_>,
    path: &Path,
) -> Result<usize> {
    let Some(dialect) = dialect(format, kind)? else {
        return written(path, tensors);
    };
    let Some(config) = dialect.config else {
        return written(path, (dialect.export)(tensors)?);
    };
    let config = config(&tensors, sizes)?;
    let tensors = (dialect.export)(tensors)?;
    std::fs::create_dir_all(path).map_err(|error| {
        Error::failed(format!("can't make the folder `{}`", path.display())).because(error)
    })?;
    let text = serde_json::to_string_pretty(&config)
        .map_err(|error| Error::failed("the configuration has no JSON form").because(error))?;
    std::fs::write(path.join("config.json"), text + "\n").map_err(|error| {
        Error::failed(format!("can't write into `{}`", path.display())).because(error)
    })?;
    written(&path.join("model.safetensors"), tensors)
}

fn written(path: &Path, tensors: Tensors) -> Result<usize> {
    let tensors: Vec<(String, Tensor)> = tensors.into_iter().collect();
    write_tensors(path, &tensors)?;
    Ok(tensors.len())
}
