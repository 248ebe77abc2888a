//! Checkpoints: all that resuming needs, written aside and renamed, found again by their hashes.
//!
//! `SHA256SUMS` is in the form that `sha256sum --check` reads, and is written last: a folder
//! without it, or with a file that disagrees with it, is not a checkpoint.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::safetensors::Load;
use candle_core::{Device, Tensor};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::disk::{cannot_read, cannot_write, replace, sha256, sync_parent, write_new};
use super::log::Record;
use crate::{Error, Result};

/// The revision of the folder's form; a host reads all revisions up to its own.
const FORMAT: u64 = 1;
const STATE: &str = "state.json";
const SUMS: &str = "SHA256SUMS";

/// Tensors by name, in order.
pub type NamedTensors = Vec<(String, Tensor)>;

/// All that resuming needs.
#[derive(Clone, Debug, Default)]
pub struct Checkpoint {
    /// Steps done.
    pub step: u64,
    /// The parameters.
    pub parameters: NamedTensors,
    /// The buffers: centers, queues, running statistics.
    pub buffers: NamedTensors,
    /// The optimiser's moments.
    pub moments: NamedTensors,
    /// Whatever else there is: counts, numbers of the loop.
    pub state: Record,
}

/// Which checkpoints stay when a new one is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keep {
    /// The newest so many, at least one.
    pub newest: usize,
    /// Besides, each of these steps.
    pub steps: Vec<u64>,
}

impl Default for Keep {
    fn default() -> Self {
        Self { newest: 3, steps: Vec::new() }
    }
}

/// `state.json`: the numbers, and the order in which tensors were given.
#[derive(Serialize, Deserialize)]
struct StateFile {
    format: u64,
    step: u64,
    names: BTreeMap<String, Vec<String>>,
    state: Record,
}

impl Checkpoint {
    fn parts(&self) -> [(&'static str, &NamedTensors); 3] {
        [("parameters", &self.parameters), ("buffers", &self.buffers), ("moments", &self.moments)]
    }

    /// Writes the checkpoint into `folder` (`checkpoints/`) and returns its path.
    ///
    /// Until the last rename only a hidden sibling is touched, so a full disk or a crash leaves
    /// older checkpoints as they were.
    pub(super) fn write(&self, folder: &Path) -> Result<PathBuf> {
        if !folder.is_dir() {
            fs::create_dir_all(folder).map_err(|error| cannot_write(folder, &error))?;
            sync_parent(folder)?;
        }
        let name = format!("step-{:06}", self.step);
        let (path, aside) = (folder.join(&name), folder.join(format!(".{name}.partial")));
        remove(&aside)?;
        let written = self.write_files(&aside).and_then(|()| move_in_place(&aside, &path));
        if written.is_err() {
            // The first error is the one to report.
            remove(&aside).ok();
        }
        written.map(|()| path)
    }

    fn write_files(&self, aside: &Path) -> Result<()> {
        fs::create_dir(aside).map_err(|error| cannot_write(aside, &error))?;
        let mut files = Vec::new();
        for (part, tensors) in self.parts() {
            let views = tensors.iter().map(|(name, tensor)| (name, tensor));
            let bytes = safetensors::serialize(views, None).map_err(|error| {
                Error::failed(format!("the {part} have no safetensors form")).because(error)
            })?;
            files.push((format!("{part}.safetensors"), bytes));
        }
        files.push((STATE.to_owned(), self.state_file()?));
        let mut sums = Vec::new();
        for (name, bytes) in &files {
            write_new(&aside.join(name), bytes)?;
            sums.push(format!("{}  {name}\n", sha256(bytes)));
        }
        replace(&aside.join(SUMS), sums.concat().as_bytes())
    }

    fn state_file(&self) -> Result<Vec<u8>> {
        let names = |tensors: &NamedTensors| tensors.iter().map(|(name, _)| name.clone()).collect();
        let file = StateFile {
            format: FORMAT,
            step: self.step,
            names: self.parts().map(|(part, tensors)| (part.to_owned(), names(tensors))).into(),
            state: self.state.clone(),
        };
        serde_json::to_vec_pretty(&file)
            .map_err(|error| Error::failed("the run's state has no JSON form").because(error))
    }

    /// The checkpoint in the folder `path`, each file checked against its hash.
    pub fn read(path: &Path) -> Result<Self> {
        let mut files = read_checked(path)?;
        let mut take = |name: &str| {
            files.remove(name).ok_or_else(|| damaged(path, &format!("`{name}` is missing")))
        };
        let state: Value =
            serde_json::from_slice(&take(STATE)?).map_err(|error| damaged(path, &error))?;
        if state.get("format").and_then(Value::as_u64).is_none_or(|format| format > FORMAT) {
            return Err(damaged(path, &"a newer pretext wrote it"));
        }
        let mut state: StateFile =
            serde_json::from_value(state).map_err(|error| damaged(path, &error))?;
        let mut tensors = |part: &str| {
            let names = state.names.remove(part).unwrap_or_default();
            tensors(&take(&format!("{part}.safetensors"))?, names)
                .map_err(|error| damaged(path, &error))
        };
        Ok(Self {
            parameters: tensors("parameters")?,
            buffers: tensors("buffers")?,
            moments: tensors("moments")?,
            step: state.step,
            state: state.state,
        })
    }
}

fn damaged(path: &Path, why: &impl std::fmt::Display) -> Error {
    Error::failed(format!("checkpoint `{}` is damaged", path.display())).because(why)
}

/// Every file that the sums name, by name.
fn read_checked(path: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let sums = path.join(SUMS);
    let sums =
        fs::read_to_string(&sums).map_err(|error| damaged(path, &cannot_read(&sums, &error)))?;
    let mut files = BTreeMap::new();
    for line in sums.lines() {
        let (sum, name) =
            line.split_once("  ").ok_or_else(|| damaged(path, &format!("`{SUMS}` is broken")))?;
        let file = path.join(name);
        let bytes = fs::read(&file).map_err(|error| damaged(path, &cannot_read(&file, &error)))?;
        if sha256(&bytes) != sum {
            return Err(damaged(path, &format!("`{name}` is not what was written")));
        }
        files.insert(name.to_owned(), bytes);
    }
    Ok(files)
}

fn tensors(bytes: &[u8], names: Vec<String>) -> Result<NamedTensors> {
    let file = SafeTensors::deserialize(bytes)
        .map_err(|error| Error::failed("not a safetensors file").because(error))?;
    let tensor = |name: String| {
        let view = file
            .tensor(&name)
            .map_err(|error| Error::failed(format!("no tensor `{name}`")).because(error))?;
        Ok((name, view.load(&Device::Cpu)?))
    };
    names.into_iter().map(tensor).collect()
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(cannot_write(folder, &error))
        }
        _ => Ok(()),
    }
}

