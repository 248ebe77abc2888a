//! The end of a run: a last probe, the report, and the closing lines.

use super::evaluate::{Evaluation, Figures};
use super::event::{Event, Observer};
use super::run::{Outcome, Prepared, ask, write_probe};
use crate::Result;
use crate::config::Recipe;
use crate::run::Run;

/// Figures to compare with: the untrained backbone and the inputs themselves.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Baselines {
    pub(super) untrained: Figures,
    pub(super) raw: Option<f64>,
}

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
    ending: &Ending<'_>,
    folder: &mut Run,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    observer.event(Event::Phase("asking the trained backbone".to_owned()));
    let learned = ask(ending.evaluation, ending.prepared)?;
    let named = learned.named();
    write_probe(folder, ending.prepared.total_steps, &named)?;
    observer.event(Event::Probe { step: ending.prepared.total_steps, figures: named });
    observer.event(Event::Phase("writing the report".to_owned()));
    let page = super::page::page(ending, folder.path(), &learned)?;
    let report = folder.write_report(&page)?;
    let mut figures = learned.named();
    let baseline = |name: &str, value: Option<f64>| value.map(|value| (name.to_owned(), value));
    figures.extend(baseline("knn_untrained", ending.baselines.untrained.knn));
    figures.extend(baseline("knn_raw", ending.baselines.raw));
    observer.event(Event::Finished {
        summary: summary(ending, &learned),
        report: report.display().to_string(),
    });
    Ok(Outcome { run: folder.path().to_owned(), figures })
}

fn summary(ending: &Ending<'_>, learned: &Figures) -> Vec<String> {
    let mut lines = Vec::new();
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    if let Some(knn) = learned.knn {
        let probe = &ending.recipe.probe;
        let others = [
            ending.baselines.untrained.knn.map(|knn| format!("untrained {}", percent(knn))),
            ending.baselines.raw.map(|knn| format!("raw input {}", percent(knn))),
        ];
        let others: Vec<String> = others.into_iter().flatten().collect();
        lines.push(format!(
            "kNN accuracy  {} ({}); k = {}, {} neighbours' bank, {} queries",
            percent(knn),
            others.join(", "),
            probe.k,
            ending.evaluation.bank.len(),
            ending.evaluation.queries.len()
        ));
    }
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
