//! The servers themselves: who they are, how they do, and who of them leads, joins or goes.

use std::time::Duration;

use ::catalog::{Catalog, Command, Member, MembershipChange, Refusal, WatchKey};
use axum::response::Response;
use http::{Method, StatusCode};
use wire::consul::{
    AutopilotConfiguration, AutopilotHealth, AutopilotRequest, AutopilotServer, AutopilotState, LeaderTransferred,
    RaftConfiguration, RaftServer,
};
use wire::{crypto, rfc3339};

use super::auth::Right;
use super::call::Call;
use super::error::ApiError;
use super::route::{Route, route};
use crate::consensus::steward::{GroupHealth, ServerHealth};
use crate::consensus::{Answer, Asker, Question};

pub(super) fn routes() -> Vec<Route> {
    vec![
        route(Method::GET, "/v1/operator/raft/configuration", Right::OperatorRead, configuration)
            .answers("RaftConfiguration"),
        route(Method::PUT, "/v1/operator/raft/transfer-leader", Right::OperatorWrite, transfer_leader)
            .reads(&["id"])
            .answers("LeaderTransferred"),
        route(Method::POST, "/v1/operator/raft/transfer-leader", Right::OperatorWrite, transfer_leader)
            .reads(&["id"])
            .answers("LeaderTransferred"),
        route(Method::DELETE, "/v1/operator/raft/peer", Right::OperatorWrite, remove_peer)
            .reads(&["id", "address"])
            .answers("bool"),
        route(Method::GET, "/v1/operator/autopilot/configuration", Right::OperatorRead, autopilot)
            .answers("AutopilotConfiguration"),
        route(Method::PUT, "/v1/operator/autopilot/configuration", Right::OperatorWrite, set_autopilot)
            .reads(&["cas"])
            .takes("AutopilotConfiguration")
            .answers("bool"),
        route(Method::GET, "/v1/operator/autopilot/health", Right::OperatorRead, health).answers("AutopilotHealth"),
        route(Method::GET, "/v1/operator/autopilot/state", Right::OperatorRead, state).answers("AutopilotState"),
        route(Method::PUT, "/v1/agent/leave", Right::OperatorWrite, leave).answers("bool"),
    ]
}

/// Answers with the servers; without a leader, with what this one knows of them.
async fn configuration(call: Call) -> Result<Response, ApiError> {
    let consensus = call.state.consensus();
    let asked = if call.query.has("stale") { None } else { Some(call.ask(Question::Health).await?) };
    if asked.is_some() {
        // Who is listed is as new as how they do.
        consensus.read_index().await?;
    }
    let health = match asked {
        Some(Answer::Health(health)) => Some(health),
        _ => None,
    };
    let (catalog, status) = (consensus.catalog(), consensus.status());
    let leader = status.leader.map(|leader| leader.raft_id);
    let voters = consensus.voters();
    let membership = catalog.membership();
    let servers = membership.members.values().map(|member| {
        let seen = health.as_ref().and_then(|health| seen(health, member.raft_id));
        RaftServer {
            id: member.disk_id.clone(),
            node: member.id.clone(),
            address: member.facts.raft_address.clone(),
            leader: leader == Some(member.raft_id),
            voter: seen.map_or_else(|| voters.contains(&member.raft_id), |seen| seen.votes),
            last_index: seen.map_or(0, |seen| seen.last_index),
            protocol_version: "3".to_owned(),
            raft_id: member.raft_id,
            role: member.role,
        }
    });
    let index = catalog.index_of(&[WatchKey::Members]);
    call.json(&RaftConfiguration { servers: servers.collect(), index })
}

/// Hands leadership to the server that `id` names, or to whichever has most of the log.
async fn transfer_leader(call: Call) -> Result<Response, ApiError> {
    call.check_no_body()?;
    let to = match call.query.get("id") {
        None | Some("") => None,
        Some(name) => Some(call.member("id", name)?),
    };
    call.ask(Question::TransferLeader { to, by: call.asker()? }).await?;
    call.json(&LeaderTransferred { success: true })
}

/// Begins to take out the server that `id` or `address` names. It is told to stop; what it has on disk is of no use any more.
async fn remove_peer(call: Call) -> Result<Response, ApiError> {
    let (name, value) = match (call.query.get("id"), call.query.get("address")) {
        (Some(_), Some(_)) => return Err(ApiError::ParametersConflict { first: "id", second: "address" }),
        (Some(id), None) => ("id", id),
        (None, Some(address)) => ("address", address),
        (None, None) => {
            let expected = "name the server by its name, its number or its data directory's mark";
            return Err(ApiError::ParameterMissing { name: "id", expected });
        }
    };
    // Who it is may have been decided a moment ago.
    call.state.consensus().read_index().await?;
    let raft_id = call.member(name, value)?;
    call.ask(Question::Remove { raft_id, by: call.asker()? }).await?;
    call.json(&true)
}

/// Takes this very server out of the cluster; it ends by itself once the others do without it.
async fn leave(call: Call) -> Result<Response, ApiError> {
    call.check_no_body()?;
    let catalog = call.state.consensus().catalog();
    let Some(member) = catalog.membership().member_named(call.state.server()) else {
        return Err(ApiError::NotFound { what: "member", name: call.state.server().to_string() });
    };
    call.ask(Question::Remove { raft_id: member.raft_id, by: call.asker()? }).await?;
    call.json(&true)
}

