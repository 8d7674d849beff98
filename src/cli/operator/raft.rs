//! `weft operator raft`: who the servers are.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;
use wire::consul::{LeaderTransferred, RaftConfiguration};

use crate::cli::ApiOptions;
use crate::cli::api::Api;
use crate::cli::output::{self, Output, printable, table};

/// Show and change who the servers are.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Raft {
    /// List the servers
    ListPeers(ListPeers),
    /// Take a server out for good
    RemovePeer(RemovePeer),
    /// Hand leadership to another server
    TransferLeader(TransferLeader),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ListPeers {
    /// Take what the asked server knows, without a leader
    #[arg(long)]
    stale: bool,
    #[command(flatten)]
    output: Output,
}

/// Take a server out for good.
///
/// The others go on without it, and it is told to stop. Its data directory is of no use any more: to let the machine join
/// again, empty it. The last voter is not taken out, nor one without which the healthy ones would be no majority. A leader
/// that is taken out hands leadership over first.
#[derive(Debug, Args)]
pub(in crate::cli) struct RemovePeer {
    /// The server: its name, its number, its address or the mark of its data directory
    server: String,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct TransferLeader {
    /// The server to lead; whichever has most of the log where none is named
    server: Option<String>,
}

pub(super) async fn run(verb: Raft, options: &ApiOptions) -> anyhow::Result<ExitCode> {
    let api = Api::new(options)?;
    match verb {
        Raft::ListPeers(list) => {
            let query: &[(&str, &str)] = if list.stale { &[("stale", "")] } else { &[] };
            let found: RaftConfiguration = api.get("/v1/operator/raft/configuration", query).await?;
            list.output.print(&found, shown)?;
        }
        Raft::RemovePeer(RemovePeer { server }) => {
            api.delete("/v1/operator/raft/peer", &[("id", &server)]).await?;
            output::line(&format!("server {} is being taken out", printable(&server)))?;
        }
        Raft::TransferLeader(TransferLeader { server }) => {
            let query: Vec<(&str, &str)> = server.iter().map(|server| ("id", server.as_str())).collect();
            let _: LeaderTransferred = api.act("/v1/operator/raft/transfer-leader", &query).await?;
            output::line("leadership handed over")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn shown(found: &RaftConfiguration) -> String {
    let latest = found.servers.iter().map(|server| server.last_index).max().unwrap_or_default();
    let rows = found.servers.iter().map(|server| {
        let state = if server.leader { "leader" } else { "follower" };
        let trails = if server.last_index == 0 { "-".to_owned() } else { (latest - server.last_index).to_string() };
        let role = serde_json::to_value(server.role).ok();
        vec![
            server.node.to_string(),
            server.raft_id.to_string(),
            server.address.clone(),
            state.to_owned(),
            if server.voter { "yes" } else { "no" }.to_owned(),
            role.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned(),
            trails,
        ]
    });
    table(&["Server", "Number", "Address", "State", "Votes", "Role", "Trails by"], rows.collect(), "no servers")
}
