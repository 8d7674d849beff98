//! An inbound tunnel: one HTTP/2 connection of one caller to one local service, with a stream for each connection.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::server::{self, SendResponse};
use h2::{Reason, RecvStream};
use http::{Method, Request};
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_rustls::server::TlsStream;

use super::carrier::Carrier;
use super::{Standing, carry, carry_requests, speaks_http, standing};
use crate::metrics::{Direction, Phase};
use crate::proxy::handshake::Connection;
use crate::proxy::http::inbound::{Caller, serve_request};
use crate::proxy::http::{ERROR_STREAMS_MAX, RESET_STREAMS_MAX};
use crate::proxy::room::Room;
use crate::proxy::tunnel_settings::{CONNECTION_WINDOW, FRAME_BYTES_MAX, HEADER_BYTES_MAX, STREAM_WINDOW, STREAMS_MAX};

/// How often a tunnel is looked at for streams; without any at two looks it is closed.
const QUIET_CHECK: Duration = Duration::from_secs(150);

/// Serves one tunnel until it ends.
pub(super) async fn serve(room: Arc<Room>, connection: Arc<Connection>, stream: TlsStream<TcpStream>) {
    let handshake = server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .max_concurrent_streams(STREAMS_MAX)
        .max_pending_accept_reset_streams(RESET_STREAMS_MAX)
        .max_local_error_reset_streams(Some(ERROR_STREAMS_MAX))
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
    let (mut was_quiet, mut leaving, mut is_spent) = (false, false, false);
    loop {
        tokio::select! {
            request = tunnel.accept() => match request {
                Some(Ok((request, respond))) => {
                    was_quiet = false;
                    arrive(&room, &connection, request, respond);
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
            () = connection.patience.spent(), if !is_spent => {
                // What is open on it ends with it, once the caller has been told why.
                is_spent = true;
                room.metrics.refused(Direction::Inbound, Phase::Read, "given_up_too_often");
                tunnel.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                continue;
            }
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

/// Sets one stream on its way. The destination decides how it is read.
fn arrive(room: &Arc<Room>, connection: &Arc<Connection>, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
    let (room, connection) = (Arc::clone(room), Arc::clone(connection));
    let tasks = room.inbound.tasks.clone();
    match (speaks_http(&room, &connection), request.method() == Method::CONNECT) {
        (false, _) => tasks.spawn(carry(room, connection, Carrier::tunnel(request, respond))),
        (true, true) => tasks.spawn(carry_requests(room, connection, Carrier::tunnel(request, respond))),
        (true, false) => tasks.spawn(serve_request(Caller { room, connection, target: None }, request, respond)),
    };
}

fn note_broken(room: &Room, connection: &Connection, reason: &'static str, error: &str) {
    room.metrics.refused(Direction::Inbound, Phase::Handshake, reason);
    tracing::info!(
        direction = "inbound", service = %connection.destination, identity = %connection.peer.id,
        src.addr = %connection.from, reason, error, "connection refused"
    );
}
