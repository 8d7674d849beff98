//! Who leads, who votes, and how Raft stands.

use ::catalog::ServerMember;
use axum::response::Response;
use http::Method;
use wire::api_types::{RaftMemberView, RaftRole, RaftStatusView};

use super::auth::Right;
use super::call::Call;
use super::error::ApiError;
use super::route::{Route, route};
use crate::consensus::Role;

pub(super) fn routes() -> Vec<Route> {
    vec![
        route(Method::GET, "/v1/status/leader", Right::Public, leader).answers("text"),
        route(Method::GET, "/v1/status/peers", Right::OperatorRead, peers).answers("[text]"),
        route(Method::GET, "/v1/status/raft", Right::OperatorRead, raft).answers("RaftStatusView"),
    ]
}

/// Answers with the leader's Raft address, empty while there is none: the one question that needs no token.
async fn leader(call: Call) -> Result<Response, ApiError> {
    let leader = call.state.consensus().status().leader.map(|leader| leader.raft_address);
    call.json(&leader.unwrap_or_default())
}

/// Answers with the Raft addresses of all members.
async fn peers(call: Call) -> Result<Response, ApiError> {
    let status = call.state.consensus().status();
    let addresses: Vec<&str> = status.members.iter().map(|member| member.raft_address.as_str()).collect();
    call.json(&addresses)
}

/// Answers with this server's own view of Raft, whether or not there is a leader.
async fn raft(call: Call) -> Result<Response, ApiError> {
    let status = call.state.consensus().status();
    call.json(&RaftStatusView {
        server: call.state.server().clone(),
        role: match status.role {
            Role::Leader => RaftRole::Leader,
            Role::Candidate => RaftRole::Candidate,
            // One that belongs to no cluster yet follows nobody: its list of servers is empty.
            Role::Follower | Role::Joining => RaftRole::Follower,
        },
        leader: status.leader.map(|leader| leader.id),
        term: status.term,
        applied_index: status.applied,
        last_contact_ms: status.last_contact.map(|since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)),
        members: status.members.iter().map(member_view).collect(),
    })
}

fn member_view(member: &ServerMember) -> RaftMemberView {
    RaftMemberView { id: member.id.clone(), raft_id: member.raft_id, address: member.raft_address.clone() }
}
