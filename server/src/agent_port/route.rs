//! The routes of the port, each with the right that it needs, and the one path that every request takes through them.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use catalog::AgentRecord;
use futures_util::future::BoxFuture;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use serde::Serialize;
use tracing::{debug, warn};
use wire::agent_protocol::{
    API_PATH_PREFIX, JOIN_PATH, LOGIN_PATH, MESH_PATH, REPORT_PATH, SIGN_PATH, STREAM_PATH, TAP_PATH, WRITE_PATH,
};

use super::caller::{self, Caller, Connection};
use super::refusal::PortError;
use super::{AgentPort, passthrough, report, sign, stream, tap, write};
use crate::held_body::HeldBody;
use crate::{admit, enrol};

/// The right that a route needs; declared beside its handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Right {
    /// None of the connection's: the request carries its own proof.
    Join,
    /// None: it says what anybody may know.
    Public,
    /// The certificate of an agent whose record lives and names the certificate's key.
    AgentOwn,
    /// As [`Right::AgentOwn`], and the certificate may have expired: the key is enough to renew it.
    AgentRenewal,
}

type Handler = fn(Call) -> BoxFuture<'static, Result<Response<Body>, PortError>>;

/// One thing that the port does.
struct Route {
    /// The only method that is taken; any where there is none.
    method: Option<Method>,
    path: &'static str,
    right: Right,
    handler: Handler,
}

/// Lists what the port serves.
fn table() -> [Route; 9] {
    [
        route(Some(Method::POST), JOIN_PATH, Right::Join, |call| Box::pin(enrol::join(call))),
        route(Some(Method::POST), LOGIN_PATH, Right::Join, |call| Box::pin(admit::log_in(call))),
        route(Some(Method::POST), MESH_PATH, Right::Public, |call| Box::pin(admit::name_mesh(call))),
        route(Some(Method::POST), SIGN_PATH, Right::AgentRenewal, |call| Box::pin(sign::sign(call))),
        route(Some(Method::POST), WRITE_PATH, Right::AgentOwn, |call| Box::pin(write::write(call))),
        route(Some(Method::POST), REPORT_PATH, Right::AgentOwn, |call| Box::pin(report::report(call))),
        route(Some(Method::POST), STREAM_PATH, Right::AgentOwn, |call| Box::pin(stream::stream(call))),
        route(Some(Method::POST), TAP_PATH, Right::AgentOwn, |call| Box::pin(tap::tap(call))),
        route(None, API_PATH_PREFIX, Right::AgentOwn, |call| Box::pin(passthrough::pass_on(call))),
    ]
}

fn route(method: Option<Method>, path: &'static str, right: Right, handler: Handler) -> Route {
    Route { method, path, right, handler }
}

/// Returns the method, path and right of every route, for the test that tries them all.
#[cfg(test)]
pub(super) fn routes() -> Vec<(Option<Method>, &'static str, Right)> {
    table().into_iter().map(|route| (route.method, route.path, route.right)).collect()
}

impl Route {
    /// Says whether a request's path is this route's; a route for any method stands for all paths below its own.
    fn matches(&self, path: &str) -> bool {
        match path.strip_prefix(self.path) {
            Some("") => self.method.is_some(),
            Some(rest) => self.method.is_none() && rest.starts_with('/'),
            None => false,
        }
    }
}

/// One authorized request, as its handler sees it.
pub(crate) struct Call {
    pub(crate) port: Arc<AgentPort>,
    pub(crate) connection: Arc<Connection>,
    pub(crate) request: Request<Incoming>,
    caller: Caller,
}

impl Call {
    /// Returns the agent that calls.
    ///
    /// # Errors
    ///
    /// [`PortError::NoCertificate`] on a route that does not ask for one.
    pub(super) fn agent(&self) -> Result<&AgentRecord, PortError> {
        match &self.caller {
            Caller::Agent(record) => Ok(record),
            Caller::Unknown => Err(PortError::NoCertificate),
        }
    }
}

/// Answers one request: route, right, handler; a refusal is counted and logged once, here.
pub(super) async fn answer(
    port: Arc<AgentPort>,
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Response<Body> {
    let in_flight = connection.activity().enter();
    let path = wire::harmless(request.uri().path());
    let response = match dispatch(Arc::clone(&port), Arc::clone(&connection), request).await {
        Ok(response) => response,
        Err(error) => {
            port.metrics.agent_port_refused(error.label());
            let (source, identity) = (connection.source(), connection.identity());
            if error.status().is_server_error() {
                debug!(src.addr = %source, identity, path, reason = error.label(), error = %error, "request failed");
            } else {
                let error_text = wire::harmless(&error.to_string());
                warn!(src.addr = %source, identity, path, reason = error.label(), error = error_text, "request refused");
            }
            error.to_response()
        }
    };
    response.map(|body| HeldBody::holding(in_flight, body))
}

async fn dispatch(
    port: Arc<AgentPort>,
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<Body>, PortError> {
    let path = request.uri().path();
    let table = table();
    let route = table
        .iter()
        .find(|route| route.matches(path))
        .ok_or_else(|| PortError::NoSuchPath { path: wire::harmless(path) })?;
    // The right comes first: who has none learns nothing but that.
    let caller = caller::authorize(&port, &connection, route.right).await?;
    if let Some(wanted) = route.method.as_ref().filter(|wanted| *wanted != request.method()) {
        return Err(PortError::MethodNotAllowed {
            path: route.path,
            method: request.method().clone(),
            wanted: wanted.clone(),
        });
    }
    (route.handler)(Call { port, connection, request, caller }).await
}

/// Builds a JSON answer.
pub(crate) fn json(status: StatusCode, content: &impl Serialize) -> Response<Body> {
    let body = match serde_json::to_vec(content) {
        Ok(body) => body,
        Err(error) => {
            debug!(error = %error, "an answer cannot be written as JSON");
            return with_status(StatusCode::INTERNAL_SERVER_ERROR, Bytes::new());
        }
    };
    let mut response = with_status(status, body.into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn with_status(status: StatusCode, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response
}
