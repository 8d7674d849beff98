//! What the agent tells of itself and of the mesh, from its own memory: all of it works with every server down.

use axum::response::Response;
use catalog::{CatalogIndex, Item, MeshItem, Topic};
use http::{HeaderValue, Method};
use serde::Serialize;
use wire::consul::{AgentMetrics, AgentSelf, CaRoots};

use super::applications;
use super::error::ApiError;
use super::rights::Right;
use super::route::{Call, Route, route};

pub(super) fn routes() -> Vec<Route> {
    vec![
        route(Method::GET, "/v1/agent/self", Right::AgentRead, this_agent).answers("AgentSelf"),
        route(Method::GET, "/v1/agent/metrics", Right::AgentRead, metrics).reads(&["format"]).answers("AgentMetrics"),
        route(Method::GET, "/v1/agent/connect/ca/roots", Right::AnyToken, roots).answers("CaRoots"),
    ]
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ThisAgent {
    #[serde(flatten)]
    shown: AgentSelf,
    member: Member,
    /// What weft adds to Consul's answer.
    weft: Weft,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Member {
    name: String,
    addr: String,
    port: u16,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Weft {
    agent: String,
    platform: String,
    /// The services that the agent may stand before.
    services: Vec<String>,
    /// The server that it is connected to; empty while there is none.
    server: String,
    /// What is missing before every local service is served.
    missing: Vec<String>,
    streams: usize,
    tunnels: u64,
}

/// Answers with who the agent is and how it stands.
async fn this_agent(call: Call) -> Result<Response, ApiError> {
    let status = call.state.core.status();
    let proxy = call.state.proxy.status();
    let record = &status.record;
    call.json(&ThisAgent {
        shown: AgentSelf::new(&status.datacenter, record.node.as_str(), false),
        member: Member { name: record.node.to_string(), addr: status.address.to_string(), port: status.mesh_port },
        weft: Weft {
            agent: record.id.to_string(),
            platform: record.platform.to_string(),
            services: record.services.iter().map(ToString::to_string).collect(),
            server: status.server.clone().unwrap_or_default(),
            missing: super::missing(&call.state.core, &call.state.proxy),
            streams: proxy.inbound_streams + proxy.outbound_streams,
            tunnels: proxy.inbound_tunnels + proxy.outbound_tunnels,
        },
    })
}

/// Answers with the agent's metrics, as JSON in Consul's form, or as text with those of the applications.
async fn metrics(call: Call) -> Result<Response, ApiError> {
    match call.query.get("format") {
        Some("prometheus") => {}
        None | Some("") => {
            return call.json(&AgentMetrics::of_text(&call.state.metrics.text(), wire::crypto::now()));
        }
        Some(other) => {
            let value = other.to_owned();
            return Err(ApiError::Parameter { name: "format", value, expected: "use `prometheus` or leave it out" });
        }
    }
    let running = (call.state.core.status(), std::sync::Arc::clone(&call.state.proxy));
    Ok(applications::answer(call.state.metrics.text(), Some(running)).await)
}

/// Answers with the roots that the agent trusts.
async fn roots(call: Call) -> Result<Response, ApiError> {
    let status = call.state.core.status();
    let unknown = || ApiError::NoServer { reason: "the roots were not received yet".to_owned() };
    let mesh = status.view.get(&Topic::Mesh).and_then(|state| state.items.values().find_map(mesh_item));
    let mesh = mesh.ok_or_else(unknown)?;
    let state = status.view.get(&Topic::Roots).ok_or_else(unknown)?;
    let certificates = state.items.values().filter_map(|item| match item {
        Item::Root { certificate_pem, active, .. } => Some((certificate_pem.as_str(), *active)),
        _ => None,
    });
    let roots = CaRoots::of_certificates(&mesh.trust_domain, &mesh.cluster_id, certificates, state.index)
        .map_err(|error| ApiError::Internal { reason: error.to_string() })?;
    let mut response = call.json(&roots)?;
    let index = CatalogIndex(state.index.0.max(1));
    response.headers_mut().insert("x-consul-index", HeaderValue::from(index.0));
    Ok(response)
}

fn mesh_item(item: &Item) -> Option<&MeshItem> {
    match item {
        Item::Mesh(mesh) => Some(mesh),
        _ => None,
    }
}
