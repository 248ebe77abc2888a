//! Plugins that tests build for themselves, each in a cargo workspace of its own, from `tests/plugins`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use crate::binary::built;
use crate::tree::root;

/// The folder of the fixtures' build outputs: not the binary's own, where it would find them.
fn target() -> PathBuf {
    built().parent().expect("a profile lies in the target folder").join("fixtures")
}

/// The library of `tests/plugins/NAME`, built once per process.
///
/// # Panics
/// When it can't be built.
pub fn fixture(name: &str) -> PathBuf {
    static BUILT: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut libraries = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let library = libraries.entry(name.to_owned());
    library.or_insert_with(|| build(name, &target().join("src").join(name))).clone()
}

/// Copies `tests/plugins/NAME` to `folder`, as somebody elsewhere would have it, and builds it there:
/// without a network, with the versions of the repository's lock file, from `plugin-api` alone.
///
/// # Panics
/// When it can't be built.
pub fn build(name: &str, folder: &Path) -> PathBuf {
    let api = root().join("plugin-api").canonicalize().expect("plugin-api is there");
    build_against(&api, name, &format!("pretext-{name}"), folder)
}

/// The same with the contract's package in the folder `api`, under the name `package`.
///
/// # Panics
/// When it can't be built.
pub fn build_against(api: &Path, name: &str, package: &str, folder: &Path) -> PathBuf {
    copy(&root().join("tests/plugins").join(name), folder);
    let manifest = folder.join("Cargo.toml");
    let text = std::fs::read_to_string(&manifest).expect("a fixture has a manifest");
    let here = text.replace("../../../plugin-api", &api.display().to_string());
    assert_ne!(text, here, "{name} depends on plugin-api by its path");
    let here = here.replace(&format!("\"pretext-{name}\""), &format!("\"{package}\""));
    std::fs::write(&manifest, here).expect("the manifest can be written");
    let lock = folder.join("Cargo.lock");
    std::fs::copy(root().join("Cargo.lock"), lock).expect("there is a lock file");
    let target = target();
    let output = Command::new(env!("CARGO"))
        .args(["build", "--release", "--offline", "--quiet", "--manifest-path"])
        .arg(&manifest)
        .arg("--target-dir")
        .arg(&target)
        .output()
        .expect("cargo runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`cargo build` of {name} failed:\n{said}");
    target.join(format!("release/lib{}.so", package.replace('-', "_")))
}

/// Copies a folder with all that is in it.
///
/// # Panics
/// When a file can't be read or written.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("folders can be made");
    for entry in std::fs::read_dir(from).expect("a fixture is a folder").flatten() {
        let (source, place) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy(&source, &place);
        } else {
            std::fs::copy(&source, &place).expect("files can be copied");
        }
    }
}
