//! Who takes part: servers and agents, and how the mesh as a whole stands.

use std::collections::BTreeMap;

use ::catalog::{
    Caller, Catalog, CheckStatus, Command, Decision, NodeName, Owner, ServerId, SessionChange, SessionRef, WatchKey,
    authorize as decide,
};
use axum::response::Response;
use http::Method;
use tracing::info;
use wire::consul::{AgentHost, AgentMember, AuthorizeAnswer, AuthorizeRequest, Usage, UsageAnswer};
use wire::crypto;
use wire::mesh_status::{MeshStatus, NODE_VERSION};

use super::auth::Right;
use super::call::Call;
use super::error::ApiError;
use super::reads::Reading;
use super::route::{Route, route};
use crate::consensus::steward::GroupHealth;

pub(super) fn routes() -> Vec<Route> {
    vec![
        route(Method::GET, "/v1/agent/members", Right::Judged, members).answers("[AgentMember]"),
        route(Method::GET, "/v1/agent/host", Right::OperatorRead, host).answers("AgentHost"),
        route(Method::POST, "/v1/agent/connect/authorize", Right::Judged, authorize)
            .takes("object")
            .answers("AuthorizeAnswer"),
        route(Method::PUT, "/v1/agent/force-leave/{node}", Right::OperatorWrite, force_leave)
            .reads(&["prune"])
            .answers("bool"),
        route(Method::GET, "/v1/operator/usage", Right::OperatorRead, usage).answers("UsageAnswer"),
        route(Method::GET, "/v1/status/mesh", Right::OperatorRead, mesh).answers("MeshStatus"),
    ]
}

/// Answers with the servers and the nodes with an agent, as far as the caller may read the node of the name.
async fn members(call: Call) -> Result<Response, ApiError> {
    // An agent may lose its session without a check that says so, and servers come and go.
    let reading = call.read(vec![WatchKey::Nodes, WatchKey::Checks, WatchKey::Agents, WatchKey::Members]).await?;
    let seen = call.state.consensus().seen_health().await;
    let mut members = servers(&call, &reading, seen.as_deref());
    let catalog = &reading.catalog;
    let held = catalog.nodes().filter(|node| matches!(node.owner, Owner::Agent(_)));
    for node in held.filter(|node| reading.keeps(reading.authority.node_read(&node.name))) {
        let mut instances = catalog.instances_on(&node.name);
        let port = instances.find_map(|instance| instance.mesh_port).unwrap_or(0);
        let mut tags = BTreeMap::from([
            ("role".to_owned(), "node".to_owned()),
            ("dc".to_owned(), call.state.datacenter().to_owned()),
            ("platform".to_owned(), node.platform.to_string()),
        ]);
        tags.extend(node.meta.get(NODE_VERSION).map(|version| ("build".to_owned(), version.clone())));
        members.push(AgentMember {
            name: node.name.to_string(),
            addr: node.address.clone(),
            port,
            tags,
            status: if is_in_session(catalog, node) { AgentMember::ALIVE } else { AgentMember::FAILED },
        });
    }
    call.answer(&reading, &members)
}

/// Gives up the session of a node's agent, as if it had been away for long; with `prune` its node leaves the catalog, too.
/// An agent that is there after all opens another session.
async fn force_leave(call: Call) -> Result<Response, ApiError> {
    call.check_no_body()?;
    let (node, prunes) = (call.node()?, call.query.flag("prune")?);
    // Who stands there may have been decided a moment ago.
    call.state.consensus().read_index().await?;
    let sessions = vec![session_on(&call.state.consensus().catalog(), &node)?];
    let lost = SessionChange::Lost { sessions: sessions.clone() };
    call.write_part(Command::Sessions { change: lost }).await?;
    if prunes {
        call.write_part(Command::Sessions { change: SessionChange::Reaped { sessions } }).await?;
    }
    info!(%node, prunes, "session of a node's agent given up, for somebody asked for it");
    call.json(&true)
}

/// Returns the latest session of the agent that stands on a node.
fn session_on(catalog: &Catalog, node: &NodeName) -> Result<SessionRef, ApiError> {
    let no = |reason| Err(ApiError::NoAgentsNode { name: node.to_string(), reason });
    let Some(record) = catalog.agent_on(node) else {
        let is_server = node.as_str().parse().is_ok_and(|id| catalog.membership().member_named(&id).is_some());
        return match catalog.node(node) {
            _ if is_server => no("it is a server; take it out with `weft operator raft remove-peer`"),
            Some(_) => no("others registered it; deregister it with /v1/catalog/deregister"),
            None => Err(ApiError::NotFound { what: "node", name: node.to_string() }),
        };
    };
    match record.incarnation {
        Some(incarnation) => Ok(SessionRef { agent: record.id.clone(), incarnation }),
        None => no("its agent has opened no session yet; end its record with `weft revoke agent`"),
    }
}