/// Answers with how the group looks after itself.
async fn autopilot(call: Call) -> Result<Response, ApiError> {
    let reading = call.read(vec![WatchKey::Members]).await?;
    let autopilot = AutopilotConfiguration::from(&reading.catalog.membership().autopilot);
    call.answer(&reading, &autopilot)
}

/// Says how the group looks after itself; `cas` makes the write conditional.
async fn set_autopilot(call: Call) -> Result<Response, ApiError> {
    let AutopilotRequest(autopilot) = call.decode()?;
    let compare = call.compare()?;
    let command = Command::Membership { change: MembershipChange::SetAutopilot { autopilot, compare } };
    match call.write(command).await {
        Err(ApiError::Refused(Refusal::EntryChanged { .. })) if compare.is_some() => call.json(&false),
        written => written.and_then(|_| call.json(&true)),
    }
}

/// Answers with how the servers do, with status 429 where not all are well, as Consul does.
async fn health(call: Call) -> Result<Response, ApiError> {
    let health = call.health().await?;
    let status = if health.healthy { StatusCode::OK } else { StatusCode::TOO_MANY_REQUESTS };
    let mut response = call.json(&health)?;
    *response.status_mut() = status;
    Ok(response)
}

/// Answers with how the servers do, by the marks of their data directories.
async fn state(call: Call) -> Result<Response, ApiError> {
    let health = call.health().await?;
    call.json(&AutopilotState::from(health))
}

fn seen(health: &GroupHealth, raft_id: u64) -> Option<&ServerHealth> {
    health.servers.iter().find(|server| server.raft_id == raft_id)
}

/// Finds a server by its name, its number, its data directory's mark or its address.
fn find<'a>(catalog: &'a Catalog, text: &str) -> Option<&'a Member> {
    let mut members = catalog.membership().members.values().map(|member| &**member);
    members.find(|member| {
        member.id.as_str() == text
            || member.disk_id == text
            || member.facts.raft_address == text
            || text.parse() == Ok(member.raft_id)
    })
}

impl Call {
    /// Asks the leader, and takes its refusal for this call's.
    async fn ask(&self, question: Question) -> Result<Answer, ApiError> {
        match self.state.consensus().ask_leader(question).await? {
            Answer::Refused { reason } => Err(Refusal::Membership { problem: reason }.into()),
            Answer::Denied { needs } => Err(self.denied(needs)),
            answer => Ok(answer),
        }
    }

    /// Says to the leader who asks.
    fn asker(&self) -> Result<Asker, ApiError> {
        let accessor = self.caller.accessor().cloned().ok_or(ApiError::TokenUnknown)?;
        Ok(Asker { accessor, source: self.source.map(|source| source.to_string()) })
    }

    /// Returns how the servers do, as the leader sees them.
    async fn health(&self) -> Result<AutopilotHealth, ApiError> {
        let Answer::Health(health) = self.ask(Question::Health).await? else {
            return Err(ApiError::Internal { reason: "the leader answered something else".to_owned() });
        };
        self.state.consensus().read_index().await?;
        let catalog = self.state.consensus().catalog();
        let now = crypto::now();
        let servers = catalog.membership().members.values().map(|member| {
            let seen = seen(&health, member.raft_id);
            let is_healthy = seen.is_some_and(|seen| seen.is_healthy);
            let stable = Duration::from_millis(seen.map_or(0, |seen| seen.stable_ms));
            AutopilotServer {
                id: member.disk_id.clone(),
                name: member.id.clone(),
                address: member.facts.raft_address.clone(),
                serf_status: if is_healthy { "alive" } else { "failed" }.to_owned(),
                version: member.facts.release.clone(),
                leader: member.raft_id == health.leader,
                last_contact: AutopilotServer::contact(seen.and_then(|seen| seen.silent_ms)),
                last_term: health.term,
                last_index: seen.map_or(0, |seen| seen.last_index),
                healthy: is_healthy,
                voter: seen.is_some_and(|seen| seen.votes),
                stable_since: rfc3339::format(now.saturating_sub(stable)),
                raft_id: member.raft_id,
                role: member.role,
                reads: member.facts.reads,
            }
        });
        Ok(AutopilotHealth {
            healthy: health.is_healthy(),
            failure_tolerance: health.tolerance(),
            servers: servers.collect(),
            held: health.held.clone(),
        })
    }

    fn member(&self, name: &'static str, text: &str) -> Result<u64, ApiError> {
        let catalog = self.state.consensus().catalog();
        let found = find(&catalog, text).map(|member| member.raft_id);
        found.ok_or_else(|| {
            super::query::parameter(name, text, "name a server that `weft operator raft list-peers` shows")
        })
    }

    /// Refuses a body where there is nothing to say in it.
    pub(super) fn check_no_body(&self) -> Result<(), ApiError> {
        if self.body.is_empty() || self.body == "{}" || self.body == "null" {
            return Ok(());
        }
        Err(ApiError::Body { path: self.path, reason: "the path says it all; send no body".to_owned() })
    }
}
