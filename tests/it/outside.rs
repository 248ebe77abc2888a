//! A plugin that somebody wrote elsewhere: built away from this repository, from the contract alone.

use std::collections::BTreeSet;
use std::path::Path;

use object::elf::{DT_NEEDED, FileHeader64};
use object::read::elf::{Dyn, FileHeader};
use object::{Endianness, Object, ObjectSymbol};
use pretext_tests::fixture::build;
use pretext_tests::{Workplace, tree};

/// Names and versions in a lock file.
fn packages(lock: &str) -> BTreeSet<String> {
    let value = |line: Option<&str>| {
        line.and_then(|line| line.split_once(" = ")).map(|(_, value)| value.to_owned())
    };
    let blocks = lock.split("[[package]]").skip(1).map(|block| {
        let mut lines = block.lines().skip(1);
        [value(lines.next()), value(lines.next())].map(Option::unwrap_or_default).join(" ")
    });
    blocks.collect()
}

/// Libraries that the library at `path` asks the loader for.
fn needed(bytes: &[u8]) -> object::Result<Vec<String>> {
    let header = FileHeader64::<Endianness>::parse(bytes)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, bytes)?;
    let Some((entries, link)) = sections.dynamic(endian, bytes)? else { return Ok(Vec::new()) };
    let strings = sections.strings(endian, bytes, link)?;
    let needed = entries.iter().filter(|entry| entry.tag(endian) == DT_NEEDED);
    let names = needed.map(|entry| entry.string(endian, strings));
    names.map(|name| Ok(String::from_utf8_lossy(name?).into_owned())).collect()
}

fn losses(metrics: &str) -> Vec<f64> {
    let record = |line| serde_json::from_str::<serde_json::Value>(line).expect("a record");
    metrics.lines().filter_map(|line| record(line)["loss"].as_f64()).collect()
}

#[test]
fn a_plugin_from_elsewhere_builds_from_the_contract_alone_and_trains() {
    let place = Workplace::new();
    let elsewhere = place.path().join("my-plugin");
    assert!(!elsewhere.starts_with(tree::root().canonicalize().expect("the repository")));
    let library = build("contrast", &elsewhere);
    assert_no_engine(&place.read("my-plugin/Cargo.lock"), &library);

    let path = library.display().to_string();
    place.pretext(&["train", "contrast", "run=it", "--plugin", &path]).assert_done();
    let losses = losses(&place.read("runs/it/metrics.jsonl"));
    let late = losses[70..].iter().sum::<f64>() / 10.0;
    assert_eq!(losses.len(), 80);
    assert!(late < 0.75 * losses[0], "it learns nothing: {} to {late}", losses[0]);
}

/// The plugin holds no engine: neither as a dependency, nor linked in, nor asked of the loader.
fn assert_no_engine(lock: &str, library: &Path) {
    let (own, all) = (packages(lock), packages(&tree::read("Cargo.lock")));
    let foreign: Vec<_> = own.difference(&all).filter(|name| !name.contains("contrast")).collect();
    assert!(foreign.is_empty(), "versions that the repository doesn't have: {foreign:?}");
    assert!(own.iter().any(|name| name.starts_with("\"pretext-plugin-api\"")), "{own:?}");
    let engine = own.iter().find(|name| name.contains("candle") || name.contains("\"pretext\""));
    assert_eq!(engine, None);

    let bytes = std::fs::read(library).expect("the library");
    assert!(bytes.len() < 2 << 20, "{} bytes", bytes.len());
    assert!(!bytes.windows(6).any(|word| word == b"candle"), "candle is linked in");
    for name in needed(&bytes).expect("an ELF file") {
        let system = ["libc.", "libgcc_s.", "libm.", "ld-linux"];
        assert!(system.iter().any(|known| name.starts_with(known)), "it needs {name}");
    }
    let file = object::File::parse(&*bytes).expect("an ELF file");
    let defined = file.dynamic_symbols().filter(ObjectSymbol::is_definition);
    let names: Vec<_> = defined.map(|symbol| symbol.name().expect("a name")).collect();
    assert_eq!(names, ["_1as_0lib_1header_0root_bmodule_bloader"], "one door");
}
