//! Why a local service's call did not go through: a closed set, so that it can be a metric's label.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use catalog::ServiceKey;
use http::StatusCode;
use wire::tls::PeerRejected;

use super::allowance::Counted;
use crate::metrics::Phase;
use crate::proxy::handshake::tls_label;
use crate::proxy::refusal::Refusal;
use crate::proxy::snapshot::Unfit;

/// Says why a call did not go through.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The agent knows nothing of the mesh yet, or no longer of this listener.
    #[error("upstream listener {0} is of no service")]
    NoUpstream(SocketAddr),
    /// It came from a process of another user than the service runs as, or of one that cannot be seen.
    #[error(
        "{} called as `{owner}`, whose processes run as the user {user}",
        found.map_or_else(|| "somebody who cannot be seen".to_owned(), |found| format!("a process of the user {found}"))
    )]
    OtherUser { owner: ServiceKey, user: u32, found: Option<u32> },
    /// The calling service has no leaf yet.
    #[error("no leaf certificate for `{0}` yet")]
    NoLeaf(ServiceKey),
    /// The calling service's leaf has ended.
    #[error("the leaf certificate of `{0}` has expired")]
    OwnLeafExpired(ServiceKey),
    /// As many are open as the caller's settings allow.
    #[error("{most} are open or waiting already, which is what the caller's upstream_config allows ({})", counted.label())]
    TooMany { counted: Counted, most: u32 },
    /// Its routes lead nowhere.
    #[error("the routes of the service lead nowhere")]
    NoRoute,
    /// Nobody serves the destination.
    #[error("no instance of `{destination}` is registered")]
    NoEndpoint { destination: ServiceKey },
    /// Somebody does, and none is healthy.
    #[error("none of the {known} instances of `{destination}` can be reached or is healthy")]
    NoHealthyEndpoint { destination: ServiceKey, known: usize },
    /// All healthy ones are elsewhere.
    #[error("no healthy instance of `{destination}` is in network `{network}`, and no gateway leads to one")]
    OtherNetwork { destination: ServiceKey, network: String },
    /// All healthy ones are without an agent, and weft never falls back to plaintext.
    #[error("no instance of `{destination}` has a mesh port")]
    NoMeshPort { destination: ServiceKey },
    /// The upstream does not say which port it wants.
    #[error("no instance of `{destination}` has a default port")]
    NoPort { destination: ServiceKey },
    /// The rules for a service outside the mesh, which are held to here, refuse the caller.
    #[error(transparent)]
    Refused(Refusal),
    /// The other agent could not be reached, or is not who it should be.
    #[error("cannot open a tunnel to {address}")]
    Connect {
        address: String,
        #[source]
        source: Arc<ConnectError>,
    },
    /// The tunnel failed before the stream was open.
    #[error("tunnel to {address} failed")]
    TunnelLost {
        address: String,
        #[source]
        source: h2::Error,
    },
    /// The other agent let the CONNECT wait.
    #[error("no answer from {address} within {deadline:?}")]
    NoAnswer { address: String, deadline: Duration },
    /// The other agent's rules refuse the caller.
    #[error("{address} refuses the call by its intentions")]
    Denied { address: String },
    /// The other agent cannot carry the call.
    #[error("{address} cannot carry the call ({status})")]
    NotCarried { address: String, status: StatusCode },
}

impl CallError {
    /// Returns the label of the metric that counts it.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::NoUpstream(_) => "no_upstream",
            Self::TooMany { counted, .. } => counted.label(),
            Self::OtherUser { .. } => "other_user",
            Self::NoRoute => "no_route",
            Self::NoLeaf(_) => "no_leaf",
            Self::OwnLeafExpired(_) => "own_leaf_expired",
            Self::NoEndpoint { .. } => "no_endpoint",
            Self::NoHealthyEndpoint { .. } => "no_healthy_endpoint",
            Self::OtherNetwork { .. } => "other_network",
            Self::NoMeshPort { .. } => "no_mesh_port",
            Self::NoPort { .. } => "no_port",
            Self::Refused(refusal) => refusal.label(),
            Self::Connect { source, .. } => source.label(),
            Self::TunnelLost { .. } => "tunnel_lost",
            Self::NoAnswer { .. } => "no_answer",
            Self::Denied { .. } => "denied",
            Self::NotCarried { status, .. } => match *status {
                StatusCode::BAD_REQUEST => "answered_400",
                StatusCode::SERVICE_UNAVAILABLE => "answered_503",
                _ => "answered_otherwise",
            },
        }
    }

    /// Returns the phase in which it came about, for the metric.
    pub(crate) fn phase(&self) -> Phase {
        match self {
            Self::NoUpstream(_) | Self::OtherUser { .. } | Self::NoLeaf(_) | Self::OwnLeafExpired(_) => Phase::Identify,
            Self::NoRoute
            | Self::TooMany { .. }
            | Self::NoEndpoint { .. }
            | Self::NoHealthyEndpoint { .. }
            | Self::OtherNetwork { .. }
            | Self::NoMeshPort { .. }
            | Self::NoPort { .. } => Phase::Choose,
            Self::Refused(refusal) => refusal.phase(),
            Self::Connect { .. } => Phase::Connect,
            Self::TunnelLost { .. } | Self::NoAnswer { .. } | Self::Denied { .. } | Self::NotCarried { .. } => {
                Phase::Open
            }
        }
    }

    /// Reports whether another instance may do better.
    pub(crate) fn may_be_better_elsewhere(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::TunnelLost { .. } | Self::NoAnswer { .. } | Self::NotCarried { .. })
    }
}

/// Says why a tunnel could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// The address cannot be resolved.
    #[error("cannot resolve the address")]
    Resolve(#[source] io::Error),
    /// The address is the proxy's own, or no agent's.
    #[error("{0} is not an agent's address")]
    ForbiddenAddress(SocketAddr),
    /// TCP failed.
    #[error("cannot connect")]
    Tcp(#[source] io::Error),
    /// The server name of the destination is too long for TLS.
    #[error("`{0}` is not a server name; shorten the names of the service, its namespace or the trust domain")]
    ServerName(String),
    /// TLS failed.
    #[error("TLS failed")]
    Tls(#[source] io::Error),
    /// The other side's certificate is revoked, or it showed none.
    #[error("peer identity refused")]
    Peer(#[source] PeerRejected),
    /// Nobody deals with the other side any more.
    #[error("the other agent's service is refused: {0}")]
    Unfit(Unfit),
    /// The other side allows no stream.
    #[error("the other agent allows no streams")]
    NoStreams,
    /// The other side speaks no HTTP/2.
    #[error("no HTTP/2 tunnel")]
    Http(#[source] h2::Error),
    /// It took too long.
    #[error("not done within {0:?}")]
    Timeout(Duration),
}

impl ConnectError {
    /// Returns the label of the metric that counts it.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Resolve(_) => "resolve",
            Self::ForbiddenAddress(_) => "forbidden_address",
            Self::Tcp(_) => "tcp",
            Self::ServerName(_) => "server_name",
            Self::Tls(error) => match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                Some(error) => tls_label(error),
                None => "connection_lost",
            },
            Self::Peer(rejected) => rejected.label(),
            Self::Unfit(unfit) => unfit.label(),
            Self::NoStreams => "no_streams",
            Self::Http(_) => "not_http2",
            Self::Timeout(_) => "connect_timeout",
        }
    }
}
