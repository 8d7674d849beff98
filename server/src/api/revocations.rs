//! Revocation: of an agent, a service, and what a join token or an auth method let in.

use ::catalog::{AgentId, Banned, Catalog, Command, NodeName, Outcome, RevocationChange, WatchKey};
use axum::response::Response;
use http::Method;
use wire::api_types::{RevocationView, Revoked};

use super::auth::Right;
use super::call::Call;
use super::error::ApiError;
use super::route::{Route, route};

pub(super) fn routes() -> Vec<Route> {
    vec![
        route(Method::GET, "/v1/revocations", Right::OperatorRead, list).answers("[RevocationView]"),
        route(Method::PUT, "/v1/revoke/agent/{agent}", Right::OperatorWrite, agent).answers("Revoked"),
        route(Method::PUT, "/v1/revoke/service/{service}", Right::OperatorWrite, service).answers("Revoked"),
        route(Method::PUT, "/v1/revoke/join-token/{accessor}", Right::OperatorWrite, join_token).answers("Revoked"),
        route(Method::PUT, "/v1/revoke/login/{method}", Right::OperatorWrite, login)
            .reads(&["subject"])
            .answers("Revoked"),
        route(Method::DELETE, "/v1/revoke/agent/{agent}", Right::OperatorWrite, lift_agent).answers("bool"),
        route(Method::DELETE, "/v1/revoke/login/{method}", Right::OperatorWrite, lift_login)
            .reads(&["subject"])
            .answers("bool"),
    ]
}

/// Answers with what is revoked.
async fn list(call: Call) -> Result<Response, ApiError> {
    let reading = call.read(vec![WatchKey::Revocations]).await?;
    let agents = reading.catalog.revoked_agents().map(|(id, at)| RevocationView::agent(id, at));
    let services = reading.catalog.revoked_services().map(RevocationView::service);
    let bans = reading.catalog.bans().map(RevocationView::ban);
    let all: Vec<_> = agents.chain(services).chain(bans).collect();
    call.answer(&reading, &all)
}

/// Ends an agent's record, by its id or its node's name.
async fn agent(call: Call) -> Result<Response, ApiError> {
    call.check_no_body()?;
    let named = call.path_text("agent").to_owned();
    let catalog = call.read(vec![WatchKey::Agents]).await?.catalog;
    let Some(agent) = find_agent(&catalog, &named) else {
        // A repeat finds nothing any more.
        return match call.answered_earlier(&catalog) {
            Some((_, Outcome::AgentRevoked { agent, node }))
                if agent.to_string() == named || node.as_str() == named =>
            {
                call.json(&Revoked { agents: 1 })
            }
            _ => Err(ApiError::NotFound { what: "agent", name: named }),
        };
    };
    call.write(Command::RevokeAgent { agent }).await?;
    call.json(&Revoked { agents: 1 })
}

/// Refuses a service's certificates to the agents that are enrolled now.
async fn service(call: Call) -> Result<Response, ApiError> {
    call.check_no_body()?;
    let service = call.service()?;
    revoke(&call, RevocationChange::Service { service }).await
}

/// Ends a join token and what came of it.
async fn join_token(call: Call) -> Result<Response, ApiError> {
    call.check_no_body()?;
    let accessor = call.path_name("accessor")?;
    revoke(&call, RevocationChange::JoinToken { accessor }).await
}

/// Ends what an auth method let in; with `subject`, only whom it called so.
async fn login(call: Call) -> Result<Response, ApiError> {
    call.check_no_body()?;
    let method = call.path_name("method")?;
    let subject = call.query.get("subject").map(str::to_owned);
    revoke(&call, RevocationChange::Login { method, subject }).await
}

/// Lets the keys of revoked agents in again that were on a node, or one key.
async fn lift_agent(call: Call) -> Result<Response, ApiError> {
    let named = call.path_text("agent").to_owned();
    call.write(Command::Revoke { change: RevocationChange::LiftAgent { named } }).await?;
    call.json(&true)
}

/// Lets in again whom an auth method vouches for; with `subject`, only whom it calls so.
async fn lift_login(call: Call) -> Result<Response, ApiError> {
    let method = call.path_name("method")?;
    let subject = call.query.get("subject").map(str::to_owned);
    let banned = Banned::Login { method, subject };
    call.write(Command::Revoke { change: RevocationChange::Lift { banned } }).await?;
    call.json(&true)
}

async fn revoke(call: &Call, change: RevocationChange) -> Result<Response, ApiError> {
    let agents = match call.write(Command::Revoke { change }).await?.outcome {
        Outcome::Revoked { agents } => agents,
        _ => 0,
    };
    call.json(&Revoked { agents })
}

fn find_agent(catalog: &Catalog, named: &str) -> Option<AgentId> {
    let by_id = named.parse::<AgentId>().ok().filter(|id| catalog.agent_record(id).is_some());
    let by_node = || catalog.agent_on(&named.parse::<NodeName>().ok()?).map(|record| record.id.clone());
    by_id.or_else(by_node)
}
