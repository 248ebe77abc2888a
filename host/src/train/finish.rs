//! The end of a run: a last probe, the report, and the closing lines.

use super::evaluate::{Evaluation, Figures};
use super::event::{Event, Observer};
use super::page::{Look, page};
use super::prepare::Prepared;
use super::probing::{Baselines, already_asked, ask_fully, write_figures};
use super::run::Outcome;
use crate::Result;
use crate::config::Recipe;
use crate::run::Run;

/// What this process did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Work {
    /// From its start, in seconds.
    pub(super) seconds: f64,
    /// Samples that it trained on.
    pub(super) samples: u64,
}

/// Everything that the end of a run looks back on.
#[derive(Debug)]
pub(super) struct Ending<'a> {
    pub(super) recipe: &'a Recipe,
    pub(super) prepared: &'a Prepared,
    pub(super) evaluation: &'a Evaluation,
    pub(super) baselines: Baselines,
    pub(super) work: Work,
}

/// Asks the trained backbone, writes the report, says how it went.
pub(super) fn finish(
    mut ending: Ending<'_>,
    folder: &mut Run,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    observer.event(Event::Phase("asking the trained backbone".to_owned()));
    ending.baselines.raw_linear = ending.evaluation.raw_linear()?;
    let Ending { recipe, prepared, evaluation, baselines, .. } = &ending;
    let answer = ask_fully(evaluation, prepared)?;
    let mut figures = answer.figures.named();
    let step = prepared.last_step();
    if !already_asked(folder, step)? {
        write_figures(folder, step, &figures)?;
    }
    observer.event(Event::Probe { step, figures: figures.clone() });
    observer.event(Event::Phase("writing the report".to_owned()));
    let look = Look { recipe, prepared, evaluation, baselines, answer: &answer };
    let report = folder.write_report(&page(&look, folder.path())?)?;
    let baseline = |name: &str, value: Option<f64>| value.map(|value| (name.to_owned(), value));
    figures.extend(baseline("knn_untrained", baselines.untrained.knn));
    figures.extend(baseline("knn_raw", baselines.raw));
    figures.extend(baseline("linear_untrained", baselines.untrained.linear));
    figures.extend(baseline("linear_raw", baselines.raw_linear));
    figures.push(("rank_untrained".to_owned(), baselines.untrained.rank));
    figures.push(("spread_untrained".to_owned(), baselines.untrained.spread));
    observer.event(Event::Finished {
        figures: figures.clone(),
        summary: summary(&ending, &answer.figures),
        report: report.display().to_string(),
    });
    Ok(Outcome { run: folder.path().to_owned(), figures })
}

fn summary(ending: &Ending<'_>, learned: &Figures) -> Vec<String> {
    let mut lines: Vec<String> =
        knn_line(ending.recipe, ending.evaluation, &ending.baselines, learned)
            .into_iter()
            .chain(linear_line(&ending.baselines, learned))
            .collect();
    let untrained = &ending.baselines.untrained;
    lines.push(format!(
        "features      rank {:.1} (untrained {:.1}), spread {:.2} (untrained {:.2})",
        learned.rank, untrained.rank, learned.spread, untrained.spread
    ));
    let Work { seconds, samples } = ending.work;
    lines.push(format!(
        "time          {seconds:.0} s for {samples} samples, {:.0} a second all in all",
        samples as f64 / seconds.max(1e-9)
    ));
    lines
}

/// The kNN accuracy beside its baselines, in one line; none without labels.
fn knn_line(
    recipe: &Recipe,
    evaluation: &Evaluation,
    baselines: &Baselines,
    learned: &Figures,
) -> Option<String> {
    Some(format!(
        "kNN accuracy  {} ({}); k = {}, a bank of {}, {} queries",
        percent(learned.knn?),
        beside(baselines.untrained.knn, baselines.raw),
        recipe.probe.k,
        evaluation.bank.len(),
        evaluation.queries.len()
    ))
}

/// The linear probe's accuracy beside its baselines, in one line; none where it wasn't asked.
fn linear_line(baselines: &Baselines, learned: &Figures) -> Option<String> {
    let beside = beside(baselines.untrained.linear, baselines.raw_linear);
    Some(format!("linear probe  {} ({beside})", percent(learned.linear?)))
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// What the untrained network and the raw inputs reach.
fn beside(untrained: Option<f64>, raw: Option<f64>) -> String {
    let others = [("untrained", untrained), ("raw input", raw)];
    let known = others.into_iter().filter_map(|(name, v)| Some(format!("{name} {}", percent(v?))));
    known.collect::<Vec<_>>().join(", ")
}
