//! `/v1/openapi.json`: the API described by its own routes, the manual and the types of its answers.

use axum::response::Response;
use http::Method;
use wire::openapi::{Operation, document};

use super::auth::Right;
use super::call::Call;
use super::error::ApiError;
use super::route::{Route, route};
use super::{shaping, table};

/// The manual, which has a sentence on every route.
pub(super) const MANUAL: &str = include_str!("../../../docs/api.md");

/// What routes answer with, where a type says it all.
const ANSWERS: [(&str, &str, &str); 35] = [
    ("GET", "/v1/status/leader", "text"),
    ("GET", "/v1/status/peers", "[text]"),
    ("GET", "/v1/status/raft", "RaftStatusView"),
    ("GET", "/v1/status/mesh", "MeshStatus"),
    ("GET", "/v1/agent/self", "AgentSelf"),
    ("GET", "/v1/agent/version", "AgentVersion"),
    ("GET", "/v1/agent/host", "AgentHost"),
    ("GET", "/v1/agent/members", "[AgentMember]"),
    ("PUT", "/v1/agent/force-leave/{node}", "bool"),
    ("POST", "/v1/agent/connect/authorize", "AuthorizeAnswer"),
    ("GET", "/v1/agent/connect/ca/roots", "CaRoots"),
    ("GET", "/v1/connect/ca/roots", "CaRoots"),
    ("GET", "/v1/operator/usage", "UsageAnswer"),
    ("GET", "/v1/catalog/datacenters", "[text]"),
    ("GET", "/v1/catalog/nodes", "[Node]"),
    ("GET", "/v1/catalog/node/{node}", "NodeServices"),
    ("GET", "/v1/catalog/node-services/{node}", "NodeServiceList"),
    ("GET", "/v1/catalog/service/{service}", "[CatalogService]"),
    ("GET", "/v1/catalog/connect/{service}", "[CatalogService]"),
    ("PUT", "/v1/catalog/register", "bool"),
    ("PUT", "/v1/catalog/deregister", "bool"),
    ("GET", "/v1/health/node/{node}", "[HealthCheck]"),
    ("GET", "/v1/health/checks/{service}", "[HealthCheck]"),
    ("GET", "/v1/health/state/{state}", "[HealthCheck]"),
    ("GET", "/v1/health/service/{service}", "[HealthEntry]"),
    ("GET", "/v1/health/connect/{service}", "[HealthEntry]"),
    ("GET", "/v1/discovery-chain/{service}", "DiscoveryChainAnswer"),
    ("GET", "/v1/connect/intentions", "[Intention]"),
    ("GET", "/v1/connect/intentions/exact", "Intention"),
    ("PUT", "/v1/connect/intentions/exact", "bool"),
    ("DELETE", "/v1/connect/intentions/exact", "bool"),
    ("GET", "/v1/connect/intentions/check", "CheckAnswer"),
    ("GET", "/v1/connect/intentions/explain", "Explanation"),
    ("PUT", "/v1/config", "bool"),
    ("DELETE", "/v1/config/{kind}/{name}", "bool"),
];

/// Parameters that single routes read, besides those that all reads take.
const QUERIES: &[(&str, &str, &[&str])] = &[
    ("GET", "/v1/tap/{service}", &["for", "method", "path", "status", "source", "headers"]),
    ("GET", "/v1/catalog/service/{service}", &["tag"]),
    ("GET", "/v1/catalog/connect/{service}", &["tag"]),
    ("GET", "/v1/health/service/{service}", &["tag", "passing"]),
    ("GET", "/v1/health/connect/{service}", &["tag", "passing"]),
    ("GET", "/v1/connect/intentions/exact", &["source", "destination"]),
    ("PUT", "/v1/connect/intentions/exact", &["source", "destination", "cas"]),
    ("DELETE", "/v1/connect/intentions/exact", &["source", "destination", "cas"]),
    ("GET", "/v1/connect/intentions/match", &["by", "name"]),
    ("GET", "/v1/connect/intentions/check", &["source", "destination"]),
    (
        "GET",
        "/v1/connect/intentions/explain",
        &["source", "destination", "method", "path", "host", "header", "jwt", "platform"],
    ),
    ("PUT", "/v1/connector/{name}/confirm", &["removals"]),
    ("PUT", "/v1/config", &["cas"]),
    ("DELETE", "/v1/config/{kind}/{name}", &["cas"]),
    ("GET", "/v1/agent/metrics", &["format"]),
    ("GET", "/v1/agent/monitor", &["loglevel", "logjson"]),
    ("PUT", "/v1/agent/force-leave/{node}", &["prune"]),
    ("GET", "/v1/audit", &["from"]),
    ("PUT", "/v1/revoke/login/{method}", &["subject"]),
    ("PUT", "/v1/operator/rekey", &["force"]),
];

pub(super) fn routes() -> Vec<Route> {
    vec![route(Method::GET, "/v1/openapi.json", Right::AnyToken, openapi)]
}

/// Answers with the description of every route of this server.
async fn openapi(call: Call) -> Result<Response, ApiError> {
    call.json(&document("weft server", MANUAL, "servers", &operations()))
}

/// Describes every route.
pub(super) fn operations() -> Vec<Operation> {
    table().iter().map(operation).collect()
}

fn operation(route: &Route) -> Operation {
    let (method, path, right) = route.describe();
    let is_read = method == Method::GET;
    let mut query: Vec<&'static str> = vec!["ns", "dc", "pretty"];
    if is_read {
        query.extend(["stale", "consistent", "index", "wait"]);
    }
    query.extend(shaping::parameters_of(path));
    let own = QUERIES.iter().find(|(of, at, _)| method == *of && path == *at).map_or(&[][..], |(_, _, names)| *names);
    query.extend(own);
    Operation {
        method: method.to_string(),
        path,
        right: right.needs().to_owned(),
        is_public: right == Right::Public,
        takes_body: method == Method::PUT || method == Method::POST,
        query,
        answer: ANSWERS.iter().find(|(of, at, _)| method == *of && path == *at).map_or("", |(_, _, answer)| answer),
    }
}
