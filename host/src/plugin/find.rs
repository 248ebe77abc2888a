//! Where plugins lie, and which one wins: the first in the search path that has the method.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::metadata::{self, MethodInfo, PluginInfo};
use crate::error::did_you_mean;
use crate::run::sha256_of;
use crate::{Error, Result};

/// Files and folders in which plugins are looked for, in order.
#[derive(Clone, Debug, Default)]
pub struct SearchPath(Vec<PathBuf>);

impl SearchPath {
    /// What was `given` on the command line, then `PRETEXT_PLUGINS`, the folder of the executable and
    /// `plugins` in it, and the user's data folder.
    pub fn standard(given: &[PathBuf]) -> Self {
        let mut places = given.to_vec();
        if let Some(list) = std::env::var_os("PRETEXT_PLUGINS") {
            places.extend(std::env::split_paths(&list).filter(|path| !path.as_os_str().is_empty()));
        }
        if let Some(folder) = std::env::current_exe().ok().as_deref().and_then(Path::parent) {
            places.extend([folder.to_owned(), folder.join("plugins")]);
        }
        let data = std::env::var_os("XDG_DATA_HOME")
            .map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/share")));
        places.extend(data.map(|data| data.join("pretext/plugins")));
        Self(places)
    }

    /// These places only.
    pub fn only(places: Vec<PathBuf>) -> Self {
        Self(places)
    }

    /// The places, in order.
    pub fn places(&self) -> &[PathBuf] {
        &self.0
    }
}

/// A plugin that can be loaded.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    /// Its file.
    pub path: PathBuf,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: String,
    /// What it says of itself.
    #[serde(flatten)]
    pub info: PluginInfo,
}

/// A file that can't be loaded.
#[derive(Clone, Debug, Serialize)]
pub struct Refused {
    /// The file.
    pub path: PathBuf,
    /// Why, in one sentence.
    pub reason: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Refused {
    /// The error of a command that needs this file.
    pub fn error(&self) -> Error {
        let hint = self.hint.as_deref().unwrap_or("`pretext plugin list` shows the plugins found");
        let (path, reason) = (self.path.display(), &self.reason);
        Error::failed(format!("`{path}` can't be used: {reason}")).hint(hint)
    }
}

/// Every plugin in the search path, and every file that was refused.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Catalogue {
    /// Plugins, in the order in which they win.
    pub plugins: Vec<Found>,
    /// Files refused.
    pub refused: Vec<Refused>,
}

impl Catalogue {
    /// Reads the metadata of every `.so` in `search`; runs none of them. Places that don't exist are passed
    /// over; a file that can't be used stands in `refused`, with the reason.
    pub fn read(search: &SearchPath) -> Self {
        let mut catalogue = Self::default();
        let mut seen = BTreeSet::new();
        for path in search.0.iter().flat_map(|place| libraries(place)) {
            let real = path.canonicalize().unwrap_or_else(|_| path.clone());
            if !seen.insert(real) {
                continue;
            }
            match metadata::read(&path).and_then(|info| Ok((sha256_of(&path)?, info))) {
                Ok((sha256, info)) => catalogue.plugins.push(Found { path, sha256, info }),
                Err(error) => catalogue.refused.push(Refused {
                    path,
                    reason: error.to_string(),
                    hint: error.hint_text().map(str::to_owned),
                }),
            }
        }
        catalogue
    }

    /// The plugin that has `method`.
    ///
    /// # Errors
    /// When none has it, with the nearest name, or the reason why a likely file was refused.
    pub fn method(&self, method: &str) -> Result<(&Found, &MethodInfo)> {
        let methods = || {
            self.plugins.iter().flat_map(|p| p.info.methods.iter().map(move |method| (p, method)))
        };
        if let Some(found) = methods().find(|(_, info)| info.name == method) {
            return Ok(found);
        }
        let likely = self.refused.iter().find(|refused| {
            refused.path.file_name().is_some_and(|name| name.to_string_lossy().contains(method))
        });
        if let Some(refused) = likely {
            return Err(refused.error());
        }
        let names: BTreeSet<&str> = methods().map(|(_, info)| info.name.as_str()).collect();
        let hint = match did_you_mean(method, names.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if names.is_empty() => {
                "no plugin was found: name one with `--plugin PATH`, or build them with `cargo build --release --workspace`".to_owned()
            }
            None => format!(
                "known methods: {}; see where plugins are looked for with `pretext plugin list`",
                names.into_iter().collect::<Vec<_>>().join(", ")
            ),
        };
        Err(Error::asked_wrongly(format!("unknown method `{method}`")).hint(hint))
    }
}

/// The `.so` files of a folder by name, or the file itself, whatever its name; nothing where it doesn't exist.
pub fn libraries(place: &Path) -> Vec<PathBuf> {
    if !place.is_dir() {
        return if place.exists() { vec![place.to_owned()] } else { Vec::new() };
    }
    let Ok(entries) = std::fs::read_dir(place) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "so"))
        .collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_gives_its_libraries_in_order_and_says_why_each_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.so", "a.so", "note.txt"] {
            std::fs::write(folder.path().join(name), "no library").unwrap();
        }
        let catalogue = Catalogue::read(&SearchPath::only(vec![folder.path().to_owned()]));
        let names: Vec<_> =
            catalogue.refused.iter().map(|r| r.path.file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["a.so", "b.so"]);
        assert!(catalogue.refused.iter().all(|r| r.reason == "it is not a shared library"));
    }

    #[test]
    fn an_unknown_method_with_a_refused_file_of_that_name_gets_its_reason() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("libpretext_dino.so"), "no library").unwrap();
        let catalogue = Catalogue::read(&SearchPath::only(vec![folder.path().to_owned()]));
        let error = catalogue.method("dino").unwrap_err();
        assert!(error.message().ends_with("can't be used: it is not a shared library"));
        assert_eq!(catalogue.method("swav").unwrap_err().message(), "unknown method `swav`");
    }
}
