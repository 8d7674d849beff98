//! The demo is a promise to newcomers, and so it is tested.

use crate::harness::weft;

#[test]
fn the_demo_ends_well_and_leaves_nothing_behind() {
    let home = tempfile::tempdir().unwrap();
    let output = weft(&["demo", "--exit"], &[("TMPDIR", &home.path().display().to_string())]);
    assert_eq!(output.status, Some(0), "{}\n{}", output.stdout, output.stderr);
    assert!(output.stdout.contains("Every step came out as told."), "{}", output.stdout);
    assert!(!output.stdout.contains("NOT AS TOLD"), "{}", output.stdout);
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "the demo cleans up after itself");
}
