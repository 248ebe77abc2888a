//! What a run's report shows, gathered from the run's files and the backbone's answer.

use std::path::Path;

use super::evaluate::{Answer, Evaluation};
use super::inputs::Inputs;
use super::prepare::Prepared;
use super::probing::Baselines;
use super::sketch;
use crate::config::Recipe;
use crate::data::batch::ViewBatch;
use crate::data::dataset::Content;
use crate::data::field::Field;
use crate::data::loader::{Loader, LoaderOptions};
use crate::data::transform::preprocess::Preprocess;
use crate::metric::Features;
use crate::probe::knn::neighbours;
use crate::report::{
    Labelled, MapInput, Picture, ProbeFigures, Query, ReportInput, ViewSheet, render,
};
use crate::run::{Record, Run};
use crate::{Error, Result};

/// Samples whose views, and queries whose neighbours, are shown.
const SHOWN: usize = 8;
/// Neighbours of each.
const NEIGHBOURS: usize = 8;
/// Points of the map.
const POINTS: usize = 1000;
/// Records that are schedules.
const SCHEDULES: [&str; 4] = ["lr", "weight_decay", "teacher_decay", "temperature_teacher"];

/// Everything that a report looks back on.
#[derive(Debug)]
pub(super) struct Look<'a> {
    /// What was run.
    pub recipe: &'a Recipe,
    /// The method, its data and its weights.
    pub prepared: &'a Prepared,
    /// What the backbone was asked about.
    pub evaluation: &'a Evaluation,
    /// What to compare with.
    pub baselines: &'a Baselines,
    /// What it answered.
    pub answer: &'a Answer,
}

/// The page for the run in `folder`.
///
/// # Errors
/// When the folder's files can't be read.
pub(super) fn page(look: &Look<'_>, folder: &Path) -> Result<String> {
    let Look { recipe, prepared, answer, .. } = *look;
    let timings = crate::run::read(&folder.join("timings.jsonl"))?;
    let records = crate::run::read(&folder.join("metrics.jsonl"))?;
    let (stages, metrics) = records.into_iter().partition(|record| record.contains_key("stage"));
    render(&ReportInput {
        run: folder.file_name().map_or_else(String::new, |name| name.to_string_lossy().into()),
        method: recipe.method.clone(),
        data: prepared.data.describe(),
        backbone: backbone(recipe),
        knn: knn(look),
        linear: linear(look),
        rank: Some((answer.figures.rank, answer.dim)),
        spread: Some(answer.figures.spread),
        samples_per_second: median(&timings, "samples_per_second"),
        wall_seconds: Some(timings.iter().filter_map(|r| r.get("seconds")?.as_f64()).sum()),
        metrics,
        stages: stage_figures(stages),
        schedules: SCHEDULES.map(str::to_owned).to_vec(),
        warnings: warnings(look),
        views: views(recipe, prepared)?,
        queries: queries(look)?,
        map: Some(map(look)),
        recipe: recipe.to_toml()?,
        manifest: manifest(folder)?,
    })
}

/// The records of stages as names and figures.
fn stage_figures(records: Vec<Record>) -> Vec<(String, Vec<(String, f64)>)> {
    let row = |record: Record| {
        let name = record.get("stage").and_then(serde_json::Value::as_str).unwrap_or_default();
        let figures = record.iter().filter(|(key, _)| *key != "step");
        let figures = figures.filter_map(|(key, value)| Some((key.clone(), value.as_f64()?)));
        (name.to_owned(), figures.collect())
    };
    records.into_iter().map(row).collect()
}

fn backbone(recipe: &Recipe) -> String {
    let options = recipe.backbone.options.to_map();
    let shown = ["size", "width", "depth", "heads", "patch"].into_iter().filter_map(|name| {
        options.get(name).map(|value| format!("{name} {}", value.to_string().trim_matches('"')))
    });
    std::iter::once(recipe.backbone.kind.clone()).chain(shown).collect::<Vec<_>>().join(", ")
}

fn knn(look: &Look<'_>) -> Option<ProbeFigures> {
    look.answer.figures.knn.map(|trained| ProbeFigures {
        trained,
        untrained: look.baselines.untrained.knn,
        pixels: look.baselines.raw,
        chance: look.evaluation.chance(),
    })
}

fn linear(look: &Look<'_>) -> Option<ProbeFigures> {
    look.answer.figures.linear.map(|trained| ProbeFigures {
        trained,
        untrained: look.baselines.untrained.linear,
        pixels: look.baselines.raw_linear,
        chance: look.evaluation.chance(),
    })
}

