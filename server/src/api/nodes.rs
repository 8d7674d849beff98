//! The nodes of the catalog, and what runs on each.

use ::catalog::WatchKey;
use axum::response::Response;
use http::Method;
use wire::consul;

use super::auth::Right;
use super::call::Call;
use super::error::ApiError;
use super::route::{Route, route};

pub(super) fn routes() -> Vec<Route> {
    vec![
        route(Method::GET, "/v1/catalog/nodes", Right::Judged, nodes).answers("[Node]"),
        route(Method::GET, "/v1/catalog/node/{node}", Right::Judged, node).answers("NodeServices?"),
        route(Method::GET, "/v1/catalog/node-services/{node}", Right::Judged, node_services)
            .answers("NodeServiceList?"),
    ]
}

/// Answers with every node, by name.
async fn nodes(call: Call) -> Result<Response, ApiError> {
    let reading = call.read(vec![WatchKey::Nodes]).await?;
    let datacenter = call.state.datacenter();
    let nodes: Vec<_> = reading
        .catalog
        .nodes()
        .filter(|node| reading.shows_node(&node.name))
        .map(|node| consul::Node::new(node, datacenter))
        .collect();
    call.answer(&reading, &nodes)
}

/// Answers with a node and its instances by id; `null` for a node that is not there, as Consul does.
async fn node(call: Call) -> Result<Response, ApiError> {
    let name = call.node()?;
    let reading = call.read(vec![WatchKey::Node(name.clone())]).await?;
    let node = reading.catalog.node(&name).filter(|node| reading.shows_node(&node.name)).map(|node| {
        consul::NodeServices::new(
            node,
            reading.catalog.instances_on(&name).filter(|instance| reading.shows_service(&instance.service_key())),
            call.state.datacenter(),
        )
    });
    call.answer(&reading, &node)
}

/// Answers with a node and a list of its instances; `null` for a node that is not there.
async fn node_services(call: Call) -> Result<Response, ApiError> {
    let name = call.node()?;
    let reading = call.read(vec![WatchKey::Node(name.clone())]).await?;
    let node = reading.catalog.node(&name).filter(|node| reading.shows_node(&node.name)).map(|node| {
        consul::NodeServiceList::new(
            node,
            reading.catalog.instances_on(&name).filter(|instance| reading.shows_service(&instance.service_key())),
            call.state.datacenter(),
        )
    });
    call.answer(&reading, &node)
}
