//! What people give that can't be: one sentence, one hint, the right exit code, and nothing lost.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use pretext_tests::{Outcome, Workplace, pretext, tree};

/// A network so small that a test trains it in no time.
const TINY: &[&str] = &[
    "train",
    "dino",
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
    "steps=4",
    "probe.every=0",
    "bank=16",
    "queries=16",
    "k=3",
];

fn train(place: &Workplace, words: &[&str]) -> Outcome {
    place.pretext(&[TINY, words].concat())
}

fn jpeg() -> Vec<u8> {
    let path = tree::root().join("host/src/data/decode/tiny/colour.jpg");
    std::fs::read(path).expect("a JPEG of the repository")
}

/// A folder `images` of 2 classes with 8 JPEGs each, the first `broken` of them cut short.
fn images(broken: usize) -> Workplace {
    let (place, whole) = (Workplace::new(), jpeg());
    for i in 0..16 {
        let bytes = if i < broken { &whole[..whole.len() / 2] } else { &whole };
        let class = if i % 2 == 0 { "cat" } else { "dog" };
        place.write(&format!("images/{class}/{i}.jpg"), bytes);
    }
    place
}

#[test]
fn data_that_is_not_there_is_asked_wrongly() {
    let place = Workplace::new();
    train(&place, &["data=no/such"]).assert_ended(
        2,
        "there is no data at `no/such`",
        "check the path, or start without any with `data=shapes` or `data=speech`",
    );
    train(&place, &["test_source=no/such"]).assert_ended(
        2,
        "there is no data at `no/such`",
        "check the path, or start without any with `data=shapes` or `data=speech`",
    );
    assert!(!place.path().join("runs").exists(), "nothing was begun");
}

#[test]
fn an_empty_folder_is_asked_wrongly() {
    let place = Workplace::new();
    std::fs::create_dir(place.path().join("nothing")).expect("a folder");
    train(&place, &["data=nothing"]).assert_ended(
        2,
        "`nothing` holds no image and no sound",
        "give a folder or tar with .jpg, .png, .wav or .flac files, in one sub-folder per class or in none",
    );
}

#[test]
fn a_folder_that_may_not_be_read_is_asked_wrongly() {
    let place = images(0);
    let folder = place.path().join("images");
    let allow = |mode| std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(mode));
    allow(0o000).expect("permissions can be set");
    let readable = std::fs::read_dir(&folder).is_ok();
    let refused = train(&place, &["data=images"]);
    allow(0o755).expect("permissions can be set");
    if readable {
        println!("skipped: this user may read everything");
        return;
    }
    refused.assert_ended(
        2,
        "can't read the folder `images`: Permission denied (os error 13)",
        "check the path and its permissions",
    );
}

#[test]
fn a_truncated_jpeg_is_skipped_named_and_counted_and_the_run_goes_on() {
    let place = images(1);
    let done = train(&place, &["data=images", "run=it"]);
    done.assert_done();
    let named = "warning: skipped `images/cat/0.jpg`: the JPEG is truncated\n";
    assert_eq!(done.stderr.matches(named).count(), 1, "named once:\n{}", done.stderr);
    let counted = "warning: 1 of 16 samples is broken and was left out\n";
    assert!(done.stderr.contains(counted), "{}", done.stderr);
    assert_eq!(place.read("runs/it/metrics.jsonl").matches("\"loss\"").count(), 4);
}

#[test]
fn a_missing_folder_for_features_is_named_with_how_to_make_it() {
    let place = images(0);
    train(&place, &["data=images", "run=it"]).assert_done();
    let refused = place.pretext(&["embed", "runs/it", "--out", "missing/features.npy"]);
    refused.assert_refused("there is no folder `missing`", "make it with `mkdir -p missing`");
}

#[test]
fn more_broken_images_than_allowed_stop_the_run_with_the_share_that_would_do() {
    let place = images(14);
    let stopped = train(&place, &["data=images", "run=it"]);
    assert_eq!(stopped.code, Some(1), "{}", stopped.stderr);
    let (_, error) = stopped.stderr.split_once("error: ").expect("an error");
    assert!(error.contains("samples are broken, more than the allowed share of 0.01"), "{error}");
    let hint = "hint: repair the data, or allow it with `max_broken_share=0.";
    assert!(error.contains(hint), "{error}");
}

