//! The admin listener: liveness, readiness and metrics, for whoever supervises the process on this machine.

use std::sync::Arc;

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{StatusCode, header};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::error::text;
use super::{guarded, listener};
use crate::core::Handle;
use crate::metrics::Metrics;
use crate::proxy::{OpenConnection, Proxy};

pub(super) const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Tells the admin listener that the agent is enrolled and runs.
pub(crate) struct Ready(watch::Sender<Option<(Handle, Arc<Proxy>)>>);

/// Sees whether the agent runs.
#[derive(Clone)]
pub(crate) struct Readiness(watch::Receiver<Option<(Handle, Arc<Proxy>)>>);

/// Returns the two ends by which the admin listener, which serves first, learns of the agent, which may take long.
pub(crate) fn readiness() -> (Ready, Readiness) {
    let (ready, seen) = watch::channel(None);
    (Ready(ready), Readiness(seen))
}

impl Ready {
    pub(crate) fn running(self, core: Handle, proxy: Arc<Proxy>) {
        self.0.send_replace(Some((core, proxy)));
    }
}

impl Readiness {
    fn connections(&self) -> Vec<OpenConnection> {
        self.0.borrow().as_ref().map(|(_, proxy)| proxy.connections()).unwrap_or_default()
    }

    fn missing(&self) -> Vec<String> {
        match &*self.0.borrow() {
            Some((core, proxy)) => missing(core, proxy),
            None => vec!["the agent is joining the mesh".to_owned()],
        }
    }
}

/// Returns what is missing before every local service is served, one line each.
pub(crate) fn missing(core: &Handle, proxy: &Proxy) -> Vec<String> {
    let mut missing = core.status().missing(wire::crypto::now());
    let upstreams = proxy.status().upstreams.into_iter();
    missing.extend(upstreams.filter_map(|upstream| upstream.outcome.err()).map(|error| format!("upstream: {error}")));
    missing
}

/// Serves `/live`, `/ready`, `/connections` and `/metrics` until `stopping` is cancelled. None of them needs a token: they are reached
/// from this machine only and tell nothing that a process beside the agent could not see.
pub(crate) async fn serve_admin(
    listener: TcpListener,
    readiness: Readiness,
    metrics: Metrics,
    stopping: CancellationToken,
) {
    let carried = readiness.clone();
    let connections = async move || axum::Json(carried.connections());
    let ready = async move || answer(&readiness.missing());
    let metrics = async move || ([(header::CONTENT_TYPE, OPENMETRICS)], metrics.text());
    let router = Router::new()
        .route("/live", get(async || text(StatusCode::OK, "live\n")))
        .route("/ready", get(ready))
        .route("/connections", get(connections))
        .route("/metrics", get(metrics));
    listener::serve(listener, guarded(router), stopping).await;
}

fn answer(missing: &[String]) -> Response {
    if missing.is_empty() {
        return text(StatusCode::OK, "ready\n");
    }
    let mut lines = missing.join("\n");
    lines.push('\n');
    text(StatusCode::SERVICE_UNAVAILABLE, lines).into_response()
}
