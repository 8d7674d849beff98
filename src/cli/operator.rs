//! `weft operator`: the servers themselves.

mod autopilot;
mod raft;
mod recover;
mod rekey;

use std::process::ExitCode;

use clap::Subcommand;

use super::ApiOptions;

/// Look after the servers: who they are, who leads, and what to do when a majority is lost for good.
#[derive(Debug, Subcommand)]
pub(super) enum Operator {
    /// Show and change who the servers are
    #[command(subcommand)]
    Raft(raft::Raft),
    /// Show how the servers do, and set how they look after themselves
    #[command(subcommand)]
    Autopilot(autopilot::Autopilot),
    /// Rebuild the cluster from one stopped server whose peers are lost for good
    RecoverQuorum(recover::RecoverQuorum),
    /// Seal the mesh's secrets anew, with the first configured cluster key
    Rekey(rekey::Rekey),
}

pub(super) async fn run(verb: Operator, options: &ApiOptions) -> anyhow::Result<ExitCode> {
    match verb {
        Operator::Raft(verb) => raft::run(verb, options).await,
        Operator::Autopilot(verb) => autopilot::run(verb, options).await,
        Operator::RecoverQuorum(recover) => recover::run(&recover),
        Operator::Rekey(rekey) => rekey::run(&rekey, options).await,
    }
}
