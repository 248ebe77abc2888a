//! What people see: errors, hints and exit codes of the real binary.

use pretext_tests::pretext;

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
fn a_misspelt_command_is_refused_with_its_neighbour() {
    pretext(&["docter"]).assert_refused("there is no command `docter`", "did you mean `doctor`?");
}

#[test]
fn an_unknown_flag_is_asked_wrongly() {
    let refused = pretext(&["doctor", "--nosuch"]);
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(2), ""));
    assert!(
        refused.stderr.starts_with("error: unexpected argument '--nosuch'"),
        "{}",
        refused.stderr
    );
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
