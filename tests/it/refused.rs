//! Files that are no plugin of this host: told apart without running a line of them.

use pretext_plugin_api::abi;
use pretext_plugin_api::metadata::checksum;
use pretext_tests::{Outcome, Workplace, fixture};

/// A file that is refused, why, and what to do about it.
struct Bad {
    name: &'static str,
    bytes: Vec<u8>,
    reason: &'static str,
    hint: &'static str,
}

const ABSENT: &str = "it is a library without pretext metadata, so no pretext plugin";
const CUT: &str = "the library is truncated or damaged: \
                   Invalid ELF section header offset/size/alignment";
const AGAIN: &str = "copy or build it again";

/// Where the metadata section lies in a library.
fn section(library: &[u8]) -> usize {
    let places: Vec<usize> = library
        .windows(abi::MAGIC.len())
        .enumerate()
        .filter_map(|(at, bytes)| (bytes == abi::MAGIC).then_some(at))
        .collect();
    let [place] = places[..] else { panic!("the magic stands in {places:?}") };
    place
}

/// The good library with the byte at `at` of its metadata section set by `change`.
fn changed(library: &[u8], at: usize, change: impl Fn(u8) -> u8) -> Vec<u8> {
    let place = section(library) + at;
    let mut bytes = library.to_vec();
    bytes[place] = change(bytes[place]);
    bytes
}

/// The good library with one `from` of its metadata's JSON replaced by `to`, and a checksum that fits.
fn rewritten(library: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len(), "nothing else may move");
    let (mut bytes, place) = (library.to_vec(), section(library));
    let length = u64::from_le_bytes(bytes[place + 16..place + 24].try_into().expect("8 bytes"));
    let json = &mut bytes[place + 32..][..length as usize];
    let windows = json.windows(from.len());
    let at = windows.into_iter().position(|text| text == from.as_bytes()).expect(from);
    json[at..at + to.len()].copy_from_slice(to.as_bytes());
    let sum = checksum(json);
    bytes[place + 24..place + 32].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// A shared library of the system: every test process has one in use.
fn system_library() -> Vec<u8> {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("a list of libraries");
    let path = maps.lines().find_map(|line| {
        let path = line.split_whitespace().last()?;
        path.contains("libc.so").then_some(path)
    });
    std::fs::read(path.expect("a C library")).expect("it can be read")
}

fn bad_files(good: &[u8]) -> Vec<Bad> {
    let damaged = "its metadata is damaged";
    let newer = "update pretext, or rebuild the plugin against an older `pretext-plugin-api`";
    let bad = |name, bytes, reason, hint| Bad { name, bytes, reason, hint };
    vec![
        bad(
            "text.so",
            b"just some words".to_vec(),
            "it is not a shared library",
            "a plugin is the `.so` that `cargo build --release` makes of a `cdylib` crate",
        ),
        bad("truncated.so", good[..good.len() / 2].to_vec(), CUT, AGAIN),
        bad(
            "system.so",
            system_library(),
            ABSENT,
            "a plugin calls `export_methods!` of `pretext-plugin-api` once",
        ),
        // The header: magic 0..8, format 8..12, major 12..14, minor 14..16, length, checksum, JSON.
        bad(
            "newer.so",
            changed(good, 12, |_| 9),
            "it speaks contract 9.1, this host speaks 1.1",
            newer,
        ),
        bad(
            "minor.so",
            changed(good, 14, |_| 7),
            "it speaks contract 1.7, this host speaks 1.1",
            newer,
        ),
        bad(
            "older.so",
            changed(good, 12, |_| 0),
            "it speaks contract 0.1, this host speaks 1.1",
            "rebuild the plugin against the present `pretext-plugin-api`",
        ),
        bad("flipped.so", changed(good, 40, |byte| byte ^ 1), damaged, AGAIN),
        bad(
            "needy.so",
            rewritten(good, "\"sub@1\"", "\"sub@9\""),
            "its method `faults` needs the op `sub@9`, which this host does not have",
            "update pretext",
        ),
        bad(
            "aborting.so",
            rewritten(good, "\"panic\":\"unwind\"", "\"panic\":\"abort\" "),
            "it was built to abort on a panic, which would end the run",
            "build it with `panic = \"unwind\"`, which is the default",
        ),
    ]
}

