//! The roots that identities are verified with.

use ::catalog::WatchKey;
use axum::response::Response;
use http::Method;
use wire::consul;

use super::auth::Right;
use super::call::Call;
use super::error::ApiError;
use super::route::{Route, route};

pub(super) fn routes() -> Vec<Route> {
    vec![
        route(Method::GET, "/v1/connect/ca/roots", Right::AnyToken, roots),
        route(Method::GET, "/v1/agent/connect/ca/roots", Right::AnyToken, roots),
    ]
}

/// Answers with the roots of the mesh's own trust domain.
async fn roots(call: Call) -> Result<Response, ApiError> {
    let reading = call.read(vec![WatchKey::Roots, WatchKey::Mesh]).await?;
    let roots =
        consul::CaRoots::new(&reading.catalog).map_err(|error| ApiError::Internal { reason: error.to_string() })?;
    call.answer(&reading, &roots)
}
