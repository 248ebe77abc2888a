//! `manifest.json`: what made a run, so that its numbers can be traced.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::disk::{cannot_read, replace};
use super::machine::Machine;
use crate::{Error, Result};

/// Everything about a run that its recipe doesn't say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of `pretext`.
    pub pretext: String,
    /// The version of the contract that the host speaks, `major.minor`.
    pub contract: String,
    /// The plugin that holds the method.
    pub plugin: PluginRecord,
    /// Where tensors lived, such as `cpu`.
    pub device: String,
    /// Threads that computed.
    pub threads: usize,
    /// The seed of every stream of random numbers.
    pub seed: u64,
    /// Steps of the run, as last asked for; 0 where a manifest doesn't say.
    #[serde(default)]
    pub steps: u64,
    /// The machine.
    pub machine: Machine,
    /// When the run was started, RFC 3339 in UTC.
    pub started_at: String,
    /// Each time it went on after a stop.
    #[serde(default)]
    pub resumed: Vec<Resumption>,
}

/// The library that a method came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginRecord {
    /// The plugin's identity, such as `org.pretext.dino`.
    pub id: String,
    /// The method's name in the plugin.
    pub method: String,
    /// The plugin's version.
    pub version: String,
    /// SHA-256 of the library's file.
    pub sha256: String,
    /// Where the library was found.
    pub path: String,
}

/// One time that a run went on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resumption {
    /// When, RFC 3339 in UTC.
    pub at: String,
    /// The step of the checkpoint that it went on from.
    pub from_step: u64,
    /// Threads that computed from there on.
    pub threads: usize,
    /// SHA-256 of the plugin from there on.
    pub plugin_sha256: String,
    /// Keys that have another value from there on, such as `train.lr = 0.0001 (was 0.001)`.
    #[serde(default)]
    pub changed: Vec<String>,
}

impl Manifest {
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self)
            .map_err(|error| Error::failed("a manifest has no JSON form").because(error))?;
        text.push('\n');
        replace(path, text.as_bytes())
    }

    /// The manifest in the file at `path`.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).map_err(|error| cannot_read(path, &error))?;
        serde_json::from_slice(&text).map_err(|error| {
            cannot_read(path, &error).hint("`pretext train --resume` writes a new one")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("manifest.json");
        let manifest = Manifest {
            pretext: "0.1.0".to_owned(),
            seed: u64::MAX,
            machine: Machine::here(),
            resumed: vec![Resumption { from_step: 7, ..Resumption::default() }],
            ..Manifest::default()
        };
        manifest.write(&path).unwrap();
        assert_eq!(Manifest::read(&path).unwrap(), manifest);
    }
}
