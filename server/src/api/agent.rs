//! What a server says of itself on the paths where Consul's clients look for an agent.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, Method, header};
use wire::consul::{AgentMetrics, AgentSelf, AgentVersion};
use wire::crypto;

use super::auth::Right;
use super::call::Call;
use super::error::ApiError;
use super::query::parameter;
use super::route::{Route, route};

const OPENMETRICS: HeaderValue = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

pub(super) fn routes() -> Vec<Route> {
    vec![
        route(Method::GET, "/v1/agent/self", Right::Judged, this_server).answers("AgentSelf"),
        route(Method::GET, "/v1/agent/version", Right::AnyToken, version).answers("AgentVersion"),
        route(Method::GET, "/v1/agent/metrics", Right::Judged, metrics).reads(&["format"]).answers("AgentMetrics"),
    ]
}

/// Answers with this server's name, datacenter and version.
async fn this_server(call: Call) -> Result<Response, ApiError> {
    call.may_read_server()?;
    call.json(&AgentSelf::new(call.state.datacenter(), call.state.server().as_str(), true))
}

/// Answers with the version of this binary.
async fn version(call: Call) -> Result<Response, ApiError> {
    call.json(&AgentVersion::here())
}

/// Answers with this server's metrics, as JSON in Consul's form or as OpenMetrics text; needs no quorum.
async fn metrics(call: Call) -> Result<Response, ApiError> {
    call.may_read_server()?;
    match call.query.get("format") {
        Some("prometheus") => {}
        None => return call.json(&AgentMetrics::of_text(&call.state.metrics().text(), crypto::now())),
        Some(other) => return Err(parameter("format", other, "send `prometheus` or leave it out")),
    }
    let mut response = call.state.metrics().text().into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, OPENMETRICS);
    Ok(response)
}
