//! The admin listener: liveness, readiness and metrics, for whoever supervises the process on this machine.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
pub(crate) struct Readiness {
    phase: watch::Receiver<Phase>,
    was_ready: Arc<AtomicBool>,
}

/// Returns the two ends by which the admin listener, which serves first, learns of the agent, which may take long.
pub(crate) fn readiness() -> (Ready, Readiness) {
    let (ready, seen) = watch::channel(Phase::Joining);
    (Ready(ready), Readiness { phase: seen, was_ready: Arc::default() })
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
        let missing = match &*self.phase.borrow() {
            Phase::Joining => vec!["the agent is joining the mesh".to_owned()],
            Phase::Running(core, proxy) => missing(core, proxy),
            Phase::Draining(_) => vec!["the agent is draining".to_owned()],
        };
        if missing.is_empty() {
            self.was_ready.store(true, Ordering::Relaxed);
        }
        missing
    }

    /// Returns what is missing while the agent has never been seen ready; nothing ever after.
    pub(super) fn missing_at_first(&self) -> Vec<String> {
        if self.was_ready.load(Ordering::Relaxed) { Vec::new() } else { self.missing() }
    }

    fn running(&self) -> Option<(Arc<Status>, Arc<Proxy>)> {
        match &*self.phase.borrow() {
            Phase::Running(core, proxy) => Some((core.status(), Arc::clone(proxy))),
            Phase::Joining | Phase::Draining(_) => None,
        }
    }

    /// Lists where local services call others, and why they cannot where they cannot.
    fn upstreams(&self) -> Vec<UpstreamView> {
        let (core, proxy) = match &*self.phase.borrow() {
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
        match &*self.phase.borrow() {
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

/// Serves `/live`, `/ready`, `/started`, `/connections`, `/upstreams` and `/metrics` until the agent has stopped. None of them needs a
/// token: they are reached from this machine only and tell nothing that a process beside the agent could not see.
pub(crate) async fn serve_admin(listener: TcpListener, readiness: Readiness, metrics: Metrics) {
    type Of = State<Readiness>;
    let metrics = async move |State(it): Of| applications::answer(metrics.text(), it.running()).await;
    let router = Router::new()
        .route("/live", get(async || text(StatusCode::OK, "live\n")))
        .route("/ready", get(async |State(it): Of| answer(&it.missing(), "ready\n")))
        // For whoever would end the agent by its answer: what an upstream or a server lacks later is no reason to.
        .route("/started", get(async |State(it): Of| answer(&it.missing_at_first(), "started\n")))
        .route("/connections", get(async |State(it): Of| axum::Json(it.connections())))
        .route("/upstreams", get(async |State(it): Of| axum::Json(it.upstreams())))
        .route("/metrics", get(metrics))
        .with_state(readiness);
    listener::serve(listener, guarded(router), CancellationToken::new()).await;
}

fn answer(missing: &[String], well: &'static str) -> Response {
    if missing.is_empty() {
        return text(StatusCode::OK, well);
    }
    let mut lines = missing.join("\n");
    lines.push('\n');
    text(StatusCode::SERVICE_UNAVAILABLE, lines).into_response()
}
