//! The HTTP API: Consul's paths and shapes where weft has the same concept, its own in the same style.
//!
//! A request passes the guard, then its route's right, then its parameters and body; only then does its handler run.
//! A handler is reached through a [`Route`] alone, and no route can be written down without its right.

mod acl;
mod agent;
mod auth;
mod body;
mod call;
mod challenge;
mod config_entries;
mod connect_ca;
mod error;
mod health;
mod intentions;
mod join_tokens;
mod listener;
mod nodes;
mod query;
mod reads;
mod register;
mod route;
mod services;
mod status;
#[cfg(test)]
mod tests;
mod unsupported;
mod writes;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use ::catalog::ServerId;
use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use tracing::debug;
use wire::cluster_key::ClusterKeys;
use wire::front_door::check_addressee;

use crate::consensus::Consensus;
use crate::metrics::Metrics;

use error::ApiError;
pub(crate) use listener::serve_http;
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
        Self { inner: Arc::new(Inner { consensus, datacenter, server, cluster_keys, metrics, challenges }) }
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

    fn challenges(&self) -> &challenge::Challenges {
        &self.inner.challenges
    }
}

/// Where a request came from; the listener puts it among the request's extensions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SourceAddress(pub(crate) SocketAddr);

/// Builds the API for the loopback listener, which answers to loopback names only.
pub(crate) fn router(state: ApiState) -> Router {
    let metrics = state.metrics().clone();
    unguarded(state).layer(from_fn(move |request: Request, next: Next| {
        let metrics = metrics.clone();
        async move {
            let (parts, body) = request.into_parts();
            match check_addressee(&parts).map_err(ApiError::from) {
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
        agent::routes(),
        nodes::routes(),
        services::routes(),
        register::routes(),
        health::routes(),
        intentions::routes(),
        connect_ca::routes(),
        config_entries::routes(),
        acl::routes(),
        join_tokens::routes(),
    ];
    modules.into_iter().flatten().collect()
}
