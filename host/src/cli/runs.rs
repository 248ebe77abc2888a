//! `pretext runs`: the runs in a folder, and how far each came.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::words::{colour_on_stdout, say, say_json, table, tell};
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
    loss: Option<f64>,
    knn: Option<f64>,
    finished: bool,
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
                    "started_at": row.started, "step": row.step, "loss": row.loss,
                    "knn": row.knn, "finished": row.finished,
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
        say(table(&lines, colour_on_stdout()))
    }
}

impl Row {
    fn cells(&self) -> Vec<String> {
        let dash = || "-".to_owned();
        vec![
            self.path.display().to_string(),
            self.method.clone(),
            self.data.clone(),
            self.started.clone(),
            self.step.map_or_else(dash, |step| step.to_string()),
            self.loss.map_or_else(dash, |loss| format!("{loss:.4}")),
            self.knn.map_or_else(dash, |knn| format!("{:.1} %", 100.0 * knn)),
            if self.finished { "finished" } else { "not finished" }.to_owned(),
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
    Ok(paths.into_iter().filter_map(|path| row(path).ok()).collect())
}

fn row(path: PathBuf) -> Result<Row> {
    let recipe = Run::read_recipe(&path)?;
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
    Ok(Row {
        method: text(recipe.get("method")),
        data: text(recipe.get("data").and_then(|data| data.get("source"))),
        started: Run::read_manifest(&path).map(|m| m.started_at).unwrap_or_default(),
        step: last("step").map(|step| step as u64),
        loss: last("loss"),
        knn: last("knn"),
        finished: path.join("report.html").is_file(),
        path,
    })
}
