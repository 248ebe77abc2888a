//! Where weights come from: a safetensors file, a Hugging Face folder, or a run.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{DIALECTS, Dialect, Tensors};
use crate::run::{find_newest, read_tensors};
use crate::{Error, Result};

/// The tensors of one backbone, as they were found.
#[derive(Debug)]
pub struct Source {
    /// What errors call it.
    pub name: String,
    /// By the names below the prefix.
    pub tensors: Tensors,
    /// Whose names they are.
    pub dialect: &'static Dialect,
    /// `config.json`, where there is one.
    pub config: Option<Value>,
    /// What was left out, in a line.
    pub left_out: Option<String>,
}

/// The names of wrappers and networks around a backbone, the one to prefer first: of a student and its
/// teacher, the teacher is what was meant to be kept.
const PREFERRED: [&str; 2] = ["teacher", "student"];

/// Heads and counters that are no part of a backbone.
const NO_PART: [&str; 6] =
    ["head.", "head_dist.", "fc.", "classifier.", "pooler.", "num_batches_tracked"];

/// The backbone in the file or folder at `path`.
///
/// # Errors
/// When there is nothing, it can't be read, or holds no backbone that is known.
pub fn read(path: &Path) -> Result<Source> {
    let name = path.display().to_string();
    let (tensors, config) = if path.join("recipe.toml").is_file() {
        (of_run(path)?, None)
    } else if path.is_dir() {
        (of_folder(path)?, read_config(path)?)
    } else {
        pickled(path)?;
        (read_tensors(path)?.into_iter().collect(), None)
    };
    let Some((dialect, prefix)) = recognised(&tensors) else {
        let some: Vec<&str> = tensors.keys().take(4).map(String::as_str).collect();
        let known: Vec<String> =
            DIALECTS.iter().map(|d| format!("{} (`{}`)", d.model, d.anchor)).collect();
        return Err(Error::asked_wrongly(format!(
            "`{name}` holds no backbone that is known; it starts with `{}`",
            some.join("`, `")
        ))
        .hint(format!("known are {}", known.join(", "))));
    };
    let (mut inside, mut outside) = (Tensors::new(), Vec::new());
    for (full, tensor) in tensors {
        match full.strip_prefix(&prefix) {
            Some(name)
                if !NO_PART.iter().any(|part| name.starts_with(part) || name.ends_with(part)) =>
            {
                inside.insert(name.to_owned(), tensor);
            }
            _ => outside.push(full),
        }
    }
    let left_out = outside.first().map(|first| match outside.len() {
        1 => format!("`{first}` of `{name}` is no part of the backbone and was left out"),
        n => format!("{n} tensors of `{name}`, such as `{first}`, are no part of the backbone and were left out"),
    });
    Ok(Source { name, tensors: inside, dialect, config, left_out })
}

/// Parameters and buffers of the newest checkpoint of a run.
fn of_run(path: &Path) -> Result<Tensors> {
    let found = find_newest(&path.join("checkpoints"))?;
    let (_, checkpoint) = found.newest.ok_or_else(|| {
        Error::asked_wrongly(format!("`{}` has no whole checkpoint", path.display()))
            .hint(format!("train it with `pretext train --resume {}`", path.display()))
    })?;
    Ok(checkpoint.parameters.into_iter().chain(checkpoint.buffers).collect())
}

/// All safetensors files of a folder: one, or the shards of a large model.
fn of_folder(path: &Path) -> Result<Tensors> {
    let entries = std::fs::read_dir(path).map_err(|error| {
        Error::asked_wrongly(format!("can't read `{}`", path.display())).because(error)
    })?;
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|file| file.extension().is_some_and(|end| end == "safetensors"))
        .collect();
    files.sort();
    if files.is_empty() {
        return Err(Error::asked_wrongly(format!(
            "`{}` is neither a run nor a folder with a safetensors file",
            path.display()
        ))
        .hint("write one with `model.save_pretrained(path)` or `pretext export`"));
    }
    let mut tensors = Tensors::new();
    for file in files {
        tensors.extend(read_tensors(&file)?);
    }
    Ok(tensors)
}

fn read_config(path: &Path) -> Result<Option<Value>> {
    let path = path.join("config.json");
    let Ok(text) = std::fs::read_to_string(&path) else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|error| {
        Error::asked_wrongly(format!("`{}` is not JSON", path.display())).because(error)
    })
}

/// Refuses a file of PyTorch's own format, which would run code when it is read.
fn pickled(path: &Path) -> Result<()> {
    let pickle = path
        .extension()
        .is_some_and(|end| ["pt", "pth", "bin", "ckpt"].iter().any(|pickle| end == *pickle));
    if !pickle {
        return Ok(());
    }
    Err(Error::asked_wrongly(format!("`{}` is a pickle of PyTorch", path.display())).hint(
        "store its tensors with `safetensors.torch.save_file(torch.load(path, weights_only=True), \"w.safetensors\")`",
    ))
}

/// The dialect of `tensors` and what stands before the names of the backbone.
fn recognised(tensors: &Tensors) -> Option<(&'static Dialect, String)> {
    let mut found: Vec<(usize, &'static Dialect, &str)> = Vec::new();
    for dialect in DIALECTS {
        for name in tensors.keys() {
            let Some(prefix) = name.strip_suffix(dialect.anchor) else { continue };
            if prefix.is_empty() || prefix.ends_with('.') {
                let rank = PREFERRED.iter().position(|first| prefix.starts_with(first));
                found.push((rank.unwrap_or(PREFERRED.len()), dialect, prefix));
            }
        }
    }
    let best = found.into_iter().min_by_key(|(rank, _, prefix)| (*rank, prefix.len()))?;
    Some((best.1, best.2.to_owned()))
}
