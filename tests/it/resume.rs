//! Runs that were stopped, and go on as if they had not been.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::OnceLock;

use pretext_tests::{Watched, Workplace};

/// A network and data so small that a step takes a millisecond. There are so many steps that their
/// events don't fit into a pipe: a run whose reader stopped reading waits before its end.
const TINY: &[&str] = &[
    "train",
    "dino",
    "run=it",
    "n=64",
    "batch=8",
    "backbone=vit",
    "patch=8",
    "width=16",
    "depth=1",
    "heads=1",
    "prototypes=32",
    "head_hidden=32",
    "head_bottleneck=16",
    "local_crops=2",
    "steps=250",
    "checkpoint_every=5",
    "probe.every=4",
    "bank=32",
    "queries=32",
    "k=5",
];

/// What must not depend on whether a run was stopped.
#[derive(PartialEq)]
struct Result {
    metrics: String,
    checkpoints: BTreeMap<String, Vec<u8>>,
}

fn tiny(more: &[&'static str]) -> Vec<&'static str> {
    [TINY, more].concat()
}

/// Every file below `folder`, by its path.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() {
            let inside = files(&entry.path()).into_iter();
            found.extend(inside.map(|(path, bytes)| (format!("{name}/{path}"), bytes)));
        } else {
            found.insert(name, std::fs::read(entry.path()).expect("a file"));
        }
    }
    found
}

fn result(place: &Workplace) -> Result {
    let checkpoints = files(&place.path().join("runs/it/checkpoints"));
    Result { metrics: place.read("runs/it/metrics.jsonl"), checkpoints }
}

/// What a run gives that nothing stops.
fn uninterrupted() -> &'static Result {
    static RESULT: OnceLock<Result> = OnceLock::new();
    RESULT.get_or_init(|| {
        let place = Workplace::new();
        let done = place.pretext(&tiny(&["workers=1"]));
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        result(&place)
    })
}

fn assert_uninterrupted(place: &Workplace) {
    let (got, want) = (result(place), uninterrupted());
    assert_eq!(got.metrics, want.metrics);
    let names = |result: &Result| result.checkpoints.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&got), names(want));
    assert!(names(&got).iter().any(|name| name == "step-000250/moments.safetensors"));
    for (name, bytes) in &got.checkpoints {
        assert!(*bytes == want.checkpoints[name], "{name} has other bytes");
    }
}

fn resume(place: &Workplace, from: u64) {
    let resumed = place.pretext(&["train", "--resume", "runs/it"]);
    assert_eq!(resumed.code, Some(0), "{}", resumed.stderr);
    let says = format!("goes on at step {from} of 250");
    assert!(from == 0 || resumed.stderr.contains(&says), "{says}:\n{}", resumed.stderr);
}

/// The newest checkpoint's step.
fn newest(place: &Workplace) -> u64 {
    let folders = std::fs::read_dir(place.path().join("runs/it/checkpoints")).expect("a folder");
    let step = |name: String| name.strip_prefix("step-")?.parse().ok();
    let steps = folders.flatten().filter_map(|e| step(e.file_name().into_string().ok()?));
    steps.max().expect("there is a checkpoint")
}

/// Starts a run and kills it after its step 17.
fn killed(more: &[&'static str]) -> Workplace {
    let place = Workplace::new();
    let mut run = Watched::start(place.command(&tiny(&[more, &["--json"]].concat())));
    run.until_step(17);
    assert_eq!(run.kill().signal(), Some(9), "the run ended before it was killed");
    place
}

#[test]
fn a_killed_run_goes_on_to_the_same_bytes() {
    let place = killed(&["workers=1"]);
    let from = newest(&place);
    assert!(from >= 15 && from.is_multiple_of(5), "{from}");
    resume(&place, from);
    assert_uninterrupted(&place);
}

#[test]
fn a_run_with_four_workers_that_was_killed_gives_the_bytes_of_one_worker() {
    let place = killed(&["workers=4"]);
    resume(&place, newest(&place));
    assert_uninterrupted(&place);
}

#[test]
fn a_run_killed_before_its_first_checkpoint_starts_over() {
    let place = killed(&["checkpoint_every=1000"]);
    assert!(!place.path().join("runs/it/checkpoints").exists());
    resume(&place, 0);
    assert_eq!(place.read("runs/it/metrics.jsonl"), uninterrupted().metrics);
}

#[test]
fn ctrl_c_leaves_a_checkpoint_and_a_hint_that_goes_on() {
    let place = Workplace::new();
    let mut run = Watched::start(place.command(&tiny(&["--json"])));
    run.until_step(17);
    let (status, stderr) = run.signal("INT");
    assert_eq!(status.code(), Some(130), "{stderr}");
    let step = newest(&place);
    assert!(stderr.contains(&format!("error: interrupted after step {step}\n")), "{stderr}");
    let (_, hint) = stderr.split_once("hint: go on with `pretext ").expect("a hint");
    let words: Vec<&str> = hint.trim_end().trim_end_matches('`').split(' ').collect();
    let resumed = place.pretext(&words);
    assert_eq!(resumed.code, Some(0), "{}", resumed.stderr);
    assert_eq!(place.read("runs/it/metrics.jsonl"), uninterrupted().metrics);
    let last = |name: &str| format!("step-000250/{name}.safetensors");
    let got = result(&place).checkpoints;
    for name in ["parameters", "buffers", "moments"].map(last) {
        assert!(got[&name] == uninterrupted().checkpoints[&name], "{name} has other bytes");
    }
}

#[test]
fn a_truncated_newest_checkpoint_falls_back_to_the_one_before_with_a_warning() {
    let place = killed(&[]);
    let step = newest(&place);
    let file = format!("runs/it/checkpoints/step-{step:06}/parameters.safetensors");
    let bytes = std::fs::read(place.path().join(&file)).expect("a file");
    place.write(&file, &bytes[..bytes.len() / 2]);
    let resumed = place.pretext(&["train", "--resume", "runs/it"]);
    assert_eq!(resumed.code, Some(0), "{}", resumed.stderr);
    let warning = format!(
        "warning: checkpoint `runs/it/checkpoints/step-{step:06}` is damaged: \
         `parameters.safetensors` is not what was written; going on to the one before\n"
    );
    assert!(resumed.stderr.contains(&warning), "{}", resumed.stderr);
    let before = format!("goes on at step {} of 250", step - 5);
    assert!(resumed.stderr.contains(&before), "{before}:\n{}", resumed.stderr);
    assert_uninterrupted(&place);
}

#[test]
fn resuming_a_finished_run_changes_no_metrics() {
    let place = Workplace::new();
    let done = place.pretext(&tiny(&[]));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    resume(&place, 250);
    assert_uninterrupted(&place);
}

#[test]
fn fewer_steps_than_were_done_are_refused_and_a_lost_manifest_is_written_anew() {
    let place = Workplace::new();
    let done = place.pretext(&tiny(&["steps=10"]));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    place.pretext(&["train", "--resume", "runs/it", "steps=4"]).assert_refused(
        "`runs/it` has done 10 steps, not 4",
        "ask for more, such as `pretext train --resume runs/it steps=20`",
    );
    place.write("runs/it/manifest.json", "{");
    let again = place.pretext(&["train", "--resume", "runs/it", "steps=12"]);
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    assert!(again.stderr.contains("a new one is written"), "{}", again.stderr);
    let manifest: serde_json::Value =
        serde_json::from_str(&place.read("runs/it/manifest.json")).expect("JSON");
    assert_eq!(manifest["resumed"][0]["from_step"], 10);
}
