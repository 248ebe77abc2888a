//! `pretext plugin list` and `pretext plugin info`: what was found, what was refused, what can be set.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::words::{
    colour_on_stderr, colour_on_stdout, say, say_json, table, tell, tell_warnings, warning_text,
};
use crate::config::OptionSpec;
use crate::plugin::{Catalogue, MethodInfo, SearchPath, libraries};
use crate::{Error, Result};

/// Where plugins are looked for besides the usual places.
#[derive(Args, Debug)]
pub(super) struct Places {
    /// A plugin, or a folder with plugins, that wins over the usual places; may be repeated
    #[arg(long = "plugin", value_name = "PATH")]
    given: Vec<PathBuf>,
}

impl Places {
    /// The search path: what was given, then the usual places.
    pub(super) fn search(&self) -> SearchPath {
        SearchPath::standard(&self.given)
    }

    /// Every plugin there, for a command that needs one of them.
    ///
    /// # Errors
    /// When a place that was given does not exist, or is a file that was refused.
    pub(super) fn catalogue(&self) -> Result<Catalogue> {
        let catalogue = self.everything()?;
        let named = |path: &PathBuf| self.given.contains(path);
        if let Some(refused) = catalogue.refused.iter().find(|refused| named(&refused.path)) {
            return Err(refused.error());
        }
        let below = |path: &PathBuf| self.given.iter().any(|place| path.starts_with(place));
        let passed_over = catalogue.refused.iter().filter(|refused| below(&refused.path));
        tell_warnings(&passed_over.map(|refused| refused.error().to_string()).collect::<Vec<_>>());
        Ok(catalogue)
    }

    /// Every plugin there, and every file that was refused.
    ///
    /// # Errors
    /// When a place that was given does not exist, or is a folder without such a file.
    pub(super) fn everything(&self) -> Result<Catalogue> {
        if let Some(empty) = self.given.iter().find(|place| libraries(place).is_empty()) {
            let message = format!("there is no plugin at `{}`", empty.display());
            return Err(Error::asked_wrongly(message)
                .hint("name a plugin's `.so` file or a folder with such files"));
        }
        Ok(Catalogue::read(&self.search()))
    }
}

/// Look at plugins
#[derive(Args, Debug)]
pub(super) struct Plugin {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    List(List),
    Info(Info),
}

/// List methods, where they come from, and the files that were refused, and why
#[derive(Args, Debug)]
struct List {
    #[command(flatten)]
    places: Places,
    /// Write one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// Show a method's options: type, default, range and advice
#[derive(Args, Debug)]
struct Info {
    /// Name of the method
    method: String,
    #[command(flatten)]
    places: Places,
    /// Write one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

impl Plugin {
    /// Runs the subcommand.
    pub(super) fn run(&self) -> Result<()> {
        match &self.command {
            Command::List(list) => list.run(),
            Command::Info(info) => info.run(),
        }
    }
}

impl List {
    fn run(&self) -> Result<()> {
        let catalogue = self.places.everything()?;
        if self.json {
            return say_json(&json!(catalogue));
        }
        if catalogue.plugins.is_empty() {
            tell("no plugin was found in these places:");
            self.places.search().places().iter().for_each(|place| tell(place.display()));
        } else {
            say(table(&method_rows(&catalogue), colour_on_stdout()))?;
        }
        tell_refused(&catalogue);
        Ok(())
    }
}

/// A heading and one row per method.
pub(super) fn method_rows(catalogue: &Catalogue) -> Vec<Vec<String>> {
    let mut rows = vec![row(&["method", "plugin", "version", "contract", "file"])];
    for found in &catalogue.plugins {
        let info = &found.info;
        let path = found.path.display().to_string();
        rows.extend(info.methods.iter().map(|method| {
            row(&[&method.name, &info.package, &info.version, &info.contract, &path])
        }));
    }
    rows
}

/// One warning per refused file.
pub(super) fn tell_refused(catalogue: &Catalogue) {
    for refused in &catalogue.refused {
        let hint = refused.hint.as_ref().map_or(String::new(), |hint| format!(" ({hint})"));
        let text = format!("`{}` was refused: {}{hint}", refused.path.display(), refused.reason);
        tell(warning_text(&text, colour_on_stderr()));
    }
}

impl Info {
    fn run(&self) -> Result<()> {
        let catalogue = self.places.catalogue()?;
        let (found, method) = catalogue.method(&self.method)?;
        if self.json {
            let mut value = json!(method);
            value["plugin"] = json!({
                "package": found.info.package, "version": found.info.version,
                "contract": found.info.contract, "path": found.path, "sha256": found.sha256,
            });
            return say_json(&value);
        }
        say(format!("{}: {}\n", method.name, method.summary))?;
        let plugin =
            format!("{} {}, {}", found.info.package, found.info.version, found.path.display());
        let facts = [
            ("paper", method.paper.clone()),
            ("plugin", plugin),
            ("learns from", method.modalities.join(", ")),
            ("views", method.views.join(", ")),
            ("recipes", recipes(method)),
        ];
        let rows: Vec<Vec<String>> = facts.iter().map(|(name, fact)| row(&[name, fact])).collect();
        say(table(&rows, false))?;
        say(format!("\n{}", table(&option_rows(&method.options), colour_on_stdout())))
    }
}

/// How each of the method's recipes is asked for.
fn recipes(method: &MethodInfo) -> String {
    let asked = method.recipes.iter().map(|(name, _)| match name.as_str() {
        "default" => format!("`pretext train {}`", method.name),
        other => format!("`pretext train {}:{other}`", method.name),
    });
    asked.collect::<Vec<_>>().join(", ")
}

/// A heading and one row per option.
pub(super) fn option_rows(options: &[OptionSpec]) -> Vec<Vec<String>> {
    let mut rows = vec![row(&["option", "type", "default", "range", "advice"])];
    rows.extend(options.iter().map(|option| {
        let kind = option.kind.to_string();
        row(&[&option.name, &kind, &option.default_text(), &option.range(), &option.advice])
    }));
    rows
}

fn row(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|&cell| cell.to_owned()).collect()
}
