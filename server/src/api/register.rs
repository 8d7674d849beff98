//! Registering and removing nodes that neither an agent nor a connector holds.

use axum::response::Response;
use http::Method;
use wire::consul;

use super::auth::Right;
use super::call::Call;
use super::error::ApiError;
use super::route::{Route, route};

pub(super) fn routes() -> Vec<Route> {
    vec![
        route(Method::PUT, "/v1/catalog/register", Right::Judged, register).takes("object").answers("bool"),
        route(Method::PUT, "/v1/catalog/deregister", Right::Judged, deregister).takes("object").answers("bool"),
    ]
}

/// Registers a node, and an instance and checks on it; a node that an agent holds is refused by the state machine.
async fn register(call: Call) -> Result<Response, ApiError> {
    let request: consul::CatalogRegister = call.decode()?;
    call.check_body_datacenter(&request.datacenter)?;
    let command = request.into_command().map_err(|error| call.body_error(&error))?;
    call.write(command).await?;
    call.json(&true)
}

/// Removes a node, or the one instance or check on it that the body names.
async fn deregister(call: Call) -> Result<Response, ApiError> {
    let request: consul::CatalogDeregister = call.decode()?;
    call.check_body_datacenter(&request.datacenter)?;
    let command = request.into_command().map_err(|error| call.body_error(&error))?;
    call.write(command).await?;
    call.json(&true)
}