/// A folder `plugins` with the good library and the bad files.
fn folder() -> (Workplace, Vec<Bad>) {
    let place = Workplace::new();
    let good = std::fs::read(fixture("faults")).expect("the good library");
    let bad = bad_files(&good);
    for file in &bad {
        place.write(&format!("plugins/{}", file.name), &file.bytes);
    }
    place.write("plugins/good.so", good);
    (place, bad)
}

/// Runs `pretext` where every library that is opened leaves the file `trace`.
fn traced(place: &Workplace, arguments: &[&str]) -> (Outcome, bool) {
    let trace = place.path().join("trace");
    let outcome = Outcome::of(place.command(arguments).env("PRETEXT_TEST_TRACE", &trace));
    (outcome, trace.exists())
}

#[test]
fn a_list_shows_the_good_plugin_and_says_of_each_other_file_why_not() {
    let (place, bad) = folder();
    let (list, ran) = traced(&place, &["plugin", "list", "--plugin", "plugins"]);
    assert_eq!(list.code, Some(0), "{}", list.stderr);
    assert!(list.stdout.contains("faults  pretext-faults"), "{}", list.stdout);
    assert_eq!(list.stdout.matches("plugins/").count(), 1, "{}", list.stdout);
    for Bad { name, reason, hint, .. } in &bad {
        let line = format!("warning: `plugins/{name}` was refused: {reason} ({hint})\n");
        assert!(list.stderr.contains(&line), "wanted\n{line}\ngot\n{}", list.stderr);
    }
    assert_eq!(list.stderr.lines().count(), bad.len(), "{}", list.stderr);
    assert!(!ran, "listing ran code of a library");
}

#[test]
fn a_list_for_machines_holds_the_same_and_runs_nothing() {
    let (place, bad) = folder();
    let (list, ran) = traced(&place, &["plugin", "list", "--plugin", "plugins", "--json"]);
    assert_eq!(list.code, Some(0), "{}", list.stderr);
    let list: serde_json::Value = serde_json::from_str(&list.stdout).expect("JSON");
    assert_eq!(list["plugins"][0]["path"], "plugins/good.so");
    assert_eq!(list["refused"].as_array().map(Vec::len), Some(bad.len()));
    assert!(!ran, "listing ran code of a library");
}

#[test]
fn info_and_train_with_a_refused_file_say_why_and_run_none_of_it() {
    let (place, bad) = folder();
    for Bad { name, reason, hint, .. } in &bad {
        let path = format!("plugins/{name}");
        let error = format!("`{path}` can't be used: {reason}");
        // Also where another plugin has the method: who names a file wants that one.
        for words in [["plugin", "info", "faults"], ["train", "faults", "steps=1"]] {
            let (refused, ran) = traced(&place, &[&words[..], &["--plugin", &path]].concat());
            refused.assert_ended(1, &error, hint);
            assert!(!ran, "{words:?} ran code of {name}");
        }
        let (refused, ran) = traced(&place, &["train", "dino", "steps=1", "--plugin", &path]);
        refused.assert_ended(1, &error, hint);
        assert!(!ran, "train ran code of {name}");
    }
    assert!(!place.path().join("runs").exists(), "a refused plugin starts no run");
}

#[test]
fn a_likely_file_in_a_folder_of_refused_ones_is_named() {
    let place = Workplace::new();
    place.write("plugins/libpretext_swirl.so", "just some words");
    place.pretext(&["train", "swirl", "--plugin", "plugins"]).assert_ended(
        1,
        "`plugins/libpretext_swirl.so` can't be used: it is not a shared library",
        "a plugin is the `.so` that `cargo build --release` makes of a `cdylib` crate",
    );
}

#[test]
fn a_good_plugin_beside_bad_files_trains_and_leaves_its_trace() {
    let (place, _) = folder();
    let (info, ran) = traced(&place, &["plugin", "info", "faults", "--plugin", "plugins"]);
    assert_eq!(info.code, Some(0), "{}", info.stderr);
    assert!(!ran, "`plugin info` ran code of a library");
    let (done, ran) = traced(&place, &["train", "faults", "--plugin", "plugins", "steps=1"]);
    done.assert_done();
    assert!(ran, "the trace works: without it the other tests here would prove nothing");
}

#[test]
fn a_place_without_a_plugin_is_asked_wrongly() {
    let place = Workplace::new();
    std::fs::create_dir(place.path().join("empty")).unwrap();
    for given in ["no/such.so", "empty"] {
        place.pretext(&["plugin", "list", "--plugin", given]).assert_refused(
            &format!("there is no plugin at `{given}`"),
            "name a plugin's `.so` file or a folder with such files",
        );
    }
}