/// The middle value of the records' numbers called `key`.
fn median(records: &[Record], key: &str) -> Option<f64> {
    let mut values: Vec<f64> = records.iter().filter_map(|r| r.get(key)?.as_f64()).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// Spread below which features have all but collapsed.
const COLLAPSED: f64 = 0.1;

fn warnings(look: &Look<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    let figures = &look.answer.figures;
    if figures.spread < COLLAPSED {
        warnings.push(format!(
            "The features have all but collapsed: their spread is {:.3}. Try a lower learning rate, or a lower teacher temperature.",
            figures.spread
        ));
    }
    if let (Some(knn), Some(untrained)) = (figures.knn, look.baselines.untrained.knn)
        && knn <= untrained
    {
        warnings
            .push("The trained features are no better than the untrained network's.".to_owned());
    }
    warnings
}

/// The views of the first samples, as the method sees them.
fn views(recipe: &Recipe, prepared: &Prepared) -> Result<ViewSheet> {
    if matches!(prepared.data.content(), Content::Vectors { .. }) {
        return Ok(ViewSheet::default());
    }
    let batch = SHOWN.min(prepared.data.len());
    let options = LoaderOptions {
        batch,
        seed: recipe.seed,
        workers: 1,
        prefetch: 1,
        end: Some(1),
        max_seconds: recipe.data.max_seconds,
        // The run is over: what of its data is broken must not keep back its report.
        max_broken_share: 1.0,
        units: prepared.units.clone(),
        ..LoaderOptions::default()
    };
    let mut loader = Loader::new(prepared.data.clone(), &prepared.plan, options)?;
    let Some(batch) = loader.next_batch()? else { return Ok(ViewSheet::default()) };
    let pictures = |view: &ViewBatch| {
        let fields = view.fields.iter();
        let mut shown = fields.filter(|field| ["pixels", "samples"].contains(&field.name));
        let field = shown.next()?;
        Some(
            (0..batch.len())
                .map(|sample| picture(field, sample, &prepared.preprocess))
                .collect::<Vec<_>>(),
        )
    };
    let shown: Vec<_> =
        batch.views.iter().filter_map(|view| Some((view.name.clone(), pictures(view)?))).collect();
    let samples = (0..batch.len())
        .map(|sample| shown.iter().map(|(_, pictures)| pictures[sample].clone()).collect());
    Ok(ViewSheet {
        samples: samples.collect(),
        names: shown.iter().map(|(name, _)| name.clone()).collect(),
    })
}

/// Sample `index` of a view for people: normalised images `[B, 3, H, W]`, spectrograms `[B, 1, H, W]` or
/// waveforms `[B, T]`.
fn picture(field: &Field, index: usize, preprocess: &Preprocess) -> Picture {
    let len: usize = field.shape[1..].iter().product();
    let values = &field.values.f32()[index * len..][..len];
    let &[_, channels, height, width] = field.shape.as_slice() else {
        return sketch::waveform(values);
    };
    if channels == 1 {
        return sketch::spectrogram(values, (height, width));
    }
    Picture { width, height, rgb: preprocess.shown(values) }
}

/// A few samples with the training samples nearest to them.
fn queries(look: &Look<'_>) -> Result<Vec<Query>> {
    let Look { evaluation, answer, prepared, .. } = *look;
    let (bank, queries) = (&evaluation.bank, &evaluation.queries);
    if bank.picture(0).is_none() || queries.picture(0).is_none() {
        return Ok(Vec::new());
    }
    let count = SHOWN.min(queries.len());
    let asked = Features::new(&answer.queries[..count * answer.dim], answer.dim)?;
    let found = neighbours(Features::new(&answer.bank, answer.dim)?, asked, NEIGHBOURS)?;
    let names = prepared.data.class_names();
    let shown = |inputs: &Inputs, index: usize| Labelled {
        picture: inputs.picture(index).unwrap_or_default(),
        class: inputs.labels.get(index).and_then(|label| names.get(*label as usize).cloned()),
    };
    let query = |(index, found): (usize, &Vec<crate::probe::knn::Neighbour>)| Query {
        sample: shown(queries, index),
        neighbours: found.iter().map(|n| (shown(bank, n.index), f64::from(n.similarity))).collect(),
    };
    Ok(found.iter().enumerate().map(query).collect())
}

/// Features of the queries, or of the bank where nothing is asked about.
fn map(look: &Look<'_>) -> MapInput {
    let Look { evaluation, answer, .. } = *look;
    let (features, labels) = if evaluation.queries.is_empty() {
        (&answer.bank, &evaluation.bank.labels)
    } else {
        (&answer.queries, &evaluation.queries.labels)
    };
    let rows = POINTS.min(features.len() / answer.dim.max(1));
    MapInput {
        features: features[..rows * answer.dim].to_vec(),
        width: answer.dim,
        labels: labels.iter().take(rows).copied().collect(),
        classes: look.prepared.data.class_names().to_vec(),
        seed: look.recipe.seed,
    }
}

/// The manifest's numbers and texts, flat.
fn manifest(folder: &Path) -> Result<Vec<(String, String)>> {
    let manifest = Run::read_manifest(folder)?;
    let value = serde_json::to_value(&manifest)
        .map_err(|error| Error::failed("a manifest has no JSON form").because(error))?;
    let mut rows = Vec::new();
    flatten("", &value, &mut rows);
    Ok(rows)
}

fn flatten(name: &str, value: &serde_json::Value, rows: &mut Vec<(String, String)>) {
    match value {
        serde_json::Value::Object(map) => {
            for (key, value) in map {
                let name = if name.is_empty() { key.clone() } else { format!("{name} {key}") };
                flatten(&name, value, rows);
            }
        }
        serde_json::Value::Array(values) => {
            for (i, value) in values.iter().enumerate() {
                flatten(&format!("{name} {}", i + 1), value, rows);
            }
        }
        serde_json::Value::String(text) => rows.push((name.to_owned(), text.clone())),
        other => rows.push((name.to_owned(), other.to_string())),
    }
}
