//! `weft validate`: look at files before anything runs on them.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, ValueEnum};

use super::{agent, output, server};

/// Says whose files they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Whose {
    /// An agent's: settings and service definitions.
    Agent,
    /// A server's: settings.
    Server,
}

/// Check files without running anything.
///
/// Reads them as `weft agent` or `weft server` would, and says what is wrong with the first that is not acceptable.
#[derive(Debug, Args)]
pub(super) struct Validate {
    /// Whose files they are
    #[arg(long = "as", value_enum, default_value_t = Whose::Agent, value_name = "WHOSE")]
    whose: Whose,
    /// Files, or directories of them
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

pub(super) fn run(arguments: &Validate) -> anyhow::Result<ExitCode> {
    let files: Vec<_> = arguments.paths.iter().cloned().map(Into::into).collect();
    match arguments.whose {
        Whose::Server => drop(server::read(&files)?),
        Whose::Agent => drop(agent::read(&files)?),
    }
    output::line("All of it can be used.")?;
    Ok(ExitCode::SUCCESS)
}
