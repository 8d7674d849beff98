//! Programs of others that a test needs.

use std::{
    io::Write,
    path::{Path, PathBuf},
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

/// Returns where Debian keeps PostgreSQL's programs: each release has a folder of its own.
fn postgresql_folders() -> impl Iterator<Item = PathBuf> {
    let releases = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    releases.map(|release| release.path().join("bin"))
}
