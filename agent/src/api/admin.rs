//! The admin listener: liveness, readiness and metrics, for whoever supervises the process on this machine.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use catalog::{ServiceKey, Topic};
use http::StatusCode;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use wire::api_types::UpstreamView;

use super::error::text;
use super::{applications, guarded, listener};
use crate::core::{Handle, Status, config_entries};
use crate::metrics::Metrics;
use crate::proxy::{OpenConnection, Proxy};

pub(super) const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How far the agent is.
enum Phase {
    Joining,
    Running(Handle, Arc<Proxy>),
    Draining(Arc<Proxy>),
}

/// Tells the admin listener how far the agent is.
#[derive(Debug)]
pub(crate) struct Ready(watch::Sender<Phase>);

/// Sees how far the agent is.
#[derive(Clone)]
pub(crate) struct Readiness(watch::Receiver<Phase>);

/// Returns the two ends by which the admin listener, which serves first, learns of the agent, which may take long.
pub(crate) fn readiness() -> (Ready, Readiness) {
    let (ready, seen) = watch::channel(Phase::Joining);
    (Ready(ready), Readiness(seen))
}

impl Ready {
    pub(crate) fn running(&self, core: Handle, proxy: Arc<Proxy>) {
        self.0.send_replace(Phase::Running(core, proxy));
    }

    pub(crate) fn draining(&self, proxy: Arc<Proxy>) {
        self.0.send_replace(Phase::Draining(proxy));
    }
}

impl Readiness {
    /// Returns what is missing before every local service is served, one line each.
    pub(super) fn missing(&self) -> Vec<String> {
        match &*self.0.borrow() {
            Phase::Joining => vec!["the agent is joining the mesh".to_owned()],
            Phase::Running(core, proxy) => missing(core, proxy),
            Phase::Draining(_) => vec!["the agent is draining".to_owned()],
        }
    }

    fn status(&self) -> Option<Arc<Status>> {
        match &*self.0.borrow() {
            Phase::Running(core, _) => Some(core.status()),
            Phase::Joining | Phase::Draining(_) => None,
        }
    }

    /// Lists where local services call others, and why they cannot where they cannot.
    fn upstreams(&self) -> Vec<UpstreamView> {
        let (core, proxy) = match &*self.0.borrow() {
            Phase::Running(core, proxy) => (core.status(), proxy.status()),
            Phase::Joining | Phase::Draining(_) => return Vec::new(),
        };
        let speaks_http = |service: &ServiceKey| {
            let read = core.view.get(&Topic::Config(service.clone()));
            read.is_some_and(|state| config_entries(state).protocol_of(service).is_http())
        };
        let view = |owner: &ServiceKey, destination: &ServiceKey, outcome: Result<SocketAddr, String>| UpstreamView {
            owner: owner.clone(),
            destination: destination.clone(),
            is_http: speaks_http(destination),
            address: outcome.as_ref().ok().copied(),
            problem: outcome.err(),
        };
        let placed = proxy.upstreams.into_iter();
        let placed = placed.map(|it| view(&it.listener.owner, &it.listener.destination, it.outcome));
        let unplaced = core.unplaced.iter().map(|it| view(&it.owner, &it.destination, Err(it.reason.clone())));
        placed.chain(unplaced).collect()
    }

    fn connections(&self) -> Vec<OpenConnection> {
        match &*self.0.borrow() {
            Phase::Joining => Vec::new(),
            Phase::Running(_, proxy) | Phase::Draining(proxy) => proxy.connections(),
        }
    }
}

impl std::fmt::Debug for Phase {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Joining => "Joining",
            Self::Running(..) => "Running",
            Self::Draining(_) => "Draining",
        })
    }
}

/// Returns what is missing before every local service is served, one line each.
pub(crate) fn missing(core: &Handle, proxy: &Proxy) -> Vec<String> {
    let mut missing = core.status().missing(wire::crypto::now());
    let (not_taken, proxy) = (proxy.not_taken(), proxy.status());
    if !proxy.is_settled {
        missing.push("upstream: listeners not open yet".to_owned());
    }
    missing.extend(not_taken.into_iter().map(|error| format!("redirection: {error}")));
    let upstreams = proxy.upstreams.into_iter();
    missing.extend(upstreams.filter_map(|upstream| upstream.outcome.err()).map(|error| format!("upstream: {error}")));
    missing
}

/// Serves `/live`, `/ready`, `/connections`, `/upstreams` and `/metrics` until the agent has stopped. None of them needs a token: they
/// are reached from this machine only and tell nothing that a process beside the agent could not see.
pub(crate) async fn serve_admin(listener: TcpListener, readiness: Readiness, metrics: Metrics) {
    type Of = State<Readiness>;
    let metrics = async move |State(it): Of| applications::answer(metrics.text(), it.status().as_deref()).await;
    let router = Router::new()
        .route("/live", get(async || text(StatusCode::OK, "live\n")))
        .route("/ready", get(async |State(it): Of| answer(&it.missing())))
        .route("/connections", get(async |State(it): Of| axum::Json(it.connections())))
        .route("/upstreams", get(async |State(it): Of| axum::Json(it.upstreams())))
        .route("/metrics", get(metrics))
        .with_state(readiness);
    listener::serve(listener, guarded(router), CancellationToken::new()).await;
}

fn answer(missing: &[String]) -> Response {
    if missing.is_empty() {
        return text(StatusCode::OK, "ready\n");
    }
    let mut lines = missing.join("\n");
    lines.push('\n');
    text(StatusCode::SERVICE_UNAVAILABLE, lines).into_response()
}
