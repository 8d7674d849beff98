//! A route: method, path, the right that it needs, and its handler.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{RawPathParams, Request};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, on};
use futures_util::future::BoxFuture;
use http::Method;

use super::ApiState;
use super::auth::{self, Right};
use super::call::Call;
use super::error::ApiError;
use super::query::Query;
use super::shaping::Shaping;
use super::{SourceAddress, body};

type Handler = dyn Fn(Call) -> BoxFuture<'static, Result<Response, ApiError>> + Send + Sync;

/// What axum made of the path; an error is judged once the caller may know.
type PathParameters = Result<RawPathParams, RawPathParamsRejection>;

/// One thing that the API does.
pub(crate) struct Route {
    method: Method,
    path: &'static str,
    right: Right,
    body: body::Bounds,
    /// The query parameters of its own, besides those that every route has.
    reads: &'static [&'static str],
    /// What its body is, as the API's description names it; empty where it takes none.
    takes: &'static str,
    /// What it answers with, in the same names; empty where that is no JSON.
    answers: &'static str,
    handler: Arc<Handler>,
}

/// Declares a route. `path` is written as axum reads it: `{name}` stands for one segment.
pub(crate) fn route<F, Answer>(method: Method, path: &'static str, right: Right, handler: F) -> Route
where
    F: Fn(Call) -> Answer + Send + Sync + 'static,
    Answer: Future<Output = Result<Response, ApiError>> + Send + 'static,
{
    let handler: Arc<Handler> = Arc::new(move |call| Box::pin(handler(call)));
    Route { method, path, right, body: body::Bounds::default(), reads: &[], takes: "", answers: "", handler }
}

impl Route {
    /// Lets the route take a larger body than others, for longer.
    pub(crate) fn with_body(self, bytes_max: usize, timeout: Duration) -> Route {
        Route { body: body::Bounds { bytes_max, timeout }, ..self }
    }

    /// Says which query parameters of its own it reads. One that is read and not named here is a fault, which tests find.
    pub(crate) fn reads(self, names: &'static [&'static str]) -> Route {
        Route { reads: names, ..self }
    }

    /// Says what its body is: a type of [`wire::openapi`], or `object`.
    pub(crate) fn takes(self, body: &'static str) -> Route {
        Route { takes: body, ..self }
    }

    /// Says what it answers with: a type of [`wire::openapi`], a list `[T]` or a map `{T}` of such, or `object`.
    pub(crate) fn answers(self, answer: &'static str) -> Route {
        Route { answers: answer, ..self }
    }

    /// Describes what goes in and out: the parameters of its own, its body and its answer.
    pub(crate) fn describe_content(&self) -> (&'static [&'static str], &'static str, &'static str) {
        (self.reads, self.takes, self.answers)
    }

    /// Returns what the route serves and the right that it needs.
    pub(crate) fn describe(&self) -> (Method, &'static str, Right) {
        (self.method.clone(), self.path, self.right)
    }

    /// Returns how large a body it takes.
    #[cfg(test)]
    pub(crate) fn body_bytes_max(&self) -> usize {
        self.body.bytes_max
    }

    /// Adds the route to `router`.
    pub(crate) fn mount(self, router: Router, state: ApiState) -> Router {
        let filter = MethodFilter::try_from(self.method.clone()).expect("routes are declared for standard methods");
        let path = self.path;
        let route = Arc::new(self);
        let endpoint = move |path_parameters: PathParameters, request: Request| {
            let (route, state) = (Arc::clone(&route), state.clone());
            async move { route.serve(state, path_parameters, request).await.unwrap_or_else(ApiError::into_response) }
        };
        router.route(path, on(filter, endpoint))
    }

    /// Answers one request: right first, then parameters, then the body, then the handler.
    async fn serve(
        &self,
        state: ApiState,
        path_parameters: PathParameters,
        request: Request,
    ) -> Result<Response, ApiError> {
        let (parts, body) = request.into_parts();
        let query = Query::parse(&parts.uri)?.of_route(self.reads);
        let is_stale = query.has("stale");
        let caller = auth::authorize(&state, &parts.headers, is_stale, self.right).await?.ok_or_else(|| {
            ApiError::PermissionDenied {
                method: self.method.clone(),
                path: self.path,
                needs: self.right.needs().to_owned(),
            }
        })?;
        query.check(state.datacenter())?;
        let shaping = Shaping::asked(&query, self.path)?;
        let path_parameters =
            path_parameters.map_err(|error| ApiError::PathUnreadable { reason: error.body_text() })?;
        let takes_body = self.method == Method::PUT || self.method == Method::POST;
        let body = if takes_body { body::read(&parts.headers, body, self.body).await? } else { bytes::Bytes::new() };
        let call = Call {
            request_id: auth::request_id(&parts.headers)?,
            source: parts.extensions.get::<SourceAddress>().map(|source| source.0),
            state,
            method: self.method.clone(),
            path: self.path,
            path_parameters: path_parameters.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            query,
            shaping,
            caller,
            body,
        };
        (self.handler)(call).await
    }
}
