//! `docs/step.md`: below its marker, the tensors of every method of this repository, as it declares them.

use std::collections::BTreeMap;

use pretext::plugin::{Catalogue, SearchPath};
use pretext_tests::tree::{read, root};
use pretext_tests::{built, pretext};
use serde_json::Value;

const PAGE: &str = "docs/step.md";
/// What stands before the part that this test writes.
const MARKER: &str = "<!-- Written by `PRETEXT_WRITE_DOCS=1 cargo test -p pretext-tests --test it -- step_page`. -->\n";

/// The name with `N` for its numbers, and the numbers.
fn generic(name: &str) -> (String, Vec<String>) {
    let mut numbers = Vec::new();
    let parts: Vec<&str> = name
        .split('.')
        .map(|part| {
            let number = part.chars().all(|c| c.is_ascii_digit());
            if number {
                numbers.push(part.to_owned());
            }
            if number { "N" } else { part }
        })
        .collect();
    (parts.join("."), numbers)
}

fn text<'a>(row: &'a Value, key: &str) -> &'a str {
    row[key].as_str().unwrap_or_default()
}

/// `[B, 3, 32, 32]`.
fn shape(row: &Value) -> String {
    let sizes = row["sizes"].as_array().cloned().unwrap_or_default();
    let size = |(i, size): (usize, &Value)| match size.as_u64() {
        Some(size) => size.to_string(),
        None => if i == 0 { "B" } else { "*" }.to_owned(),
    };
    format!("[{}]", sizes.iter().enumerate().map(size).collect::<Vec<_>>().join(", "))
}

/// One row for the tensors of a file that differ in a number only.
fn rows(listed: &[Value], file: &str) -> String {
    let in_file: Vec<&Value> = listed.iter().filter(|row| row["file"] == file).collect();
    let trained = |name: &str| {
        let gradient = format!("gradient.{name}");
        listed.iter().any(|row| text(row, "name") == gradient)
    };
    let mut kinds: BTreeMap<(String, String), Vec<&Value>> = BTreeMap::new();
    let mut order = Vec::new();
    for row in in_file {
        let name = text(row, "name");
        if file == "out" && (name.starts_with("gradient.") || name.starts_with("after.")) {
            continue;
        }
        let kind = (generic(name).0, shape(row));
        if !kinds.contains_key(&kind) {
            order.push(kind.clone());
        }
        kinds.entry(kind).or_default().push(row);
    }
    let mut text_rows = String::new();
    for kind in order {
        let all = &kinds[&kind];
        let (name, n) = match all.as_slice() {
            [one] => (text(one, "name"), String::new()),
            several => (kind.0.as_str(), format!(" ({} of them)", several.len())),
        };
        let gradient = if file == "out" || !trained(text(all[0], "name")) { "" } else { "yes" };
        let (kind_of_number, shape) = (text(all[0], "type"), kind.1);
        let row = format!("| {file} | `{name}`{n} | {kind_of_number} | {shape} | {gradient} |\n");
        text_rows.push_str(&row);
    }
    text_rows
}

fn section(method: &str) -> String {
    let listed = pretext(&["step", method, "--names", "--json"]);
    listed.assert_done();
    let listed: Value = serde_json::from_str(&listed.stdout).expect("JSON");
    let listed = listed.as_array().expect("a list");
    let files = ["batch", "weights", "out"].map(|file| rows(listed, file)).concat();
    format!(
        "\n### {method}\n\nWith its own recipe, `pretext step {method} --names`:\n\n\
        | file | tensor | type | shape | gradient |\n|---|---|---|---|---|\n{files}"
    )
}

#[test]
fn the_page_of_recorded_steps_lists_the_tensors_of_every_method() {
    let catalogue = Catalogue::read(&SearchPath::only(vec![built().to_owned()]));
    let mut methods: Vec<String> = catalogue
        .plugins
        .iter()
        .flat_map(|found| found.info.methods.iter().map(|method| method.name.clone()))
        .collect();
    methods.sort();
    let sections: String = methods.iter().map(|method| section(method)).collect();
    let page = read(PAGE);
    let (head, _) = page.split_once(MARKER).expect("the page has its marker");
    let expected = format!("{head}{MARKER}{sections}");
    if std::env::var_os("PRETEXT_WRITE_DOCS").is_some() {
        std::fs::write(root().join(PAGE), expected).expect("the page can be written");
    } else {
        let differing = expected.lines().zip(page.lines()).find(|(want, got)| want != got);
        assert!(
            page == expected,
            "{PAGE} is old, first in {differing:?}; its marker says how to write it"
        );
    }
}
