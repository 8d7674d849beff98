//! How calls of a service are routed.

use ::catalog::WatchKey;
use axum::response::Response;
use http::Method;
use wire::consul::{DiscoveryChain, DiscoveryChainAnswer};

use super::auth::Right;
use super::call::Call;
use super::error::ApiError;
use super::route::{Route, route};

pub(super) fn routes() -> Vec<Route> {
    vec![route(Method::GET, "/v1/discovery-chain/{service}", Right::Judged, chain).answers("DiscoveryChainAnswer")]
}

/// Answers with the route of a service's calls, as its callers' agents have it.
async fn chain(call: Call) -> Result<Response, ApiError> {
    let service = call.service()?;
    let keys = vec![WatchKey::Mesh, WatchKey::ProxyDefaults, WatchKey::ConfigOf(service.clone())];
    let reading = call.read(keys).await?;
    if !reading.authority.service_read(&service) {
        return Err(call.denied(format!("`service:read` on `{service}`")));
    }
    let scheme = reading.catalog.scheme().ok_or_else(|| ApiError::Internal {
        reason: "the mesh is not established yet; try again in a moment".to_owned(),
    })?;
    let entries = reading.catalog.config();
    let chain = DiscoveryChain::compiled(&service, entries, call.state.datacenter(), &scheme)
        .map_err(|error| ApiError::Internal { reason: format!("calls to `{service}`: {error}") })?;
    call.answer(&reading, &DiscoveryChainAnswer { chain })
}
