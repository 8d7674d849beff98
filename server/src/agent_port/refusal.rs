//! How a request of an agent fails: a status, one line for the agent, and a label from a closed set for the metrics.

use std::time::Duration;

use axum::body::Body;
use catalog::{NodeName, Refusal, RefusalKind, ServiceKey};
use http::{HeaderValue, Response, StatusCode, header};
use wire::agent_protocol::ApiError;

use super::Turn;
use crate::ca::SignError;
use crate::consensus::{ProposeError, ReadError};
use crate::hub::shell::HubStopped;
use crate::login::LoginFailed;
use crate::outage::NotKept;

/// Names what kept a request from being answered as asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PortError {
    /// The connection showed no client certificate.
    #[error("this path needs the agent's certificate: join first, with a join token or by a login")]
    NoCertificate,
    /// The certificate is not an agent's.
    #[error("`{identity}` is not an agent of this mesh: only agents are served on this port")]
    NotAnAgent { identity: String },
    /// The record has ended, or belongs to another key by now.
    #[error("node `{node}` has no live record with this key: enrol again, with a new join token or by a login")]
    RecordGone { node: NodeName },
    /// This server does not know the record, and cannot ask the others.
    #[error(
        "this server does not know the record of `{identity}`, and the servers have no quorum: log in, or use another"
    )]
    RecordUnconfirmed { identity: String },
    /// A login was not accepted; why is for the log alone.
    #[error("{}", .0.told())]
    Login(LoginFailed),
    /// The session was opened without a quorum: there is nobody to write for.
    #[error("the servers have no quorum, and the session is held: write again on the next one")]
    SessionHeld,
    /// The connection carries a session already.
    #[error("this connection carries a session already: open the next one on a connection of its own")]
    SecondSession,
    /// An expired certificate is enough to renew it, and for nothing else.
    #[error("the certificate of `{identity}` has expired: renew it on /v1/sign first")]
    LeafExpired { identity: String },
    /// The record does not name the service.
    #[error(
        "the agent on node `{node}` is not entitled to service `{service}`: enrol it with a join token, or by a login with a binding rule, that names it"
    )]
    NotEntitled { node: NodeName, service: ServiceKey },
    /// The agent speaks of a node that is not its own.
    #[error("the agent on node `{own}` may not write node `{node}`: it writes its own only")]
    ForeignNode { own: NodeName, node: NodeName },
    /// There is no such path.
    #[error("no path `{path}` on this port")]
    NoSuchPath { path: String },
    /// The path does not take the method.
    #[error("the path `{path}` does not take {method}: use {wanted}")]
    MethodNotAllowed { path: &'static str, method: http::Method, wanted: http::Method },
    /// The body, or a part of it that was waited for, was not read.
    #[error(transparent)]
    BodyUnread(#[from] wire::body::BodyError),
    /// The body is not what the path takes.
    #[error("cannot read the {what}: {reason}")]
    Malformed { what: &'static str, reason: String },
    /// The state machine decided against the write; nothing has changed.
    #[error("{0}")]
    Refused(Refusal),
    /// The certificate was not signed.
    #[error("{}", wire::one_line(.0))]
    Sign(#[from] SignError),
    /// More is asked of this server than it does in a while; what the agent has keeps working meanwhile.
    #[error("this server {turn} just now: try again in {} s, or use another", retry_after.as_secs())]
    Busy { turn: Turn, retry_after: Duration },
    /// The mesh is not bootstrapped yet.
    #[error("the mesh is not bootstrapped yet: try again in a moment")]
    NotReady,
    /// The servers have no quorum, so nothing can be confirmed.
    #[error("the servers cannot confirm this now: {}", wire::one_line(.0))]
    Read(#[from] ReadError),
    /// The write did not come through; whether it will is not known.
    #[error("the write did not come through: {}", wire::one_line(.0))]
    Propose(#[from] ProposeError),
    /// Whom the server admits alone cannot be written down.
    #[error(transparent)]
    NotKept(#[from] NotKept),
    /// The server stops.
    #[error(transparent)]
    Stopping(#[from] HubStopped),
    /// Something does not hold that this server itself is to see to.
    #[error("this server cannot answer: {reason}")]
    Internal { reason: String },
}

impl PortError {
    /// Returns the metric label of the reason, from a closed set.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            PortError::NoCertificate => "no_certificate",
            PortError::NotAnAgent { .. } => "not_an_agent",
            PortError::RecordGone { .. } => "record_gone",
            PortError::LeafExpired { .. } => "leaf_expired",
            PortError::RecordUnconfirmed { .. } => "record_unconfirmed",
            PortError::Login(failed) => failed.label(),
            PortError::SessionHeld => "no_quorum",
            PortError::SecondSession => "second_session",
            PortError::NotEntitled { .. } | PortError::Refused(Refusal::NotEntitled { .. }) => "not_entitled",
            PortError::ForeignNode { .. } => "foreign_node",
            PortError::NoSuchPath { .. } | PortError::MethodNotAllowed { .. } => "no_such_path",
            PortError::BodyUnread(error) => error.label(),
            PortError::Malformed { .. } => "malformed",
            PortError::Refused(Refusal::JoinTokenUnknown) => "join_token_unknown",
            PortError::Refused(Refusal::JoinTokenExpired) => "join_token_expired",
            PortError::Refused(Refusal::JoinTokenUsed) => "join_token_used",
            PortError::Refused(Refusal::JoinTokenElsewhere { .. }) => "join_token_elsewhere",
            PortError::Refused(Refusal::NodeTaken { .. } | Refusal::TakeoverLacks { .. }) => "node_taken",
            PortError::Refused(Refusal::StaleIncarnation { .. }) => "stale_incarnation",
            PortError::Refused(_) => "write_refused",
            PortError::Sign(error) => error.label(),
            PortError::Busy { turn: Turn::Session, .. } => "busy_with_sessions",
            PortError::Busy { turn: Turn::Write, .. } => "busy_with_writes",
            PortError::Busy { .. } => "busy",
            PortError::NotReady => "not_ready",
            PortError::Read(_) => "no_quorum",
            PortError::Propose(_) => "write_failed",
            PortError::NotKept(_) => "admission_not_kept",
            PortError::Stopping(_) => "stopping",
            PortError::Internal { .. } => "internal",
        }
    }

    /// Returns the status that goes with the error.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            PortError::NoCertificate
            | PortError::NotAnAgent { .. }
            | PortError::RecordGone { .. }
            | PortError::LeafExpired { .. }
            | PortError::NotEntitled { .. }
            | PortError::ForeignNode { .. } => StatusCode::FORBIDDEN,
            PortError::NoSuchPath { .. } => StatusCode::NOT_FOUND,
            PortError::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            PortError::BodyUnread(error) => error.status(),
            PortError::SecondSession => StatusCode::CONFLICT,
            PortError::Malformed { .. } => StatusCode::BAD_REQUEST,
            PortError::Login(failed) => failed.status(),
            // Whoever joins and finds the name taken lacks the right to it; the state is no secret conflict to retry.
            PortError::Refused(Refusal::NodeTaken { .. }) => StatusCode::FORBIDDEN,
            PortError::Refused(refusal) => match refusal.kind() {
                RefusalKind::NotFound => StatusCode::NOT_FOUND,
                RefusalKind::Conflict => StatusCode::CONFLICT,
                RefusalKind::Forbidden => StatusCode::FORBIDDEN,
                RefusalKind::Invalid => StatusCode::BAD_REQUEST,
            },
            PortError::Sign(error) => error.status(),
            PortError::Propose(ProposeError::TooLarge { .. }) => StatusCode::PAYLOAD_TOO_LARGE,
            PortError::Busy { .. }
            | PortError::NotReady
            | PortError::RecordUnconfirmed { .. }
            | PortError::SessionHeld
            | PortError::Read(_)
            | PortError::Propose(_)
            | PortError::NotKept(_)
            | PortError::Stopping(_) => StatusCode::SERVICE_UNAVAILABLE,
            PortError::Internal { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Returns when the agent should try again, where trying again can help.
    fn retry_after(&self) -> Option<Duration> {
        match self {
            PortError::Busy { retry_after, .. } => Some(*retry_after),
            _ if self.status() == StatusCode::SERVICE_UNAVAILABLE => Some(Duration::from_secs(1)),
            _ => None,
        }
    }

    /// Builds the answer.
    pub(super) fn to_response(&self) -> Response<Body> {
        let log_in = matches!(self, PortError::RecordGone { .. } | PortError::RecordUnconfirmed { .. });
        let error = ApiError { error: wire::harmless(&self.to_string()), log_in };
        let mut response = super::route::json(self.status(), &error);
        if let Some(retry_after) = self.retry_after() {
            let seconds = HeaderValue::from(retry_after.as_secs().max(1));
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}
