//! `weft status`: the servers, and who leads.

use std::process::ExitCode;

use clap::Args;
use wire::api_types::RaftStatusView;

use super::{
    ApiOptions,
    api::Api,
    output::{Output, pairs, table},
};

/// Show the servers and who leads, as the server or agent that answers sees it.
///
/// Ends with status 1 while no leader is known.
#[derive(Debug, Args)]
pub(super) struct Status {
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(status: Status, options: &ApiOptions) -> anyhow::Result<ExitCode> {
    let found: RaftStatusView = Api::new(options)?.get("/v1/status/raft", &[]).await?;
    status.output.print(&found, text)?;
    Ok(if found.leader.is_some() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn text(status: &RaftStatusView) -> String {
    let leader = status.leader.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
    let contact = status.last_contact_ms.map_or_else(|| "never".to_owned(), |ms| format!("{ms} ms ago"));
    let summary = pairs(&[
        ("Answered by:", format!("{} ({})", status.server, status.role.as_str())),
        ("Leader:", leader),
        ("Heard from it:", contact),
        ("Term:", status.term.to_string()),
        ("Applied index:", status.applied_index.to_string()),
    ]);
    let rows = status.members.iter().map(|member| {
        let role = if status.leader.as_ref() == Some(&member.id) { "leader" } else { "follower" };
        vec![member.id.to_string(), role.to_owned(), member.raft_id.to_string(), member.address.clone()]
    });
    format!("{summary}\n\n{}", table(&["Server", "Role", "Number", "Raft address"], rows.collect(), "in no group yet"))
}