#[test]
fn a_truncated_tar_fails_with_where_it_ends() {
    let place = images(0);
    let tar = Command::new("tar")
        .args(["cf", "whole.tar", "images"])
        .current_dir(place.path())
        .status()
        .expect("tar runs");
    assert!(tar.success());
    train(&place, &["data=whole.tar"]).assert_done();
    let bytes = std::fs::read(place.path().join("whole.tar")).expect("a tar");
    // The first entry is the folder, 512 bytes; the cut goes through the bytes of a picture.
    let image = bytes.windows(2).position(|two| two == [0xFF, 0xD8]).expect("a JPEG in the tar");
    place.write("cut.tar", &bytes[..image + 100]);
    let failed = train(&place, &["data=cut.tar"]);
    let end = image + jpeg().len();
    let cut = image + 100;
    failed.assert_ended(
        1,
        &format!(
            "`cut.tar` is truncated: it ends at byte {cut}, and what is in it goes on to byte {end}"
        ),
        "copy or download it again",
    );
}

#[test]
fn misspelt_words_get_their_neighbour_and_wrong_values_their_range() {
    let place = Workplace::new();
    let cases: &[(&[&str], &str, &str)] = &[
        (
            &["prototipes=4"],
            "`prototipes` is no key of a recipe and no option of `dino`",
            "did you mean `prototypes=4`?",
        ),
        (&["train.epoch=4"], "`train.epoch` is no key of a recipe", "did you mean `train.epochs`?"),
        (
            &["prototypes=1"],
            "`options.prototypes` must lie between 2 and 1048576, not `1`",
            "`options.prototypes` (default `256`): classes without a name; \
             256 to 4,096 do for small data",
        ),
        (
            &["local_crops=many"],
            "`options.local_crops` takes a whole number, not `many`",
            "`options.local_crops` (default `0`): local crops per image; \
             each adds its cost, more of them help",
        ),
        (&["backbone=vjt"], "there is no backbone called `vjt`", "did you mean `vit`?"),
        (
            &["batch=4096"],
            "64 samples don't fill one batch of 4096",
            "train with `batch=64` or less",
        ),
        (
            &["nonsense"],
            "`nonsense` is not of the form key=value",
            "write for example `epochs=10` or `data=PATH`",
        ),
        (
            &["run=a/b"],
            "a run can't be called `a/b`",
            "use letters, digits, `-`, `_` and `.`, such as `run=first-try`",
        ),
    ];
    for (words, error, hint) in cases {
        train(&place, words).assert_ended(2, error, hint);
    }
    assert!(!place.path().join("runs/a").exists());
}

#[test]
fn an_unknown_method_or_recipe_is_asked_wrongly() {
    pretext(&["train", "dimo"]).assert_refused("unknown method `dimo`", "did you mean `dino`?");
    pretext(&["train", "dino:nosuch"]).assert_refused(
        "the method `dino` has no recipe `nosuch`",
        "it has `default`, `cifar10-vit`, `vit-small`",
    );
    let place = Workplace::new();
    place.write("mine.toml", "method = \"dino\"\n[train\n");
    let refused = place.pretext(&["train", "mine.toml"]);
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("recipe `mine.toml` is not TOML: line 2: "));
    assert!(refused.stderr.contains("\n\nhint: "));
}

#[test]
fn a_run_on_data_that_are_mostly_broken_ends_with_its_report_where_that_is_allowed() {
    let place = images(13);
    train(&place, &["data=images", "max_broken_share=1", "run=it"]).assert_done();
    assert!(place.path().join("runs/it/report.html").is_file());
}

#[test]
fn a_stage_names_samples_that_have_no_units_and_the_run_records_how_many() {
    let place = images(5);
    let words = "train hubert:patches run=it data=images max_broken_share=1 batch=8 data.size=32 image_size=16 patch=4 \
                 width=16 depth=2 heads=1 options.layer=1 clusters_first=4 clusters_next=4 cluster_tries=1 projection=8 \
                 steps=4 warmup_epochs=0 probe.every=0 bank=8 queries=8 k=3";
    let done = place.pretext(&words.split_whitespace().collect::<Vec<_>>());
    done.assert_done();
    for stage in ["units-1", "units-2"] {
        let says = format!(
            "the stage `{stage}` has no units of 5 of 16 samples, which can't be read or are shorter than a frame: \
             images/cat/0.jpg, images/cat/2.jpg, images/cat/4.jpg, ..."
        );
        assert!(done.stderr.contains(&says), "{says}\n{}", done.stderr);
    }
    assert_eq!(
        place.read("runs/it/metrics.jsonl").matches("\"samples_without_units\":5").count(),
        2
    );
}

