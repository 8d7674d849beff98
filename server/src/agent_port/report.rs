//! `POST /v1/report`: what an agent has seen.

use axum::body::Body;
use http::{Response, StatusCode};
use wire::report::AgentReport;

use super::refusal::PortError;
use super::route::{Call, json};

/// Holds what the agent tells until it tells more.
pub(super) async fn report(call: Call) -> Result<Response<Body>, PortError> {
    let record = call.agent()?.clone();
    let Call { port, request, .. } = call;
    let report: AgentReport = super::read_json("report", request.into_body()).await?;
    let taken = port.consensus.take_report(&record.id, report);
    taken.map_err(|why| PortError::Malformed { what: "report", reason: why.to_string() })?;
    Ok(json(StatusCode::OK, &serde_json::json!({})))
}
