//! `weft operator recover-quorum`: one server goes on alone where the others are lost for good.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::cli::output;

/// Rebuild the cluster from one stopped server whose peers are lost for good.
///
/// For when a majority of the servers will never come back: their disks are lost. While it may come back, wait for it: what
/// was acknowledged and is not on this server's disk is lost by this command, and nothing brings it back.
///
/// Stop every server that is left, choose the one with the highest last index (run this without --confirm on each: it only
/// shows what is there), and run it there with --confirm. Then start that server: it leads alone. Let new servers join it.
/// All others of the old cluster are refused from then on; empty their data directories to let their machines join.
#[derive(Debug, Args)]
pub(in crate::cli) struct RecoverQuorum {
    /// The data directory of the stopped server
    #[arg(long, value_name = "DIRECTORY")]
    data_dir: PathBuf,
    /// The id of the cluster, as this command shows it; without it nothing is changed
    #[arg(long, value_name = "CLUSTER ID")]
    confirm: Option<String>,
}

pub(super) fn run(arguments: &RecoverQuorum) -> anyhow::Result<ExitCode> {
    let found = server::recovery::inspect(&arguments.data_dir)?;
    let servers: Vec<String> = found.servers.iter().map(ToString::to_string).collect();
    output::line(&output::pairs(&[
        ("Cluster", found.cluster_id.clone()),
        ("Server", found.server.to_string()),
        ("Servers of the cluster", servers.join(", ")),
        ("Last index", found.last_index.to_string()),
    ]))?;
    let Some(confirmed) = &arguments.confirm else {
        output::line(
            "\nNothing was changed. To rebuild the cluster from this server alone, add --confirm with its id.",
        )?;
        return Ok(ExitCode::from(1));
    };
    let recovered = server::recovery::recover(&arguments.data_dir, confirmed)?;
    output::line(&format!(
        "\nThe cluster is rebuilt: server {} is alone in epoch {}. Start it, and let new servers join.",
        recovered.server, recovered.epoch
    ))?;
    Ok(ExitCode::SUCCESS)
}