#[test]
fn a_probe_of_a_block_that_the_backbone_lacks_is_asked_wrongly_before_the_run_begins() {
    let place = Workplace::new();
    train(&place, &["probe.layer=2"]).assert_ended(
        2,
        "`probe.layer = 2`: the last layer of `vit` is 1 here",
        "`probe.layer=1`; 0 asks what the backbone gives in the end",
    );
    assert!(!place.path().join("runs").exists(), "nothing was begun");
}

#[test]
fn a_folder_that_is_no_run_and_a_method_beside_resume_are_asked_wrongly() {
    pretext(&["train", "--resume", "no/run"])
        .assert_refused("`no/run` is not a run", "`pretext runs` lists those there are");
    pretext(&["train", "dino", "--resume", "no/run"]).assert_refused(
        "`dino` can't be given with --resume: the run's own recipe is used",
        "pretext train --resume no/run",
    );
}

#[test]
fn runs_that_can_not_be_written_are_asked_wrongly() {
    let place = Workplace::new();
    place.write("file", "no folder");
    let hint = "name a folder that you may write to, such as `runs=my-runs`";
    let errors = [
        ("runs=file", "`file` can't hold runs: File exists (os error 17)"),
        ("runs=file/x", "`file/x` can't hold runs: Not a directory (os error 20)"),
    ];
    for (word, error) in errors {
        train(&place, &[word]).assert_ended(2, error, hint);
    }
}

#[test]
fn a_name_that_is_taken_is_asked_wrongly_and_leaves_the_run_alone() {
    let place = Workplace::new();
    train(&place, &["run=mine"]).assert_done();
    let before = place.read("runs/mine/metrics.jsonl");
    train(&place, &["run=mine"]).assert_ended(
        2,
        "run `runs/mine` exists already",
        "go on with `pretext train --resume runs/mine`, or choose another name",
    );
    assert_eq!(place.read("runs/mine/metrics.jsonl"), before);
}

/// A shell script in which `small` is a file system of 300 KiB; none where the system allows no mount
/// of one's own.
fn on_a_small_disk(place: &Workplace, script: &str) -> Option<Command> {
    std::fs::create_dir(place.path().join("small")).expect("a folder");
    let mount = "mount -t tmpfs -o size=300k tmpfs small";
    let unshare = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["-rm", "sh", "-c", script]).current_dir(place.path());
        command
    };
    let allowed = unshare(mount).output().is_ok_and(|output| output.status.success());
    allowed.then(|| unshare(&format!("{mount} && {script}")))
}

#[test]
fn a_full_disk_ends_the_run_and_leaves_the_checkpoints_before() {
    let place = Workplace::new();
    let words = [TINY, &["steps=60", "checkpoint_every=5", "keep=99", "runs=small", "run=it"]];
    let command = place.command(&words.concat());
    let arguments: Vec<_> =
        std::iter::once(command.get_program()).chain(command.get_args()).collect();
    let line = arguments.join(" ".as_ref()).into_string().expect("UTF-8");
    let script = format!("{line}; code=$?; ls small/it/checkpoints; exit $code");
    let Some(mut command) = on_a_small_disk(&place, &script) else {
        println!("skipped: no file system of its own here");
        return;
    };
    let full = Outcome::of(command.env_remove("RUST_BACKTRACE"));
    assert_eq!(full.code, Some(1), "{}", full.stderr);
    let (_, error) = full.stderr.split_once("error: can't write `small/it/").expect("an error");
    assert!(
        error.contains("No space left on device (os error 28)\n\nhint: free some space there; ")
    );
    let kept: Vec<&str> = full.stdout.lines().collect();
    assert!(kept.first() == Some(&"step-000005"), "{kept:?}");
    let last = kept.last().and_then(|name| name.strip_prefix("step-")).expect("a checkpoint");
    let step: u64 = last.parse().expect("a step");
    let go_on = format!("then go on after step {step} with `pretext train --resume small/it`\n");
    assert!(error.ends_with(&go_on), "{error}");
}
