//! How a request to the local API fails: one line that says what, on which input, and what to do.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, Method, StatusCode, header};

use crate::local::LocalError;

/// What kept a request from being answered as asked.
///
/// Clients written for Consul match on `ACL not found` and `Permission denied` at the start of the line.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("ACL not found: the token is unknown, deleted or expired; ask for a new one")]
    TokenUnknown,
    #[error("Permission denied: {method} {path} needs {needs}; send a token in the X-Consul-Token header")]
    PermissionDenied { method: Method, path: &'static str, needs: String },
    #[error("the query parameter `token` is refused; send the token in the X-Consul-Token or Authorization header")]
    TokenInQuery,
    #[error(transparent)]
    TurnedAway(#[from] wire::front_door::TurnedAway),
    #[error("the query string cannot be read: {reason}")]
    Query { reason: String },
    #[error("the query parameter `{name}` cannot be `{value}`; {expected}")]
    Parameter { name: &'static str, value: String, expected: &'static str },
    #[error("the query parameter `filter` cannot be used: {reason}")]
    Filter { reason: String },
    #[error("the path's {what} `{value}` is not valid: {reason}")]
    Path { what: &'static str, value: String, reason: String },
    #[error(transparent)]
    BodyUnread(#[from] wire::body::BodyError),
    #[error(transparent)]
    Local(#[from] LocalError),
    #[error("weft's agent has no `{path}`; see the manual for what it serves under /v1/agent")]
    NoSuchPath { path: String },
    #[error("the path does not take this method; see the Allow header")]
    MethodNotAllowed,
    #[error("no server is reachable ({reason}); try again, or see the agent's log")]
    NoServer { reason: String },
    #[error("no server is reachable to check the token ({reason}); try again, or see the agent's log")]
    TokenUnchecked { reason: String },
    #[error("the leaf of `{service}` is not signed yet; try again once a server is reachable, see /v1/agent/self")]
    NoLeaf { service: catalog::ServiceKey },
    #[error(transparent)]
    TooManyListeners(wire::log_monitor::TooManyListeners),
    #[error("`{service}` is no service of this agent: ask the agent that stands before it, or one that calls it")]
    NotHere { service: catalog::ServiceKey },
    #[error("the agent is stopping")]
    Stopping,
    #[error("the agent cannot answer: {reason}")]
    Internal { reason: String },
}

impl ApiError {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::TokenUnknown | Self::PermissionDenied { .. } => StatusCode::FORBIDDEN,
            Self::TurnedAway(why) => why.status(),
            Self::TokenInQuery
            | Self::Query { .. }
            | Self::Parameter { .. }
            | Self::Filter { .. }
            | Self::Path { .. } => StatusCode::BAD_REQUEST,
            Self::BodyUnread(error) => error.status(),
            Self::Local(error) => error.status(),
            Self::NoSuchPath { .. } | Self::NotHere { .. } => StatusCode::NOT_FOUND,
            Self::TooManyListeners(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::NoServer { .. } | Self::TokenUnchecked { .. } | Self::NoLeaf { .. } | Self::Stopping => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Internal { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Whether the rest of the request may be unread, so that the connection cannot be used again.
    fn ends_connection(&self) -> bool {
        matches!(self, Self::BodyUnread(_))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = text(self.status(), wire::harmless(&wire::one_line(&self)));
        if self.ends_connection() {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// Returns a plain text answer.
pub(crate) fn text(status: StatusCode, body: impl Into<String>) -> Response {
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], body.into()).into_response()
}