/// Lists the servers, each as alive as the leader sees it: only it hears from all.
fn servers(call: &Call, reading: &Reading, seen: Option<&GroupHealth>) -> Vec<AgentMember> {
    let status = call.state.consensus().status();
    let is_visible = |id: &ServerId| id.as_str().parse().is_ok_and(|name| reading.shows_node(&name));
    let members = reading.catalog.membership().members.values().filter(|member| is_visible(&member.id));
    let members = members.map(|member| {
        let address = &member.facts.raft_address;
        let (host, port) = address.rsplit_once(':').unwrap_or((address.as_str(), ""));
        let is_leader = status.leader.as_ref().is_some_and(|leader| leader.id == member.id);
        AgentMember {
            name: member.id.to_string(),
            addr: host.trim_matches(['[', ']']).to_owned(),
            port: port.parse().unwrap_or(0),
            tags: BTreeMap::from([
                ("role".to_owned(), "consul".to_owned()),
                ("dc".to_owned(), call.state.datacenter().to_owned()),
                ("build".to_owned(), member.facts.release.clone()),
                ("leader".to_owned(), is_leader.to_string()),
            ]),
            status: match seen.and_then(|seen| is_alive(seen, &reading.catalog, member.raft_id)) {
                Some(true) => AgentMember::ALIVE,
                Some(false) => AgentMember::FAILED,
                None => AgentMember::UNKNOWN,
            },
        }
    });
    members.collect()
}

/// Reports whether the leader hears a server.
fn is_alive(seen: &GroupHealth, catalog: &Catalog, raft_id: u64) -> Option<bool> {
    seen.hears(raft_id, catalog.membership().autopilot.last_contact_threshold())
}

/// Reports whether a node's agent holds a session with a server that knows of it.
fn is_in_session(catalog: &Catalog, node: &::catalog::Node) -> bool {
    let has_session = catalog.agent_on(&node.name).is_some_and(|record| record.server.is_some());
    let is_well =
        |check: &::catalog::Check| check.key.id.as_str() != "weft-agent" || check.status != CheckStatus::Critical;
    has_session && catalog.checks_on(&node.name).all(is_well)
}

/// Answers with what this server's machine is like.
async fn host(call: Call) -> Result<Response, ApiError> {
    call.json(&AgentHost::here())
}

/// Answers whether the holder of a certificate may call a service, by the whole mesh's rules.
async fn authorize(call: Call) -> Result<Response, ApiError> {
    let request: AuthorizeRequest = call.decode()?;
    let target = &request.target;
    let reading = call.read([WatchKey::policy_of(target), vec![WatchKey::Revocations]].concat()).await?;
    if !reading.authority.service_write(target) {
        return Err(call.denied(format!("`service:write` on `{target}`")));
    }
    let scheme = reading.catalog.scheme().ok_or_else(|| ApiError::Internal {
        reason: "the mesh is not established yet; try again in a moment".to_owned(),
    })?;
    if reading.catalog.is_revoked(request.serial.index()) {
        let reason = "the caller's certificate is revoked".to_owned();
        return call.answer(&reading, &AuthorizeAnswer { authorized: false, reason });
    }
    let caller = Caller::from(scheme.classify(&request.client));
    if let Caller::Service(service) = &caller
        && reading.catalog.is_service_revoked(service, request.serial.index())
    {
        let reason = "the caller's service was revoked after its certificate was granted".to_owned();
        return call.answer(&reading, &AuthorizeAnswer { authorized: false, reason });
    }
    let verdict = decide(&reading.catalog.policy_for(target), &caller, target, crypto::now());
    let authorized =
        verdict.decision == Decision::Allow || (verdict.decision == Decision::Deny && verdict.audit.is_some());
    call.answer(&reading, &AuthorizeAnswer { authorized, reason: verdict.reason.to_string() })
}

/// Answers with how much the datacenter holds.
async fn usage(call: Call) -> Result<Response, ApiError> {
    let reading = call.read(vec![WatchKey::Nodes]).await?;
    let usage = BTreeMap::from([(call.state.datacenter().to_owned(), Usage::new(&reading.catalog))]);
    call.answer(&reading, &UsageAnswer { usage })
}

/// Answers with how the mesh stands, from what this server knows, whether or not there is a leader; who is alive only a leader
/// can say.
async fn mesh(call: Call) -> Result<Response, ApiError> {
    let consensus = call.state.consensus();
    let seen = consensus.seen_health().await;
    let leader = consensus.status().leader.map(|leader| leader.id);
    let catalog = consensus.catalog();
    let status = MeshStatus::new(call.state.server().clone(), leader, &catalog, crypto::now());
    let status = status.with_disk(consensus.disk());
    let Some(seen) = seen else { return call.json(&status) };
    let raft_id = |server: &ServerId| catalog.membership().member_named(server).map(|member| member.raft_id);
    let alive = |server: &ServerId| is_alive(&seen, &catalog, raft_id(server)?);
    call.json(&status.seen(alive, seen.tolerance()))
}
