//! Runs of several trainings with stages between them, stopped anywhere, go on as if they had not been.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::OnceLock;

use pretext_tests::{Watched, Workplace};
use serde_json::Value;

/// Two iterations on patches, each of 100 steps, so small that a step takes milliseconds.
const TINY: &[&str] = &[
    "train",
    "hubert:patches",
    "run=it",
    "n=96",
    "batch=8",
    "data.size=32",
    "image_size=16",
    "patch=4",
    "width=16",
    "depth=2",
    "heads=1",
    "options.layer=1",
    "clusters_first=8",
    "clusters_next=12",
    "cluster_share=0.5",
    "cluster_tries=2",
    "cluster_batch=100",
    "projection=8",
    "first_share=1",
    "steps=200",
    "checkpoint_every=20",
    "warmup_epochs=0",
    "probe.every=0",
    "bank=32",
    "queries=32",
    "k=5",
];

/// What must not depend on whether a run was stopped.
#[derive(PartialEq)]
struct Result {
    metrics: String,
    checkpoints: BTreeMap<String, Vec<u8>>,
    stages: BTreeMap<String, Vec<u8>>,
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
    let below = |name: &str| files(&place.path().join("runs/it").join(name));
    let metrics = place.read("runs/it/metrics.jsonl");
    Result { metrics, checkpoints: below("checkpoints"), stages: below("stages") }
}

fn uninterrupted() -> &'static Result {
    static RESULT: OnceLock<Result> = OnceLock::new();
    RESULT.get_or_init(|| {
        let place = Workplace::new();
        place.pretext(TINY).assert_done();
        let report = place.read("runs/it/report.html");
        assert!(report.contains("<h2>Stages</h2>") && report.contains("units-2"));
        result(&place)
    })
}

fn records(metrics: &str) -> Vec<Value> {
    metrics.lines().map(|line| serde_json::from_str(line).expect("a record")).collect()
}

/// Starts the run, kills it once `reached` holds of an event, and goes on with it.
fn killed_and_resumed(reached: impl Fn(&Value) -> bool) -> (Workplace, String) {
    let place = Workplace::new();
    let mut run = Watched::start(place.command(&[TINY, &["--json"]].concat()));
    run.until(reached);
    assert_eq!(run.kill().signal(), Some(9), "the run ended before it was killed");
    let resumed = place.pretext(&["train", "--resume", "runs/it"]);
    resumed.assert_done();
    (place, resumed.stderr)
}

fn assert_uninterrupted(place: &Workplace) {
    let (got, want) = (result(place), uninterrupted());
    assert_eq!(got.metrics, want.metrics);
    for (what, got, want) in [
        ("checkpoints", &got.checkpoints, &want.checkpoints),
        ("stages", &got.stages, &want.stages),
    ] {
        assert_eq!(got.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>(), "{what}");
        for (name, bytes) in got {
            assert!(*bytes == want[name], "{what}/{name} has other bytes");
        }
    }
}

/// Whether `event` says that stage `stage` has come to `part`.
fn phase(event: &Value, stage: &str, part: &str) -> bool {
    let message = event["message"].as_str().unwrap_or_default();
    event["event"] == "phase" && message.contains(&format!("stage `{stage}`: {part}"))
}

#[test]
fn a_run_of_two_iterations_writes_its_stages_down_and_keeps_the_ends_of_trainings() {
    let done = uninterrupted();
    let stages: Vec<&String> = done.stages.keys().collect();
    assert_eq!(stages, ["units-1.codebook", "units-1.units", "units-2.codebook", "units-2.units"]);
    assert!(done.checkpoints.contains_key("step-000100/parameters.safetensors"));
    let records = records(&done.metrics);
    let found: Vec<&Value> = records.iter().filter(|record| record["stage"].is_string()).collect();
    assert_eq!(found.len(), 2);
    for (record, (name, step)) in found.iter().zip([("units-1", 0), ("units-2", 100)]) {
        assert_eq!((record["stage"].as_str(), record["step"].as_u64()), (Some(name), Some(step)));
        for figure in ["clusters_used", "perplexity", "purity", "mutual_information"] {
            assert!(record[figure].is_number(), "{figure} of {record}");
        }
    }
    let of = |name: &str| records.iter().filter(|record| record["training"] == name).count();
    assert_eq!((of("iteration-1"), of("iteration-2")), (100, 100));
    let codewords = &done.checkpoints["step-000200/parameters.safetensors"];
    let first = &done.checkpoints["step-000100/parameters.safetensors"];
    assert!(codewords.len() > first.len(), "the second iteration has more units");
}

#[test]
fn a_run_killed_while_it_seeks_the_first_clusters_goes_on_to_the_same_bytes() {
    let (place, _) = killed_and_resumed(|event| phase(event, "units-1", "8 clusters"));
    assert_uninterrupted(&place);
}

