//! WebDataset: files of one key form a sample: `KEY.jpg` or `KEY.flac` with `KEY.cls` (a number or a name) or
//! `KEY.json` (its `label`, `class` or `cls`).

use std::collections::{BTreeMap, BTreeSet};

use super::tar::Shards;
use super::{Split, layout};
use crate::data::decode::Medium;
use crate::{Error, Result};

/// The samples of a split.
#[derive(Debug)]
pub(super) struct Index {
    /// Position of each sample's file among the members, and its class.
    pub samples: Vec<(usize, Option<u32>)>,
    /// Names of the classes.
    pub class_names: Vec<String>,
}

/// A path's key (all before the first dot of its file name) and ending, as WebDataset cuts it.
fn cut(path: &str) -> Option<(&str, &str)> {
    let name = path.rfind('/').map_or(0, |slash| slash + 1);
    let dot = name + path[name..].find('.')?;
    (dot > name).then(|| (&path[..dot], &path[dot + 1..]))
}

/// Whether some file of `medium` has a label file beside it.
pub(super) fn is_one(shards: &Shards, medium: Medium) -> bool {
    let mut last_file = None;
    let mut last_label = None;
    for (path, member) in shards.paths.iter().zip(&shards.members) {
        let Some((key, ending)) = cut(path) else { continue };
        let here = Some((member.shard, key));
        if Medium::of(path) == Some(medium) {
            last_file = here;
        } else if matches!(ending, "cls" | "json") {
            last_label = here;
        } else {
            continue;
        }
        if last_file == last_label {
            return true;
        }
    }
    false
}

/// Joins files of `medium` with their labels, in the order of the shards.
///
/// # Errors
/// When no shard is of the split, none holds such a file, or a label file can't be read.
pub(super) fn arrange(
    shards: &Shards,
    (split, medium): (Split, Medium),
    source: &str,
) -> Result<Index> {
    let splits: Vec<Option<Split>> = (0..shards.len()).map(|i| shard_split(shards, i)).collect();
    let named = splits.iter().any(Option::is_some);
    if !named && split == Split::Test || named && !splits.contains(&Some(split)) {
        return Err(layout::no_split(source, split)
            .hint(format!("name its shards after it, such as `birds-{split}-000.tar`")));
    }
    let mut labels: BTreeMap<(usize, &str), String> = BTreeMap::new();
    let mut bytes = Vec::new();
    for (path, member) in shards.paths.iter().zip(&shards.members) {
        if let Some((key, ending @ ("cls" | "json"))) = cut(path) {
            shards.read(*member, &mut bytes)?;
            if let Some(label) = label(ending, &bytes, path)? {
                labels.insert((member.shard, key), label);
            }
        }
    }
    let class_names = classes(labels.values());
    let number: BTreeMap<&str, u32> = class_names.iter().map(String::as_str).zip(0..).collect();
    let mut samples = Vec::new();
    for (i, (path, member)) in shards.paths.iter().zip(&shards.members).enumerate() {
        let asked = !named || splits[member.shard] == Some(split);
        if let (true, true, Some((key, _))) = (asked, Medium::of(path) == Some(medium), cut(path)) {
            let label = labels.get(&(member.shard, key));
            samples.push((i, label.and_then(|name| number.get(name.as_str()).copied())));
        }
    }
    if samples.is_empty() {
        return Err(layout::no_files(source));
    }
    Ok(Index { samples, class_names })
}

/// The split that a shard's file name says, word by word.
fn shard_split(shards: &Shards, index: usize) -> Option<Split> {
    let name = shards.shard(index).file_stem()?.to_string_lossy().into_owned();
    name.split(|c: char| !c.is_alphanumeric()).find_map(layout::split_named)
}

fn label(ending: &str, bytes: &[u8], path: &str) -> Result<Option<String>> {
    if ending == "cls" {
        return Ok(Some(String::from_utf8_lossy(bytes).trim().to_owned()));
    }
    let json: serde_json::Value = serde_json::from_slice(bytes)
        .map_err(|e| Error::failed(format!("`{path}` is no JSON")).because(e))?;
    Ok(["label", "cls", "class"].iter().find_map(|key| match json.get(key)? {
        serde_json::Value::String(name) => Some(name.clone()),
        serde_json::Value::Number(number) => Some(number.to_string()),
        _ => None,
    }))
}

/// Class names: `0` to the largest if all are numbers, else the names that occur, sorted.
fn classes<'a>(labels: impl Iterator<Item = &'a String> + Clone) -> Vec<String> {
    /// Beyond it numbers are identities, not classes counted from 0.
    const MOST: u32 = 1_000_000;
    let numbers: Option<Vec<u32>> = labels.clone().map(|label| label.parse().ok()).collect();
    match numbers.and_then(|numbers| numbers.into_iter().max()) {
        Some(largest) if largest < MOST => (0..=largest).map(|n| n.to_string()).collect(),
        _ => labels.collect::<BTreeSet<_>>().into_iter().cloned().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_cut_at_the_first_dot_of_its_name() {
        assert_eq!(cut("a.b/key.seg.png"), Some(("a.b/key", "seg.png")));
        assert_eq!(cut("a/none"), None);
        assert_eq!(cut(".hidden"), None);
    }

    #[test]
    fn labels_come_from_text_and_json() {
        assert_eq!(label("cls", b" 7\n", "x").unwrap(), Some("7".to_owned()));
        assert_eq!(label("json", br#"{"class": "owl"}"#, "x").unwrap(), Some("owl".to_owned()));
        assert_eq!(label("json", br#"{"caption": "an owl"}"#, "x").unwrap(), None);
        assert!(label("json", b"{", "x").is_err());
    }

    #[test]
    fn numbers_are_counted_and_names_sorted() {
        let of = |labels: &[&str]| {
            let labels: Vec<String> = labels.iter().map(|l| (*l).to_owned()).collect();
            classes(labels.iter())
        };
        assert_eq!(of(&["2", "0"]), ["0", "1", "2"]);
        assert_eq!(of(&["owl", "3"]), ["3", "owl"]);
        assert!(of(&[]).is_empty());
    }
}
