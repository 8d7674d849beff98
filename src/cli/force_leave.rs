//! `weft force-leave`: a node whose agent is gone for good does not wait for its time.

use std::process::ExitCode;

use clap::Args;

use super::{ApiOptions, api::Api, output};

/// Give up the session of a node's agent at once, as the servers do by themselves some time after they hear no more of it.
///
/// The node turns critical, and nobody calls its services. An agent that is there after all opens a new session and is back;
/// to keep it out, use `weft revoke agent`. A server is taken out with `weft operator raft remove-peer`.
#[derive(Debug, Args)]
pub(super) struct ForceLeave {
    /// The node
    #[arg(value_name = "NODE")]
    node: String,
    /// Have it leave the catalog too, with all that is registered on it
    #[arg(long)]
    prune: bool,
}

pub(super) async fn run(leave: ForceLeave, options: &ApiOptions) -> anyhow::Result<ExitCode> {
    let query: &[(&str, &str)] = if leave.prune { &[("prune", "true")] } else { &[] };
    Api::new(options)?.write_to("/v1/agent/force-leave", &leave.node, query).await?;
    let what =
        if leave.prune { "its session is given up, and it has left the catalog" } else { "its session is given up" };
    output::line(&format!("{}: {what}", output::printable(&leave.node)))?;
    Ok(ExitCode::SUCCESS)
}
