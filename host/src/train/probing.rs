//! Probes of a run: the backbone that it trains beside the untrained one and the raw inputs.

use std::rc::Rc;

use super::evaluate::{Answer, Evaluation, Figures};
use super::inputs::{Form, Wanted};
use super::layers;
use super::prepare::Prepared;
use crate::config::Recipe;
use crate::module::Module;
use crate::run::{Record, Run};
use crate::{Error, Result};

/// Figures to compare with: the untrained backbone and the inputs themselves.
#[derive(Clone, Debug, PartialEq)]
pub struct Baselines {
    /// Of the student's backbone before any step.
    pub untrained: Figures,
    /// kNN accuracy on the inputs themselves; none without labels.
    pub raw: Option<f64>,
    /// Accuracy of a logistic regression on the inputs themselves, where it was asked.
    pub raw_linear: Option<f64>,
}

impl Baselines {
    /// Asks the network as it was built, before any step, and the inputs themselves; these by their
    /// neighbours alone, since a regression on pixels takes longer than one on features.
    ///
    /// # Errors
    /// When the method has no backbone.
    pub fn of(evaluation: &Evaluation, prepared: &Prepared) -> Result<Self> {
        let backbone = prepared.session.backbone().ok_or_else(no_backbone)?;
        let untrained = evaluation.ask_fully(&backbone, &prepared.trainer.state)?.figures;
        Ok(Self { untrained, raw: evaluation.raw()?, raw_linear: None })
    }
}

/// What `prepared`'s backbone is asked about.
///
/// # Errors
/// When no sample can be read, or the backbone lacks the layer that is asked.
pub fn evaluation(recipe: &Recipe, prepared: &Prepared) -> Result<Evaluation> {
    let Prepared { data, test, plan, .. } = prepared;
    if let Some(backbone) = prepared.session.backbone() {
        layers::check_probe(recipe, &*backbone)?;
    }
    Evaluation::new(data, test.as_ref(), &wanted(recipe, prepared), plan.grid.clone(), recipe)
}

/// How `prepared`'s backbone takes samples that it is asked about.
pub(super) fn wanted(recipe: &Recipe, prepared: &Prepared) -> Wanted {
    let side = match (recipe.data.size, prepared.shape.as_slice()) {
        (0, &[_, _, side]) => side.max(1),
        (size, _) => size.max(1),
    };
    Wanted {
        form: Form::of(prepared.data.content(), &prepared.shape, side),
        preprocess: prepared.preprocess,
        max_seconds: recipe.data.max_seconds,
        seed: recipe.seed,
    }
}

/// Asks the teacher's backbone, or the student's where there is no teacher.
///
/// # Errors
/// When the method has no backbone, or its features are not finite.
pub fn ask(evaluation: &Evaluation, prepared: &Prepared) -> Result<Answer> {
    evaluation.ask(&kept_backbone(prepared)?, &prepared.trainer.state)
}

/// Like [`ask`], with a linear probe.
///
/// # Errors
/// As [`ask`].
pub fn ask_fully(evaluation: &Evaluation, prepared: &Prepared) -> Result<Answer> {
    evaluation.ask_fully(&kept_backbone(prepared)?, &prepared.trainer.state)
}

fn kept_backbone(prepared: &Prepared) -> Result<Rc<dyn Module>> {
    let session = &prepared.session;
    session.teacher_backbone().or_else(|| session.backbone()).ok_or_else(no_backbone)
}

fn no_backbone() -> Error {
    Error::failed("the method asked for no backbone").hint("a method declares one in `build`")
}

/// Writes a probe's figures to the run's metrics.
pub(super) fn write_figures(folder: &mut Run, step: u64, figures: &[(String, f64)]) -> Result<()> {
    let mut record = Record::new();
    record.insert("step".into(), step.into());
    for (name, value) in figures {
        record.insert(name.clone(), (*value).into());
    }
    folder.metric(&record)
}

/// Whether the records hold the probe after step `step`: it was asked before a stop.
pub(super) fn already_asked(folder: &Run, step: u64) -> Result<bool> {
    let records = crate::run::read(&folder.path().join("metrics.jsonl"))?;
    let at =
        |record: &&Record| record.get("step").and_then(serde_json::Value::as_u64) == Some(step);
    Ok(records.iter().rev().take_while(at).any(|record| record.contains_key("rank")))
}
