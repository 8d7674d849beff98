//! `weft leave`: the asked server or agent goes.

use std::process::ExitCode;

use clap::Args;

use super::{ApiOptions, api::Api, output};

/// Let the asked server or agent leave.
///
/// A server has the others go on without it, hands leadership over where it has it, and ends once they do; its data directory
/// is of no use afterwards. The last server that votes does not leave, nor one without which there would be no majority. An
/// agent ends as it does when it is told to stop: its services are not advertised any more.
#[derive(Debug, Args)]
pub(super) struct Leave {}

pub(super) async fn run(_: Leave, options: &ApiOptions) -> anyhow::Result<ExitCode> {
    Api::new(options)?.tell("/v1/agent/leave", &[]).await?;
    output::line("it is leaving, and ends by itself")?;
    Ok(ExitCode::SUCCESS)
}
