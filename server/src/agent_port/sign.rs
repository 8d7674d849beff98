//! `POST /v1/sign`: a leaf for the agent itself or for a service that its record names; first or renewed.

use axum::body::Body;
use http::{Response, StatusCode};
use wire::agent_protocol::{SignRequest, SignResponse};
use wire::pki::requested_key;

use super::refusal::PortError;
use super::route::{Call, json};
use super::signing::Asked;
use crate::ca::SignError;

/// Signs what the agent's record entitles it to, in turns of the agent's own and of all. The same key asked for again meanwhile is answered with the same leaf, and
/// takes no turn of its own.
pub(super) async fn sign(call: Call) -> Result<Response<Body>, PortError> {
    let record = call.agent()?.clone();
    let request: SignRequest = super::read_json("signing request", call.request.into_body()).await?;
    let key = requested_key(&request.csr).map_err(|error| PortError::Sign(SignError::Csr(error)))?;
    let asked = Asked { agent: record.id.clone(), subject: request.subject.clone(), key };
    let port = &call.port;
    let signing = async {
        port.take_turn_at_signing(&record)?;
        port.sign_leaf(&record, &request.subject, &request.csr).await
    };
    let leaf = port.signing.once(asked, signing).await?;
    Ok(json(StatusCode::OK, &SignResponse { leaf }))
}
