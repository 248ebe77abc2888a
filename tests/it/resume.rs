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
fn one_thread_and_three_give_the_same_bytes() {
    for threads in ["threads=1", "threads=3"] {
        let place = Workplace::new();
        let done = place.pretext(&tiny(&[threads]));
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        let got = result(&place);
        assert_eq!(got.metrics, uninterrupted().metrics, "{threads}");
        let last = "step-000250/parameters.safetensors";
        assert!(got.checkpoints[last] == uninterrupted().checkpoints[last], "{threads}");
    }
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

#[test]
fn a_key_that_is_changed_on_the_way_is_written_down_and_holds_from_there_on() {
    let place = Workplace::new();
    place.pretext(&tiny(&["steps=10"])).assert_done();
    let resumed =
        place.pretext(&["train", "--resume", "runs/it", "steps=12", "train.lr=1e-5", "k=3"]);
    resumed.assert_done();
    assert!(
        resumed.stderr.contains("note: from here on probe.k = 3 (was 5)"),
        "{}",
        resumed.stderr
    );
    let recipe: toml::Table = place.read("runs/it/recipe.toml").parse().expect("TOML");
    assert_eq!(recipe["train"]["steps"].as_integer(), Some(12));
    assert_eq!(recipe["train"]["lr"].as_float(), Some(1e-5));
    let manifest: serde_json::Value =
        serde_json::from_str(&place.read("runs/it/manifest.json")).expect("JSON");
    assert_eq!(manifest["steps"], 12);
    let changed = manifest["resumed"][0]["changed"].as_array().expect("a list");
    assert!(changed.contains(&"train.steps = 12 (was 10)".into()), "{changed:?}");
    assert_eq!(changed.len(), 3);
    // With nothing changed the run is as long as it was made.
    place.pretext(&["train", "--resume", "runs/it"]).assert_done();
}

#[test]
fn what_a_run_is_made_of_cannot_change_and_is_refused_before_anything_is_written() {
    let place = Workplace::new();
    place.pretext(&tiny(&["steps=10"])).assert_done();
    let recipe = place.read("runs/it/recipe.toml");
    let as_it_was = "go on as it was with `pretext train --resume runs/it`, or start another run";
    let cases = [
        ("seed=3", "`seed` can't change in a run that has begun: seed = 3 (was 0)"),
        (
            "runs=elsewhere",
            "`runs` can't change in a run that has begun: runs = \"elsewhere\" (was \"runs\")",
        ),
        (
            "backbone.width=32",
            "`backbone.width` can't change in a run that has begun: backbone.width = 32 (was 16)",
        ),
    ];
    for (word, error) in cases {
        place.pretext(&["train", "--resume", "runs/it", word]).assert_refused(error, as_it_was);
    }
    let other = place.pretext(&["train", "--resume", "runs/it", "prototypes=64", "steps=12"]);
    assert_eq!(other.code, Some(2), "{}", other.stderr);
    let error = "error: what is changed would be another network than the run's";
    assert!(other.stderr.contains(error), "{}", other.stderr);
    assert!(other.stderr.contains(as_it_was), "{}", other.stderr);
    assert_eq!(place.read("runs/it/recipe.toml"), recipe);
}

#[test]
fn runs_tells_a_run_that_is_made_longer_from_one_at_its_end_and_names_a_damaged_one() {
    let place = Workplace::new();
    place.pretext(&tiny(&["steps=10"])).assert_done();
    let rows = || -> Vec<serde_json::Value> {
        let said = place.pretext(&["runs", "--json"]);
        said.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };
    assert_eq!((&rows()[0]["finished"], &rows()[0]["steps"]), (&true.into(), &10.into()));
    let words = ["train", "--resume", "runs/it", "steps=100000", "--json"];
    let mut run = Watched::start(place.command(&words));
    run.until_step(17);
    run.kill();
    assert_eq!(rows()[0]["finished"], false, "its report is that of ten steps");
    place.write("runs/it/recipe.toml", "[");
    let row = &rows()[0];
    assert!(row["damage"].as_str().is_some_and(|why| why.contains("recipe.toml")), "{row}");
    let people = place.pretext(&["runs"]);
    assert!(people.stdout.contains("damaged"), "{}", people.stdout);
    assert!(
        people.stderr.contains("warning: can't read `runs/it/recipe.toml`"),
        "{}",
        people.stderr
    );
}

#[test]
fn a_damaged_newest_checkpoint_is_named_by_every_command_that_passes_over_it() {
    let place = Workplace::new();
    place.pretext(&tiny(&["steps=10"])).assert_done();
    place.write("runs/it/checkpoints/step-000010/parameters.safetensors", "cut");
    let warning = "warning: checkpoint `runs/it/checkpoints/step-000010` is damaged";
    for words in [
        &["probe", "runs/it"][..],
        &["report", "runs/it"],
        &["embed", "runs/it", "--out", "x.npy"],
        &["export", "runs/it", "--out", "x.safetensors"],
    ] {
        let done = place.pretext(words);
        done.assert_done();
        assert!(done.stderr.contains(warning), "{words:?}: {}", done.stderr);
    }
}

#[test]
fn a_run_that_goes_on_keeps_its_method_and_its_recipe() {
    let place = Workplace::new();
    place.pretext(&tiny(&["steps=10"])).assert_done();
    let recipe = place.read("runs/it/recipe.toml");
    place.pretext(&["train", "--resume", "runs/it", "method=swav"]).assert_ended(
        2,
        "`method` can't change in a run that has begun: method = \"swav\" (was \"dino\")",
        "go on as it was with `pretext train --resume runs/it`, or start another run",
    );
    assert_eq!(place.read("runs/it/recipe.toml"), recipe);
}
