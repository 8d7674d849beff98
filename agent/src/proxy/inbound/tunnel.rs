//! An inbound tunnel: one HTTP/2 connection of one caller to one local service, with a stream for each connection.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::server;
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_rustls::server::TlsStream;

use super::carrier::Carrier;
use super::carry;
use crate::metrics::Direction;
use crate::proxy::handshake::Connection;
use crate::proxy::room::Room;
use crate::proxy::snapshot::is_same_leaf;
use crate::proxy::tunnel_settings::{CONNECTION_WINDOW, FRAME_BYTES_MAX, HEADER_BYTES_MAX, STREAM_WINDOW, STREAMS_MAX};

/// How often a tunnel is looked at for streams; without any at two looks it is closed.
const QUIET_CHECK: Duration = Duration::from_secs(150);

/// Says what a new snapshot means for an open tunnel.
enum Standing {
    /// It goes on.
    Good,
    /// It takes no more streams: the leaf that was shown is no longer the one in use.
    Outdated,
    /// It must close with all its streams: nobody deals with the caller any more.
    Unfit,
}

/// Serves one tunnel until it ends.
pub(super) async fn serve(room: Arc<Room>, connection: Arc<Connection>, stream: TlsStream<TcpStream>) {
    let handshake = server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .max_concurrent_streams(STREAMS_MAX)
        .handshake::<_, Bytes>(stream);
    let mut tunnel = match tokio::time::timeout(room.limits.handshake_timeout, handshake).await {
        Ok(Ok(tunnel)) => tunnel,
        Ok(Err(error)) => return note_broken(&room, &connection, "not_http2", &error.to_string()),
        Err(_) => return note_broken(&room, &connection, "preface_timeout", "no HTTP/2 preface in time"),
    };
    let _open = room.metrics.tunnel(Direction::Inbound);
    let mut generation = room.generation.subscribe();
    // Published between the handshake and the subscription, a snapshot would go unnoticed.
    generation.mark_changed();
    let mut quiet_check = tokio::time::interval_at(Instant::now() + QUIET_CHECK, QUIET_CHECK);
    quiet_check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut was_quiet, mut leaving) = (false, false);
    loop {
        tokio::select! {
            request = tunnel.accept() => match request {
                Some(Ok((request, respond))) => {
                    was_quiet = false;
                    let carrier = Carrier::tunnel(request, respond);
                    room.inbound.tasks.spawn(carry(Arc::clone(&room), Arc::clone(&connection), carrier));
                    continue;
                }
                Some(Err(error)) => {
                    tracing::debug!(identity = %connection.peer.id, src.addr = %connection.from, %error, "tunnel failed");
                    return;
                }
                None => return,
            },
            _ = generation.changed() => match standing(&room, &connection) {
                Standing::Good => continue,
                Standing::Outdated => {}
                // Dropped: every stream on it fails at once.
                Standing::Unfit => return,
            },
            () = room.inbound.stopping.cancelled(), if !leaving => {}
            _ = quiet_check.tick() => {
                if !was_quiet {
                    was_quiet = !tunnel.has_streams();
                    continue;
                }
            }
            () = room.inbound.cut.cancelled() => return,
        }
        if !leaving {
            leaving = true;
            tunnel.graceful_shutdown();
        }
    }
}

fn standing(room: &Room, connection: &Connection) -> Standing {
    let Some(current) = room.current.load_full() else { return Standing::Good };
    if current.snapshot.unfit(&connection.peer).is_some() {
        return Standing::Unfit;
    }
    match current.server_side(&connection.destination) {
        Some(side) if is_same_leaf(&side.identity, &connection.own) => Standing::Good,
        _ => Standing::Outdated,
    }
}

fn note_broken(room: &Room, connection: &Connection, reason: &'static str, error: &str) {
    room.metrics.refused(Direction::Inbound, "handshake", reason);
    tracing::info!(
        direction = "inbound", service = %connection.destination, identity = %connection.peer.id,
        src.addr = %connection.from, reason, error, "connection refused"
    );
}
