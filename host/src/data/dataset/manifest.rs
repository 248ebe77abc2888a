//! A fairseq manifest of sounds: the root folder on the first line, then `PATH<TAB>VALUES` per sound.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::folder::Folder;
use super::{Certainty, Kind, LabelRule, OpenOptions, Split, layout};
use crate::data::decode::Medium;
use crate::{Error, Result};

inventory::submit! {
    Kind {
        name: "manifest",
        opens: "FILE.tsv",
        help: "sounds listed as fairseq does: a line with the root folder, then PATH<TAB>VALUES; train.tsv has its test part in test.tsv, valid.tsv or dev.tsv beside it",
        recognise: |source| {
            let path = Path::new(source);
            if path.is_file() && path.extension().is_some_and(|ending| ending == "tsv") {
                Certainty::Yes
            } else {
                Certainty::No
            }
        },
        open: |source, options| Ok(Arc::new(open(source, options)?)),
    }
}

/// Files that hold the test part of a `train.tsv`, the best first.
const TEST_PARTS: [&str; 4] = ["test.tsv", "valid.tsv", "validation.tsv", "dev.tsv"];

fn open(source: &str, options: &OpenOptions) -> Result<Folder> {
    let path = part(Path::new(source), options, source)?;
    let unreadable = |e: &dyn std::fmt::Display| {
        Error::asked_wrongly(format!("can't read the manifest `{}`", path.display()))
            .because(e)
            .hint("check the path and its permissions")
    };
    let text = std::fs::read_to_string(&path).map_err(|e| unreadable(&e))?;
    let mut lines = text.lines();
    let root = lines.next().map(str::trim).filter(|root| !root.is_empty()).ok_or_else(|| {
        Error::asked_wrongly(format!("the manifest `{}` names no folder", path.display()))
            .hint("its first line is the folder that the paths below start from")
    })?;
    // A root that is no absolute path starts where the manifest lies, so that both can be moved.
    let root = path.parent().unwrap_or_else(|| Path::new("")).join(root);
    let (mut files, mut extents) = (Vec::new(), Vec::new());
    for (number, line) in (2..).zip(lines).filter(|(_, line)| !line.trim().is_empty()) {
        let (file, values) = entry(line).ok_or_else(|| {
            Error::asked_wrongly(format!("line {number} of `{}` is `{line}`", path.display()))
                .hint("write PATH.wav or PATH.flac, a tab, and the number of values in the file")
        })?;
        files.push(file.to_owned());
        extents.push(values);
    }
    if files.is_empty() {
        return Err(layout::no_files(source));
    }
    let (labels, class_names) = match options.label {
        LabelRule::NamePart(part) => {
            let all: Vec<usize> = (0..files.len()).collect();
            layout::label_by_name(&files, &all, part)
        }
        LabelRule::Folder => (vec![None; files.len()], Vec::new()),
    };
    let (split, rate, title) =
        (options.split, options.rate, format!("manifest `{}`", path.display()));
    let medium = Medium::Sound;
    Ok(Folder { title, root, medium, files, extents, labels, class_names, split, rate })
}

/// Path and number of values.
fn entry(line: &str) -> Option<(&str, u64)> {
    let (file, values) = line.split_once('\t')?;
    let values = values.trim().parse().ok()?;
    (Medium::of(file) == Some(Medium::Sound)).then_some((file, values))
}

/// The manifest that holds the asked part.
fn part(path: &Path, options: &OpenOptions, source: &str) -> Result<PathBuf> {
    let named = path.file_stem().and_then(|stem| layout::split_named(&stem.to_string_lossy()));
    match (options.split, named) {
        (Split::Train, _) | (Split::Test, Some(Split::Test)) => Ok(path.to_owned()),
        (Split::Test, Some(Split::Train)) => TEST_PARTS
            .iter()
            .map(|name| path.with_file_name(name))
            .find(|part| part.is_file())
            .ok_or_else(|| layout::no_split(source, Split::Test))
            .map_err(|error| error.hint("put a `test.tsv` or `valid.tsv` beside it")),
        (Split::Test, None) if !options.include.is_empty() => Ok(path.to_owned()),
        (Split::Test, None) => Err(layout::no_split(source, Split::Test)
            .hint("call it `train.tsv` with a `valid.tsv` beside it, or set `data.test_source`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::decode::sound::testing::wav;
    use crate::data::{Content, Sample};

    fn with(folder: &Path, name: &str, text: &str) -> String {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    #[test]
    fn sounds_are_found_from_the_root_with_their_lengths() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("sounds")).unwrap();
        std::fs::write(folder.path().join("sounds/no_2.wav"), wav(8_000, &[0.25; 40])).unwrap();
        let text = "sounds\nno_2.wav\t40\nyes_1.flac\t90\n";
        let source = with(folder.path(), "train.tsv", text);
        with(folder.path(), "valid.tsv", "sounds\nno_2.wav\t40\n");
        let options =
            OpenOptions { rate: 8_000, label: LabelRule::NamePart(0), ..OpenOptions::default() };
        let data = crate::data::open(&source, &options).unwrap();
        assert_eq!(data.content(), Content::Sounds { rate: 8_000 });
        assert_eq!((data.len(), data.extent(1), data.label(1)), (2, Some(90), Some(1)));
        assert_eq!(data.class_names(), ["no", "yes"]);
        let Sample::Sound(sound) = data.sample(0).unwrap() else { panic!("a sound") };
        assert_eq!((sound.rate, sound.wave.len(), sound.wave[7]), (8_000, 40, 0.25));
        assert!(data.sample(1).is_err(), "the second file isn't there");
        let test = OpenOptions { split: Split::Test, ..options };
        assert_eq!(crate::data::open(&source, &test).unwrap().len(), 1);
    }

    #[test]
    fn a_line_without_a_length_and_a_missing_test_part_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let source = with(folder.path(), "all.tsv", "/data\na.wav\t10\nb.wav 20\n");
        let error = crate::data::open(&source, &OpenOptions::default()).unwrap_err();
        assert!(error.message().starts_with("line 3 of"), "{error}");
        let test = OpenOptions { split: Split::Test, ..OpenOptions::default() };
        let error = crate::data::open(&source, &test).unwrap_err();
        assert!(error.hint_text().unwrap().contains("data.test_source"));
        let empty = with(folder.path(), "none.tsv", "/data\n");
        assert!(crate::data::open(&empty, &OpenOptions::default()).is_err());
    }
}
