//! What of the contract shows only between two files: a plugin that was built against another package.

use std::path::{Path, PathBuf};

use pretext_tests::fixture::{build_against, copy};
use pretext_tests::{Workplace, tree};

/// A copy of the contract's package with `version`, outside of the repository's workspace.
fn package(folder: &Path, version: &str) -> PathBuf {
    let api = folder.join("plugin-api");
    copy(&tree::root().join("plugin-api"), &api);
    let path = api.join("Cargo.toml");
    let text = std::fs::read_to_string(&path).expect("the package has a manifest");
    let lines = text.lines().map(|line| match line.split_once(".workspace") {
        Some(("version", _)) => format!("version = \"{version}\""),
        Some(("edition", _)) => "edition = \"2024\"".to_owned(),
        Some(("abi_stable", _)) => {
            "abi_stable = { version = \"0.11.3\", default-features = false }".to_owned()
        }
        Some(("inventory", _)) => "inventory = \"0.3.25\"".to_owned(),
        Some(_) => String::new(),
        None => line.replace("[lints]", "[workspace]").replace("workspace = true", ""),
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    std::fs::write(&path, text).expect("the manifest can be written");
    api
}

/// Makes of a copy of the contract's package in `api` that of contract 1.0: without the slot `stages`.
fn first_contract(api: &Path) {
    let edit = |file: &str, edits: &[(&str, &str)]| {
        let path = api.join("src").join(file);
        let mut text = std::fs::read_to_string(&path).expect("a file of the package");
        for (now, then) in edits {
            assert!(text.contains(now), "{file} has no `{now}`");
            text = text.replace(now, then);
        }
        std::fs::write(path, text).expect("the file can be written");
    };
    edit("abi/mod.rs", &[("MINOR: u16 = 1", "MINOR: u16 = 0")]);
    let slot = "    /// 1.1: declares the stages and trainings of the run; runs after `create`, before `plan`.\n    #[sabi(missing_field(option))]\n    pub stages: unsafe extern \"C\" fn(*mut Instance) -> Status,\n";
    edit("abi/method.rs", &[(slot, "")]);
    edit("export.rs", &[("        stages: stages::<M>,\n", "")]);
}

#[test]
fn a_plugin_of_contract_1_0_trains_on_this_host() {
    let place = Workplace::new();
    let api = package(place.path(), "0.1.0");
    first_contract(&api);
    let library =
        build_against(&api, "contrast", "contrast-of-1-0", &place.path().join("contrast"));
    let library = library.display().to_string();
    let info = place.pretext(&["plugin", "info", "contrast", "--plugin", &library, "--json"]);
    assert!(info.stdout.contains("\"contract\":\"1.0\""), "{}", info.stdout);
    let words = ["train", "contrast", "run=it", "steps=3", "--plugin", &library];
    place.pretext(&words).assert_done();
    assert!(place.path().join("runs/it/report.html").is_file());
}

#[test]
fn a_plugin_built_with_another_version_of_the_package_trains() {
    let place = Workplace::new();
    let api = package(place.path(), "7.3.1");
    let library =
        build_against(&api, "contrast", "contrast-elsewhere", &place.path().join("contrast"));
    let library = library.display().to_string();
    let trained = place.pretext(&["train", "contrast", "run=it", "--plugin", &library]);
    trained.assert_done();
    assert!(place.path().join("runs/it/report.html").is_file());
}
