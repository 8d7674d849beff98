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
    vec![route(Method::GET, "/v1/discovery-chain/{service}", Right::Judged, chain)]
}

/// Answers with the route of a service's calls: to its own instances, for no entry that is carried out routes otherwise.
async fn chain(call: Call) -> Result<Response, ApiError> {
    let service = call.service()?;
    let reading = call.read(vec![WatchKey::Mesh, WatchKey::Service(service.clone())]).await?;
    if !reading.authority.service_read(&service) {
        return Err(call.denied(format!("`service:read` on `{service}`")));
    }
    let scheme = reading.catalog.scheme().ok_or_else(|| ApiError::Internal {
        reason: "the mesh is not established yet; try again in a moment".to_owned(),
    })?;
    let chain = DiscoveryChain::unrouted(&service, call.state.datacenter(), &scheme);
    call.answer(&reading, &DiscoveryChainAnswer { chain })
}
