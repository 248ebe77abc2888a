//! Reads splits and classes off paths: `train/CLASS/NAME.jpg`, `CLASS/NAME.jpg` or `NAME.jpg`, under at most
//! one folder that holds everything.

use std::collections::{BTreeMap, BTreeSet};

use super::Split;
use crate::{Error, Result};

/// Which files belong to a split, and to which class.
#[derive(Debug)]
pub(super) struct Layout {
    /// Positions in the list of paths, ordered by path.
    pub files: Vec<usize>,
    /// The class of each file.
    pub labels: Vec<Option<u32>>,
    /// Names of the classes over all splits, sorted.
    pub class_names: Vec<String>,
}

/// Folder names of a split, the best first.
fn folder_names(split: Split) -> &'static [&'static str] {
    match split {
        Split::Train => &["train", "training"],
        Split::Test => &["test", "testing", "val", "valid", "validation"],
    }
}

/// The split that a folder or shard is named after.
pub(super) fn split_named(name: &str) -> Option<Split> {
    [Split::Train, Split::Test]
        .into_iter()
        .find(|split| folder_names(*split).iter().any(|known| name.eq_ignore_ascii_case(known)))
}

/// Arranges `paths` (with `/` between parts) of image files by split and class.
///
/// # Errors
/// When there is no path, or none of the asked split.
pub(super) fn arrange(paths: &[String], split: Split, source: &str) -> Result<Layout> {
    if paths.is_empty() {
        return Err(no_images(source));
    }
    let split_paths: Vec<Vec<&str>> = paths.iter().map(|p| parts(p)).collect();
    let root = usize::from(shared_root(&split_paths));
    let folders: Vec<&[&str]> =
        split_paths.iter().map(|p| &p[root..p.len().saturating_sub(1)]).collect();
    let chosen = chosen_folder(&folders, split, source)?;
    let depth = usize::from(chosen.is_some());
    let classes: BTreeSet<&str> = folders
        .iter()
        .filter(|dirs| depth == 0 || dirs.first().is_some_and(|name| split_named(name).is_some()))
        .filter_map(|dirs| dirs.get(depth).copied())
        .collect();
    let number: BTreeMap<&str, u32> = classes.iter().copied().zip(0..).collect();
    let mut files: Vec<usize> = (0..paths.len())
        .filter(|file| chosen.is_none() || folders[*file].first().copied() == chosen)
        .collect();
    files.sort_by(|a, b| split_paths[*a].cmp(&split_paths[*b]));
    let labels = files
        .iter()
        .map(|file| folders[*file].get(depth).and_then(|name| number.get(name).copied()))
        .collect();
    let class_names = classes.into_iter().map(str::to_owned).collect();
    Ok(Layout { files, labels, class_names })
}

fn parts(path: &str) -> Vec<&str> {
    path.split('/').filter(|part| !part.is_empty() && *part != ".").collect()
}

/// Whether everything lies in one folder that holds split folders and is none itself.
fn shared_root(paths: &[Vec<&str>]) -> bool {
    let Some(first) = paths.first().filter(|path| path.len() > 1).map(|path| path[0]) else {
        return false;
    };
    split_named(first).is_none()
        && paths.iter().all(|path| path.len() > 1 && path[0] == first)
        && paths.iter().any(|path| path.len() > 2 && split_named(path[1]).is_some())
}

/// The folder that holds `split`; none where the data isn't split by folders.
fn chosen_folder<'a>(
    folders: &[&[&'a str]],
    split: Split,
    source: &str,
) -> Result<Option<&'a str>> {
    let present: BTreeSet<&str> = folders
        .iter()
        .filter_map(|dirs| dirs.first().copied())
        .filter(|name| split_named(name).is_some())
        .collect();
    if present.is_empty() {
        return match split {
            Split::Train => Ok(None),
            Split::Test => Err(no_split(source, split)),
        };
    }
    let wanted = folder_names(split)
        .iter()
        .find_map(|wanted| present.iter().copied().find(|name| name.eq_ignore_ascii_case(wanted)));
    wanted.map(Some).ok_or_else(|| no_split(source, split))
}

/// Nothing in `source` belongs to `split`.
pub(super) fn no_split(source: &str, split: Split) -> Error {
    Error::asked_wrongly(format!("`{source}` has no {split} split"))
        .hint(format!("put its images under `{}/CLASS/`", folder_names(split)[0]))
}

/// `source` holds no file that can be decoded.
pub(super) fn no_images(source: &str) -> Error {
    Error::asked_wrongly(format!("`{source}` holds no image"))
        .hint("give a folder or tar with .jpg, .jpeg or .png files, in one sub-folder per class or in none")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(paths: &[&str], split: Split) -> Result<Layout> {
        let paths: Vec<_> = paths.iter().map(|p| (*p).to_owned()).collect();
        arrange(&paths, split, "x")
    }

    #[test]
    fn splits_and_classes_are_read_off_folders() {
        let paths = ["train/dog/1.jpg", "train/cat/1.jpg", "test/cow/1.jpg", "train/cat/0.jpg"];
        let train = of(&paths, Split::Train).unwrap();
        assert_eq!(train.class_names, ["cat", "cow", "dog"]);
        assert_eq!(train.files, [3, 1, 0]);
        assert_eq!(train.labels, [Some(0), Some(0), Some(2)]);
        assert_eq!(of(&paths, Split::Test).unwrap().labels, [Some(1)]);
    }

    #[test]
    fn one_folder_around_everything_is_looked_through() {
        let paths = ["./pets/train/dog/1.jpg", "./pets/val/dog/2.jpg"];
        assert_eq!(of(&paths, Split::Test).unwrap().files, [1]);
        let single = of(&["dog/1.jpg", "dog/2.jpg"], Split::Train).unwrap();
        assert_eq!(single.class_names, ["dog"]);
    }

    #[test]
    fn flat_folders_have_no_labels() {
        let flat = of(&["b.jpg", "a.jpg"], Split::Train).unwrap();
        assert_eq!((flat.files, flat.labels), (vec![1, 0], vec![None, None]));
        assert!(flat.class_names.is_empty());
        assert!(of(&["train/b.jpg"], Split::Train).unwrap().class_names.is_empty());
    }

    #[test]
    fn a_missing_split_is_named() {
        let error = of(&["cat/1.jpg"], Split::Test).unwrap_err();
        assert_eq!(error.message(), "`x` has no test split");
        assert!(of(&["test/cat/1.jpg"], Split::Train).is_err());
        assert_eq!(of(&[], Split::Train).unwrap_err().message(), "`x` holds no image");
    }
}
