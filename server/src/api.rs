//! The HTTP API: Consul's paths and shapes where weft has the same concept, its own in the same style.
//!
//! A request passes the guard, then its route's right, then its parameters and body; only then does its handler run.
//! A handler is reached through a [`Route`] alone, and no route can be written down without its right.

mod acl;
mod agent;
mod audit;
mod auth;
mod auth_methods;
mod call;
mod callers;
mod certificate;
mod challenge;
mod config_entries;
mod connect_ca;
mod connectors;
mod discovery_chain;
mod error;
mod head_clock;
mod health;
mod intentions;
mod join_tokens;
mod listener;
mod login;
mod members;
mod monitor;
mod nodes;
mod openapi;
mod operator;
mod query;
mod reads;
mod register;
mod rekey;
mod relaxations;
mod revocations;
mod route;
mod rule_usage;
mod services;
mod shaping;
mod snapshot;
mod status;
mod tap;
#[cfg(test)]
mod tests;
mod unsupported;
mod visible;
mod writes;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::catalog::ServerId;
use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::debug;
use wire::api_name::ApiName;
use wire::body;
use wire::cluster_key::ClusterKeys;
use wire::front_door::check_addressee_of;
use wire::login::LoginMaker;
use wire::tls::RaftIdentity;

use crate::ca::CertificateAuthority;
use crate::config::{Config, Https};
use crate::consensus::Consensus;
use crate::login::Logins;
use crate::metrics::Metrics;

pub use certificate::CertificateError;
use error::ApiError;
pub(crate) use listener::serve_http;
use listener::serve_https;
use route::Route;

/// What the API's handlers work with.
#[derive(Clone)]
pub(crate) struct ApiState {
    inner: Arc<Inner>,
}

struct Inner {
    consensus: Consensus,
    datacenter: String,
    server: ServerId,
    cluster_keys: ClusterKeys,
    metrics: Metrics,
    challenges: challenge::Challenges,
    logins: Logins,
    leaf_ttl: Duration,
}

impl ApiState {
    /// Gathers what the handlers work with.
    pub(crate) fn new(
        consensus: Consensus,
        datacenter: String,
        server: ServerId,
        cluster_keys: ClusterKeys,
        metrics: Metrics,
    ) -> Self {
        let challenges = challenge::Challenges::default();
        Self {
            inner: Arc::new(Inner {
                consensus,
                datacenter,
                server,
                cluster_keys,
                metrics,
                challenges,
                logins: Logins::default(),
                leaf_ttl: Config::LEAF_TTL,
            }),
        }
    }

    /// Says what knows the types of auth methods that a platform brings; to be called before anybody else has a copy.
    pub(crate) fn with_login_makers(mut self, makers: Vec<Arc<dyn LoginMaker>>) -> Self {
        self.alone().logins = Logins::new(makers);
        self
    }

    fn alone(&mut self) -> &mut Inner {
        Arc::get_mut(&mut self.inner).expect("nobody else has a copy yet")
    }

    /// Says how long this server lets leaves live where the catalog does not; to be called before anybody else has a copy.
    pub(crate) fn with_leaf_ttl(mut self, leaf_ttl: Duration) -> Self {
        self.alone().leaf_ttl = leaf_ttl;
        self
    }

    fn leaf_ttl(&self) -> Duration {
        self.inner.leaf_ttl
    }

    fn consensus(&self) -> &Consensus {
        &self.inner.consensus
    }

    fn datacenter(&self) -> &str {
        &self.inner.datacenter
    }

    fn server(&self) -> &ServerId {
        &self.inner.server
    }

    fn cluster_keys(&self) -> &ClusterKeys {
        &self.inner.cluster_keys
    }

    fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// Returns what checks logins; the port for agents uses the same.
    pub(crate) fn logins(&self) -> &Logins {
        &self.inner.logins
    }

    fn challenges(&self) -> &challenge::Challenges {
        &self.inner.challenges
    }
}

/// Where a request came from; the listener puts it among the request's extensions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SourceAddress(pub(crate) SocketAddr);

/// How the API is served over TLS: the certificate, and the names that requests may ask for.
pub(crate) struct Doors {
    source: certificate::Source,
    names: Vec<ApiName>,
    server: Arc<RaftIdentity>,
}

