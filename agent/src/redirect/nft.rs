//! Talking to the kernel, through the program `nft`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use super::{Redirection, TABLE, rules};

/// Explains why rules were not changed or read.
#[derive(Debug, thiserror::Error)]
pub enum RedirectError {
    /// The program is not there.
    #[error("`nft` is not installed: the package nftables has it")]
    Missing,
    /// The program did not run.
    #[error("cannot run {}", .program.display())]
    Run {
        /// Where it is.
        program: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The kernel or the program refused a change; what was in force still is.
    #[error("nothing was changed: {0}")]
    Unchanged(String),
    /// The kernel or the program does not show the rules.
    #[error("cannot read the rules: {0}")]
    Unread(String),
}

/// Puts a redirection into force, all of it or nothing, in place of whatever was redirected before.
///
/// # Errors
///
/// [`RedirectError`]; what was in force still is.
pub fn apply(redirection: &Redirection) -> Result<(), RedirectError> {
    run(&["-f", "-"], &rules::write(redirection))?.map(drop).map_err(RedirectError::Unchanged)
}

/// Ends all redirection; harmless where there is none.
///
/// # Errors
///
/// [`RedirectError`]; what was in force still is.
pub fn remove() -> Result<(), RedirectError> {
    run(&["-f", "-"], &rules::removal())?.map(drop).map_err(RedirectError::Unchanged)
}

/// Returns the rules that are in force, as `nft` writes them; none where nothing is redirected.
///
/// # Errors
///
/// [`RedirectError`].
pub fn show() -> Result<Option<String>, RedirectError> {
    listed(&["list", "table", "inet", TABLE])
}

/// Returns the rules that are in force, as JSON in the form of libnftables; none where nothing is redirected.
///
/// # Errors
///
/// [`RedirectError`].
pub fn show_json() -> Result<Option<String>, RedirectError> {
    listed(&["--json", "list", "table", "inet", TABLE])
}

fn listed(arguments: &[&str]) -> Result<Option<String>, RedirectError> {
    let read = |arguments: &[&str]| run(arguments, "")?.map_err(RedirectError::Unread);
    let tables = read(&["list", "tables", "inet"])?;
    let is_there = tables.lines().any(|line| line.trim() == format!("table inet {TABLE}"));
    is_there.then(|| read(arguments)).transpose()
}

/// Returns what the program says, or why it refuses.
fn run(arguments: &[&str], input: &str) -> Result<Result<String, String>, RedirectError> {
    let program = find().ok_or(RedirectError::Missing)?;
    let output = piped(Command::new(&program).args(arguments), input)
        .map_err(|source| RedirectError::Run { program, source })?;
    if output.status.success() {
        return Ok(Ok(String::from_utf8_lossy(&output.stdout).into_owned()));
    }
    Ok(Err(reason(&String::from_utf8_lossy(&output.stderr))))
}

/// Returns what of the program's complaint says why: it repeats the rules below each of its lines.
fn reason(complaint: &str) -> String {
    let mut told = complaint.lines().filter(|line| line.contains("Error:") || line.contains("Operation not permitted"));
    let Some(told) = told.next() else { return complaint.split_whitespace().collect::<Vec<_>>().join(" ") };
    let told = told.rsplit_once("Error: ").map_or(told, |(_, rest)| rest).trim();
    if told.contains("not permitted") {
        return format!("{told}: changing rules takes root, or the capability NET_ADMIN");
    }
    told.to_owned()
}

fn piped(command: &mut Command, input: &str) -> io::Result<Output> {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).env("LC_ALL", "C").spawn()?;
    // A program that ended early has said why.
    let _ended = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
    child.wait_with_output()
}

/// Finds the program, also where users other than root do not look.
fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join("nft")).find(|candidate| candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_why_without_repeating_the_rules() {
        for (complaint, reason_told) in [
            ("/dev/stdin:3:1-2: Error: User does not exist\nmeta skuid nobody2 return\n^^^^\n", "User does not exist"),
            (
                "Error: Could not process rule: Operation not permitted\nlist tables inet\n^^^\n",
                "Could not process rule: Operation not permitted: changing rules takes root, or the capability NET_ADMIN",
            ),
            (
                "netlink: Error: cache initialization failed: Operation not permitted",
                "cache initialization failed: Operation not permitted: changing rules takes root, or the capability NET_ADMIN",
            ),
        ] {
            assert_eq!(reason(complaint), reason_told);
        }
    }
}