#[test]
fn a_run_killed_in_its_first_training_does_not_repeat_its_stage() {
    let (place, said) = killed_and_resumed(|event| event["step"] == 30);
    assert!(!said.contains("stage `units-1`") && said.contains("stage `units-2`"), "{said}");
    assert_uninterrupted(&place);
}

#[test]
fn a_run_killed_while_it_makes_the_second_units_goes_on_to_the_same_bytes() {
    let (place, said) = killed_and_resumed(|event| phase(event, "units-2", "units of"));
    assert!(!said.contains("stage `units-1`") && !said.contains("step 30/"), "{said}");
    assert_uninterrupted(&place);
}

#[test]
fn a_run_killed_in_its_second_training_repeats_neither_stages_nor_the_first() {
    let (place, said) = killed_and_resumed(|event| event["step"] == 130);
    assert!(!said.contains("stage `units"), "{said}");
    assert_uninterrupted(&place);
}

#[test]
fn a_damaged_file_of_a_stage_is_made_again_with_a_warning() {
    let place = Workplace::new();
    let mut run = Watched::start(place.command(&[TINY, &["--json"]].concat()));
    run.until_step(130);
    run.kill();
    let file = "runs/it/stages/units-2.units";
    let bytes = std::fs::read(place.path().join(file)).expect("units");
    place.write(file, &bytes[..bytes.len() - 9]);
    let resumed = place.pretext(&["train", "--resume", "runs/it"]);
    resumed.assert_done();
    let warned = "units-2.units` is damaged: it is cut short; it is made again";
    let other = "units-2.units` is damaged: it is not what was written; it is made again";
    assert!(
        resumed.stderr.contains(warned) || resumed.stderr.contains(other),
        "{}",
        resumed.stderr
    );
    assert_uninterrupted(&place);
}

#[test]
fn a_run_of_two_trainings_is_not_made_longer_between_them() {
    let place = Workplace::new();
    let mut run = Watched::start(place.command(&[TINY, &["--json"]].concat()));
    run.until_step(130);
    run.kill();
    let refused = place.pretext(&["train", "--resume", "runs/it", "steps=400"]);
    refused.assert_refused(
        "the checkpoint after step 120 is of training 2 of the run, from step 100 on; with this number of steps it would \
         lie elsewhere",
        "go on with the run's own `epochs` and `steps`: only a run of one training can be made longer",
    );
    place.pretext(&["train", "--resume", "runs/it"]).assert_done();
    assert_uninterrupted(&place);
}

#[test]
fn ctrl_c_in_a_stage_says_how_to_go_on() {
    let place = Workplace::new();
    // So many starts that the stage is still at it when the signal comes.
    let words = [TINY, &["cluster_tries=1000", "--json"]].concat();
    let mut run = Watched::start(place.command(&words));
    run.until(|event| phase(event, "units-1", "8 clusters"));
    let (status, stderr) = run.signal("INT");
    assert_eq!(status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("error: interrupted in the stage `units-1`\n"), "{stderr}");
    assert!(stderr.contains("hint: go on with `pretext train --resume runs/it`"), "{stderr}");
}

#[test]
fn clusters_that_the_data_cannot_fill_are_refused_in_words() {
    let refused = Workplace::new().pretext(&[TINY, &["clusters_first=100000"]].concat());
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    let said = "the stage `units-1` found no clusters: 768 features don't make 100000 clusters";
    assert!(refused.stderr.contains(said), "{}", refused.stderr);
}

#[test]
fn a_run_on_sound_keeps_its_stages_after_a_kill_and_gives_features_and_weights_of_its_last_training()
 {
    let place = Workplace::new();
    let words = ["train", "hubert", "run=it", "n=32", "batch=8", "steps=8", "checkpoint_every=1"];
    let few = ["clusters_first=4", "clusters_next=6", "bank=16", "queries=16", "k=3", "--json"];
    let mut run = Watched::start(place.command(&[&words[..], &few[..]].concat()));
    run.until(|event| event["step"] == 2);
    assert_eq!(run.kill().signal(), Some(9), "the run ended before it was killed");
    let resumed = place.pretext(&["train", "--resume", "runs/it"]);
    resumed.assert_done();
    assert!(!resumed.stderr.contains("made again"), "{}", resumed.stderr);
    // The second training has other units than the first, and so another head.
    place.pretext(&["embed", "runs/it", "--out", "features.npy"]).assert_done();
    place.pretext(&["export", "runs/it", "--format", "hf", "--out", "hubert"]).assert_done();
}

#[test]
fn a_stage_that_asks_for_a_layer_beyond_the_backbones_last_is_refused_before_the_run_begins() {
    let place = Workplace::new();
    for dry in [&[][..], &["--dry-run"]] {
        place.pretext(&[TINY, &["options.layer=3"], dry].concat()).assert_ended(
            2,
            "the stage `units-2` asks for `layer.3`: the last layer of `vit` is 2 here",
            "`backbone.depth=3`, or a layer up to 2 in the method's options",
        );
    }
    assert!(!place.path().join("runs").exists(), "nothing was begun");
}
