//! Why the inbound side refuses a stream: a closed set, so that it can be a metric's label.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use catalog::{Reason, ServiceKey};
use http::StatusCode;

use super::snapshot::Unfit;
use crate::metrics::Phase;

/// Says why a stream was not carried, or is carried no longer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// A tunnel carried something else than CONNECT.
    #[error("method {method} on a tunnel; a TCP service takes CONNECT only")]
    NotConnect { method: http::Method },
    /// The authority of a CONNECT is not the tunnel's own destination.
    #[error("authority `{authority}` does not name a port of `{destination}` here")]
    ForeignAuthority { authority: String, destination: ServiceKey },
    /// The instance has several ports and the carrier cannot name one.
    #[error("no instance of `{destination}` here has a default port")]
    NoPort { destination: ServiceKey },
    /// The service was deregistered after the tunnel was opened.
    #[error("no instance of `{destination}` is here any more")]
    NotLocal { destination: ServiceKey },
    /// The rules refuse it.
    #[error("denied: {reason}")]
    Denied { reason: Reason },
    /// The rules on requests refuse it.
    #[error("denied: {rule}")]
    NotPermitted { label: &'static str, rule: String },
    /// The rule asks for a token that the request does not have.
    #[error("denied: {rule}: {why}")]
    Token { label: &'static str, status: StatusCode, is_invalid: bool, rule: String, why: String },
    /// There is no policy, or it needs a reader of requests.
    #[error("the rules for `{destination}` cannot be decided here; that counts as a deny")]
    Undecidable { destination: ServiceKey },
    /// Nobody deals with the caller any more.
    #[error("the caller is refused: {0}")]
    Unfit(Unfit),
    /// The caller's leaf ended while its tunnel was open.
    #[error("the caller's leaf certificate has expired")]
    PeerLeafExpired,
    /// The leaf that this side showed when the tunnel was opened has ended.
    #[error("the leaf certificate of `{destination}` has expired")]
    OwnLeafExpired { destination: ServiceKey },
    /// The registered address belongs to this process, or to nobody's application.
    #[error("{address} is not an application's address")]
    ForbiddenAddress { address: SocketAddr },
    /// Too many streams are open.
    #[error("{limit} streams are open already")]
    Overloaded { limit: usize },
    /// The application did not take the connection.
    #[error("cannot connect to the application at {address}")]
    Unreachable {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    /// The application let the connection wait.
    #[error("the application at {address} did not take the connection within {deadline:?}")]
    Unresponsive { address: SocketAddr, deadline: Duration },
}

impl Refusal {
    /// Returns the label of the metric that counts it.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::NotConnect { .. } => "not_connect",
            Self::ForeignAuthority { .. } => "foreign_authority",
            Self::NoPort { .. } => "no_port",
            Self::NotLocal { .. } => "not_local",
            Self::Denied { reason: Reason::Unauthenticated } => "unauthenticated",
            Self::Denied { reason: Reason::Guardrail { .. } } => "guardrail",
            Self::Denied { reason: Reason::Intention { .. } } => "intention",
            Self::Denied { reason: Reason::Default { .. } } => "default_deny",
            Self::NotPermitted { label, .. } | Self::Token { label, .. } => label,
            Self::Undecidable { .. } => "undecidable",
            Self::Unfit(unfit) => unfit.label(),
            Self::PeerLeafExpired => "peer_leaf_expired",
            Self::OwnLeafExpired { .. } => "own_leaf_expired",
            Self::ForbiddenAddress { .. } => "forbidden_address",
            Self::Overloaded { .. } => "overloaded",
            Self::Unreachable { .. } => "unreachable",
            Self::Unresponsive { .. } => "unresponsive",
        }
    }

    /// Returns the phase in which it was refused, for the metric.
    pub(crate) fn phase(&self) -> Phase {
        match self {
            Self::NotConnect { .. } | Self::ForeignAuthority { .. } | Self::NoPort { .. } | Self::NotLocal { .. } => {
                Phase::Identify
            }
            Self::Denied { .. }
            | Self::NotPermitted { .. }
            | Self::Token { .. }
            | Self::Undecidable { .. }
            | Self::Unfit(_)
            | Self::PeerLeafExpired
            | Self::OwnLeafExpired { .. } => Phase::Decide,
            Self::ForbiddenAddress { .. }
            | Self::Overloaded { .. }
            | Self::Unreachable { .. }
            | Self::Unresponsive { .. } => Phase::Dial,
        }
    }

    /// Returns the answer to a CONNECT, as a ztunnel understands it: 400 not mine, 401 refused by policy, 503 not reachable.
    pub(crate) fn status(&self) -> StatusCode {
        match self.phase() {
            Phase::Identify if !matches!(self, Self::NotLocal { .. }) => StatusCode::BAD_REQUEST,
            Phase::Decide if !matches!(self, Self::OwnLeafExpired { .. }) => StatusCode::UNAUTHORIZED,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl Refusal {
    /// Returns the answer to a request of HTTP.
    pub(crate) fn answer(&self) -> StatusCode {
        if let Self::Token { status, .. } = self {
            return *status;
        }
        match self.status() {
            StatusCode::UNAUTHORIZED => StatusCode::FORBIDDEN,
            StatusCode::BAD_REQUEST if matches!(self, Self::NoPort { .. }) => StatusCode::SERVICE_UNAVAILABLE,
            status => status,
        }
    }
}

impl Refusal {
    /// Returns how a caller that may come back with a token is told so (RFC 6750 section 3); nothing for all others.
    pub(crate) fn challenge(&self) -> Option<&'static str> {
        match self {
            Self::Token { status: StatusCode::UNAUTHORIZED, is_invalid: true, .. } => {
                Some("Bearer error=\"invalid_token\"")
            }
            Self::Token { status: StatusCode::UNAUTHORIZED, .. } => Some("Bearer"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(refusal: Refusal, phase: Phase, status: u16) {
        assert_eq!((refusal.phase(), refusal.status().as_u16()), (phase, status), "{refusal}");
    }

    #[test]
    fn a_refusal_answers_a_connect_as_a_ztunnel_expects() {
        let destination: ServiceKey = "web".parse().unwrap();
        let address: SocketAddr = "127.0.0.1:80".parse().unwrap();
        check(Refusal::NotConnect { method: http::Method::GET }, Phase::Identify, 400);
        check(
            Refusal::ForeignAuthority { authority: "x".to_owned(), destination: destination.clone() },
            Phase::Identify,
            400,
        );
        check(Refusal::NotLocal { destination: destination.clone() }, Phase::Identify, 503);
        check(Refusal::Denied { reason: Reason::Unauthenticated }, Phase::Decide, 401);
        check(Refusal::Undecidable { destination: destination.clone() }, Phase::Decide, 401);
        check(Refusal::Unfit(Unfit::Revoked), Phase::Decide, 401);
        check(Refusal::PeerLeafExpired, Phase::Decide, 401);
        check(Refusal::OwnLeafExpired { destination }, Phase::Decide, 503);
        check(Refusal::Overloaded { limit: 1 }, Phase::Dial, 503);
        check(
            Refusal::Unreachable { address, source: io::Error::from(io::ErrorKind::ConnectionRefused) },
            Phase::Dial,
            503,
        );
    }

    #[test]
    fn an_error_is_written_with_what_caused_it() {
        let address: SocketAddr = "127.0.0.1:80".parse().unwrap();
        let refusal = Refusal::Unreachable { address, source: io::Error::other("no such thing") };
        assert_eq!(wire::one_line(&refusal), "cannot connect to the application at 127.0.0.1:80: no such thing");
    }
}