/// Prepares serving the API over TLS.
///
/// # Errors
///
/// [`CertificateError`] where the operator's files cannot be used: nothing else would be shown in their place.
pub(crate) fn doors(https: &Https, advertised: IpAddr, config: &Config) -> Result<Doors, CertificateError> {
    let mut names = https.names.clone();
    if !names.contains(&ApiName::Ip(advertised)) {
        names.push(ApiName::Ip(advertised));
    }
    let source = match &https.files {
        Some(files) => {
            let (certificate, _) = certificate::read(files)?;
            names.extend(certificate.names().iter().cloned());
            certificate::Source::Files(files.clone())
        }
        None => {
            let authority = CertificateAuthority::new(config.cluster_keys.clone(), config.leaf_ttl);
            certificate::Source::Mesh { authority, names: names.clone() }
        }
    };
    let server = RaftIdentity::new(&config.cluster_keys, config.node.clone()).map_err(CertificateError::Server)?;
    Ok(Doors { source, names, server })
}

/// Serves the API over TLS until `stop` is cancelled.
pub(crate) async fn serve_doors(listener: TcpListener, doors: Doors, state: ApiState, stop: CancellationToken) {
    let tls = listener::Tls::default();
    let (consensus, metrics) = (state.consensus().clone(), state.metrics().clone());
    let window = certificate::Window { tls: tls.clone(), server: doors.server, metrics: metrics.clone() };
    tokio::select! {
        () = certificate::keep(doors.source, consensus, window) => {}
        () = serve_https(listener, named_router(state, doors.names), tls, metrics, stop) => {}
    }
}

/// Builds the API for the loopback listener, which answers to loopback names only.
pub(crate) fn router(state: ApiState) -> Router {
    named_router(state, Vec::new())
}

/// Builds the API for a listener that is asked under `names`, too.
fn named_router(state: ApiState, names: Vec<ApiName>) -> Router {
    let metrics = state.metrics().clone();
    let names = Arc::new(names);
    unguarded(state).layer(from_fn(move |request: Request, next: Next| {
        let (metrics, names) = (metrics.clone(), Arc::clone(&names));
        async move {
            let (parts, body) = request.into_parts();
            match check_addressee_of(&parts, &names).map_err(ApiError::from) {
                Ok(()) => next.run(Request::from_parts(parts, body)).await,
                Err(error) => {
                    metrics.api_request(error.status());
                    error.into_response()
                }
            }
        }
    }))
}

/// Builds the API for requests that an agent passes on over mutual TLS.
///
/// The agent has judged Host and Origin; every request still needs its own token.
pub(crate) fn passed_on_router(state: ApiState) -> Router {
    unguarded(state)
}

fn unguarded(state: ApiState) -> Router {
    let metrics = state.metrics().clone();
    let count = from_fn(move |request: Request, next: Next| {
        let metrics = metrics.clone();
        async move {
            let (method, path) = (request.method().clone(), request.uri().path().to_owned());
            let started = Instant::now();
            let response: Response = next.run(request).await;
            metrics.api_request(response.status());
            // The path only: a query string may carry a token, which is refused for that very reason.
            let (status, duration_s) = (response.status().as_u16(), started.elapsed().as_secs_f64());
            debug!(%method, path, status, duration_s, "API request answered");
            response
        }
    });
    table()
        .into_iter()
        .fold(Router::new(), |router, route| route.mount(router, state.clone()))
        .fallback(unsupported::answer)
        .method_not_allowed_fallback(unsupported::method_not_allowed)
        .layer(count)
}

/// Lists what the API serves, and the right that each route needs.
#[cfg(test)]
fn routes() -> Vec<(http::Method, &'static str, auth::Right)> {
    table().iter().map(Route::describe).collect()
}

fn table() -> Vec<Route> {
    let modules = [
        status::routes(),
        openapi::routes(),
        agent::routes(),
        members::routes(),
        monitor::routes(),
        nodes::routes(),
        operator::routes(),
        services::routes(),
        snapshot::routes(),
        register::routes(),
        rekey::routes(),
        health::routes(),
        discovery_chain::routes(),
        intentions::routes(),
        connect_ca::routes(),
        config_entries::routes(),
        connectors::routes(),
        relaxations::routes(),
        tap::routes(),
        callers::routes(),
        rule_usage::routes(),
        audit::routes(),
        acl::routes(),
        join_tokens::routes(),
        login::routes(),
        auth_methods::routes(),
        revocations::routes(),
    ];
    modules.into_iter().flatten().collect()
}
