//! `weft keygen`: a new cluster key.

use std::process::ExitCode;

use clap::Args;
use wire::cluster_key::ClusterKey;

use super::output;

/// Print a new cluster key.
///
/// All servers of a group share it. From it they derive what they trust one another with, and what seals the CA's
/// private keys. Keep it in a file of mode 0600; whoever holds it can be a server.
///
///   (umask 077; weft keygen > cluster.key)
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Keygen {}

pub(super) fn run() -> anyhow::Result<ExitCode> {
    output::line(ClusterKey::generate().to_text().expose())?;
    Ok(ExitCode::SUCCESS)
}
