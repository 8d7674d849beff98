//! An outbound tunnel: one HTTP/2 connection of one local service to one instance of another.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use catalog::{SpiffeId, Timestamp};
use h2::client::{self, SendRequest};
use h2::{Ping, PingPong};
use http::{Method, Request, StatusCode, Version};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use wire::tls::{PeerIdentity, PeerRejected, TlsIdentity, TrustAnchors, mesh_client_config, peer_identity};

use super::call_error::{CallError, ConnectError};
use crate::metrics::Direction;
use crate::proxy::accept::prepare;
use crate::proxy::copy::TunnelStream;
use crate::proxy::room::Room;
use crate::proxy::stream_count::StreamCount;
use crate::proxy::tunnel_settings::{CONNECTION_WINDOW, FRAME_BYTES_MAX, HEADER_BYTES_MAX, STREAM_WINDOW, STREAMS_MAX};

/// How often a tunnel is asked whether it lives.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// How long it may take to answer.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Says what a tunnel is to be opened with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan<'a> {
    /// The other agent.
    pub(crate) address: &'a str,
    /// The server name to ask for.
    pub(crate) server_name: &'a str,
    /// The identity that must answer.
    pub(crate) expected: &'a SpiffeId,
    /// The identity to show.
    pub(crate) own: &'a Arc<TlsIdentity>,
    /// The roots to trust.
    pub(crate) anchors: &'a Arc<TrustAnchors>,
    /// How long it may take.
    pub(crate) deadline: Duration,
}

/// Is an open tunnel. It closes when the last one who holds it lets go.
#[derive(Debug)]
pub(crate) struct Tunnel {
    requests: SendRequest<Bytes>,
    /// Who answered.
    pub(crate) peer: PeerIdentity,
    /// The identity that was shown.
    pub(crate) own: Arc<TlsIdentity>,
    address: String,
    streams: StreamCount,
    is_over: Arc<AtomicBool>,
    cut: CancellationToken,
}

/// Is a place for one stream on a tunnel.
#[derive(Debug)]
pub(crate) struct Lease {
    tunnel: Arc<Tunnel>,
    /// Whether the tunnel had been there before.
    pub(crate) is_reused: bool,
}

impl Tunnel {
    /// Opens a tunnel within the time that the plan gives.
    pub(crate) async fn open(room: &Arc<Room>, plan: &Plan<'_>) -> Result<Self, ConnectError> {
        let deadline = plan.deadline;
        tokio::time::timeout(deadline, Self::connect(room, plan)).await.unwrap_or(Err(ConnectError::Timeout(deadline)))
    }

    async fn connect(room: &Arc<Room>, plan: &Plan<'_>) -> Result<Self, ConnectError> {
        let started = Instant::now();
        let tcp = dial(room, plan.address).await?;
        let server_name = ServerName::try_from(plan.server_name.to_owned())
            .map_err(|_| ConnectError::ServerName(plan.server_name.to_owned()))?;
        let config = mesh_client_config(Arc::clone(plan.anchors), plan.own, plan.expected.clone());
        let tls = TlsConnector::from(Arc::new(config)).connect(server_name, tcp).await.map_err(ConnectError::Tls)?;
        let peer = peer_identity(tls.get_ref().1).map_err(ConnectError::Peer)?;
        let peer = peer.ok_or(ConnectError::Peer(PeerRejected::NoCertificate))?;
        let (requests, mut connection) = client::Builder::new()
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME_BYTES_MAX)
            .max_header_list_size(HEADER_BYTES_MAX)
            .handshake::<_, Bytes>(tls)
            .await
            .map_err(ConnectError::Http)?;
        room.metrics.handshake(Direction::Outbound, started.elapsed());
        let ping_pong = connection.ping_pong();
        let (is_over, cut) = (Arc::new(AtomicBool::new(false)), CancellationToken::new());
        tokio::spawn(drive(Arc::clone(room), connection, ping_pong, Arc::clone(&is_over), cut.clone()));
        Ok(Self {
            requests,
            peer,
            own: Arc::clone(plan.own),
            address: plan.address.to_owned(),
            streams: StreamCount::new(started),
            is_over,
            cut,
        })
    }

    /// Reports whether new streams may use the tunnel: it lives, and neither side's leaf has ended.
    pub(crate) fn is_good(&self, now: Timestamp) -> bool {
        !self.is_over.load(Ordering::Acquire) && now < self.peer.not_after && now < self.own.not_after()
    }

    /// Takes a place on the tunnel, unless all are taken.
    pub(crate) fn lease(self: &Arc<Self>, is_reused: bool) -> Option<Lease> {
        let places = self.requests.current_max_send_streams().min(STREAMS_MAX as usize);
        self.streams.take(places).then(|| Lease { tunnel: Arc::clone(self), is_reused })
    }

    /// Reports whether the tunnel has had no streams for so long.
    pub(crate) fn is_idle(&self, idle_max: Duration) -> bool {
        self.streams.is_idle(idle_max)
    }

    /// Takes the tunnel out of use; what is open on it goes on.
    pub(crate) fn retire(&self) {
        self.is_over.store(true, Ordering::Release);
    }

    /// Closes the tunnel with all its streams.
    pub(crate) fn cut(&self) {
        self.retire();
        self.cut.cancel();
    }
}

