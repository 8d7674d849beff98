//! `/v1/agent/proxy/...`: what the agent's proxy really does.

use std::sync::Arc;

use axum::response::Response;
use catalog::{IdentityScheme, Item, ServiceKey, Topic};
use http::Method;
use wire::api_types::ProxyRoutes;
use wire::consul::DiscoveryChain;

use super::error::ApiError;
use super::rights::Right;
use super::route::{Call, Route, route};
use crate::core::config_entries;
use crate::proxy::name_of;

pub(super) fn routes() -> Vec<Route> {
    vec![
        route(Method::GET, "/v1/agent/proxy/routes/{service}", Right::Judged, routes_of).answers("object"),
        route(Method::GET, "/v1/agent/proxy/endpoints/{service}", Right::Judged, endpoints).answers("object"),
        route(Method::GET, "/v1/agent/proxy/config/{service}", Right::Judged, config).answers("object"),
    ]
}

impl Call {
    /// Returns the service of the path, which the caller may see and the proxy knows.
    fn known_service(&self) -> Result<ServiceKey, ApiError> {
        let service = ServiceKey::new(self.query.namespace()?, self.path("service")?);
        self.need_service_read(&service)?;
        if self.state.proxy.knows(&service) {
            return Ok(service);
        }
        Err(ApiError::NotHere { service })
    }
}

/// Answers where calls of a service go.
async fn routes_of(call: Call) -> Result<Response, ApiError> {
    let service = call.known_service()?;
    let status = call.state.core.status();
    let scheme = status.view.get(&Topic::Mesh).and_then(|state| {
        state.items.values().find_map(|item| match item {
            Item::Mesh(mesh) => Some(mesh.scheme()),
            _ => None,
        })
    });
    let (in_force, newest) = (status.routed_by.get(&service), status.view.get(&Topic::Config(service.clone())));
    let is_behind = in_force.zip(newest).is_some_and(|(in_force, newest)| !Arc::ptr_eq(in_force, newest));
    let entries = in_force.map(|state| config_entries(state));
    let compiled = |(entries, scheme): (catalog::ConfigEntries, IdentityScheme)| {
        DiscoveryChain::compiled(&service, &entries, &status.datacenter, &scheme).ok()
    };
    call.json(&ProxyRoutes {
        protocol: call.state.proxy.protocol_of(&service),
        listeners: call.state.proxy.listeners_to(&service),
        chain: entries.zip(scheme).and_then(compiled),
        is_behind,
        targets: call.state.proxy.targets_of(&service).iter().map(name_of).collect(),
        service: service.clone(),
    })
}

/// Answers with the instances that calls of a service may end at, and how they fare.
async fn endpoints(call: Call) -> Result<Response, ApiError> {
    let service = call.known_service()?;
    call.json(&call.state.proxy.endpoints_of(&service))
}

/// Answers with what is configured for a service: instances, certificate, rules, upstreams.
async fn config(call: Call) -> Result<Response, ApiError> {
    let service = call.known_service()?;
    match call.state.proxy.config_of(&service) {
        Some(config) => call.json(&config),
        None => Err(ApiError::NotHere { service }),
    }
}
