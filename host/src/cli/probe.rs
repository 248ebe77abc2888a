//! `pretext probe`: asks a run's backbone about labelled data, without touching the run.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::asked::Asked;
use super::plugin::Places;
use super::words::{colour_on_stdout, say, say_json, table, tell_warnings};
use crate::Result;
use crate::train::again::{Again, again};
use crate::train::evaluate::Figures;

/// Ask a run's backbone: nearest neighbours, linear probe, rank and spread, beside the untrained one and raw inputs
#[derive(Args, Debug)]
pub(super) struct Probe {
    /// The run's folder
    run: PathBuf,
    /// Keys of the recipe to change, such as `test_source=PATH` or `k=10`
    #[arg(value_name = "KEY=VALUE")]
    words: Vec<String>,
    #[command(flatten)]
    places: Places,
    /// Write one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

impl Probe {
    /// Asks.
    pub(super) fn run(&self) -> Result<()> {
        let asked = Asked::run(&self.run, &self.words, &self.places)?;
        asked.take_threads()?;
        let mut again = again(&self.run, &asked.recipe, &asked.plugin)?;
        tell_warnings(&again.warnings);
        again.baselines.raw_linear = again.evaluation.raw_linear()?;
        let rows = rows(&again)?;
        if self.json {
            let figures: serde_json::Map<String, Value> =
                rows.iter().map(|(name, figures)| (name.clone(), object(figures))).collect();
            return say_json(&json!({
                "run": self.run, "step": again.step, "k": asked.recipe.probe.k,
                "bank": again.evaluation.bank.len(), "queries": again.evaluation.queries.len(),
                "knn_raw": again.baselines.raw, "linear_raw": again.baselines.raw_linear,
                "figures": figures,
            }));
        }
        let mut lines =
            vec![["backbone", "kNN", "linear", "rank", "spread"].map(str::to_owned).to_vec()];
        for (name, figures) in &rows {
            let (rank, spread) = (format!("{:.1}", figures.rank), format!("{:.3}", figures.spread));
            lines.push(vec![name.clone(), share(figures.knn), share(figures.linear), rank, spread]);
        }
        let (raw, linear) = (again.baselines.raw, again.baselines.raw_linear);
        if raw.is_some() {
            let none = || "-".to_owned();
            lines.push(vec!["raw input".to_owned(), share(raw), share(linear), none(), none()]);
        }
        say(table(&lines, colour_on_stdout()))?;
        say(format!(
            "\nafter step {}; k = {}, a bank of {}, {} queries",
            again.step,
            asked.recipe.probe.k,
            again.evaluation.bank.len(),
            again.evaluation.queries.len()
        ))
    }
}

/// Figures of each backbone: the teacher's if there is one, the student's, the untrained.
fn rows(again: &Again) -> Result<Vec<(String, Figures)>> {
    let session = &again.prepared.session;
    let mut rows = Vec::new();
    for (name, backbone) in
        [("teacher", session.teacher_backbone()), ("student", session.backbone())]
    {
        if let Some(backbone) = backbone {
            let answer = again.evaluation.ask_fully(&backbone, &again.prepared.trainer.state)?;
            rows.push((name.to_owned(), answer.figures));
        }
    }
    rows.push(("untrained".to_owned(), again.baselines.untrained.clone()));
    Ok(rows)
}

fn object(figures: &Figures) -> Value {
    json!({
        "knn": figures.knn, "linear": figures.linear,
        "rank": figures.rank, "spread": figures.spread,
    })
}

fn share(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", 100.0 * share))
}
