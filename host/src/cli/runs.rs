//! `pretext runs`: the runs in a folder, and how far each came.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::words::{colour_on_stdout, say, say_json, table, tell, tell_warnings};
use crate::run::{Record, Run};
use crate::{Error, Result};

/// List runs: method, data, steps done, loss, kNN
#[derive(Args, Debug)]
pub(super) struct Runs {
    /// The folder in which runs lie
    #[arg(value_name = "FOLDER", default_value = "runs")]
    folder: PathBuf,
    /// Write one JSON object per run instead of a table
    #[arg(long)]
    json: bool,
}

/// What a run's files say of it.
struct Row {
    path: PathBuf,
    method: String,
    data: String,
    started: String,
    step: Option<u64>,
    /// Steps in all; none where its manifest doesn't say.
    steps: Option<u64>,
    loss: Option<f64>,
    knn: Option<f64>,
    finished: bool,
    /// Why its files can't be read.
    damage: Option<Error>,
}

impl Runs {
    /// Lists.
    pub(super) fn run(&self) -> Result<()> {
        // Before the first run there is no folder of the usual name.
        if !self.folder.is_dir() && self.folder.as_os_str() != "runs" {
            return Err(Error::asked_wrongly(format!(
                "there is no folder `{}`",
                self.folder.display()
            ))
            .hint("name the folder that runs lie in, such as `pretext runs runs`"));
        }
        let rows = rows(&self.folder)?;
        if self.json {
            return rows.iter().try_for_each(|row| {
                say_json(&json!({
                    "run": row.path, "method": row.method, "data": row.data,
                    "started_at": row.started, "step": row.step, "steps": row.steps,
                    "loss": row.loss, "knn": row.knn, "finished": row.finished,
                    "damage": row.damage.as_ref().map(ToString::to_string),
                }))
            });
        }
        if rows.is_empty() {
            tell(format!("there are no runs in `{}`", self.folder.display()));
            return Ok(());
        }
        let heading = ["run", "method", "data", "started", "step", "loss", "kNN", "state"];
        let mut lines = vec![heading.map(str::to_owned).to_vec()];
        lines.extend(rows.iter().map(Row::cells));
        say(table(&lines, colour_on_stdout()))?;
        let damages = rows.iter().filter_map(|row| row.damage.as_ref().map(ToString::to_string));
        tell_warnings(&damages.collect::<Vec<_>>());
        Ok(())
    }
}

impl Row {
    /// A run of which nothing but its place is known.
    fn damaged(path: PathBuf, error: Error) -> Self {
        Self {
            path,
            method: "-".to_owned(),
            data: "-".to_owned(),
            started: "-".to_owned(),
            step: None,
            steps: None,
            loss: None,
            knn: None,
            finished: false,
            damage: Some(error),
        }
    }

    fn cells(&self) -> Vec<String> {
        let dash = || "-".to_owned();
        vec![
            self.path.display().to_string(),
            self.method.clone(),
            self.data.clone(),
            self.started.clone(),
            match (self.step, self.steps) {
                (Some(step), Some(steps)) => format!("{step} of {steps}"),
                (Some(step), None) => step.to_string(),
                (None, _) => dash(),
            },
            self.loss.map_or_else(dash, |loss| format!("{loss:.4}")),
            self.knn.map_or_else(dash, |knn| format!("{:.1} %", 100.0 * knn)),
            match (&self.damage, self.finished) {
                (Some(_), _) => "damaged",
                (None, true) => "finished",
                (None, false) => "not finished",
            }
            .to_owned(),
        ]
    }
}

fn rows(folder: &Path) -> Result<Vec<Row>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(Error::asked_wrongly(format!("can't read `{}`", folder.display()))
                .because(error)
                .hint("name the folder in which runs lie, as in `pretext runs runs`"));
        }
    };
    let mut paths: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.join("recipe.toml").is_file())
        .collect();
    paths.sort();
    Ok(paths
        .into_iter()
        .map(|path| row(&path).unwrap_or_else(|error| Row::damaged(path, error)))
        .collect())
}

fn row(path: &Path) -> Result<Row> {
    let recipe = Run::read_recipe(path)?;
    let records = crate::run::read(&path.join("metrics.jsonl"))?;
    let last = |key: &str| {
        records
            .iter()
            .rev()
            .find_map(|record: &Record| record.get(key).and_then(serde_json::Value::as_f64))
    };
    let text = |value: Option<&toml::Value>| {
        value.and_then(toml::Value::as_str).unwrap_or_default().to_owned()
    };
    // A run goes on without its manifest.
    let manifest = Run::read_manifest(path).unwrap_or_default();
    let step = last("step").map(|step| step as u64);
    // A run that is made longer keeps the report of its shorter self until it ends again.
    let all_done = step.unwrap_or(0) >= manifest.steps;
    Ok(Row {
        path: path.to_owned(),
        method: text(recipe.get("method")),
        data: text(recipe.get("data").and_then(|data| data.get("source"))),
        started: manifest.started_at,
        step,
        steps: (manifest.steps > 0).then_some(manifest.steps),
        loss: last("loss"),
        knn: last("knn"),
        finished: all_done && path.join("report.html").is_file(),
        damage: None,
    })
}
