//! Which cluster key seals the mesh's secrets, and sealing them anew with the first one that a server is given.

use ::catalog::{CaChange, Catalog, WatchKey};
use axum::response::Response;
use http::Method;
use wire::api_types::RekeyView;

use super::auth::Right;
use super::call::Call;
use super::error::ApiError;
use super::route::{Route, route};
use crate::ca;

pub(super) fn routes() -> Vec<Route> {
    vec![
        route(Method::GET, "/v1/operator/rekey", Right::OperatorRead, show),
        route(Method::PUT, "/v1/operator/rekey", Right::OperatorWrite, rekey),
    ]
}

/// Answers with how many secrets each cluster key seals.
async fn show(call: Call) -> Result<Response, ApiError> {
    let reading = call.read(vec![WatchKey::Roots]).await?;
    let view = call.view(&reading.catalog);
    call.answer(&reading, &view)
}

/// Seals all secrets with this server's first key. Done twice it changes nothing the second time.
async fn rekey(call: Call) -> Result<Response, ApiError> {
    call.check_no_body()?;
    let reading = call.read(vec![WatchKey::Roots]).await?;
    let secrets = ca::resealed(call.state.cluster_keys(), &reading.catalog)
        .map_err(|error| ApiError::Internal { reason: error.to_string() })?;
    if !secrets.is_empty() {
        call.change_ca(CaChange::Reseal { secrets }).await?;
    }
    call.json(&call.view(&call.state.consensus().catalog()))
}

impl Call {
    fn view(&self, catalog: &Catalog) -> RekeyView {
        let sealing = ca::sealing(self.state.cluster_keys(), catalog);
        RekeyView {
            left: sealing.left(),
            primary: sealing.primary,
            previous: sealing.previous,
            sealed_with: sealing.sealed_with,
        }
    }
}
