//! Budgets and habits of the repository's own files. The length of functions is clippy's part.

use pretext_tests::tree::{Source, assert_none, sources};

const MAX_LINES: usize = 500;
const BANNED: &[&str] =
    &["utils", "util", "helpers", "helper", "common", "base", "misc", "manager", "core"];

fn all() -> Vec<Source> {
    sources("", "rs")
}

fn broken(rule: impl Fn(&Source) -> Option<String>) -> Vec<String> {
    all().iter().filter_map(|source| Some(format!("{}: {}", source.path, rule(source)?))).collect()
}

#[test]
fn no_file_is_longer_than_500_lines() {
    let long = broken(|source| {
        let n = source.text.lines().count();
        (n > MAX_LINES).then(|| format!("{n} lines"))
    });
    assert_none("split the file by what it does", &long);
}

#[test]
fn every_file_says_first_what_it_is() {
    let silent = broken(|source| (!source.text.starts_with("//! ")).then(|| "no `//!`".to_owned()));
    assert_none("the first line of a file says what it is", &silent);
}

#[test]
fn no_file_has_a_name_that_says_nothing() {
    let names = broken(|source| {
        let parts = source.path.split('/').map(|part| part.trim_end_matches(".rs"));
        parts.into_iter().find(|part| BANNED.contains(part)).map(str::to_owned)
    });
    assert_none("a file is named after the thing it defines", &names);
}

#[test]
fn nothing_is_left_for_later() {
    let marks = ["TODO", "FIXME", "XXX", "todo!(", "unimplemented!("];
    let left = broken(|source| {
        if source.path.ends_with("it/tidy.rs") {
            return None;
        }
        let line =
            source.text.lines().position(|line| marks.iter().any(|mark| line.contains(mark)))?;
        Some(format!("line {}", line + 1))
    });
    assert_none("finish it or leave it out", &left);
}

#[test]
fn every_file_belongs_to_its_crate() {
    let files = all();
    let lost = files.iter().filter(|source| {
        let Some((folder, name)) = source.path.rsplit_once('/') else { return false };
        let stem = name.trim_end_matches(".rs");
        if matches!(stem, "lib" | "main" | "build") || folder.ends_with("/benches") {
            return false;
        }
        let (parent_folder, module) = match stem {
            "mod" => folder.rsplit_once('/').unwrap_or(("", folder)),
            _ => (folder, stem),
        };
        let (above, own) = parent_folder.rsplit_once('/').unwrap_or(("", parent_folder));
        let parents = [
            format!("{parent_folder}/mod.rs"),
            format!("{parent_folder}/lib.rs"),
            format!("{parent_folder}/main.rs"),
            format!("{above}/{own}.rs"),
        ];
        let declares = |parent: &&Source| {
            let named = parent
                .text
                .lines()
                .any(|line| line.trim_end().ends_with(&format!("mod {module};")));
            parents.contains(&parent.path) && named
        };
        let by_path = format!("#[path = \"{name}\"]");
        !files.iter().any(|parent| declares(&parent) || parent.text.contains(&by_path))
    });
    let lost: Vec<String> = lost.map(|source| source.path.clone()).collect();
    assert_none("no `mod` line names this file", &lost);
}
