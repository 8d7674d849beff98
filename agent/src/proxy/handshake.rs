//! The TLS handshake of an inbound connection: which local service is asked for, and who asks.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use catalog::{Caller, ServiceKey, SpiffeId};
use rustls::server::Acceptor;
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use wire::tls::{ALPN_MESH, PeerIdentity, PeerRejected, TlsIdentity, peer_identity};

use super::current::Current;
use super::decide::asked_for;
use super::http::introduce::CallerHeaders;
use super::inbound::ingress::Ingress;
use super::patience::Patience;
use super::snapshot::Unfit;
use crate::metrics::{PairCounters, TcpCounters};

/// Says why a handshake did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    /// The agent knows nothing of the mesh yet.
    #[error("this agent has no configuration of the mesh yet")]
    NotReady,
    /// The agent is stopping.
    #[error("this agent is stopping")]
    Stopping,
    /// It took too long.
    #[error("handshake not done within {0:?}")]
    Timeout(Duration),
    /// The server name is none of ours, or there is none and several services are where the caller dialled.
    #[error("no local service for server name {0:?}")]
    UnknownServerName(Option<String>),
    /// The service that is asked for has no leaf yet.
    #[error("no leaf certificate for `{0}` yet")]
    NoLeaf(ServiceKey),
    /// One side refused the other.
    #[error("TLS refused ({label})")]
    Tls {
        label: &'static str,
        #[source]
        source: rustls::Error,
    },
    /// The certificate passed and its identity did not.
    #[error("peer identity refused")]
    Peer(#[source] PeerRejected),
    /// The certificate passed, and nobody deals with its holder any more.
    #[error("`{id}` is refused: {why}")]
    Unfit { id: SpiffeId, why: Unfit },
    /// The connection failed.
    #[error("connection lost in the handshake")]
    Io(#[source] io::Error),
}

impl HandshakeError {
    /// Returns the label of the metric that counts it.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::NotReady => "not_ready",
            Self::Stopping => "stopping",
            Self::Timeout(_) => "handshake_timeout",
            Self::UnknownServerName(_) => "unknown_server_name",
            Self::NoLeaf(_) => "no_leaf",
            Self::Tls { label, .. } => label,
            Self::Peer(rejected) => rejected.label(),
            Self::Unfit { why, .. } => why.label(),
            Self::Io(_) => "connection_lost",
        }
    }
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        match error.downcast::<rustls::Error>() {
            Ok(source) => Self::Tls { label: tls_label(&source), source },
            Err(error) => Self::Io(error),
        }
    }
}

/// Is an inbound connection whose caller is known.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Where it comes from.
    pub(crate) from: SocketAddr,
    /// Who calls.
    pub(crate) peer: Arc<PeerIdentity>,
    /// The local service that is called.
    pub(crate) destination: ServiceKey,
    /// The leaf that was shown to the caller.
    pub(crate) own: Arc<TlsIdentity>,
    /// Who that is to the rules on requests, once one was decided.
    pub(crate) caller: OnceLock<Caller>,
    /// What its requests are counted with, once there was one.
    pub(crate) counters: OnceLock<Arc<PairCounters>>,
    /// What its connections that nobody looks into are counted with, once there was one.
    pub(crate) tcp: OnceLock<Arc<TcpCounters>>,
    /// What applications are told of the caller, once it has asked one of them over HTTP.
    pub(crate) headers: OnceLock<CallerHeaders>,
    /// How much of what it asks it may give up.
    pub(crate) patience: Patience,
    /// What it may bring, where it is a load balancer that showed no certificate.
    pub(crate) ingress: Option<Arc<Ingress>>,
}

/// Completes the handshake of a connection, whose caller may give up so many requests and was going to `redirected`, where
/// the kernel led it here. Returns whether the caller speaks the tunnel's protocol beside it.
pub(crate) async fn identify(
    current: &Current,
    stream: TcpStream,
    from: SocketAddr,
    redirected: Option<SocketAddr>,
    given_up_max: u32,
) -> Result<(Connection, TlsStream<TcpStream>, bool), HandshakeError> {
    let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let hello = start.client_hello();
    let speaks_tunnel = hello.alpn().is_some_and(|mut offered| offered.any(|name| name == ALPN_MESH));
    let server_name = hello.server_name().map(str::to_owned);
    let dialled = || redirected.or_else(|| start.io.local_addr().ok());
    let dialled = if server_name.is_none() { dialled() } else { None };
    let Some(destination) = asked_for(&current.snapshot, server_name.as_deref(), dialled).cloned() else {
        refuse(start, current).await;
        return Err(HandshakeError::UnknownServerName(server_name));
    };
    let Some(side) = current.server_side(&destination) else {
        refuse(start, current).await;
        return Err(HandshakeError::NoLeaf(destination));
    };
    let tls = start.into_stream(side.config_for(speaks_tunnel)).await?;
    let peer = peer_identity(tls.get_ref().1).map_err(HandshakeError::Peer)?;
    let peer = peer.ok_or(HandshakeError::Peer(PeerRejected::NoCertificate))?;
    if let Some(why) = current.snapshot.unfit(&peer) {
        return Err(HandshakeError::Unfit { id: peer.id, why });
    }
    let connection = Connection {
        from,
        peer: Arc::new(peer),
        destination,
        own: Arc::clone(&side.identity),
        caller: OnceLock::new(),
        counters: OnceLock::new(),
        tcp: OnceLock::new(),
        headers: OnceLock::new(),
        patience: Patience::new(given_up_max),
        ingress: None,
    };
    Ok((connection, tls, speaks_tunnel))
}

/// Ends a handshake with an alert, so that the caller need not guess.
async fn refuse(start: tokio_rustls::StartHandshake<TcpStream>, current: &Current) {
    // It fails, as it should; the caller of this function knows why better than the error does.
    let _ = start.into_stream(current.nobody()).await;
}

/// Names a TLS error by a label from a closed set; what our own verifier says goes before what TLS says.
pub(crate) fn tls_label(error: &rustls::Error) -> &'static str {
    if let Some(rejected) = PeerRejected::of_tls(error) {
        return rejected.label();
    }
    match error {
        rustls::Error::InvalidCertificate(_) => "bad_certificate",
        rustls::Error::PeerIncompatible(_) => "tls_version_or_algorithms",
        rustls::Error::InvalidMessage(_) => "not_tls",
        rustls::Error::NoApplicationProtocol => "no_application_protocol",
        rustls::Error::AlertReceived(_) => "refused_by_peer",
        _ => "tls_failed",
    }
}
