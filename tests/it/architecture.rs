//! The rules about who may import whom, and who may do what.

use std::collections::BTreeMap;

use pretext_tests::tree::{assert_none, root, sources};

/// What each module of the host may use of the others. `config`, `error` and `random` serve everyone.
const LAYERS: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("random", &[]),
    ("engine", &[]),
    ("config", &["engine"]),
    ("state", &["engine"]),
    ("schedule", &[]),
    ("cluster", &["engine"]),
    ("store", &["cluster", "run"]),
    ("teacher", &["engine", "schedule", "state"]),
    ("module", &["engine", "state"]),
    ("data", &["engine", "store"]),
    ("metric", &["engine"]),
    ("run", &["engine", "state"]),
    ("plugin", &["data", "module", "metric", "run", "engine", "state", "schedule", "teacher"]),
    ("probe", &["plugin", "data", "module", "metric", "run", "engine", "state"]),
    ("report", &["metric", "run", "engine"]),
    ("weights", &["module", "run", "engine"]),
    (
        "train",
        &[
            "plugin", "probe", "report", "weights", "data", "module", "metric", "run", "engine",
            "state", "schedule", "teacher", "cluster", "store",
        ],
    ),
];
const FOR_EVERYONE: &[&str] = &["config", "error", "random", "Error", "Result"];
/// Macros of the crate's root, and the module that defines each.
const MACROS: &[(&str, &str)] = &[("for_float", "engine")];

/// Names after `crate::` in a line, the first segment of each.
fn imports(line: &str) -> Vec<String> {
    let segments = line.match_indices("crate::").flat_map(|(at, found)| {
        let rest = &line[at + found.len()..];
        let names = match rest.strip_prefix('{') {
            Some(list) => list.split('}').next().unwrap_or("").split(',').collect(),
            None => vec![rest],
        };
        names.into_iter().map(|name| {
            let word = |c: char| c.is_alphanumeric() || c == '_';
            name.trim().chars().take_while(|&c| word(c)).collect::<String>()
        })
    });
    segments.filter(|name| name.starts_with(char::is_lowercase)).collect()
}

#[test]
fn a_module_of_the_host_uses_only_the_layers_below_it() {
    let layers: BTreeMap<&str, &[&str]> = LAYERS.iter().copied().collect();
    let mut broken = Vec::new();
    for source in sources("host/src", "rs").iter().filter(|source| !source.is_test()) {
        let inside = source.path.trim_start_matches("host/src/");
        let module = inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs");
        if matches!(module, "cli" | "lib" | "main") {
            continue;
        }
        let Some(allowed) = layers.get(module) else {
            broken.push(format!("{}: `{module}` has no layer in this test", source.path));
            continue;
        };
        for (number, line) in source.code() {
            for name in imports(line) {
                let defined = MACROS.iter().find(|(word, _)| *word == name);
                let used = defined.map_or(name.as_str(), |(_, owner)| owner);
                let fine =
                    used == module || allowed.contains(&used) || FOR_EVERYONE.contains(&used);
                if !fine {
                    broken.push(format!("{}:{number}: `{module}` uses `{name}`", source.path));
                }
            }
        }
    }
    assert_none("the layers are cli > train > probe > plugin > data, module > engine", &broken);
}

#[test]
fn an_import_is_read_from_paths_and_lists() {
    assert_eq!(imports("use crate::train::Event;"), ["train"]);
    assert_eq!(imports("use crate::{Error, plugin::find, run};"), ["plugin", "run"]);
    assert_eq!(imports("fn f() -> crate::Result<()> { crate::cli::x() }"), ["cli"]);
}

/// The packages of ours that the manifest below `folder` depends on, in any way.
fn dependencies(folder: &str) -> Vec<String> {
    let path = root().join(folder).join("Cargo.toml");
    let text = std::fs::read_to_string(path).expect("a package has a manifest");
    let names = text.lines().filter_map(|line| line.split(['.', '=', ' ']).next());
    names.filter(|name| name.starts_with("pretext")).map(str::to_owned).collect()
}

