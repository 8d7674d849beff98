//! The services of the catalog, and the instances of each.

use ::catalog::{Instance, ServiceKey, ServiceName, WatchKey};
use axum::response::Response;
use http::Method;
use wire::api_types::ServiceAddresses;
use wire::consul;

use super::auth::Right;
use super::call::Call;
use super::error::ApiError;
use super::route::{Route, route};

pub(super) fn routes() -> Vec<Route> {
    vec![
        route(Method::GET, "/v1/catalog/datacenters", Right::AnyToken, datacenters).answers("[text]"),
        route(Method::GET, "/v1/catalog/services", Right::Judged, services).answers("{[text]}"),
        route(Method::GET, "/v1/catalog/service/{service}", Right::Judged, service)
            .reads(&["tag"])
            .answers("[CatalogService]"),
        route(Method::GET, "/v1/catalog/connect/{service}", Right::Judged, connect)
            .reads(&["tag"])
            .answers("[CatalogService]"),
        route(Method::GET, "/v1/catalog/addresses/{service}", Right::Judged, addresses).answers("ServiceAddresses"),
        route(Method::GET, "/v1/catalog/gateway-services/{gateway}", Right::Judged, gateway_services)
            .answers("[object]"),
    ]
}

/// Answers with the one datacenter that there is.
async fn datacenters(call: Call) -> Result<Response, ApiError> {
    call.json(&[call.state.datacenter()])
}

/// Answers with the services of a namespace and the tags that their instances carry.
async fn services(call: Call) -> Result<Response, ApiError> {
    let namespace = call.namespace()?;
    let reading = call.read(vec![WatchKey::Services(namespace.clone())]).await?;
    let mut services = reading.catalog.services(&namespace);
    services.retain(|name, _| reading.shows_service(&ServiceKey::new(namespace.clone(), name.clone())));
    call.answer(&reading, &services)
}

/// Answers with the instances of a service; `tag` asks for those that carry it.
async fn service(call: Call) -> Result<Response, ApiError> {
    instances(call, |_| true).await
}

/// Answers with the instances of a service that have an agent before them.
async fn connect(call: Call) -> Result<Response, ApiError> {
    instances(call, has_agent).await
}

async fn instances(call: Call, is_wanted: fn(&Instance) -> bool) -> Result<Response, ApiError> {
    let service = call.service()?;
    let reading = call.read(vec![WatchKey::Service(service.clone())]).await?;
    let datacenter = call.state.datacenter();
    let instances: Vec<_> = reading
        .catalog
        .instances_of(&service)
        .filter(|instance| is_wanted(instance) && call.has_asked_tags(instance) && reading.shows_instance(instance))
        .filter_map(|instance| {
            let node = reading.catalog.node(&instance.key.node)?;
            let shown = consul::CatalogService::new(node, instance, datacenter);
            Some(shown.with_virtual(instance, reading.catalog.address_number(&service)))
        })
        .collect();
    call.answer(&reading, &instances)
}

/// Reports whether an agent stands before the instance, so that it can be called over the mesh.
pub(super) fn has_agent(instance: &Instance) -> bool {
    instance.mesh_port.is_some()
}

impl Call {
    /// Reports whether an instance carries every tag that the query asks for.
    pub(super) fn has_asked_tags(&self, instance: &Instance) -> bool {
        self.query
            .all("tag")
            .filter(|tag| !tag.is_empty())
            .all(|asked| instance.tags.iter().any(|tag| tag.eq_ignore_ascii_case(asked)))
    }
}

/// Answers with the addresses that stand for a service, or that nobody serves, calls or shapes it.
async fn addresses(call: Call) -> Result<Response, ApiError> {
    let service = call.service()?;
    let reading = call.read(vec![WatchKey::Service(service.clone())]).await?;
    match reading.catalog.address_number(&service).filter(|_| reading.shows_service(&service)) {
        Some(number) => call.answer(&reading, &ServiceAddresses::new(service, number)),
        None => Ok(call.not_found(&reading, "service", &service)),
    }
}

/// Answers with the services behind a gateway of Consul's kind: there are none, and clients ask in passing.
async fn gateway_services(call: Call) -> Result<Response, ApiError> {
    let _: ServiceName = call.path_name("gateway")?;
    let reading = call.read(vec![WatchKey::Services(call.namespace()?)]).await?;
    call.answer(&reading, &[(); 0])
}
