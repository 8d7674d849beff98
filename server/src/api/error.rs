//! How a request fails: one line that says what, on which input, and what to do.

use axum::response::{IntoResponse, Response};
use catalog::{Refusal, RefusalKind};
use http::{HeaderName, HeaderValue, StatusCode, header};

use crate::consensus::{AskError, ProposeError, ReadError};
use crate::login::LoginFailed;

/// Names what kept a request from being answered as asked.
///
/// Clients written for Consul match on `ACL not found`, `Permission denied`, `No cluster leader` and
/// `No path to datacenter`: these four stand at the start of their lines in that spelling.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// The token is in no catalog entry, or is past its end.
    #[error("ACL not found: the token is unknown, deleted or expired; ask for a new one")]
    TokenUnknown,
    /// The caller lacks the right that the route declares.
    #[error("Permission denied: {method} {path} needs {needs}; send a token in the X-Consul-Token header")]
    PermissionDenied { method: http::Method, path: &'static str, needs: String },
    /// A proof for the bootstrap of the ACL does not hold.
    #[error("Permission denied: {reason}")]
    BootstrapRefused { reason: &'static str },
    /// Only a token that a login made is ended by logging out.
    #[error("Permission denied: the token was not made by a login; delete it with `weft acl token delete`")]
    NotLoggedIn,
    /// A login was not accepted; why is for the log alone.
    #[error("{}{}", if .0.status() == StatusCode::FORBIDDEN { "Permission denied: " } else { "" }, .0.told())]
    Login(LoginFailed),
    /// A token in a URL ends up in logs and histories.
    #[error("the query parameter `token` is refused; send the token in the X-Consul-Token or Authorization header")]
    TokenInQuery,
    /// The request is not for this listener, or its credentials are malformed.
    #[error(transparent)]
    TurnedAway(#[from] wire::front_door::TurnedAway),
    /// The query string cannot be read.
    #[error("the query string cannot be read: {reason}")]
    Query { reason: String },
    /// A query parameter has a value that it cannot have.
    #[error("the query parameter `{name}` cannot be `{value}`; {expected}")]
    Parameter { name: &'static str, value: String, expected: String },
    /// A query parameter that must be sent is missing.
    #[error("the query parameter `{name}` is missing; {expected}")]
    ParameterMissing { name: &'static str, expected: &'static str },
    /// Consul has the parameter, weft has not: ignoring it would change the answer.
    #[error("the query parameter `{name}` is not supported here; leave it out")]
    ParameterUnsupported { name: &'static str },
    /// A backup past the audit trail is for when nothing can be written to it.
    #[error("the query parameter `stale` is for when there is no leader, and there is one; leave it out")]
    StaleBackup,
    /// Two parameters exclude one another.
    #[error("the query parameters `{first}` and `{second}` exclude each other; send one of them")]
    ParametersConflict { first: &'static str, second: &'static str },
    /// A part of the path is not a name.
    #[error("the path's {what} `{value}` is not valid: {reason}")]
    Path { what: &'static str, value: String, reason: String },
    /// The path is not text.
    #[error("the path cannot be read: {reason}")]
    PathUnreadable { reason: String },
    /// The body was not read, or not to its end.
    #[error(transparent)]
    BodyUnread(#[from] wire::body::BodyError),
    /// The body is not what the route takes.
    #[error("cannot read the body of {path}: {reason}")]
    Body { path: &'static str, reason: String },
    /// The request asks for another datacenter.
    #[error("No path to datacenter `{asked}`: this server serves `{ours}`; ask one of that datacenter")]
    OtherDatacenter { asked: String, ours: String },
    /// What the request names does not exist.
    #[error("{what} `{name}` does not exist; check the name")]
    NotFound { what: &'static str, name: String },
    /// weft has no such path.
    #[error("{reason}")]
    NoSuchPath { reason: String },
    /// The path exists, but not for this method.
    #[error("the path does not take this method; see the Allow header")]
    MethodNotAllowed,
    /// The name is no node that has an agent.
    #[error("`{name}` is no node with an agent: {reason}")]
    NoAgentsNode { name: String, reason: &'static str },
    /// As many watch requests as may.
    #[error(transparent)]
    TooManyTaps(#[from] crate::taps::TooMany),
    /// The log has as many listeners as it may have.
    #[error(transparent)]
    TooManyListeners(#[from] wire::log_monitor::TooManyListeners),
    /// The body is no backup that can be restored.
    #[error("cannot restore: {}", wire::one_line(.0))]
    Backup(#[from] wire::backup::BackupError),
    /// The backup is of another cluster.
    #[error("the backup is of cluster {theirs}, and this is {ours}: send `force-cluster` if it is meant all the same")]
    OtherCluster { theirs: String, ours: String },
    /// The backup's secrets are sealed with a cluster key that this server does not have.
    #[error("cannot restore: {0}; start the servers with that cluster key as --previous-cluster-key-file")]
    ForeignSecret(wire::cluster_key::SealError),
    /// The state machine decided against the write; nothing has changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A request id was used before for a write that hands out a secret.
    #[error("the request id was used before and its secret was handed out then; send a new X-Weft-Request-Id")]
    SecretGone,
    /// The write was not taken, or nobody knows what became of it; its text says which.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// The leader gave no answer.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The read could not be confirmed by a leader.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The mesh has no certificate authority yet.
    #[error("the mesh has no certificate authority yet: try again once a leader is elected")]
    NoAuthority,
    /// The answer could not be written as JSON, or the catalog lacks what every mesh has.
    #[error("this server cannot answer: {reason}")]
    Internal { reason: String },
}

impl ApiError {
    /// Returns the status that goes with the error.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::TokenUnknown | Self::PermissionDenied { .. } | Self::BootstrapRefused { .. } | Self::NotLoggedIn => {
                StatusCode::FORBIDDEN
            }
            Self::Login(failed) => failed.status(),
            Self::TurnedAway(why) => why.status(),
            Self::TokenInQuery
            | Self::Query { .. }
            | Self::Parameter { .. }
            | Self::ParameterMissing { .. }
            | Self::ParameterUnsupported { .. }
            | Self::StaleBackup
            | Self::ParametersConflict { .. }
            | Self::Path { .. }
            | Self::PathUnreadable { .. }
            | Self::Body { .. }
            | Self::ForeignSecret(_)
            | Self::NoAgentsNode { .. } => StatusCode::BAD_REQUEST,
            Self::Backup(wire::backup::BackupError::TooLarge { .. }) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Backup(_) => StatusCode::BAD_REQUEST,
            Self::BodyUnread(error) => error.status(),
            Self::NotFound { .. } | Self::NoSuchPath { .. } => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::NoAuthority => StatusCode::SERVICE_UNAVAILABLE,
            Self::TooManyListeners(_) | Self::TooManyTaps(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::SecretGone | Self::OtherCluster { .. } => StatusCode::CONFLICT,
            Self::Refused(refusal) => match refusal.kind() {
                RefusalKind::NotFound => StatusCode::NOT_FOUND,
                RefusalKind::Conflict => StatusCode::CONFLICT,
                RefusalKind::Forbidden => StatusCode::FORBIDDEN,
                RefusalKind::Invalid => StatusCode::BAD_REQUEST,
            },
            Self::Propose(error) => match error {
                ProposeError::NoLeader { .. } | ProposeError::NotUnderstood { .. } => StatusCode::INTERNAL_SERVER_ERROR,
                ProposeError::Unknown { .. } => StatusCode::GATEWAY_TIMEOUT,
                ProposeError::Overloaded { .. } => StatusCode::SERVICE_UNAVAILABLE,
                ProposeError::DiskFull => StatusCode::INSUFFICIENT_STORAGE,
                ProposeError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            },
            Self::OtherDatacenter { .. } | Self::Ask(_) | Self::Read(_) | Self::Internal { .. } => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        }
    }

    /// Reports whether the rest of the request may be unread, so that the connection cannot be used again.
    fn ends_connection(&self) -> bool {
        matches!(self, Self::BodyUnread(_))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = text(self.status(), wire::harmless(&self.to_string()));
        if self.ends_connection() {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// Builds a plain text answer.
pub(crate) fn text(status: StatusCode, body: impl Into<String>) -> Response {
    const TYPE: (HeaderName, &str) = (header::CONTENT_TYPE, "text/plain; charset=utf-8");
    (status, [TYPE], body.into()).into_response()
}