/// Renames `aside` to `path`; a checkpoint that lies there already (a damaged one that a resumed
/// run passed again) steps aside first, and comes back where that fails; after a crash in between [`sweep`] brings
/// it back.
fn move_in_place(aside: &Path, path: &Path) -> Result<()> {
    let old = aside.with_extension("old");
    remove(&old)?;
    let rename =
        |from: &Path, to: &Path| fs::rename(from, to).map_err(|error| cannot_write(to, &error));
    if path.exists() {
        rename(path, &old)?;
    }
    if let Err(error) = rename(aside, path) {
        // The first error is the one to report.
        fs::rename(&old, path).ok();
        return Err(error);
    }
    sync_parent(path)?;
    remove(&old)
}

/// The checkpoints in `folder` (`checkpoints/`) by step, newest first; damaged ones included.
pub fn list(folder: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(cannot_read(folder, &error)),
    };
    let step = |name: &str| name.strip_prefix("step-")?.parse::<u64>().ok();
    let mut found: Vec<_> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            Some((step(entry.file_name().to_str()?)?, entry.path()))
        })
        .collect();
    found.sort();
    found.reverse();
    Ok(found)
}

/// What a folder of checkpoints has to go on with.
#[derive(Debug)]
pub struct Found {
    /// The newest whole checkpoint and its path; none if the run stopped before its first.
    pub newest: Option<(PathBuf, Checkpoint)>,
    /// One line for each damaged checkpoint that was passed over.
    pub warnings: Vec<String>,
}

/// The newest whole checkpoint in `folder` (`checkpoints/`); damaged ones are passed over.
pub fn find_newest(folder: &Path) -> Result<Found> {
    let mut warnings = Vec::new();
    for (_, path) in list(folder)? {
        match Checkpoint::read(&path) {
            Ok(checkpoint) => return Ok(Found { newest: Some((path, checkpoint)), warnings }),
            Err(error) => warnings.push(format!("{error}; going on to the one before")),
        }
    }
    Ok(Found { newest: None, warnings })
}

/// Removes what `keep` doesn't keep among the checkpoints up to `step`, and leftovers of a crash.
pub(super) fn prune(folder: &Path, step: u64, keep: &Keep) -> Result<()> {
    let up_to_now = list(folder)?.into_iter().filter(|(of, _)| *of <= step);
    for (of, path) in up_to_now.skip(keep.newest.max(1)) {
        if !keep.steps.contains(&of) {
            remove(&path)?;
        }
    }
    Ok(())
}

/// Removes what a crash left half written, and brings back what stepped aside for it.
pub(super) fn sweep(folder: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    for entry in entries.flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        let name = name.to_string_lossy();
        if !name.starts_with(".step-") || !path.is_dir() {
            continue;
        }
        let place = name.strip_suffix(".old").map(|name| folder.join(name.trim_start_matches('.')));
        match place.filter(|place| !place.exists()) {
            Some(place) => {
                fs::rename(&path, &place).map_err(|error| cannot_write(&place, &error))?;
            }
            None => remove(&path)?,
        }
    }
    Ok(())
}
