//! Names of runs: given by the user, or method, data and the next free number.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::disk::{cannot_write, sync_parent};
use crate::{Error, Result};

/// How a new run is called.
#[derive(Clone, Copy, Debug)]
pub enum Name<'a> {
    /// As the user said.
    Given(&'a str),
    /// `<method>-<data>-<n>`, with the number after the highest one there is.
    Numbered {
        /// The method's name.
        method: &'a str,
        /// The dataset's name, or the last part of its path.
        data: &'a str,
    },
}

impl Name<'_> {
    /// Makes the folder of a new run under `root` and returns its path.
    ///
    /// Making a folder is atomic, so two runs that start together get two numbers.
    pub(super) fn claim(self, root: &Path) -> Result<PathBuf> {
        fs::create_dir_all(root).map_err(|error| no_runs(root, &error))?;
        let path = match self {
            Self::Given(name) => claim_given(root, name),
            Self::Numbered { method, data } => {
                claim_numbered(root, &format!("{}-{}", tame(method), tame(data)))
            }
        }?;
        sync_parent(&path)?;
        Ok(path)
    }
}

/// Says why `root` can't hold runs; unless the disk is full, it was the wrong folder to ask for.
fn no_runs(root: &Path, error: &std::io::Error) -> Error {
    if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
        return cannot_write(root, error);
    }
    Error::asked_wrongly(format!("`{}` can't hold runs", root.display()))
        .because(error)
        .hint("name a folder that you may write to, such as `runs=my-runs`")
}

/// Whether a run can be called `name`.
///
/// # Errors
/// When it can't: its folder would lie elsewhere, or be hidden.
pub fn check_name(name: &str) -> Result<()> {
    let fine = |c: char| c.is_alphanumeric() || "-_.+=@".contains(c);
    if name.is_empty() || name.starts_with('.') || !name.chars().all(fine) {
        return Err(Error::asked_wrongly(format!("a run can't be called `{name}`"))
            .hint("use letters, digits, `-`, `_` and `.`, such as `run=first-try`"));
    }
    Ok(())
}

fn claim_given(root: &Path, name: &str) -> Result<PathBuf> {
    check_name(name)?;
    let path = root.join(name);
    match fs::create_dir(&path) {
        Ok(()) => Ok(path),
        // Left by a process that ended before it wrote down what it was asked; the lock keeps living ones apart.
        Err(error) if error.kind() == ErrorKind::AlreadyExists && never_began(&path) => Ok(path),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let exists = format!("run `{}` exists already", path.display());
            let resume = format!("go on with `pretext train --resume {}`", path.display());
            Err(Error::asked_wrongly(exists).hint(format!("{resume}, or choose another name")))
        }
        Err(error) => Err(no_runs(root, &error)),
    }
}

/// Whether nothing but what a run makes before its recipe lies in the folder `path`, and no record yet.
fn never_began(path: &Path) -> bool {
    let empty = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry?;
        let name = entry.file_name();
        let log = ["metrics.jsonl", "timings.jsonl"].iter().any(|log| name == *log);
        let begun = name == super::lock::FILE || name == "recipe.toml.partial";
        Ok::<_, std::io::Error>(begun || (log && entry.metadata()?.len() == 0))
    };
    fs::read_dir(path).is_ok_and(|mut entries| entries.all(|entry| empty(entry).unwrap_or(false)))
}

fn claim_numbered(root: &Path, stem: &str) -> Result<PathBuf> {
    let mut number = 1 + highest(root, stem)?;
    loop {
        let path = root.join(format!("{stem}-{number}"));
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(no_runs(root, &error)),
        }
    }
}

/// The highest number of a run called `stem`, 0 if there is none.
fn highest(root: &Path, stem: &str) -> Result<u64> {
    let entries = fs::read_dir(root).map_err(|error| cannot_write(root, &error))?;
    let number = |name: &str| name.strip_prefix(stem)?.strip_prefix('-')?.parse::<u64>().ok();
    Ok(entries.filter_map(|entry| number(entry.ok()?.file_name().to_str()?)).max().unwrap_or(0))
}

/// `text` in lower case with `-` for whatever doesn't belong in a folder's name.
fn tame(text: &str) -> String {
    let last = text.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let name: String = last
        .chars()
        .map(|c| if c.is_alphanumeric() || c == '_' { c.to_ascii_lowercase() } else { '-' })
        .collect();
    match name.trim_matches('-') {
        "" => "data".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_on_after_the_highest_even_when_a_run_was_removed() {
        let root = tempfile::tempdir().unwrap();
        let next = || {
            let name = Name::Numbered { method: "dino", data: "synthetic" };
            let path = name.claim(root.path()).unwrap();
            path.file_name().unwrap().to_str().unwrap().to_owned()
        };
        assert_eq!(next(), "dino-synthetic-1");
        assert_eq!(next(), "dino-synthetic-2");
        fs::remove_dir(root.path().join("dino-synthetic-1")).unwrap();
        assert_eq!(next(), "dino-synthetic-3");
    }

    #[test]
    fn a_path_gives_its_last_part() {
        assert_eq!(tame("/data/My Photos/"), "my-photos");
        assert_eq!(tame("cifar10-jpeg.tar"), "cifar10-jpeg-tar");
        assert_eq!(tame("../.."), "data");
    }

    #[test]
    fn a_given_name_is_taken_once_and_stays_inside_the_folder() {
        let root = tempfile::tempdir().unwrap();
        let first = Name::Given("first").claim(root.path()).unwrap();
        fs::write(first.join("recipe.toml"), "").unwrap();
        let again = Name::Given("first").claim(root.path()).unwrap_err();
        assert!(again.hint_text().unwrap().contains("--resume"));
        for bad in ["", "..", "a/b", ".hidden", "a b"] {
            assert_eq!(Name::Given(bad).claim(root.path()).unwrap_err().exit_code(), 2);
        }
    }

    #[test]
    fn a_folder_of_a_process_that_ended_before_its_run_began_is_taken() {
        let root = tempfile::tempdir().unwrap();
        let path = Name::Given("it").claim(root.path()).unwrap();
        fs::write(path.join("run.lock"), "7\n").unwrap();
        fs::write(path.join("metrics.jsonl"), "").unwrap();
        assert_eq!(Name::Given("it").claim(root.path()).unwrap(), path);
        fs::write(path.join("metrics.jsonl"), "{}\n").unwrap();
        assert!(Name::Given("it").claim(root.path()).is_err());
        fs::remove_file(path.join("metrics.jsonl")).unwrap();
        fs::write(path.join("notes.txt"), "").unwrap();
        assert!(Name::Given("it").claim(root.path()).is_err(), "a folder of somebody's own");
    }
}
