//! Methods that panic, fail and forget: each ends with an error that names it, and the run goes on.

use pretext_tests::{Outcome, Workplace, fixture};

/// Trains the method of `tests/plugins/faults` in `runs/it`, with this fault.
fn train(place: &Workplace, fault: &str) -> Outcome {
    let library = fixture("faults").display().to_string();
    let fault = format!("fault={fault}");
    place.pretext(&["train", "faults", "run=it", &fault, "--plugin", &library])
}

/// Goes on with `runs/it`, without a fault.
fn go_on(place: &Workplace) -> Outcome {
    let library = fixture("faults").display().to_string();
    place.pretext(&["train", "--resume", "runs/it", "fault=none", "--plugin", &library])
}

/// Where in the fixture's source a line with `text` stands, as a panic's location has it.
fn location(text: &str) -> String {
    let source = include_str!("../plugins/faults/src/lib.rs");
    let mut lines = source.lines().zip(1..);
    let (line, number) = lines.find(|(line, _)| line.contains(text)).expect(text);
    let column = 1 + line.find("panic!").expect("a panic");
    format!("src/lib.rs:{number}:{column}")
}

#[test]
fn a_panic_before_the_first_step_names_method_and_callback_and_starts_no_run() {
    for callback in ["plan", "build"] {
        let place = Workplace::new();
        let at = location("a panic in {within}");
        train(&place, &format!("{callback}_panic")).assert_ended(
            1,
            &format!(
                "the method `faults` panicked in `{callback}`: a panic in {callback}, at `{at}`"
            ),
            "this is a bug of the plugin: report it to its authors",
        );
        assert!(!place.path().join("runs").exists());
    }
}

#[test]
fn an_error_before_the_first_step_names_method_and_callback_and_keeps_its_hint() {
    for callback in ["plan", "build"] {
        let place = Workplace::new();
        train(&place, &format!("{callback}_error")).assert_ended(
            1,
            &format!("the method `faults` failed in `{callback}`: an error in {callback}"),
            "try another fault",
        );
        assert!(!place.path().join("runs").exists());
    }
}

#[test]
fn options_that_a_method_refuses_are_asked_wrongly() {
    train(&Workplace::new(), "plan_asked_wrongly").assert_ended(
        2,
        "the method `faults` failed in `plan`: `fault` doesn't fit the rest",
        "`pretext plugin info faults` explains its options",
    );
}

#[test]
fn a_block_that_the_host_does_not_have_is_named_with_its_neighbour() {
    let refused = train(&Workplace::new(), "build_unknown_block");
    let error = "error: the method `faults` failed in `build`: there is no block called `mpl`";
    assert!(refused.stderr.contains(error), "{}", refused.stderr);
    assert!(refused.stderr.ends_with("hint: did you mean `mlp`?\n"), "{}", refused.stderr);
}

/// Trains with a fault in step 3, checks the error, and goes on from the emergency checkpoint to the
/// bytes of a run without a fault.
fn fails_in_step_3(fault: &str, error: &str, hint: &str) {
    let place = Workplace::new();
    let go = "; then go on after step 2 with `pretext train --resume runs/it`";
    let (error, hint) = (format!("training stopped at step 3: {error}"), format!("{hint}{go}"));
    train(&place, fault).assert_ended(1, &error, hint.trim_start_matches("; then "));
    assert!(place.path().join("runs/it/checkpoints/step-000002").is_dir());
    go_on(&place).assert_done();
    let whole = Workplace::new();
    train(&whole, "none").assert_done();
    for name in ["metrics.jsonl", "checkpoints/step-000005/SHA256SUMS"] {
        let name = format!("runs/it/{name}");
        assert_eq!(place.read(&name), whole.read(&name), "{name}");
    }
}

#[test]
fn a_panic_in_step_3_leaves_a_checkpoint_from_which_the_run_goes_on() {
    let at = location("a panic in {within}");
    fails_in_step_3(
        "step_panic",
        &format!("the method `faults` panicked in `step`: a panic in step, at `{at}`"),
        "this is a bug of the plugin: report it to its authors",
    );
}

#[test]
fn an_error_in_step_3_leaves_a_checkpoint_from_which_the_run_goes_on() {
    let error = "the method `faults` failed in `step`: an error in step";
    fails_in_step_3("step_error", error, "try another fault");
}

#[test]
fn an_error_that_the_method_did_not_look_at_still_ends_the_step() {
    fails_in_step_3(
        "step_unchecked_error",
        "the method `faults` failed in `step`: the metric `all` has shape [8, 16], not one number",
        "if the recipe can't be the reason, tell the plugin's authors",
    );
}

#[test]
fn a_loss_of_many_numbers_is_refused_with_its_shape() {
    fails_in_step_3(
        "step_vector_loss",
        "the method `faults` failed in `step`: the loss has shape [8, 16], not one number",
        "end `step` with a mean over all elements, such as `loss.mean(&[], false)`",
    );
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run_before_it_spoils_anything() {
    let place = Workplace::new();
    let error = "training stopped at step 3: the loss is NaN";
    let again = "start over at a lower rate with `pretext train --resume runs/it lr=1e-4`, or with a longer warm-up";
    train(&place, "step_nan").assert_ended(1, error, again);
    let checkpoints = place.path().join("runs/it/checkpoints");
    assert!(!checkpoints.exists(), "what led to NaN leads there again");
}

#[test]
fn a_loss_that_is_not_finite_goes_back_to_the_last_checkpoint_at_a_lower_rate() {
    let place = Workplace::new();
    let library = fixture("faults").display().to_string();
    let train = |every: &str| {
        let words = ["train", "faults", "fault=step_nan", every, "run=it", "--plugin", &library];
        place.pretext(&words)
    };
    let error = "training stopped at step 3: the loss is NaN";
    let hint = |lr: &str| {
        format!(
            "what stands after step 2 leads there again: remove `runs/it/checkpoints/step-000002` and go on from \
             before it with `pretext train --resume runs/it lr={lr}`"
        )
    };
    train("checkpoint_every=1").assert_ended(1, error, &hint("1e-4"));
    std::fs::remove_dir_all(place.path().join("runs/it/checkpoints/step-000002")).expect("there");
    // The fault is in step 3 at every rate.
    let lower = ["train", "--resume", "runs/it", "lr=1e-4", "--plugin", &library];
    place.pretext(&lower).assert_ended(1, error, &hint("2e-5"));
    go_on(&place).assert_done();
}

#[test]
fn a_tensor_of_an_earlier_step_names_nothing() {
    let place = Workplace::new();
    let failed = train(&place, "step_stale_handle");
    let error =
        "error: training stopped at step 3: the method `faults` failed in `step`: handle 0x";
    assert!(failed.stderr.contains(error), "{}", failed.stderr);
    assert!(failed.stderr.contains(" names no tensor of this callback\n"), "{}", failed.stderr);
    let hint = "hint: keep tensors between steps with `Tensor::keep`, or in a buffer; \
                then go on after step 2 with `pretext train --resume runs/it`\n";
    assert!(failed.stderr.ends_with(hint), "{}", failed.stderr);
    assert_eq!(failed.code, Some(1));
    go_on(&place).assert_done();
}

#[test]
fn a_panic_when_the_method_is_dropped_does_not_end_the_process() {
    let place = Workplace::new();
    train(&place, "drop_panic").assert_done();
    assert!(place.path().join("runs/it/report.html").is_file());
}