impl Lease {
    /// Returns who answered when the tunnel was opened.
    pub(crate) fn peer(&self) -> &PeerIdentity {
        &self.tunnel.peer
    }

    /// Asks the other agent for a stream to `authority`.
    pub(crate) async fn connect(&self, authority: &str, deadline: Duration) -> Result<TunnelStream, CallError> {
        let address = || self.tunnel.address.clone();
        let lost = |source| {
            // It answers nobody any more, so that nobody else need find out.
            self.tunnel.retire();
            CallError::TunnelLost { address: address(), source }
        };
        let asked = tokio::time::timeout(deadline, self.ask(authority)).await;
        let (stream, status) =
            asked.map_err(|_| CallError::NoAnswer { address: address(), deadline })?.map_err(lost)?;
        match status {
            StatusCode::OK => Ok(stream),
            StatusCode::UNAUTHORIZED => Err(CallError::Denied { address: address() }),
            status => Err(CallError::NotCarried { address: address(), status }),
        }
    }

    /// Waits until the tunnel takes a request.
    pub(crate) async fn ready(&self) -> Result<SendRequest<Bytes>, CallError> {
        self.tunnel.requests.clone().ready().await.map_err(|source| {
            self.tunnel.retire();
            CallError::TunnelLost { address: self.tunnel.address.clone(), source }
        })
    }

    async fn ask(&self, authority: &str) -> Result<(TunnelStream, StatusCode), h2::Error> {
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = authority.parse().map_err(|_| h2::Error::from(h2::Reason::INTERNAL_ERROR))?;
        let mut requests = self.tunnel.requests.clone().ready().await?;
        let (answer, send) = requests.send_request(request, false)?;
        let (head, receive) = answer.await?.into_parts();
        Ok((TunnelStream { send, receive }, head.status))
    }

    /// Takes the tunnel out of use; what is open on it goes on.
    pub(crate) fn retire(&self) {
        self.tunnel.retire();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.tunnel.streams.give_back();
    }
}

/// Connects to another agent; refuses addresses at which there can be none.
pub(crate) async fn dial(room: &Room, address: &str) -> Result<TcpStream, ConnectError> {
    let found: Vec<SocketAddr> = tokio::net::lookup_host(address).await.map_err(ConnectError::Resolve)?.collect();
    if let Some(forbidden) = found.iter().find(|address| room.forbidden.forbids_agent(**address)) {
        return Err(ConnectError::ForbiddenAddress(*forbidden));
    }
    let stream = TcpStream::connect(found.as_slice()).await.map_err(ConnectError::Tcp)?;
    prepare(&stream);
    Ok(stream)
}

/// Moves a tunnel's bytes until it ends: by itself, by order, or because the other side no longer answers.
async fn drive(
    room: Arc<Room>,
    connection: impl Future<Output = Result<(), h2::Error>>,
    ping_pong: Option<PingPong>,
    is_over: Arc<AtomicBool>,
    cut: CancellationToken,
) {
    let _open = room.metrics.tunnel(Direction::Outbound);
    tokio::select! {
        ended = connection => if let Err(error) = ended {
            tracing::debug!(direction = "outbound", %error, "tunnel failed");
        },
        () = silence(ping_pong) => tracing::info!(direction = "outbound", "tunnel closed: its other end is silent"),
        () = cut.cancelled() => {}
        () = room.outbound.cut.cancelled() => {}
    }
    is_over.store(true, Ordering::Release);
}

/// Returns when the other side lets a ping go unanswered.
async fn silence(ping_pong: Option<PingPong>) {
    let Some(mut ping_pong) = ping_pong else { return std::future::pending().await };
    loop {
        tokio::time::sleep(PING_INTERVAL).await;
        if ping_pong.send_ping(Ping::opaque()).is_err() {
            // The connection is ending, and its own future says so.
            return std::future::pending().await;
        }
        match tokio::time::timeout(PING_TIMEOUT, poll_fn(|context| ping_pong.poll_pong(context))).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return,
        }
    }
}
