//! Three ways to show a run: a bar on a terminal, plain lines elsewhere, JSON lines for machines.

use std::io::{IsTerminal, stderr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value, json};

use super::words::{colour_on_stderr, duration_text, say_json, stdout_closed, tell, warning_text};
use crate::train::{Event, Observer, StepReport};

/// The renderer that fits: JSON lines where asked for, a bar where stderr is a terminal, else plain
/// lines every `log_every` steps. `stop` is set when the reader of the JSON lines goes away.
pub fn renderer(json: bool, log_every: u64, stop: &Arc<AtomicBool>) -> Box<dyn Observer> {
    if json {
        Box::new(JsonLines { stop: Arc::clone(stop) })
    } else if stderr().is_terminal() {
        Box::new(Bar::new())
    } else {
        Box::new(PlainLines::new(log_every, |line: String| tell(line)))
    }
}

/// A bar with the figures of the last step; everything else scrolls above it.
#[derive(Debug)]
struct Bar {
    bar: ProgressBar,
    colour: bool,
}

impl Bar {
    fn new() -> Self {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        let template = "{bar:24} {pos}/{len} {wide_msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { bar, colour: colour_on_stderr() }
    }

    /// Writes the lines of `event` above the bar.
    fn above(&self, event: &Event) {
        for line in lines(event, self.colour) {
            self.bar.println(line);
        }
    }
}

impl Observer for Bar {
    fn event(&mut self, event: Event) {
        match event {
            Event::Started { from_step, total_steps, .. } => {
                self.bar.set_length(total_steps);
                self.bar.set_position(from_step);
                self.above(&event);
            }
            Event::Step(report) => {
                self.bar.set_position(report.step);
                self.bar.set_message(short(&report));
            }
            Event::Phase(text) => self.bar.set_message(text),
            Event::Finished { .. } => {
                self.bar.finish_and_clear();
                lines(&event, self.colour).iter().for_each(tell);
            }
            other => self.above(&other),
        }
    }
}

/// What a bar has room for.
fn short(report: &StepReport) -> String {
    format!(
        "loss {:.4} lr {:.2e} {:.0} samples/s data_wait {:.0}% {} left",
        report.loss,
        report.lr,
        report.samples_per_second,
        100.0 * report.data_wait,
        duration_text(report.time_left),
    )
}

/// One line per event, and one per interval of steps with every number.
struct PlainLines<W: FnMut(String)> {
    log_every: u64,
    first: bool,
    write: W,
}

impl<W: FnMut(String)> PlainLines<W> {
    fn new(log_every: u64, write: W) -> Self {
        Self { log_every: log_every.max(1), first: true, write }
    }
}

impl<W: FnMut(String)> Observer for PlainLines<W> {
    fn event(&mut self, event: Event) {
        if let Event::Step(report) = &event {
            let last = report.step == report.total_steps;
            let due = report.step.is_multiple_of(self.log_every);
            if !(due || last || std::mem::take(&mut self.first)) {
                return;
            }
        }
        for line in lines(&event, false) {
            (self.write)(line);
        }
    }
}

/// The lines of an event, for people.
fn lines(event: &Event, colour: bool) -> Vec<String> {
    match event {
        Event::Started { run, plan, from_step, total_steps } => {
            let mut lines = plan.clone();
            let steps = match from_step {
                0 => format!("run {run}: {total_steps} steps"),
                _ => format!("run {run}: goes on at step {from_step} of {total_steps}"),
            };
            lines.push(steps);
            lines
        }
        Event::Step(report) => vec![step_line(report)],
        Event::Warning(text) => vec![warning_text(text, colour)],
        Event::Note(text) => vec![note_text(text)],
        Event::Phase(text) => vec![text.clone()],
        Event::Probe { step, figures } => vec![format!("probe step {step}{}", pairs(figures))],
        Event::Stage { stage, figures, .. } => {
            vec![format!("stage `{stage}` done{}", pairs(figures))]
        }
        Event::Checkpoint(path) => vec![format!("checkpoint {path}")],
        Event::Finished { summary, report, .. } => {
            let mut lines = summary.clone();
            lines.push(format!("report {report}"));
            lines
        }
    }
}

fn note_text(text: &str) -> String {
    format!("note: {text}")
}

/// Every number of a step on one line.
fn step_line(report: &StepReport) -> String {
    format!(
        "step {}/{} epoch {:.2} loss {:.5} lr {:.3e}{} samples/s {:.1} data_wait {:.1}% left {}",
        report.step,
        report.total_steps,
        report.epoch,
        report.loss,
        report.lr,
        pairs(&report.figures),
        report.samples_per_second,
        100.0 * report.data_wait,
        duration_text(report.time_left),
    )
}

fn pairs(figures: &[(String, f64)]) -> String {
    figures
        .iter()
        .fold(String::new(), |text, (name, value)| format!("{text} {name} {}", figure(*value)))
}

/// Five significant digits: plain where they are read easily, with an exponent elsewhere.
fn figure(value: f64) -> String {
    if value == 0.0 || (1e-3..1e5).contains(&value.abs()) {
        let digits = if value.abs() >= 100.0 { 1 } else { 5 };
        return format!("{value:.digits$}");
    }
    format!("{value:.4e}")
}

