//! Checks, and instances together with them.

use ::catalog::{CheckStatus, Instance, WatchKey};
use axum::response::Response;
use http::Method;
use wire::consul;

use super::auth::Right;
use super::call::Call;
use super::error::ApiError;
use super::route::{Route, route};
use super::services::has_agent;

pub(super) fn routes() -> Vec<Route> {
    vec![
        route(Method::GET, "/v1/health/node/{node}", Right::Judged, node).answers("[HealthCheck]"),
        route(Method::GET, "/v1/health/checks/{service}", Right::Judged, checks).answers("[HealthCheck]"),
        route(Method::GET, "/v1/health/state/{state}", Right::Judged, state).answers("[HealthCheck]"),
        route(Method::GET, "/v1/health/service/{service}", Right::Judged, service)
            .reads(&["tag", "passing"])
            .answers("[HealthEntry]"),
        route(Method::GET, "/v1/health/connect/{service}", Right::Judged, connect)
            .reads(&["tag", "passing"])
            .answers("[HealthEntry]"),
        route(Method::GET, "/v1/health/ingress/{service}", Right::Judged, ingress).answers("[object]"),
    ]
}

/// Answers with the checks on a node: its own and those of its instances.
async fn node(call: Call) -> Result<Response, ApiError> {
    let name = call.node()?;
    let reading = call.read(vec![WatchKey::Node(name.clone())]).await?;
    let catalog = &reading.catalog;
    let checks: Vec<_> = catalog
        .checks_on(&name)
        .filter(|check| reading.shows_check(check))
        .map(|check| consul::HealthCheck::new(check, catalog))
        .collect();
    call.answer(&reading, &checks)
}

/// Answers with the checks of a service's instances.
async fn checks(call: Call) -> Result<Response, ApiError> {
    let service = call.service()?;
    let reading = call.read(vec![WatchKey::Service(service.clone())]).await?;
    let catalog = &reading.catalog;
    let checks: Vec<_> = catalog
        .instances_of(&service)
        .flat_map(|instance| catalog.checks_of(&instance.key))
        .filter(|check| check.instance.is_some() && reading.shows_check(check))
        .map(|check| consul::HealthCheck::new(check, catalog))
        .collect();
    call.answer(&reading, &checks)
}

/// Answers with the checks that say a status, or with all of them for `any`.
async fn state(call: Call) -> Result<Response, ApiError> {
    let wanted: Option<CheckStatus> = match call.path_text("state") {
        "any" => None,
        _ => Some(call.path_name("state")?),
    };
    let reading = call.read(vec![WatchKey::Checks]).await?;
    let catalog = &reading.catalog;
    let checks: Vec<_> = catalog
        .checks()
        .filter(|check| wanted.is_none_or(|status| check.status == status) && reading.shows_check(check))
        .map(|check| consul::HealthCheck::new(check, catalog))
        .collect();
    call.answer(&reading, &checks)
}

/// Answers with the instances of a service, their nodes and the checks of both.
///
/// `passing` asks for those whose checks all pass, `tag` for those that carry it.
async fn service(call: Call) -> Result<Response, ApiError> {
    entries(call, |_| true).await
}

/// Answers like [`service`] with the instances that have an agent before them.
async fn connect(call: Call) -> Result<Response, ApiError> {
    entries(call, has_agent).await
}

/// Answers with the ingress gateways of Consul's kind before a service: there are none, and clients ask in passing.
async fn ingress(call: Call) -> Result<Response, ApiError> {
    let service = call.service()?;
    let reading = call.read(vec![WatchKey::Service(service)]).await?;
    call.answer(&reading, &[(); 0])
}

async fn entries(call: Call, is_wanted: fn(&Instance) -> bool) -> Result<Response, ApiError> {
    let service = call.service()?;
    let is_passing_asked = call.query.flag("passing")?;
    let reading = call.read(vec![WatchKey::Service(service.clone())]).await?;
    let catalog = &reading.catalog;
    let datacenter = call.state.datacenter();
    let entries: Vec<_> = catalog
        .instances_of(&service)
        .filter(|instance| is_wanted(instance) && call.has_asked_tags(instance) && reading.shows_instance(instance))
        .filter(|instance| !is_passing_asked || catalog.health(&instance.key) == CheckStatus::Passing)
        .filter_map(|instance| {
            let node = catalog.node(&instance.key.node)?;
            let mut entry = consul::HealthEntry::new(node, instance, &catalog.checks_of(&instance.key), datacenter);
            entry.service = entry.service.with_virtual(instance, catalog.address_number(&service));
            Some(entry)
        })
        .collect();
    call.answer(&reading, &entries)
}
