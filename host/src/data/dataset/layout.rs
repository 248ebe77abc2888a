//! Reads splits and classes off paths: `train/CLASS/NAME.jpg`, `CLASS/NAME.jpg` or `NAME.jpg`, under at most
//! one folder that holds everything.

use std::collections::{BTreeMap, BTreeSet};

use super::{OpenOptions, Split};
use crate::{Error, Result};

/// Where the class of a file stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LabelRule {
    /// In the folder that holds it: `CLASS/NAME.wav`.
    #[default]
    Folder,
    /// In its name, cut at every sign that is no letter or digit: part `n`, from 0.
    NamePart(usize),
}

impl LabelRule {
    /// Reads `folder` (or nothing), or `name:N`.
    ///
    /// # Errors
    /// When it is neither.
    pub fn parse(text: &str) -> Result<Self> {
        let part = text.strip_prefix("name:").and_then(|part| part.parse().ok());
        match (text, part) {
            ("" | "folder", _) => Ok(Self::Folder),
            (_, Some(part)) => Ok(Self::NamePart(part)),
            _ => Err(Error::asked_wrongly(format!("`{text}` says not where a class stands")).hint(
                "`folder`, or `name:0` for what stands before the first `_` of a file's name",
            )),
        }
    }
}

/// Part `part` of the name of the file at `path`, without its ending.
fn name_part(path: &str, part: usize) -> Option<&str> {
    let file = path.rsplit('/').next().unwrap_or(path);
    let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
    stem.split(|c: char| !c.is_alphanumeric()).nth(part)
}

/// The class of each of `files`, by their names, and the names of the classes over all `paths`, numbers in
/// their order.
pub(super) fn label_by_name(
    paths: &[String],
    files: &[usize],
    part: usize,
) -> (Vec<Option<u32>>, Vec<String>) {
    let named: BTreeSet<&str> = paths.iter().filter_map(|path| name_part(path, part)).collect();
    let mut class_names: Vec<&str> = named.into_iter().collect();
    class_names.sort_by_key(|name| (name.parse::<u64>().unwrap_or(u64::MAX), *name));
    let number: BTreeMap<&str, u32> = class_names.iter().copied().zip(0..).collect();
    let label = |file: &usize| number.get(name_part(&paths[*file], part)?).copied();
    (files.iter().map(label).collect(), class_names.into_iter().map(str::to_owned).collect())
}

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

/// Arranges `paths` (with `/` between parts) of files by split and class.
///
/// # Errors
/// When there is no path, or none of the asked split.
pub(super) fn arrange(paths: &[String], options: &OpenOptions, source: &str) -> Result<Layout> {
    if paths.is_empty() {
        return Err(no_files(source));
    }
    let split_paths: Vec<Vec<&str>> = paths.iter().map(|p| parts(p)).collect();
    let root = usize::from(shared_root(&split_paths));
    let folders: Vec<&[&str]> =
        split_paths.iter().map(|p| &p[root..p.len().saturating_sub(1)]).collect();
    let chosen = chosen_folder(&folders, options, source)?;
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
    if let LabelRule::NamePart(part) = options.label {
        let (labels, class_names) = label_by_name(paths, &files, part);
        return Ok(Layout { files, labels, class_names });
    }
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

/// The folder that holds the asked split; none where the data isn't split by folders. Then everything is
/// there to learn from, and patterns alone can say what is asked about.
fn chosen_folder<'a>(
    folders: &[&[&'a str]],
    options: &OpenOptions,
    source: &str,
) -> Result<Option<&'a str>> {
    let split = options.split;
    let present: BTreeSet<&str> = folders
        .iter()
        .filter_map(|dirs| dirs.first().copied())
        .filter(|name| split_named(name).is_some())
        .collect();
    if present.is_empty() {
        return match split {
            Split::Train => Ok(None),
            Split::Test if !options.include.is_empty() => Ok(None),
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
    Error::asked_wrongly(format!("`{source}` has no {split} split")).hint(format!(
        "put its files under `{}/CLASS/`, or name them with `{}=PATTERN`",
        folder_names(split)[0],
        if split == Split::Train { "data.include" } else { "data.test_include" }
    ))
}

/// `source` holds no file that can be decoded.
pub(super) fn no_files(source: &str) -> Error {
    Error::asked_wrongly(format!("`{source}` holds no image and no sound"))
        .hint("give a folder or tar with .jpg, .png, .wav or .flac files, in one sub-folder per class or in none")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(paths: &[&str], split: Split) -> Result<Layout> {
        let paths: Vec<_> = paths.iter().map(|p| (*p).to_owned()).collect();
        arrange(&paths, &OpenOptions { split, ..OpenOptions::default() }, "x")
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
        assert_eq!(of(&[], Split::Train).unwrap_err().message(), "`x` holds no image and no sound");
    }

    #[test]
    fn the_class_can_stand_in_the_name_of_a_file() {
        let rule = LabelRule::parse("name:1").unwrap();
        assert_eq!(rule, LabelRule::NamePart(1));
        let paths = ["r/a_10_x.wav", "r/a-2.wav", "r/b.wav"].map(str::to_owned);
        let options = OpenOptions { label: rule, ..OpenOptions::default() };
        let layout = arrange(&paths, &options, "x").unwrap();
        assert_eq!(layout.class_names, ["2", "10"]);
        assert_eq!(
            layout.files.iter().map(|f| &paths[*f][2..4]).collect::<Vec<_>>(),
            ["a-", "a_", "b."]
        );
        assert_eq!(layout.labels, [Some(0), Some(1), None]);
        assert_eq!(LabelRule::parse("").unwrap(), LabelRule::Folder);
        assert!(LabelRule::parse("name:x").unwrap_err().hint_text().is_some());
    }

    #[test]
    fn patterns_can_name_the_test_part_of_data_without_split_folders() {
        let include = super::super::Patterns::parse("*b*").unwrap();
        let options = OpenOptions { split: Split::Test, include, ..OpenOptions::default() };
        let paths = ["a.wav", "b.wav"].map(str::to_owned);
        assert_eq!(arrange(&paths, &options, "x").unwrap().files, [0, 1]);
    }
}