fn plugin_folders() -> Vec<String> {
    let entries = std::fs::read_dir(root().join("plugins")).expect("plugins/ exists").flatten();
    let folders = entries.filter(|entry| entry.path().join("Cargo.toml").exists());
    let mut names: Vec<String> =
        folders.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn everything_points_at_plugin_api_and_nothing_at_a_plugin() {
    let mut rules = vec![
        ("plugin-api".to_owned(), vec![]),
        ("host".to_owned(), vec!["pretext-plugin-api"]),
        ("tests".to_owned(), vec!["pretext", "pretext-plugin-api"]),
        ("benches".to_owned(), vec!["pretext", "pretext-plugin-api"]),
    ];
    let plugins = plugin_folders();
    rules
        .extend(plugins.iter().map(|name| (format!("plugins/{name}"), vec!["pretext-plugin-api"])));
    let mut broken = Vec::new();
    for (folder, allowed) in &rules {
        for name in dependencies(folder) {
            if !allowed.contains(&name.as_str()) {
                broken.push(format!("{folder}/Cargo.toml depends on `{name}`"));
            }
        }
    }
    assert!(!plugins.is_empty());
    assert_none("a package may depend only on the ones listed in this test", &broken);
}

#[test]
fn the_host_knows_no_method_by_name() {
    let mut broken = Vec::new();
    let plugins = plugin_folders();
    for source in sources("host/src", "rs").iter().filter(|source| !source.is_test()) {
        for (number, line) in source.code() {
            let line = line.to_lowercase();
            let mut words = line.split(|c: char| !c.is_alphanumeric());
            if let Some(name) = words.find(|word| plugins.iter().any(|name| name == word)) {
                broken.push(format!("{}:{number}: `{name}`", source.path));
            }
        }
    }
    assert_none("no method's name stands in the host's code", &broken);
}

#[test]
fn unsafe_stands_behind_few_doors() {
    let doors = [
        "plugin-api/src/abi/",
        "plugin-api/src/export.rs",
        "host/src/plugin/",
        "host/src/engine/kernel/",
        "host/src/engine/cuda/",
        "host/src/engine/storage.rs",
        "host/src/cli/alloc.rs",
    ];
    let mut broken = Vec::new();
    for folder in ["host", "plugin-api", "plugins", "benches"] {
        for source in sources(folder, "rs") {
            if doors.iter().any(|door| source.path.starts_with(door)) {
                continue;
            }
            for (number, line) in source.code() {
                let mut words = line.split(|c: char| !(c.is_alphanumeric() || c == '_'));
                if words.any(|word| word == "unsafe") {
                    broken.push(format!("{}:{number}", source.path));
                }
            }
        }
    }
    assert_none("unsafe code stands only where this test lists it", &broken);
}

#[test]
fn plugins_forbid_unsafe_code() {
    let forbids = |name: &String| {
        let path = root().join("plugins").join(name).join("src/lib.rs");
        let text = std::fs::read_to_string(path).expect("a plugin has src/lib.rs");
        !text.contains("#![forbid(unsafe_code)]")
    };
    let broken: Vec<String> = plugin_folders().into_iter().filter(forbids).collect();
    assert_none("a plugin's lib.rs says `#![forbid(unsafe_code)]`", &broken);
}

#[test]
fn data_threads_leave_the_engine_s_threads_alone() {
    // With one of them it is the thread that waits for data.
    let mut broken = Vec::new();
    for source in sources("host/src/data", "rs") {
        if source.code().any(|(_, line)| line.contains("rayon")) {
            broken.push(source.path);
        }
    }
    assert_none("host/src/data uses no rayon", &broken);
}

#[test]
fn only_the_cli_prints() {
    let printing = ["println!", "print!", "stdout(", "stderr(", "dbg!"];
    let mut broken = Vec::new();
    for folder in ["host/src", "plugin-api/src", "plugins"] {
        for source in sources(folder, "rs") {
            if source.path.starts_with("host/src/cli/") || source.is_test() {
                continue;
            }
            let prints = |line: &str| printing.iter().any(|word| line.contains(word));
            let lines = source.code().filter(|(_, line)| prints(line));
            broken.extend(lines.map(|(number, _)| format!("{}:{number}", source.path)));
        }
    }
    assert_none("only host/src/cli prints", &broken);
}
