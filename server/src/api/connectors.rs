//! Connectors: who runs each, and what they write.

use std::time::Duration;

use ::catalog::{Command, ConnectorChange, ConnectorName, ConnectorNode, Outcome, WatchKey};
use axum::response::Response;
use http::Method;
use wire::api_types::{ConnectorAnswer, ConnectorNodeView, ConnectorRequest, ConnectorView, RefusedWriteView};

use super::auth::Right;
use super::call::Call;
use super::error::ApiError;
use super::query::parameter;
use super::reads::Reading;
use super::route::{Route, route};

/// The largest write: a full batch of nodes.
const WRITE_BYTES_MAX: usize = 4 * 1024 * 1024;
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

pub(super) fn routes() -> Vec<Route> {
    vec![
        route(Method::GET, "/v1/connectors", Right::MeshRead, list).answers("[ConnectorView]"),
        route(Method::PUT, "/v1/connector", Right::MeshWrite, change)
            .with_body(WRITE_BYTES_MAX, WRITE_TIMEOUT)
            .takes("object")
            .answers("ConnectorAnswer"),
        route(Method::GET, "/v1/connector/{name}/nodes", Right::MeshRead, nodes).answers("[object]"),
        // What these two let go may be much: the commands ask for `mesh:write` besides.
        route(Method::PUT, "/v1/connector/{name}/confirm", Right::OperatorWrite, confirm)
            .reads(&["removals"])
            .answers("bool"),
        route(Method::DELETE, "/v1/connector/{name}", Right::OperatorWrite, forget).answers("bool"),
    ]
}

/// Answers with all connectors, those that nobody runs included.
async fn list(call: Call) -> Result<Response, ApiError> {
    let reading = call.read(vec![WatchKey::Connectors]).await?;
    // Leases are judged by the catalog's clock.
    let now = reading.catalog.clock();
    let connectors: Vec<ConnectorView> =
        reading.catalog.connectors().map(|lease| ConnectorView::of(lease, now)).collect();
    call.answer(&reading, &connectors)
}

/// Carries out what a connector asks: a lease, its renewal or end, or a write.
async fn change(call: Call) -> Result<Response, ApiError> {
    let ConnectorRequest(change) = call.decode()?;
    let answer = match call.write(Command::Connector { change }).await?.outcome {
        Outcome::LeaseGranted { term } => ConnectorAnswer { term: Some(term), refused: Vec::new() },
        Outcome::Written { refused } => {
            ConnectorAnswer { term: None, refused: refused.into_iter().map(RefusedWriteView::from).collect() }
        }
        _ => ConnectorAnswer::default(),
    };
    call.json(&answer)
}

/// Answers with what a connector keeps, as it wrote it: its nodes with everything on them, and its checks on those of
/// others.
async fn nodes(call: Call) -> Result<Response, ApiError> {
    let name: ConnectorName = call.path_name("name")?;
    let reading = call.read(vec![WatchKey::Connectors, WatchKey::Nodes, WatchKey::Checks]).await?;
    let nodes = reading.catalog.nodes_of_connector(&name).filter_map(|kept| reading.visible(kept));
    let nodes: Vec<ConnectorNodeView> =
        nodes.map(|kept| ConnectorNodeView::new(&kept, call.state.datacenter())).collect();
    call.answer(&reading, &nodes)
}

impl Reading {
    /// Returns what the caller may see of a node that a connector keeps something on; none of one that it may not see at all.
    fn visible(&self, kept: ConnectorNode) -> Option<ConnectorNode> {
        let ConnectorNode { node, mut instances, mut checks } = kept;
        if !self.shows_node(&node.name) {
            return None;
        }
        instances.retain(|instance| self.shows_instance(instance));
        checks.retain(|check| self.shows_check(check));
        Some(ConnectorNode { node, instances, checks })
    }
}

/// Lets a connector remove as many nodes at once as `removals` says.
async fn confirm(call: Call) -> Result<Response, ApiError> {
    const EXPECTED: &str = "how many nodes may go, as the connector's problem says it";
    let name: ConnectorName = call.path_name("name")?;
    let text = call.query.required("removals", EXPECTED)?;
    let removals = text.parse().map_err(|_| parameter("removals", text, EXPECTED))?;
    call.write(Command::Connector { change: ConnectorChange::Confirm { name, removals } }).await?;
    call.json(&true)
}

/// Removes a connector that nobody runs, with its nodes and checks.
async fn forget(call: Call) -> Result<Response, ApiError> {
    let name: ConnectorName = call.path_name("name")?;
    call.write(Command::Connector { change: ConnectorChange::Forget { name } }).await?;
    call.json(&true)
}
