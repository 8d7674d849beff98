//! `weft completions`: a script for the shell.

use std::process::ExitCode;

use clap::Args;
use clap_complete::{Shell, generate};

use super::output;

/// Print a script that completes commands in a shell.
///
/// For bash: weft completions bash > /etc/bash_completion.d/weft
#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell to print it for
    shell: Shell,
}

pub(super) fn run(arguments: &Completions, command: &mut clap::Command) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    generate(arguments.shell, command, "weft", &mut script);
    output::text(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}
