//! The shell around the port: accepts connections, completes TLS, bounds what each peer may hold, ends on shutdown.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info};
use wire::accept::{Accepted, accept_all};
use wire::tls::{ALPN_AGENT, PeerRejected};

use super::AgentPort;
use super::caller::Connection;
use crate::places::{Holder, Place, Places};

/// Connections held at once; the next ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 16 * 1024;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for the first request to be there, whose head HTTP/2 reads as a whole.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection without a request in flight is closed after this time.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// A peer that answers no HTTP/2 ping within `PING_INTERVAL` and `PING_TIMEOUT` is gone: 30 seconds together.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
const STREAMS_MAX: u32 = 128;
/// Of a peer without a certificate: it has one thing to ask, or two.
const STREAMS_UNPROVEN_MAX: u32 = 4;
const HEAD_BYTES_MAX: u32 = 64 * 1024;
/// Time for streams to say goodbye and for requests in flight to end after shutdown was asked for.
const DRAIN_MAX: Duration = Duration::from_secs(2);

/// Serves agents on `listener` until `stop` is cancelled, then drains.
///
/// A failed accept is logged and tried again: a server without this port still votes.
pub(super) async fn run(listener: TcpListener, port: Arc<AgentPort>, stop: CancellationToken) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let places = Places::new(port.bounds.connections_per_address_max, port.bounds.connections_per_agent_max);
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();
    accept_all(
        "agents",
        listener,
        room,
        stop.cancelled(),
        || {},
        |Accepted { stream, from: source, permit }| {
            let Some(place) = places.take(Holder::Address(source.ip())) else {
                return port.refuse_connection(
                    source,
                    "too_many_connections",
                    &"this address holds too many connections",
                );
            };
            let (port, stop, cut) = (Arc::clone(&port), stop.clone(), cut.clone());
            connections.spawn(async move {
                let _permit = permit;
                tokio::select! {
                    () = cut.cancelled() => {}
                    () = serve(stream, source, place, port, stop) => {}
                }
            });
        },
    )
    .await;
    connections.close();
    if tokio::time::timeout(DRAIN_MAX, connections.wait()).await.is_err() {
        debug!("agents' requests were cut at shutdown");
    }
    cut.cancel();
    connections.wait().await;
}

/// Carries one connection from its handshake to its end.
async fn serve(stream: TcpStream, source: SocketAddr, place: Place, port: Arc<AgentPort>, stop: CancellationToken) {
    let Some((stream, connection)) = shake_hands(stream, source, &port).await else { return };
    let place = match connection.agent(&port.consensus.catalog()) {
        Some(agent) => place.change(Holder::Agent(agent)),
        None => Some(place),
    };
    let Some(_place) = place else {
        return port.refuse_connection(source, "too_many_connections", &"this agent holds too many connections");
    };
    let connection = Arc::new(connection);
    let watched = Arc::clone(&connection);
    let service = service_fn(move |request| {
        let (port, connection) = (Arc::clone(&port), Arc::clone(&connection));
        async move { Ok::<_, Infallible>(super::route::answer(port, connection, request).await) }
    });
    let serving = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(if watched.has_certificate() { STREAMS_MAX } else { STREAMS_UNPROVEN_MAX })
        .max_header_list_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = watched.cut().cancelled() => Ok(()),
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
        () = watched.activity().idle(FIRST_REQUEST_TIMEOUT, IDLE_MAX) => {
            debug!(src.addr = %source, "idle connection closed");
            serving.as_mut().graceful_shutdown();
            // A peer that has not even begun to speak HTTP is not waited for.
            tokio::time::timeout(DRAIN_MAX, serving).await.unwrap_or(Ok(()))
        }
    };
    match ended {
        Ok(()) => info!(src.addr = %source, identity = watched.identity(), "agent connection ended"),
        Err(error) => {
            info!(src.addr = %source, identity = watched.identity(), error = %error, "agent connection ended")
        }
    }
}

/// Completes TLS and reads what the peer showed; none where that was refused.
async fn shake_hands(
    stream: TcpStream,
    source: SocketAddr,
    port: &AgentPort,
) -> Option<(TlsStream<TcpStream>, Connection)> {
    // Small answers must not wait for the peer's delayed acknowledgement; without it they only come later.
    let _ = stream.set_nodelay(true);
    let Some(config) = port.tls_config() else {
        port.refuse_connection(source, "no_certificate_authority", &"the mesh has no certificate authority yet");
        return None;
    };
    let accepting = TlsAcceptor::from(config).accept(stream);
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, accepting).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            match PeerRejected::of(&error) {
                Some(rejected) => port.refuse_connection(source, rejected.label(), &rejected),
                None => port.refuse_connection(source, "tls_handshake", &error),
            }
            return None;
        }
        Err(_) => {
            port.refuse_connection(source, "tls_timeout", &"the TLS handshake took too long");
            return None;
        }
    };
    // A peer that proposes no protocol at all is not refused by TLS itself.
    if !wire::tls::speaks(stream.get_ref().1, ALPN_AGENT) {
        port.refuse_connection(source, "wrong_protocol", &"the peer does not speak weft-agent/1");
        return None;
    }
    match Connection::new(source, stream.get_ref().1) {
        Ok(connection) => Some((stream, connection)),
        Err(rejected) => {
            port.refuse_connection(source, rejected.label(), &rejected);
            None
        }
    }
}
