//! `/v1/agent/health/...`: how local services are, in a status code that load balancers understand.

use axum::response::Response;
use catalog::{CheckStatus, ServiceKey};
use http::{Method, StatusCode};
use serde::Serialize;
use wire::consul::{AgentService, HealthCheck};

use super::error::{ApiError, text};
use super::rights::Right;
use super::route::{Call, Route, route};
use super::{checks, services};
use crate::core::Status;
use crate::local::Definition;

pub(super) fn routes() -> Vec<Route> {
    vec![
        route(Method::GET, "/v1/agent/health/service/id/{id}", Right::Judged, by_id)
            .reads(&["format"])
            .answers("object"),
        route(Method::GET, "/v1/agent/health/service/name/{name}", Right::Judged, by_name)
            .reads(&["format"])
            .answers("[object]"),
    ]
}

/// One instance with its checks, as Consul answers.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ServiceHealth {
    aggregated_status: CheckStatus,
    service: AgentService,
    checks: Vec<HealthCheck>,
}

impl ServiceHealth {
    fn of(status: &Status, service: &Definition) -> Self {
        let key = &service.instance.key;
        let bears = |check: &HealthCheck| {
            check.service_id.is_empty() || (check.service_id == key.id.as_str() && check.namespace == key.namespace)
        };
        let checks: Vec<HealthCheck> = checks::shown(status).filter(bears).collect();
        Self { aggregated_status: worst(&checks), service: services::shown(status, service), checks }
    }
}

/// Answers 200, 429 or 503 as one instance is passing, warning or critical; 404 if there is none.
async fn by_id(call: Call) -> Result<Response, ApiError> {
    let status = call.state.core.status();
    let service = services::find(&status, &call.query.namespace()?, &call.path("id")?)?;
    call.need_service_read(&service.instance.service_key())?;
    let health = ServiceHealth::of(&status, service);
    answer(&call, health.aggregated_status, &health)
}

/// Answers 200, 429 or 503 as the worst local instance of a service is; 404 if there is none.
async fn by_name(call: Call) -> Result<Response, ApiError> {
    let status = call.state.core.status();
    let wanted = ServiceKey::new(call.query.namespace()?, call.path("name")?);
    call.need_service_read(&wanted)?;
    let found = status.services.iter().filter(|service| service.instance.service_key() == wanted);
    let health: Vec<ServiceHealth> = found.map(|service| ServiceHealth::of(&status, service)).collect();
    let Some(worst) = health.iter().map(|health| health.aggregated_status).max() else {
        return Ok(text(StatusCode::NOT_FOUND, format!("no instance of `{wanted}` is registered with this agent")));
    };
    answer(&call, worst, &health)
}

fn answer(call: &Call, status: CheckStatus, health: &impl Serialize) -> Result<Response, ApiError> {
    let code = match status {
        CheckStatus::Passing => StatusCode::OK,
        CheckStatus::Warning => StatusCode::TOO_MANY_REQUESTS,
        CheckStatus::Critical => StatusCode::SERVICE_UNAVAILABLE,
    };
    match call.query.get("format") {
        Some("text") => Ok(text(code, status.as_str())),
        _ => call.json_with(code, health),
    }
}

fn worst(checks: &[HealthCheck]) -> CheckStatus {
    checks.iter().map(|check| check.status).max().unwrap_or(CheckStatus::Passing)
}
