//! What the agent serves on loopback: the local HTTP API, and the admin listener with readiness and metrics.
//!
//! The local API answers `/v1/agent/...` itself, from what the agent knows; everything else under `/v1` is passed on to
//! a server with the caller's own token. A request passes the guard, then its route's right, then its parameters and
//! body; only then does its handler run.

mod admin;
mod applications;
mod blocking;
mod checks;
mod error;
mod forward;
mod health;
mod kubelet;
mod listener;
mod monitor;
mod native;
mod node;
mod openapi;
mod own;
mod proxy;
mod query;
mod rights;
mod route;
mod services;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use catalog::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use wire::acl::OwnRights;
use wire::agent_protocol::API_PATH_PREFIX;
use wire::crypto::Secret;
use wire::front_door::{check_addressee, sent_token};

use crate::core::Handle;
use crate::metrics::Metrics;
use crate::proxy::Proxy;
use crate::sync::connection::{CallError, whole};
pub(crate) use admin::{Ready, missing, readiness, serve_admin};
use error::ApiError;
pub(crate) use kubelet::serve_health;
use rights::{Right, Standing, Tokens, Unanswered};
use route::Route;

/// How long a server may take to say what a token may do.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(5);

/// What the handlers work with.
#[derive(Clone)]
pub(crate) struct ApiState {
    core: Handle,
    proxy: Arc<Proxy>,
    metrics: Metrics,
    tokens: Arc<Tokens>,
    /// Cancelled when somebody asks the agent to leave.
    leaving: CancellationToken,
}

impl ApiState {
    pub(crate) fn new(core: Handle, proxy: Arc<Proxy>, metrics: Metrics, leaving: CancellationToken) -> Self {
        Self { core, proxy, metrics, tokens: Arc::default(), leaving }
    }

    /// Judges the request's token against `right`, and returns what its holder may do.
    async fn authorize(
        &self,
        headers: &HeaderMap,
        right: Right,
        method: &Method,
        path: &'static str,
    ) -> Result<Arc<Authority>, ApiError> {
        let denied = || ApiError::PermissionDenied { method: method.clone(), path, needs: right.needs().to_owned() };
        let token = sent_token(headers)?.ok_or_else(denied)?;
        match self.tokens.standing(&token, async || self.ask_server(&token).await).await? {
            Standing::Known { authority, .. } if right.is_held_by(&authority, &self.core.status().record.node) => {
                Ok(authority)
            }
            Standing::Known { .. } => Err(denied()),
            Standing::Unknown => Err(ApiError::TokenUnknown),
        }
    }

    /// Returns what the holder of a token may do; nothing of a token that is not known, or that nobody can judge.
    pub(crate) async fn authority_of(&self, token: &Secret) -> Option<Arc<Authority>> {
        match self.tokens.standing(token, async || self.ask_server(token).await).await {
            Ok(Standing::Known { authority, .. }) => Some(authority),
            Ok(Standing::Unknown) | Err(_) => None,
        }
    }

    /// Asks a server what a token may do.
    async fn ask_server(&self, token: &Secret) -> Result<Standing, Unanswered> {
        const PATH: &str = "/v1/acl/token/self/rights";
        let connection =
            self.core.connection().await.ok_or_else(|| Unanswered("the agent is not connected".to_owned()))?;
        let Ok(mut value) = HeaderValue::from_str(token.expose()) else { return Ok(Standing::Unknown) };
        value.set_sensitive(true);
        let headers = HeaderMap::from_iter([(HeaderName::from_static("x-consul-token"), value)]);
        let path = format!("{API_PATH_PREFIX}/acl/token/self/rights?stale");
        let ask = async {
            let response = connection.send(Method::GET, &path, headers, whole(""), PATH).await?;
            if response.status().is_success() {
                return connection.answer::<OwnRights>(PATH, response.into_body()).await;
            }
            let (parts, body) = response.into_parts();
            Err(connection.failure(parts, body).await)
        };
        match tokio::time::timeout(TOKEN_TIMEOUT, ask).await {
            Ok(Ok(OwnRights { authority, expires_at })) => {
                Ok(Standing::Known { authority: Arc::new(authority), expires_at })
            }
            // The server says which it does not know; everything else is no word on the token.
            Ok(Err(CallError::Refused { status: StatusCode::FORBIDDEN, .. })) => Ok(Standing::Unknown),
            Ok(Err(error)) => Err(Unanswered(wire::one_line(&error))),
            Err(_) => Err(Unanswered(format!("no answer within {TOKEN_TIMEOUT:?}"))),
        }
    }
}

/// Serves the local API until `stopping` is cancelled.
pub(crate) async fn serve_http(listener: TcpListener, state: ApiState, stopping: CancellationToken) {
    listener::serve(listener, router(state), stopping).await;
}

fn router(state: ApiState) -> Router {
    let forward = state.clone();
    let router = table().into_iter().fold(Router::new(), |router, route| route.mount(router, state.clone()));
    let router = router
        .fallback(move |request: Request| {
            let state = forward.clone();
            async move { otherwise(state, request).await.unwrap_or_else(ApiError::into_response) }
        })
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed);
    guarded(router)
}

/// Refuses requests that were not meant for a listener on loopback.
fn guarded(router: Router) -> Router {
    router.layer(from_fn(async |request: Request, next: Next| {
        let (parts, body) = request.into_parts();
        match check_addressee(&parts).map_err(ApiError::from) {
            Ok(()) => next.run(Request::from_parts(parts, body)).await,
            Err(error) => error.into_response(),
        }
    }))
}

/// Answers what is no route of the agent's own: a server judges the token and does the rest.
async fn otherwise(state: ApiState, request: Request) -> Result<Response, ApiError> {
    let path = request.uri().path();
    let is_agents = path == "/v1/agent" || path.starts_with("/v1/agent/");
    let is_servers = path == "/v1/agent/members" || path.starts_with("/v1/agent/force-leave/");
    if (is_agents && !is_servers) || !path.starts_with("/v1/") {
        return Err(ApiError::NoSuchPath { path: path.to_owned() });
    }
    forward::pass_on(&state.core, request).await
}

/// Lists what the agent serves itself.
fn table() -> Vec<Route> {
    let modules = [
        own::routes(),
        proxy::routes(),
        openapi::routes(),
        node::routes(),
        monitor::routes(),
        native::routes(),
        services::routes(),
        checks::routes(),
        health::routes(),
    ];
    modules.into_iter().flatten().collect()
}
