//! One authorized request, as its handler sees it.

use std::fmt::Display;
use std::net::SocketAddr;
use std::str::FromStr;

use ::catalog::{Authority, Catalog, Namespace, NodeName, RequestId, ServiceKey, ServiceName};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use serde::Serialize;
use wire::decode::{Shape, from_json};

use super::ApiState;
use super::auth::Caller;
use super::error::ApiError;
use super::query::Query;
use super::shaping::Shaping;

/// One request that has passed the guard and its route's right.
pub(crate) struct Call {
    pub(super) state: ApiState,
    pub(super) method: Method,
    /// The path as the route declares it.
    pub(super) path: &'static str,
    pub(super) path_parameters: Vec<(String, String)>,
    pub(super) query: Query,
    /// What the query asks to be done with an answer.
    pub(super) shaping: Shaping,
    pub(super) caller: Caller,
    pub(super) source: Option<SocketAddr>,
    pub(super) request_id: Option<RequestId>,
    /// Empty unless the method is PUT or POST.
    pub(super) body: Bytes,
}

impl Call {
    /// Reads a name out of the path.
    pub(super) fn path_name<T>(&self, what: &'static str) -> Result<T, ApiError>
    where
        T: FromStr,
        T::Err: Display,
    {
        let text = self.path_text(what);
        text.parse().map_err(|error: T::Err| ApiError::Path { what, value: text.to_owned(), reason: error.to_string() })
    }

    /// Returns a part of the path as it was sent, decoded.
    pub(super) fn path_text(&self, what: &str) -> &str {
        let found = self.path_parameters.iter().find(|(name, _)| name == what);
        found.map_or("", |(_, value)| value.as_str())
    }

    /// Reads the service that path and `ns` name.
    pub(super) fn service(&self) -> Result<ServiceKey, ApiError> {
        let name: ServiceName = self.path_name("service")?;
        Ok(ServiceKey::new(self.namespace()?, name))
    }

    /// Reads the node that the path names.
    pub(super) fn node(&self) -> Result<NodeName, ApiError> {
        self.path_name("node")
    }

    /// Reads the namespace that `ns` names.
    pub(super) fn namespace(&self) -> Result<Namespace, ApiError> {
        self.query.namespace()
    }

    /// Reads the body as JSON of a given shape.
    pub(super) fn decode<T: Shape>(&self) -> Result<T, ApiError> {
        from_json(&self.body).map_err(|error| self.body_error(&error))
    }

    /// Builds the error that says what is wrong with the body.
    pub(super) fn body_error(&self, reason: &dyn Display) -> ApiError {
        ApiError::Body { path: self.path, reason: reason.to_string() }
    }

    /// Checks that a body's `Datacenter`, where it is set, means this one.
    pub(super) fn check_body_datacenter(&self, asked: &str) -> Result<(), ApiError> {
        let ours = self.state.datacenter();
        if asked.is_empty() || asked == ours {
            return Ok(());
        }
        Err(ApiError::OtherDatacenter { asked: asked.to_owned(), ours: ours.to_owned() })
    }

    /// Checks that the caller may do what a [`Right::Judged`](super::auth::Right::Judged) route does for it.
    ///
    /// `needs` says in an error text what is missing, such as "`service:write` on `default/web`".
    ///
    /// # Errors
    ///
    /// [`ApiError::PermissionDenied`] where `is_granted` says no, [`ApiError::TokenUnknown`] where the token has ended.
    pub(super) fn may(&self, needs: impl Display, is_granted: impl FnOnce(&Authority) -> bool) -> Result<(), ApiError> {
        let authority = self.authority_by(&self.state.consensus().catalog())?;
        if is_granted(&authority) { Ok(()) } else { Err(self.denied(needs)) }
    }

    /// Returns what the caller may do by `catalog`, having judged its token and the route's right by it again.
    pub(super) fn authority_by(&self, catalog: &Catalog) -> Result<Authority, ApiError> {
        let authority = self.caller.judge_again(catalog)?;
        let right = self.caller.right();
        let is_public = right == super::auth::Right::Public;
        if is_public || right.is_held_by(Some(&authority)) { Ok(authority) } else { Err(self.denied(right.needs())) }
    }

    /// Builds the error that says which right the caller lacks.
    pub(super) fn denied(&self, needs: impl Display) -> ApiError {
        ApiError::PermissionDenied { method: self.method.clone(), path: self.path, needs: needs.to_string() }
    }

    /// Writes a value as the JSON body of a success, indented where `?pretty` asks for it.
    pub(super) fn json<T: Serialize + ?Sized>(&self, value: &T) -> Result<Response, ApiError> {
        let written = if self.query.has("pretty") {
            serde_json::to_vec_pretty(value).map(|mut bytes| {
                bytes.push(b'\n');
                bytes
            })
        } else {
            serde_json::to_vec(value)
        };
        let bytes = written.map_err(|error| ApiError::Internal { reason: error.to_string() })?;
        let mut response = (StatusCode::OK, bytes).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(response)
    }
}