/// Every event as one JSON object on one line of stdout; warnings and notes to stderr as well.
#[derive(Debug)]
struct JsonLines {
    stop: Arc<AtomicBool>,
}

impl Observer for JsonLines {
    fn event(&mut self, event: Event) {
        match &event {
            Event::Warning(text) => tell(warning_text(text, colour_on_stderr())),
            Event::Note(text) => tell(note_text(text)),
            _ => {}
        }
        let written = say_json(&json_of(&event));
        // Nobody reads on: the run stops with a checkpoint instead of training unseen.
        if written.is_err() || stdout_closed() {
            self.stop.store(true, Ordering::SeqCst);
        }
    }
}

fn json_of(event: &Event) -> Value {
    match event {
        Event::Started { run, plan, from_step, total_steps } => json!({
            "event": "started", "run": run, "plan": plan,
            "from_step": from_step, "total_steps": total_steps,
        }),
        Event::Step(report) => json!({
            "event": "step", "step": report.step, "total_steps": report.total_steps,
            "epoch": report.epoch, "loss": report.loss, "lr": report.lr,
            "figures": figures(&report.figures),
            "samples_per_second": report.samples_per_second,
            "data_wait": report.data_wait, "seconds_left": seconds(report.time_left),
        }),
        Event::Warning(text) => json!({ "event": "warning", "message": text }),
        Event::Note(text) => json!({ "event": "note", "message": text }),
        Event::Phase(text) => json!({ "event": "phase", "message": text }),
        Event::Stage { stage, step, figures: named } => json!({
            "event": "stage", "stage": stage, "step": step, "figures": figures(named),
        }),
        Event::Probe { step, figures: named } => {
            json!({ "event": "probe", "step": step, "figures": figures(named) })
        }
        Event::Checkpoint(path) => json!({ "event": "checkpoint", "path": path }),
        Event::Finished { figures: named, summary, report } => json!({
            "event": "finished", "figures": figures(named), "summary": summary, "report": report,
        }),
    }
}

fn figures(named: &[(String, f64)]) -> Map<String, Value> {
    named.iter().map(|(name, value)| (name.clone(), json!(value))).collect()
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(step: u64) -> StepReport {
        StepReport {
            step,
            total_steps: 25,
            epoch: 0.5,
            loss: 2.5,
            lr: 1e-4,
            figures: vec![("gradient_norm".into(), 0.25)],
            samples_per_second: 800.0,
            data_wait: 0.125,
            time_left: Duration::from_secs(90),
        }
    }

    #[test]
    fn a_plain_line_comes_first_at_every_interval_and_last_with_every_number() {
        let mut seen = Vec::new();
        let mut plain = PlainLines::new(10, |line| seen.push(line));
        (1..=25).for_each(|step| plain.event(Event::Step(report(step))));
        let steps: Vec<&str> = seen.iter().filter_map(|line| line.split(' ').nth(1)).collect();
        assert_eq!(steps, ["1/25", "10/25", "20/25", "25/25"]);
        let all = "step 1/25 epoch 0.50 loss 2.50000 lr 1.000e-4 gradient_norm 0.25000 samples/s 800.0 \
                   data_wait 12.5% left 1m 30s";
        assert_eq!(seen[0], all);
    }

    #[test]
    fn warnings_notes_and_probes_are_never_held_back() {
        let mut seen = Vec::new();
        let mut plain = PlainLines::new(1000, |line| seen.push(line));
        plain.event(Event::Warning("`a.jpg` is broken".into()));
        plain.event(Event::Probe { step: 3, figures: vec![("knn".into(), 0.5)] });
        plain.event(Event::Note("the backbone starts from 30 tensors".into()));
        let note = "note: the backbone starts from 30 tensors";
        assert_eq!(seen, ["warning: `a.jpg` is broken", "probe step 3 knn 0.50000", note]);
        assert_eq!(json_of(&Event::Note("a".into()))["event"], "note");
    }

    #[test]
    fn a_step_as_json_keeps_every_number() {
        let value = json_of(&Event::Step(report(3)));
        assert_eq!(value["event"], "step");
        assert_eq!(value["figures"]["gradient_norm"], 0.25);
        assert_eq!(value["seconds_left"], 90.0);
        assert!(!value.to_string().contains('\n'));
    }

    #[test]
    fn the_end_as_json_has_the_figures_of_the_trained_backbone_and_of_its_baselines() {
        let named = [("knn", 0.62), ("knn_untrained", 0.34), ("rank_untrained", 7.5)];
        let figures = named.map(|(name, value)| (name.to_owned(), value)).to_vec();
        let value = json_of(&Event::Finished {
            figures,
            summary: vec!["kNN accuracy  62.0 %".into()],
            report: "runs/a/report.html".into(),
        });
        assert_eq!(value["figures"]["knn"], 0.62);
        assert_eq!(value["figures"]["knn_untrained"], 0.34);
        assert_eq!(value["figures"]["rank_untrained"], 7.5);
    }

    #[test]
    fn small_and_large_figures_keep_their_digits() {
        assert_eq!(figure(0.0), "0.00000");
        assert_eq!(figure(1234.56), "1234.6");
        assert_eq!(figure(2.5e-7), "2.5000e-7");
        assert_eq!(figure(f64::NAN), "NaN");
    }
}
