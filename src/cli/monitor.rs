//! `weft monitor`: the log of a running server or agent, as it is written.

use std::process::ExitCode;

use clap::Args;

use super::{ApiOptions, api::Api, output};

/// Show the log of the asked server or agent as it is written, until it or this command ends.
///
/// What was logged before is not shown. Only what weft itself says is; a level that is lower than the process's own `--log`
/// shows what its own log leaves out.
#[derive(Debug, Args)]
pub(super) struct Monitor {
    /// Show lines of this level and above: trace, debug, info, warn or error
    #[arg(long, default_value = "info", value_name = "LEVEL")]
    log_level: String,
    /// Show one JSON object a line
    #[arg(long)]
    log_json: bool,
}

pub(super) async fn run(monitor: Monitor, options: &ApiOptions) -> anyhow::Result<ExitCode> {
    let form = if monitor.log_json { "true" } else { "false" };
    let query = [("loglevel", monitor.log_level.as_str()), ("logjson", form)];
    let api = Api::new(options)?;
    let mut lines = api.stream("/v1/agent/monitor", &query).await?;
    while let Some(piece) = lines.next().await? {
        output::text(&String::from_utf8_lossy(&piece))?;
    }
    Ok(ExitCode::SUCCESS)
}
