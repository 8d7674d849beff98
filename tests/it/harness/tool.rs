//! What a test needs of the place where it runs: programs of others, and the repository's own files.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use super::output_within;

/// How long a program of others may take: some read much before they begin.
const RUN: Duration = Duration::from_secs(300);

/// Finds a program; where it is missing the test is skipped, loudly, or fails if `WEFT_TEST_REQUIRE=all`. So it is where one that
/// makes and enters namespaces is of no use, for want of root.
pub(crate) fn tool(name: &str, test: &str) -> Option<PathBuf> {
    if ["unshare", "nsenter"].contains(&name) && !rustix::process::geteuid().is_root() {
        missing(test, "machines of namespaces take root");
        return None;
    }
    let found = find(name);
    if found.is_none() {
        missing(test, &format!("`{name}` is not installed"));
    }
    found
}

/// Finds a program that cannot be installed everywhere; where it is missing the test is skipped, loudly, and never fails.
pub(crate) fn optional_tool(name: &str, test: &str) -> Option<PathBuf> {
    let found = find(name);
    if found.is_none() {
        skipped(test, &format!("`{name}` is not installed"));
    }
    found
}

fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .chain(postgresql_folders())
        .map(|folder| folder.join(name))
        .find(|candidate| Path::is_file(candidate))
}

/// Says that a test is skipped, and why; fails if `WEFT_TEST_REQUIRE=all`.
pub(crate) fn missing(test: &str, why: &str) {
    assert!(std::env::var("WEFT_TEST_REQUIRE").as_deref() != Ok("all"), "{test}: {why}");
    skipped(test, why);
}

/// Says that a test is skipped, and why: of what no run can be given.
pub(crate) fn skipped(test: &str, why: &str) {
    // Past the capture of the test runner, for a skipped test must be seen.
    let _unseen = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
}

/// Returns the repository's root.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the entries of a folder, sorted.
#[track_caller]
pub(crate) fn entries(folder: &Path) -> Vec<PathBuf> {
    let listed = fs::read_dir(folder).unwrap_or_else(|error| panic!("listing {}: {error}", folder.display()));
    let mut entries: Vec<PathBuf> = listed.map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    assert!(!entries.is_empty(), "{} is empty", folder.display());
    entries
}

/// Copies a folder without what starts with a dot, such as what a program has left behind there.
#[track_caller]
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in entries(from) {
        let name = entry.file_name().unwrap();
        if name.to_string_lossy().starts_with('.') {
            continue;
        }
        if entry.is_dir() {
            copy(&entry, &to.join(name));
        } else {
            fs::copy(&entry, to.join(name)).unwrap();
        }
    }
}

/// Runs a command that must succeed.
#[track_caller]
pub(crate) fn succeed(command: &mut Command) {
    let output = output_within(command, RUN);
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?} ended with {}:\n{stdout}{stderr}", output.status);
}

/// Finds a Python that can import `module`, in `WEFT_TEST_PYTHON` or on the path; where there is none the test is skipped,
/// loudly, or fails if `WEFT_TEST_REQUIRE=all`.
pub(crate) fn python(module: &str, test: &str) -> Option<PathBuf> {
    let program = std::env::var_os("WEFT_TEST_PYTHON").map_or_else(|| PathBuf::from("python3"), PathBuf::from);
    let imported = Command::new(&program).args(["-c", &format!("import {module}")]).output();
    if imported.is_ok_and(|output| output.status.success()) {
        return Some(program);
    }
    let program = program.display();
    missing(test, &format!("`{program}` has no `{module}`; see WEFT_TEST_PYTHON in .ci/run"));
    None
}

/// Returns where Debian keeps PostgreSQL's programs: each release has a folder of its own.
fn postgresql_folders() -> impl Iterator<Item = PathBuf> {
    let releases = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    releases.map(|release| release.path().join("bin"))
}
