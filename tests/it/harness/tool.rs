//! Programs of others that a test needs.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

/// Finds a program; where it is missing the test is skipped, loudly, or fails if `WEFT_TEST_REQUIRE=all`.
pub(crate) fn tool(name: &str, test: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .chain(postgresql_folders())
        .map(|folder| folder.join(name))
        .find(|candidate| Path::is_file(candidate));
    if found.is_none() {
        assert!(std::env::var("WEFT_TEST_REQUIRE").as_deref() != Ok("all"), "{test} needs `{name}`: install it");
        // Past the capture of the test runner, for a skipped test must be seen.
        let _unseen = writeln!(std::io::stderr(), "SKIPPED {test}: `{name}` is not installed");
    }
    found
}

/// Finds a Python that can import `module`, in `WEFT_TEST_PYTHON` or on the path; where there is none the test is skipped,
/// loudly, or fails if `WEFT_TEST_REQUIRE=all`.
pub(crate) fn python(module: &str, test: &str) -> Option<PathBuf> {
    let program = std::env::var_os("WEFT_TEST_PYTHON").map_or_else(|| PathBuf::from("python3"), PathBuf::from);
    let imported = Command::new(&program).args(["-c", &format!("import {module}")]).output();
    if imported.is_ok_and(|output| output.status.success()) {
        return Some(program);
    }
    assert!(std::env::var("WEFT_TEST_REQUIRE").as_deref() != Ok("all"), "{test} needs Python's `{module}`");
    let program = program.display();
    let _unseen =
        writeln!(std::io::stderr(), "SKIPPED {test}: `{program}` has no `{module}`; see WEFT_TEST_PYTHON in .ci/run");
    None
}

/// Returns where Debian keeps PostgreSQL's programs: each release has a folder of its own.
fn postgresql_folders() -> impl Iterator<Item = PathBuf> {
    let releases = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    releases.map(|release| release.path().join("bin"))
}
