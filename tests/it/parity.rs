//! `docs/parity.md`: the certificates of all tests on one page.
//!
//! The page is written by the tests: run them all, then this one with `PRETEXT_WRITE_DOCS=1`.

use pretext_tests::parity::{Claim, all, measured, number, rounded};
use pretext_tests::tree::{read, root};

const PAGE: &str = "docs/parity.md";

const HEAD: &str = "\
# Parity

What is compared with other programs' values, written by the tests themselves:

    cargo test -p pretext-tests --test it
    PRETEXT_WRITE_DOCS=1 cargo test -p pretext-tests --test it -- parity

A row is one comparison: what of the product, whose values, the largest difference that the test allows, and the largest one seen,
up to the next power of ten (so that the page reads the same on every machine) or to the tolerance. A difference is relative to the
value wanted, or to the root mean square of all values wanted where that is larger, unless the row names a unit. The values lie in
`tests/reference` beside the scripts that made them; the tests need no Python to compare with them. Most scripts compute in f64,
the product in f32: what is seen is its rounding.
";

/// One row, with its figure from `seen`.
fn row(claim: &Claim, seen: &str) -> String {
    let Claim { what, against, file, .. } = claim;
    let tolerance = number(claim.tolerance);
    format!("| {what} | {against} | {tolerance} | {seen} | `{file}` |\n")
}

/// The first lines of a table.
const TABLE: &str = "| what | against | allowed | seen | test |\n|---|---|---|---|---|\n";

/// The whole page.
fn page(seen: impl Fn(&Claim) -> String) -> String {
    let (mut page, mut of) = (HEAD.to_owned(), "");
    for claim in all() {
        if claim.of != of {
            of = claim.of;
            page.extend(["\n## ", of, "\n\n", TABLE]);
        }
        page.push_str(&row(claim, &seen(claim)));
    }
    page
}

/// The figure that `page` has for `claim`; none where it has no such row.
fn figure(page: &str, claim: &Claim) -> Option<f64> {
    let section = page.split("\n## ").find(|section| section.lines().next() == Some(claim.of))?;
    let row = row(claim, "SEEN");
    let (before, after) = row.split_once("SEEN")?;
    section
        .lines()
        .find_map(|line| line.strip_prefix(before)?.strip_suffix(after.trim_end())?.parse().ok())
}

#[test]
fn the_page_of_certificates_has_every_comparison_of_the_tests_and_nothing_else() {
    let path = root().join(PAGE);
    if std::env::var_os("PRETEXT_WRITE_DOCS").is_some() {
        let unseen: Vec<&str> =
            all().iter().filter(|c| measured(c).is_none()).map(|c| c.what).collect();
        assert!(unseen.is_empty(), "run all tests first: nothing was seen of {unseen:?}");
        let seen = |claim: &Claim| {
            number(rounded(measured(claim).unwrap_or(f64::INFINITY), claim.tolerance))
        };
        std::fs::write(path, page(seen)).expect("the page can be written");
        return;
    }
    let text = read(PAGE);
    let seen = |claim: &Claim| match figure(&text, claim) {
        Some(far) if far <= claim.tolerance => number(far),
        Some(_) => "above its tolerance".to_owned(),
        None => "missing".to_owned(),
    };
    let expected = page(seen);
    if text != expected {
        let differing = expected.lines().zip(text.lines()).find(|(want, got)| want != got);
        panic!(
            "{PAGE} is not what the tests say, first in {differing:?}; its head says how to write it"
        );
    }
}
