//! `/v1/agent/check...`: the checks of this node and of the services on it.

use std::collections::BTreeMap;

use axum::response::Response;
use catalog::{CheckStatus, Namespace};
use http::Method;
use serde_json::Value;
use wire::consul::HealthCheck;

use super::error::ApiError;
use super::rights::Right;
use super::route::{Call, Route, route};
use super::services::change;
use crate::core::{Request, Status};
use crate::local::LocalError;

pub(super) fn routes() -> Vec<Route> {
    vec![
        route(Method::GET, "/v1/agent/checks", Right::Management, list),
        route(Method::PUT, "/v1/agent/check/register", Right::Management, register),
        route(Method::PUT, "/v1/agent/check/deregister/{id}", Right::Management, deregister),
        route(Method::PUT, "/v1/agent/check/pass/{id}", Right::Management, pass),
        route(Method::PUT, "/v1/agent/check/warn/{id}", Right::Management, warn),
        route(Method::PUT, "/v1/agent/check/fail/{id}", Right::Management, fail),
        route(Method::PUT, "/v1/agent/check/update/{id}", Right::Management, update),
    ]
}

/// Returns checks as the API shows them.
pub(super) fn shown<'a>(status: &'a Status) -> impl Iterator<Item = HealthCheck> + 'a {
    status.checks.values().map(|check| {
        let key = check.instance_key();
        let service = key.and_then(|key| status.services.iter().find(|service| service.instance.key == key));
        HealthCheck::of(check, service.map(|service| &service.instance))
    })
}

/// Answers with all checks by id.
async fn list(call: Call) -> Result<Response, ApiError> {
    let wanted = call.namespaces()?;
    let key = |check: &HealthCheck| match check.namespace == Namespace::default_namespace() {
        true => check.check_id.to_string(),
        false => format!("{}/{}", check.namespace, check.check_id),
    };
    call.answer_list(|status| {
        let checks = shown(status).filter(|check| wanted.as_ref().is_none_or(|it| *it == check.namespace));
        Ok(checks.map(|check| (key(&check), check)).collect::<BTreeMap<String, HealthCheck>>())
    })
    .await
}

/// Registers a check, or replaces what was registered under its id.
async fn register(call: Call) -> Result<Response, ApiError> {
    let body = call.json_body()?;
    change(&call, |reply| Request::RegisterCheck(body, reply)).await
}

/// Removes a check that was registered over the API by itself.
async fn deregister(call: Call) -> Result<Response, ApiError> {
    let (namespace, id) = (call.query.namespace()?, call.path("id")?);
    change(&call, |reply| Request::DeregisterCheck(namespace, id, reply)).await
}

/// Reports a TTL check as passing.
async fn pass(call: Call) -> Result<Response, ApiError> {
    report(call, CheckStatus::Passing).await
}

/// Reports a TTL check as warning.
async fn warn(call: Call) -> Result<Response, ApiError> {
    report(call, CheckStatus::Warning).await
}

/// Reports a TTL check as critical.
async fn fail(call: Call) -> Result<Response, ApiError> {
    report(call, CheckStatus::Critical).await
}

async fn report(call: Call, status: CheckStatus) -> Result<Response, ApiError> {
    let (namespace, id) = (call.query.namespace()?, call.path("id")?);
    let output = call.query.get("note").unwrap_or_default().to_owned();
    change(&call, |reply| Request::Report { namespace, id, status, output, reply }).await
}

/// Reports a TTL check with the status and output of the body.
async fn update(call: Call) -> Result<Response, ApiError> {
    let (namespace, id) = (call.query.namespace()?, call.path("id")?);
    let wrong = |reason: &str| ApiError::Local(LocalError::Definition { reason: reason.to_owned() });
    let Value::Object(fields) = call.json_body()? else { return Err(wrong("the body is not an object")) };
    let (mut status, mut output) = (None, String::new());
    for (name, value) in fields {
        let Value::String(text) = value else { return Err(wrong("`Status` and `Output` are strings")) };
        match name.to_ascii_lowercase().as_str() {
            "status" => status = Some(text.parse().map_err(|error: catalog::UnknownWord| wrong(&error.to_string()))?),
            "output" => output = text,
            "namespace" => {}
            _ => return Err(wrong(&format!("unknown field `{name}`; send `Status` and `Output`"))),
        }
    }
    let status = status.ok_or_else(|| wrong("`Status` is missing; send `passing`, `warning` or `critical`"))?;
    change(&call, |reply| Request::Report { namespace, id, status, output, reply }).await
}
