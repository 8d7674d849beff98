//! Who calls whom, by what agents have seen.

use ::catalog::{Catalog, NodeName};
use axum::response::Response;
use http::Method;
use std::net::IpAddr;
use wire::api_types::{CallerView, CallersView, WatchedView};

use super::auth::Right;
use super::call::Call;
use super::error::ApiError;
use super::route::{Route, route};

pub(super) fn routes() -> Vec<Route> {
    vec![route(Method::GET, "/v1/mesh/callers", Right::MeshRead, callers).answers("CallersView")]
}

/// Answers with who calls whom and over what kind of connection, as far as servers could be asked.
async fn callers(call: Call) -> Result<Response, ApiError> {
    let consensus = call.state.consensus();
    let told = consensus.seen_by_all().await;
    let catalog = consensus.catalog();
    let pairs = told.seen.pairs.iter().chain(&told.seen.outside).map(|used| {
        let at = used.pair.source.address().map(|address| nodes_at(&catalog, address)).unwrap_or_default();
        CallerView::new(used, at)
    });
    call.json(&CallersView {
        pairs: pairs.collect(),
        watched: told.seen.watched.iter().map(WatchedView::from).collect(),
        left_out: told.seen.left_out,
        silent_servers: told.silent,
    })
}

fn nodes_at(catalog: &Catalog, address: IpAddr) -> Vec<NodeName> {
    let is_there = |text: &str| text.parse::<IpAddr>().is_ok_and(|known| known.to_canonical() == address);
    let nodes = catalog.nodes().filter(|node| is_there(&node.address));
    let mut names: Vec<NodeName> = nodes.map(|node| node.name.clone()).collect();
    let instances = catalog.nodes().flat_map(|node| catalog.instances_on(&node.name));
    names.extend(
        instances
            .filter(|instance| instance.address.as_deref().is_some_and(is_there))
            .map(|instance| instance.key.node.clone()),
    );
    names.sort();
    names.dedup();
    names
}
