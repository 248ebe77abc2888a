//! The product on disk: the binary and the plugins, built in the profile that a benchmark runs in.

use std::path::PathBuf;
use std::process::Command;

use pretext::config::{Draft, MethodTable, Recipe};
use pretext::module::registry::backbone_options;
use pretext::plugin::{Catalogue, MethodInfo, SearchPath};
use pretext::{Error, Result};

/// Builds the workspace and gives the folder with `pretext` and the plugins. A benchmark alone builds
/// libraries only, so what lies there could be missing or old.
///
/// # Errors
/// When the build fails.
pub fn built() -> Result<PathBuf> {
    let failed = |reason: &str| Error::failed(reason).hint("run it with `cargo bench`");
    let this = std::env::current_exe().map_err(|error| failed("no path").because(error))?;
    // target/PROFILE/deps/NAME-HASH
    let folder = this.ancestors().nth(2).ok_or_else(|| failed("no target folder"))?.to_owned();
    let target = folder.parent().ok_or_else(|| failed("no target folder"))?;
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev".to_owned(),
        Some(name) => name.to_owned(),
    };
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--workspace", "--profile", &profile])
        .args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml")])
        .arg("--target-dir")
        .arg(target)
        .status()
        .map_err(|error| failed("cargo can't be started").because(error))?;
    if !status.success() {
        return Err(failed("`cargo build --workspace` failed"));
    }
    Ok(folder)
}

/// Every plugin of the workspace.
///
/// # Errors
/// When the build fails.
pub fn plugins() -> Result<Catalogue> {
    Ok(Catalogue::read(&SearchPath::only(vec![built()?])))
}

/// The method's default recipe, with `key=value` words on top.
///
/// # Errors
/// When a key or value is wrong.
pub fn recipe(method: &MethodInfo, words: &[&str]) -> Result<Recipe> {
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let table = MethodTable {
        recipe: method.recipe("default").unwrap_or_default(),
        options: &method.options,
    };
    Draft::open(&method.name, &words)?.resolve(&table, &backbone_options)
}
