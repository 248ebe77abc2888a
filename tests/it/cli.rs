//! What people see: errors, hints and exit codes of the real binary.

use std::process::Stdio;

use pretext_tests::{Workplace, pretext};

#[test]
fn help_goes_to_stdout_and_ends_well() {
    let help = pretext(&["--help"]);
    assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""));
    assert!(help.stdout.contains("Usage: pretext <COMMAND>"), "{}", help.stdout);
    assert!(
        help.stdout.contains("Exit codes: 0 done, 1 failed, 2 asked wrongly, 130 interrupted.")
    );
}

#[test]
fn no_command_at_all_is_asked_wrongly() {
    let nothing = pretext(&[]);
    assert_eq!((nothing.code, nothing.stdout.as_str()), (Some(2), ""));
}

#[test]
fn a_dry_run_as_json_is_one_object_and_leaves_no_run() {
    let place = Workplace::new();
    let dry = place.pretext(&["train", "dino", "--dry-run", "--json", "run=it"]);
    dry.assert_done();
    let value: serde_json::Value = serde_json::from_str(&dry.stdout).expect("one object");
    assert_eq!(value["recipe"]["method"], "dino");
    assert!(!place.path().join("runs").exists());
}

#[test]
fn a_misspelt_command_is_refused_with_its_neighbour() {
    pretext(&["docter"]).assert_refused("there is no command `docter`", "did you mean `doctor`?");
}

#[test]
fn wrong_flags_are_refused_with_a_hint() {
    let cases: &[(&[&str], &str, &str)] = &[
        (
            &["doctor", "--nosuch"],
            "unexpected argument `--nosuch` found",
            "`pretext doctor --help` lists what it takes",
        ),
        (
            &["train", "dino", "--resum"],
            "unexpected argument `--resum` found",
            "did you mean `--resume`?",
        ),
        (
            &["train", "dino", "--lr=1"],
            "unexpected argument `--lr` found",
            "`pretext train --help` lists what it takes",
        ),
        (
            &["export", "runs/it"],
            "the following required arguments were not provided: --out <PATH>",
            "`pretext export --help` lists what it takes",
        ),
    ];
    for (words, error, hint) in cases {
        pretext(words).assert_refused(error, hint);
    }
}

#[test]
fn runs_of_a_folder_that_is_not_there_are_asked_wrongly() {
    let place = Workplace::new();
    place.pretext(&["runs", "nowhere"]).assert_refused(
        "there is no folder `nowhere`",
        "name the folder that runs lie in, such as `pretext runs runs`",
    );
    assert_eq!(place.pretext(&["runs", "nowhere", "--json"]).code, Some(2));
    place.pretext(&["runs"]).assert_done();
}

#[test]
fn doctor_tells_machines_in_json_what_it_tells_people_in_a_table() {
    let people = pretext(&["doctor"]);
    assert_eq!(people.code, Some(0));
    assert!(people.stdout.contains("cores"), "{}", people.stdout);
    let machines: serde_json::Value =
        serde_json::from_str(&pretext(&["doctor", "--json"]).stdout).expect("JSON");
    assert!(machines["cores"].as_u64().is_some_and(|n| n > 0));
}

#[test]
fn data_info_counts_classes_and_names_what_is_broken() {
    let place = Workplace::new();
    place.write("images/cat/1.jpg", "this is no picture");
    place.write("images/dog/2.png", png());
    let info = place.pretext(&["data", "info", "images"]);
    assert_eq!(info.code, Some(0), "{}", info.stderr);
    assert!(info.stdout.contains("  cat: 1\n  dog: 1\n  broken: 1 of 2"), "{}", info.stdout);
    assert!(info.stdout.contains("width 2 to 2, height 1 to 1"), "{}", info.stdout);
    assert!(info.stderr.starts_with("warning: `"), "{}", info.stderr);
    assert!(info.stderr.contains("1.jpg`: "), "{}", info.stderr);
}

#[test]
fn a_missing_path_and_an_empty_folder_are_asked_wrongly() {
    pretext(&["data", "info", "no/such/place"]).assert_refused(
        "there is no data at `no/such/place`",
        "check the path, or start without any with `data=shapes` or `data=speech`",
    );
    let place = Workplace::new();
    std::fs::create_dir(place.path().join("nothing")).expect("a folder");
    place.pretext(&["data", "info", "nothing"]).assert_refused(
        "`nothing` holds no image and no sound",
        "give a folder or tar with .jpg, .png, .wav or .flac files, in one sub-folder per class or in none",
    );
}

#[test]
fn a_reader_that_goes_away_ends_the_output_without_a_word() {
    let place = Workplace::new();
    let mut command = place.command(&["data", "info", "shapes"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("ends");
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

/// A PNG of one white and one black pixel.
fn png() -> Vec<u8> {
    let chunk = |kind: &[u8], data: &[u8]| {
        let body = [kind, data].concat();
        let crc = !body.iter().fold(u32::MAX, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| {
                (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
            })
        });
        [&(data.len() as u32).to_be_bytes()[..], &body, &crc.to_be_bytes()].concat()
    };
    // 2 x 1 pixels of 8 bits grey; one stored block of zlib: no filter, 255, 0.
    let header = [0, 0, 0, 2, 0, 0, 0, 1, 8, 0, 0, 0, 0];
    let pixels = [0x78, 1, 1, 3, 0, 0xFC, 0xFF, 0, 255, 0, 2, 1, 1, 0];
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    file.extend(chunk(b"IHDR", &header));
    file.extend(chunk(b"IDAT", &pixels));
    file.extend(chunk(b"IEND", b""));
    file
}
