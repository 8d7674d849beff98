//! `weft status`: the servers, who leads, and how the mesh stands.

use std::process::ExitCode;

use catalog::CheckStatus;
use clap::Args;
use serde::Serialize;
use wire::{api_types::RaftStatusView, mesh_status::MeshStatus};

use super::{
    ApiOptions,
    api::Api,
    output::{Output, instant, pairs, table},
};

/// Show the servers, who leads, and how the mesh stands, as the server or agent that answers sees it.
///
/// Ends with status 1 while no leader is known.
#[derive(Debug, Args)]
pub(super) struct Status {
    /// Show which releases run, and where
    #[arg(long)]
    versions: bool,
    #[command(flatten)]
    output: Output,
}

/// Is what a program reads: Raft's view at the top, the mesh below.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    raft: RaftStatusView,
    #[serde(rename = "Mesh")]
    mesh: MeshStatus,
}

pub(super) async fn run(status: Status, options: &ApiOptions) -> anyhow::Result<ExitCode> {
    let api = Api::new(options)?;
    let raft: RaftStatusView = api.get("/v1/status/raft", &[]).await?;
    let mesh: MeshStatus = api.get("/v1/status/mesh", &[]).await?;
    let shown = Shown { raft, mesh };
    let form = if status.versions { versions } else { text };
    status.output.print(&shown, form)?;
    Ok(if shown.raft.leader.is_some() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn text(shown: &Shown) -> String {
    let Shown { raft, mesh } = shown;
    let leader = raft.leader.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
    let contact = raft.last_contact_ms.map_or_else(|| "never".to_owned(), |ms| format!("{ms} ms ago"));
    let agents: usize = mesh.agents.values().flat_map(|releases| releases.values()).sum();
    let platforms: Vec<String> = mesh
        .agents
        .iter()
        .map(|(platform, releases)| format!("{} on {platform}", releases.values().sum::<usize>()))
        .collect();
    let counts = &mesh.services;
    let mut rows = vec![
        ("Answered by:", format!("{} ({})", raft.server, raft.role.as_str())),
        ("Leader:", leader),
        ("Heard from it:", contact),
        ("Term:", raft.term.to_string()),
        ("Applied index:", raft.applied_index.to_string()),
        ("May be lost:", margin(mesh)),
        (
            "Agents:",
            if platforms.is_empty() { "none".to_owned() } else { format!("{agents}: {}", platforms.join(", ")) },
        ),
        ("Sessions lost:", lost(mesh)),
        (
            "Services:",
            format!(
                "{} well, {} in part, {} without an instance to call",
                counts.passing, counts.warning, counts.critical
            ),
        ),
    ];
    let ages: Vec<String> = mesh.certificates.iter().map(age).collect();
    rows.push(("CA:", if ages.is_empty() { "none yet".to_owned() } else { ages.join("; ") }));
    let members = raft.members.iter().map(|member| {
        let role = if raft.leader.as_ref() == Some(&member.id) { "leader" } else { "follower" };
        vec![
            member.id.to_string(),
            role.to_owned(),
            alive(mesh, &member.id),
            member.raft_id.to_string(),
            member.address.clone(),
        ]
    });
    let mut text = format!(
        "{}\n\n{}",
        pairs(&rows),
        table(&["Server", "Role", "Status", "Number", "Raft address"], members.collect(), "in no group yet")
    );
    if !mesh.services_unwell.is_empty() {
        let unwell = mesh.services_unwell.iter().map(|service| {
            let numbers = [service.passing, service.warning, service.critical].map(|count| count.to_string());
            [vec![service.service.clone()], numbers.to_vec()].concat()
        });
        let listed = table(&["Service", "Passing", "Warning", "Critical"], unwell.collect(), "");
        text = format!("{text}\n\n{listed}");
    }
    if !mesh.bypassable.is_empty() {
        let rows = mesh.bypassable.iter().map(|instance| {
            let told = if instance.withheld { "no: its namespace refuses it" } else { "yes" };
            vec![instance.service.clone(), instance.node.clone(), told.to_owned()]
        });
        let listed = table(&["Reached past its agent", "Node", "Advertised"], rows.collect(), "");
        text = format!("{text}\n\n{listed}");
        if mesh.bypassable_count > mesh.bypassable.len() {
            text += &format!("\n{} in all", mesh.bypassable_count);
        }
    }
    if !mesh.shared.is_empty() {
        let rows = mesh.shared.iter().map(|shared| vec![shared.service.clone(), shared.methods.join(", ")]);
        let listed = table(&["Granted by several auth methods", "Methods"], rows.collect(), "");
        text = format!("{text}\n\n{listed}");
        if mesh.shared_count > mesh.shared.len() {
            text += &format!("\n{} in all", mesh.shared_count);
        }
    }
    text
}

/// Says how many servers may be lost, of those that are.
fn margin(mesh: &MeshStatus) -> String {
    let dead = mesh.servers.iter().filter(|server| server.alive == Some(false)).count();
    match mesh.quorum_margin {
        None => "unknown: no leader says which servers are alive".to_owned(),
        Some(margin) if dead == 0 => format!("{margin} of {} servers", mesh.servers.len()),
        Some(margin) => format!("{margin} more of {} servers; {dead} failed", mesh.servers.len()),
    }
}

/// Says how a server does, as the leader sees it.
fn alive(mesh: &MeshStatus, id: &catalog::ServerId) -> String {
    match mesh.servers.iter().find(|server| server.id == *id).and_then(|server| server.alive) {
        Some(true) => "alive",
        Some(false) => "failed",
        None => "unknown",
    }
    .to_owned()
}

fn lost(mesh: &MeshStatus) -> String {
    if mesh.sessions_lost_count == 0 {
        return "none".to_owned();
    }
    let more = if mesh.sessions_lost_count > mesh.sessions_lost.len() { ", ..." } else { "" };
    format!("{}: {}{more}", mesh.sessions_lost_count, mesh.sessions_lost.join(", "))
}

fn age(certificate: &wire::mesh_status::CertificateAge) -> String {
    let alarm = match certificate.status {
        CheckStatus::Passing => "",
        CheckStatus::Warning => " (warning)",
        CheckStatus::Critical => " (critical)",
    };
    let end = instant(certificate.not_after);
    format!("{} ends {end}, {} % left{alarm}", certificate.certificate, certificate.left_percent)
}

fn versions(shown: &Shown) -> String {
    let mesh = &shown.mesh;
    let releases = mesh.releases();
    let summary = releases.iter().map(|(release, (servers, agents))| {
        let release = if release.is_empty() { "unknown" } else { release };
        vec![release.to_owned(), servers.to_string(), agents.to_string()]
    });
    let servers = mesh.servers.iter().map(|server| {
        let release = if server.release.is_empty() { "unknown" } else { &server.release };
        vec![server.id.to_string(), release.to_owned(), server.reads.to_string()]
    });
    let agents = mesh.agents.iter().flat_map(|(platform, releases)| {
        releases.iter().map(move |(release, count)| vec![platform.to_string(), release.clone(), count.to_string()])
    });
    let tables = [
        table(&["Release", "Servers", "Agents"], summary.collect(), "nothing runs"),
        table(&["Server", "Release", "Reads log entries up to"], servers.collect(), "in no group yet"),
        table(&["Platform", "Release", "Agents"], agents.collect(), "no agents"),
    ];
    tables.join("\n\n")
}
