//! The demo is a promise to newcomers, and so it is tested.

use std::{process::Command, time::Duration};

use crate::harness::{Process, eventually, weft_within};

/// How long all of it may take.
const DEMO: Duration = Duration::from_secs(300);

#[test]
fn the_demo_ends_well_and_leaves_nothing_behind() {
    let home = tempfile::tempdir().unwrap();
    let output = weft_within(&["demo", "--exit"], &[("TMPDIR", &home.path().display().to_string())], DEMO);
    assert_eq!(output.status, Some(0), "{}\n{}", output.stdout, output.stderr);
    assert!(output.stdout.contains("Every step came out as told."), "{}", output.stdout);
    assert!(!output.stdout.contains("NOT AS TOLD"), "{}", output.stdout);
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "the demo cleans up after itself");
}

#[test]
fn an_interrupted_demo_stops_what_it_started_and_does_not_claim_success() {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
    command.args(["demo", "--exit"]).env("TMPDIR", home.path()).env("WEFT_NAMESPACE", "elsewhere");
    let logs = tempfile::tempdir().unwrap();
    let mut demo = Process::start("demo", command, logs.path());
    eventually("the story to begin", Duration::from_secs(60), || demo.log().contains("Starting").then_some(()));
    assert_eq!(demo.terminate(Duration::from_secs(60)), Some(1), "{}", demo.log());
    assert!(demo.log().contains("Stopping."), "{}", demo.log());
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "it cleans up after itself");
}
