//! A route of the agent: method, path, the right that it needs, and its handler.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{RawPathParams, Request};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, on};
use bytes::Bytes;
use catalog::{Authority, CatalogIndex, CheckId, InstanceId, Namespace, ServiceKey};
use futures_util::future::BoxFuture;
use http::Method;
use http::request::Parts;
use serde::Serialize;
use serde_json::Value;
use wire::body::{self, Bounds};
use wire::decode::Format;

use super::ApiState;
use super::error::{ApiError, text};
use super::query::Query;
use super::rights::Right;
use crate::local::LocalError;

/// How large a body the agent itself reads, and how long that may take.
const BODY_BOUNDS: Bounds = Bounds { bytes_max: 512 * 1024, timeout: Duration::from_secs(30) };

type Handler = dyn Fn(Call) -> BoxFuture<'static, Result<Response, ApiError>> + Send + Sync;

/// One thing that the agent does.
pub(super) struct Route {
    method: Method,
    path: &'static str,
    right: Right,
    /// The query parameters of its own, besides those that every route has.
    reads: &'static [&'static str],
    /// What its body is, as the API's description names it; empty where it takes none.
    takes: &'static str,
    /// What it answers with, in the same names; empty where that is no JSON.
    answers: &'static str,
    handler: Arc<Handler>,
}

/// Declares a route. `path` is written as axum reads it: `{id}` stands for one segment.
pub(super) fn route<F, Answer>(method: Method, path: &'static str, right: Right, handler: F) -> Route
where
    F: Fn(Call) -> Answer + Send + Sync + 'static,
    Answer: Future<Output = Result<Response, ApiError>> + Send + 'static,
{
    let handler: Arc<Handler> = Arc::new(move |call| Box::pin(handler(call)));
    Route { method, path, right, reads: &[], takes: "", answers: "", handler }
}

impl Route {
    /// Says which query parameters of its own it reads. One that is read and not named here is a fault, which tests find.
    pub(super) fn reads(self, names: &'static [&'static str]) -> Route {
        Route { reads: names, ..self }
    }

    /// Says what its body is: a type of [`wire::openapi`], or `object`.
    pub(super) fn takes(self, body: &'static str) -> Route {
        Route { takes: body, ..self }
    }

    /// Says what it answers with: a type of [`wire::openapi`], a list `[T]` or a map `{T}` of such, or `object`.
    pub(super) fn answers(self, answer: &'static str) -> Route {
        Route { answers: answer, ..self }
    }

    /// Describes what goes in and out: the parameters of its own, its body and its answer.
    pub(super) fn describe_content(&self) -> (&'static [&'static str], &'static str, &'static str) {
        (self.reads, self.takes, self.answers)
    }

    /// Returns what the route serves and the right that it needs.
    pub(super) fn describe(&self) -> (Method, &'static str, Right) {
        (self.method.clone(), self.path, self.right)
    }

    /// Adds the route to `router`.
    pub(super) fn mount(self, router: Router, state: ApiState) -> Router {
        let filter = MethodFilter::try_from(self.method.clone()).expect("routes are declared for standard methods");
        let path = self.path;
        let route = Arc::new(self);
        let endpoint = move |parameters: RawPathParams, request: Request| {
            let (route, state) = (Arc::clone(&route), state.clone());
            async move {
                let parameters = parameters.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
                route.serve(state, parameters, request).await.unwrap_or_else(ApiError::into_response)
            }
        };
        router.route(path, on(filter, endpoint))
    }

    /// Answers one request: right first, then parameters, then the body, then the handler.
    async fn serve(
        &self,
        state: ApiState,
        path_parameters: Vec<(String, String)>,
        request: Request,
    ) -> Result<Response, ApiError> {
        let (parts, body) = request.into_parts();
        let authority = state.authorize(&parts.headers, self.right, &self.method, self.path).await?;
        let query = Query::parse(&parts.uri)?.of_route(self.reads);
        let takes_body = self.method == Method::PUT || self.method == Method::POST;
        let body = if takes_body { body::read(&parts.headers, body, BODY_BOUNDS).await? } else { Bytes::new() };
        (self.handler)(Call { state, authority, path: self.path, path_parameters, query, parts, body }).await
    }
}

/// One request that may be carried out.
pub(super) struct Call {
    pub(super) state: ApiState,
    /// What the caller may do.
    pub(super) authority: Arc<Authority>,
    path: &'static str,
    pub(super) query: Query,
    path_parameters: Vec<(String, String)>,
    parts: Parts,
    body: Bytes,
}

impl Call {
    /// Checks a right that a [`Right::Judged`] route needs.
    pub(super) fn need(&self, is_granted: bool, needs: impl FnOnce() -> String) -> Result<(), ApiError> {
        if is_granted {
            return Ok(());
        }
        Err(ApiError::PermissionDenied { method: self.parts.method.clone(), path: self.path, needs: needs() })
    }

    /// Judges the caller's token anew; what is left of a long answer depends on it.
    pub(super) async fn may_still(&self, right: Right) -> bool {
        self.state.authorize(&self.parts.headers, right, &self.parts.method, self.path).await.is_ok()
    }

