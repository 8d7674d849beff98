//! `/v1/agent/check...`: the checks of this node and of the services on it.

use std::collections::BTreeMap;

use axum::response::Response;
use catalog::{Check, CheckStatus, Namespace};
use http::Method;
use serde_json::Value;
use wire::consul::{CheckDefinition, HealthCheck};
use wire::decode::from_value;

use super::error::ApiError;
use super::rights::Right;
use super::route::{Call, Route, route};
use super::services::change;
use crate::core::{Request, Status};
use crate::local::{Definition, LocalError};

pub(super) fn routes() -> Vec<Route> {
    vec![
        route(Method::GET, "/v1/agent/checks", Right::Judged, list)
            .reads(&["filter", "hash", "wait"])
            .answers("{object}"),
        route(Method::PUT, "/v1/agent/check/register", Right::Judged, register).takes("object"),
        route(Method::PUT, "/v1/agent/check/deregister/{id}", Right::Judged, deregister),
        route(Method::PUT, "/v1/agent/check/pass/{id}", Right::Judged, pass).reads(&["note"]),
        route(Method::PUT, "/v1/agent/check/warn/{id}", Right::Judged, warn).reads(&["note"]),
        route(Method::PUT, "/v1/agent/check/fail/{id}", Right::Judged, fail).reads(&["note"]),
        route(Method::PUT, "/v1/agent/check/update/{id}", Right::Judged, update).takes("object"),
    ]
}

/// Returns checks as the API shows them.
pub(super) fn shown<'a>(status: &'a Status) -> impl Iterator<Item = HealthCheck> + 'a {
    status.checks.values().map(|check| one(status, check))
}

fn one(status: &Status, check: &Check) -> HealthCheck {
    HealthCheck::of(check, service_of(status, check).map(|service| &service.instance))
}

fn service_of<'a>(status: &'a Status, check: &Check) -> Option<&'a Definition> {
    let key = check.instance_key()?;
    status.services.iter().find(|service| service.instance.key == key)
}

/// Reports whether the caller may see a check: by its service, or by the node.
fn is_visible(call: &Call, status: &Status, check: &Check) -> bool {
    match service_of(status, check) {
        Some(service) => call.authority.service_read(&service.instance.service_key()),
        None => call.authority.node_read(&status.record.node),
    }
}

/// Answers with all checks by id.
async fn list(call: Call) -> Result<Response, ApiError> {
    let wanted = call.namespaces()?;
    let key = |check: &HealthCheck| match check.namespace == Namespace::default_namespace() {
        true => check.check_id.to_string(),
        false => format!("{}/{}", check.namespace, check.check_id),
    };
    call.answer_list(|status| {
        let checks = status.checks.values().filter(|check| is_visible(&call, status, check));
        let checks = checks
            .map(|check| one(status, check))
            .filter(|check| wanted.as_ref().is_none_or(|it| *it == check.namespace));
        Ok(checks.map(|check| (key(&check), check)).collect::<BTreeMap<String, HealthCheck>>())
    })
    .await
}

/// Registers a check, or replaces what was registered under its id.
async fn register(call: Call) -> Result<Response, ApiError> {
    let body = call.json_body()?;
    match from_value::<CheckDefinition>(body.clone(), "") {
        Ok(wanted) => {
            match &wanted.service_id {
                Some(service) => call.need_write_on(&wanted.namespace, service)?,
                None => call.need_node_write()?,
            }
            let status = call.state.core.status();
            let is_it = |check: &&Check| Some(&check.key.id) == wanted.id.as_ref();
            if let Some(held) = status.checks.values().find(is_it) {
                call.need_check_write(&held.key.namespace, &held.key.id)?;
            }
        }
        Err(error) => call.need(call.authority.is_management(), || format!("a body that can be read ({error})"))?,
    }
    change(&call, |reply| Request::RegisterCheck(body, reply)).await
}

/// Removes a check that was registered over the API by itself.
async fn deregister(call: Call) -> Result<Response, ApiError> {
    let (namespace, id) = (call.query.namespace()?, call.path("id")?);
    call.need_check_write(&namespace, &id)?;
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
    call.need_check_write(&namespace, &id)?;
    let output = call.query.get("note").unwrap_or_default().to_owned();
    change(&call, |reply| Request::Report { namespace, id, status, output, reply }).await
}

/// Reports a TTL check with the status and output of the body.
async fn update(call: Call) -> Result<Response, ApiError> {
    let (namespace, id) = (call.query.namespace()?, call.path("id")?);
    call.need_check_write(&namespace, &id)?;
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
