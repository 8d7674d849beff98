//! `weft validate`: look at files before anything runs on them.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, ValueEnum};
use serde_json::json;

use super::{
    agent, config_file, error::hinted, inject::settings::InjectorSettings, output::Output, server, settings::read_all,
};

/// Says whose files they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Whose {
    /// An agent's: settings and service definitions.
    Agent,
    /// A server's: settings.
    Server,
    /// Those of `weft injector` and `weft inject`.
    Injector,
}

/// Check files without running anything.
///
/// Reads them as `weft agent`, `weft server` or `weft injector` would, and says what is wrong with the first that is not
/// acceptable. Without files, it reads the text of WEFT_CONFIG.
#[derive(Debug, Args)]
pub(super) struct Validate {
    /// Whose files they are
    #[arg(long = "as", value_enum, default_value_t = Whose::Agent, value_name = "WHOSE")]
    whose: Whose,
    /// Files, or directories of them
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(arguments: &Validate) -> anyhow::Result<ExitCode> {
    let files: Vec<_> = if arguments.paths.is_empty() {
        config_file::sources(&[])
    } else {
        arguments.paths.iter().cloned().map(Into::into).collect()
    };
    if files.is_empty() {
        return Err(hinted("there is nothing to check", "name files, or directories of them, or set WEFT_CONFIG"));
    }
    match arguments.whose {
        Whose::Server => drop(read_all::<server::Settings>(&files, &[])?),
        Whose::Agent => drop(agent::read(&files)?),
        Whose::Injector => drop(read_all::<InjectorSettings>(&files, &[])?),
    }
    arguments.output.print(&json!({ "Usable": true }), |_| "All of it can be used.".to_owned())?;
    Ok(ExitCode::SUCCESS)
}