    /// Checks that the caller may see a service.
    pub(super) fn need_service_read(&self, service: &ServiceKey) -> Result<(), ApiError> {
        self.need(self.authority.service_read(service), || format!("`service:read` on {service}"))
    }

    /// Checks that the caller may change a service, its instances and their checks.
    pub(super) fn need_service_write(&self, service: &ServiceKey) -> Result<(), ApiError> {
        self.need(self.authority.service_write(service), || format!("`service:write` on {service}"))
    }

    /// Checks that the caller may change the node's own checks.
    pub(super) fn need_node_write(&self) -> Result<(), ApiError> {
        let node = self.state.core.status().record.node.clone();
        self.need(self.authority.node_write(&node), || format!("`node:write` on {node}"))
    }

    /// Checks that the caller may change the service that is registered under an id, if there is one.
    pub(super) fn need_write_on(&self, namespace: &Namespace, id: &InstanceId) -> Result<(), ApiError> {
        let status = self.state.core.status();
        match super::services::find(&status, namespace, id) {
            Ok(service) => self.need_service_write(&service.instance.service_key()),
            // Nothing is there: only who may change the node learns that.
            Err(_) => self.need_node_write(),
        }
    }

    /// Checks that the caller may change the check that is there under an id: the right on its service, or on the node.
    pub(super) fn need_check_write(&self, namespace: &Namespace, id: &CheckId) -> Result<(), ApiError> {
        let status = self.state.core.status();
        let held = status.checks.values().find(|check| check.key.namespace == *namespace && check.key.id == *id);
        match held.and_then(|check| check.instance.clone()) {
            Some(instance) => self.need_write_on(namespace, &instance),
            None => self.need_node_write(),
        }
    }

    /// Returns the body as it was sent.
    pub(super) fn body(&self) -> &[u8] {
        &self.body
    }

    /// Returns the request as it came, to be passed on.
    pub(super) fn as_request(&self) -> Result<Request, ApiError> {
        let mut request = http::Request::builder().method(self.parts.method.clone()).uri(self.parts.uri.clone());
        if let Some(headers) = request.headers_mut() {
            headers.clone_from(&self.parts.headers);
        }
        let body = axum::body::Body::from(self.body.clone());
        request.body(body).map_err(|error| ApiError::Internal { reason: error.to_string() })
    }

    /// Reads `index`, which names what the caller knows already; none where it is absent or zero.
    pub(super) fn index(&self) -> Result<Option<CatalogIndex>, ApiError> {
        let Some(text) = self.query.get("index").filter(|text| !text.is_empty()) else { return Ok(None) };
        let number: Option<u64> = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        let number = number.ok_or_else(|| ApiError::Parameter {
            name: "index",
            value: text.to_owned(),
            expected: "send a whole number as X-Consul-Index gives it",
        })?;
        Ok((number > 0).then_some(CatalogIndex(number)))
    }

    /// Returns an answer in JSON, indented where `?pretty` asks for it.
    pub(super) fn json(&self, content: &impl Serialize) -> Result<Response, ApiError> {
        self.json_with(http::StatusCode::OK, content)
    }

    /// Returns an answer in JSON with a status of its own.
    pub(super) fn json_with(&self, status: http::StatusCode, content: &impl Serialize) -> Result<Response, ApiError> {
        Ok(json_bytes(status, self.json_text(content)?))
    }

    /// Writes an answer's body.
    pub(super) fn json_text(&self, content: &impl Serialize) -> Result<Vec<u8>, ApiError> {
        let written = match self.query.get("pretty") {
            None | Some("false") => serde_json::to_vec(content),
            Some(_) => serde_json::to_vec_pretty(content).map(|mut bytes| {
                bytes.push(b'\n');
                bytes
            }),
        };
        written.map_err(|error| ApiError::Internal { reason: error.to_string() })
    }

    /// Returns a name that stands in the path.
    pub(super) fn path<T>(&self, name: &'static str) -> Result<T, ApiError>
    where
        T: std::str::FromStr<Err: std::fmt::Display>,
    {
        let value = self.path_parameters.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value);
        value.parse().map_err(|error: T::Err| ApiError::Path {
            what: name,
            value: value.to_owned(),
            reason: error.to_string(),
        })
    }

    /// Returns the body as JSON, in the namespace that the query names where the body names none.
    pub(super) fn json_body(&self) -> Result<Value, ApiError> {
        let wrong = |reason: String| ApiError::Local(LocalError::Definition { reason });
        let mut value = Format::Json.read(&self.body).map_err(|error| wrong(error.to_string()))?;
        if let (Some(namespace), Some(fields)) = (self.query.get("ns"), value.as_object_mut())
            && !fields.keys().any(|name| name.eq_ignore_ascii_case("namespace"))
        {
            fields.insert("Namespace".to_owned(), Value::String(namespace.to_owned()));
        }
        Ok(value)
    }
}

/// Returns a body of JSON as an answer.
pub(super) fn json_bytes(status: http::StatusCode, body: Vec<u8>) -> Response {
    (status, [(http::header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// Returns the empty answer by which Consul says that something is done.
pub(super) fn done() -> Response {
    text(http::StatusCode::OK, "")
}
