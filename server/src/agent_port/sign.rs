//! `POST /v1/sign`: a leaf for the agent itself or for a service that its record names; first or renewed.

use axum::body::Body;
use http::{Response, StatusCode};
use wire::agent_protocol::{SignRequest, SignResponse};

use super::refusal::PortError;
use super::route::{Call, json};

/// Signs what the agent's record entitles it to.
pub(super) async fn sign(call: Call) -> Result<Response<Body>, PortError> {
    let record = call.agent()?.clone();
    let request: SignRequest = super::read_json("signing request", call.request.into_body()).await?;
    call.port.take_turn_at_signing()?;
    let leaf = call.port.sign_leaf(&record, &request.subject, &request.csr).await?;
    Ok(json(StatusCode::OK, &SignResponse { leaf }))
}
