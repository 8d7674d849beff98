//! The inbound side: accept, identify, decide, dial local. Whatever carried a stream here, this is its one way in.

mod carrier;
pub(crate) mod ingress;
mod plaintext;
mod tunnel;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use catalog::{AddressNumber, Caller, Reason, ServiceKey, Timestamp};
use http::StatusCode;
use http::uri::Authority;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::server::TlsStream;
use wire::report::{Link, Pair, PairSource};

use self::carrier::Carrier;
use super::accept::{Accepted, accept_all, prepare};
use super::copy::{Ending, Meter};
use super::current::Current;
use super::decide::{Admission, decide, may_ask};
use super::handshake::{Connection, HandshakeError, identify};
use super::http::inbound::{Caller as HttpCaller, serve_bytes, serve_connect};
use super::open_streams::Closing;
use super::outbound::redirected::original_destination;
use super::proxy_header::{self, Opener};
use super::refusal::Refusal;
use super::room::Room;
use super::snapshot::is_same_leaf;
use crate::metrics::{Direction, Phase, TcpCounters};

/// Accepts callers until the proxy stops.
pub(crate) async fn listen(room: Arc<Room>, listener: TcpListener) {
    let permits = Arc::clone(&room.connection_permits);
    let stop = room.inbound.stopping.clone();
    let metrics = room.metrics.clone();
    accept_all(listener, permits, stop, metrics, |accepted| {
        room.inbound.tasks.spawn(serve(Arc::clone(&room), accepted));
    })
    .await;
}

/// Carries one inbound connection from accept to close.
async fn serve(room: Arc<Room>, accepted: Accepted) {
    let dialled = original_destination(&accepted.stream);
    // Somebody on this machine tried whether connections are led here; it has seen that they are.
    if dialled.is_some_and(|dialled| dialled.ip() == AddressNumber::NOBODYS) {
        return;
    }
    // What was led here from the port of a permissive service comes of nobody who is known.
    if let Some(dialled) = dialled
        && plaintext::concerns(&room, dialled)
    {
        return plaintext::serve(room, accepted, dialled).await;
    }
    let Accepted { stream, from, permit: _permit } = accepted;
    let started = Instant::now();
    let (connection, stream, speaks_tunnel) = match shake_hands(&room, stream, from, dialled).await {
        Ok(identified) => identified,
        Err(error) => {
            room.metrics.refused(Direction::Inbound, Phase::Handshake, error.label());
            tracing::info!(
                direction = "inbound", src.addr = %from, reason = error.label(), error = %wire::one_line(&error),
                "connection refused"
            );
            return;
        }
    };
    room.metrics.handshake(Direction::Inbound, started.elapsed());
    note_pair(&room, &connection);
    let connection = Arc::new(connection);
    if speaks_tunnel {
        tunnel::serve(room, connection, stream).await;
    } else if speaks_http(&room, &connection) {
        serve_bytes(HttpCaller { room, connection, target: None }, stream).await;
    } else {
        carry(room, connection, Carrier::Plain(Box::new(stream))).await;
    }
}

/// Reports whether what is called reads its streams as HTTP.
fn speaks_http(room: &Room, connection: &Connection) -> bool {
    let current = room.current.load();
    current.as_ref().is_some_and(|current| current.snapshot.protocol(&connection.destination).is_http())
}

async fn shake_hands(
    room: &Room,
    stream: TcpStream,
    from: SocketAddr,
    redirected: Option<SocketAddr>,
) -> Result<(Connection, TlsStream<TcpStream>, bool), HandshakeError> {
    let current = room.current.load_full().ok_or(HandshakeError::NotReady)?;
    let deadline = room.limits.handshake_timeout;
    let identifying = identify(&current, stream, from, redirected, room.limits.given_up_max);
    tokio::select! {
        identified = tokio::time::timeout(deadline, identifying) => {
            identified.unwrap_or(Err(HandshakeError::Timeout(deadline)))
        }
        () = room.inbound.cut.cancelled() => Err(HandshakeError::Stopping),
    }
}

/// Is a stream that may pass, with its application at the other end.
struct Admitted {
    admission: Admission,
    application: TcpStream,
    address: SocketAddr,
    permit: OwnedSemaphorePermit,
}

/// Says what a new snapshot means for an open connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It goes on.
    Good,
    /// It takes no more streams: the leaf that was shown is no longer the one in use.
    Outdated,
    /// It must close with all its streams: nobody deals with the caller any more.
    Unfit,
}

/// Says what the snapshot in force means for a connection.
pub(crate) fn standing(room: &Room, connection: &Connection) -> Standing {
    let Some(current) = room.current.load_full() else { return Standing::Good };
    if current.snapshot.unfit(&connection.peer).is_some() {
        return Standing::Unfit;
    }
    match current.server_side(&connection.destination) {
        Some(side) if is_same_leaf(&side.identity, &connection.own) => Standing::Good,
        _ => Standing::Outdated,
    }
}

/// Says why a stream does not pass.
#[derive(Debug, thiserror::Error)]
enum NotAdmitted {
    /// It was refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It had to close while its application was dialled.
    #[error("closed before it was carried ({})", .0.label())]
    Closed(Closing),
}

/// Carries one stream from its arrival to its close.
async fn carry(room: Arc<Room>, connection: Arc<Connection>, carrier: Carrier) {
    let started = Instant::now();
    // Entered before it is decided, so that no new snapshot can slip in between the decision and the entry.
    let mut place = room.streams.enter_inbound(Arc::clone(&connection));
    let admitted = tokio::select! {
        biased;
        closing = place.closing() => Err(NotAdmitted::Closed(closing)),
        // Entered too late to be walked, it is seen here that its bytes must be read.
        () = std::future::ready(()), if speaks_http(&room, &connection) => Err(NotAdmitted::Closed(Closing::Changed)),
        admitted = admit(&room, &connection, &carrier) => admitted.map_err(NotAdmitted::Refused),
    };
    let Admitted { admission, application, address, permit: _permit } = match admitted {
        Ok(admitted) => admitted,
        Err(why) => {
            note_refused(&room, &connection, &why);
            carrier.refuse(why.status());
            return;
        }
    };
    let _open = room.metrics.carried(Direction::Inbound);
    if let Some(cause) = &admission.audit {
        note_audited(&room, &connection, &admission.reason, cause);
    }
    let meter = Meter::new(Direction::Inbound, room.metrics.clone()).of(tcp_counters(&room, &connection));
    let outcome = tokio::select! {
        biased;
        closing = place.closing() => Err(Ending::Closed(closing)),
        copied = carrier.splice(application, &meter, room.limits.half_closed_silence_max) => copied.map_err(Ending::Failed),
    };
    drop(place);
    if matches!(&outcome, Err(Ending::Failed(error)) if error.is_reset_before_grant()) {
        connection.patience.given_up();
    }
    let reason = outcome.as_ref().map_or_else(Ending::label, |()| "done");
    room.metrics.closed(Direction::Inbound, reason);
    tracing::info!(
        direction = "inbound",
        service = %connection.destination,
        identity = %connection.peer.id,
        src.addr = %connection.from,
        dst.addr = %address,
        intention = %admission.reason,
        audited = admission.audit.as_ref().map(catalog::AuditCause::as_str),
        bytes_sent = meter.sent(),
        bytes_recv = meter.received(),
        duration_s = started.elapsed().as_secs_f64(),
        reason,
        error = outcome.as_ref().err().map(|ending| tracing::field::display(wire::one_line(ending))),
        "connection closed"
    );
}

/// Opens a CONNECT stream whose bytes are requests to an application; each of them is decided for itself.
async fn carry_requests(room: Arc<Room>, connection: Arc<Connection>, carrier: Carrier) {
    match may_carry_requests(&room, &connection, &carrier) {
        Ok(target) => match carrier.grant() {
            Ok(Some(stream)) => serve_connect(HttpCaller { room, connection, target }, stream).await,
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "stream lost before it was opened"),
        },
        Err(refusal) => {
            let why = NotAdmitted::Refused(refusal);
            note_refused(&room, &connection, &why);
            carrier.refuse(why.status());
        }
    }
}

fn may_carry_requests(room: &Room, connection: &Connection, carrier: &Carrier) -> Result<Option<Authority>, Refusal> {
    let destination = &connection.destination;
    let current = room.current.load_full().ok_or_else(|| Refusal::Undecidable { destination: destination.clone() })?;
    carrier.target(&current.snapshot, destination, room.turn())?;
    may_ask(&current.snapshot, &connection.peer, destination, connection.own.not_after(), room.now())?;
    Ok(carrier.authority())
}

/// Decides one stream and dials its application: the path that all carriers take.
async fn admit(room: &Room, connection: &Connection, carrier: &Carrier) -> Result<Admitted, Refusal> {
    let destination = &connection.destination;
    let current = room.current.load_full().ok_or_else(|| Refusal::Undecidable { destination: destination.clone() })?;
    let address = carrier.target(&current.snapshot, destination, room.turn())?; // What is asked for.
    let own_not_after = connection.own.not_after();
    let admission = decide(&current.snapshot, &connection.peer, destination, own_not_after, room.now()); // May it pass.
    count(&current, destination, &admission, room.now());
    let admission = admission?;
    let limit = room.limits.streams_max;
    let permit = Arc::clone(&room.stream_permits).try_acquire_owned().map_err(|_| Refusal::Overloaded { limit })?;
    let identity = connection.peer.id.to_string();
    let application = dial(room, address, Opener::Caller { from: connection.from, identity: &identity }).await?;
    Ok(Admitted { admission, application, address, permit })
}

/// Counts a decision about a stream with the rule that made it.
pub(super) fn count(current: &Current, destination: &ServiceKey, decided: &Result<Admission, Refusal>, now: Timestamp) {
    let Some(counts) = current.counts(destination) else { return };
    let (reason, is_allowed) = match decided {
        Ok(admission) => (&admission.reason, admission.audit.is_none()),
        Err(Refusal::Denied { reason }) => (reason, false),
        // No rule was asked.
        Err(_) => return,
    };
    let counts = match reason {
        Reason::Intention { key, .. } => counts.intention(key, None),
        Reason::Guardrail { name } => counts.guardrail(name),
        Reason::Default { .. } | Reason::Unauthenticated => counts.default(),
    };
    counts.decided(is_allowed, now);
}

/// Returns the word that metrics have for a caller.
pub(crate) fn caller_label(caller: Option<&Caller>) -> String {
    match caller {
        Some(Caller::Service(service)) => service.to_string(),
        Some(Caller::Foreign(_)) => "foreign".to_owned(),
        Some(Caller::Unauthenticated) | None => "unauthenticated".to_owned(),
    }
}

/// Returns what connections of the caller that nobody looks into are counted with.
fn tcp_counters(room: &Room, connection: &Connection) -> Arc<TcpCounters> {
    let counters = connection.tcp.get_or_init(|| {
        let current = room.current.load();
        let caller =
            current.as_ref().map(|current| Caller::from(current.snapshot.scheme.classify(&connection.peer.id)));
        let source = caller_label(caller.as_ref());
        room.metrics.tcp(Direction::Inbound, source, connection.destination.to_string())
    });
    Arc::clone(counters)
}

/// Counts who has connected, and how the keys were agreed on.
fn note_pair(room: &Room, connection: &Connection) {
    let Connection { peer, destination, .. } = connection;
    let current = room.current.load();
    let caller = current.as_ref().map(|current| Caller::from(current.snapshot.scheme.classify(&peer.id)));
    let source = match caller {
        Some(Caller::Service(service)) => PairSource::Service(service),
        Some(Caller::Foreign(_) | Caller::Unauthenticated) | None => PairSource::Identity(peer.id.clone()),
    };
    let link = match &connection.ingress {
        None => peer.key_exchange.into(),
        Some(ingress) if ingress.takes_tls => Link::Classical,
        Some(_) => Link::Plaintext,
    };
    let pair = Pair { destination: destination.clone(), source, link };
    room.metrics.tally().opened(pair, room.now());
}

/// Connects to a local application. One that asks for it is told first for whom.
pub(crate) async fn dial(room: &Room, address: SocketAddr, opener: Opener<'_>) -> Result<TcpStream, Refusal> {
    if room.forbidden.forbids_application(address) {
        return Err(Refusal::ForbiddenAddress { address });
    }
    let deadline = room.limits.connect_timeout;
    let connecting = async {
        let mut stream = TcpStream::connect(address).await?;
        prepare(&stream);
        if room.current.load().as_ref().is_some_and(|current| current.snapshot.takes_proxy_header(address)) {
            stream.write_all(&proxy_header::write(opener, address)?).await?;
        }
        Ok(stream)
    };
    tokio::time::timeout(deadline, connecting)
        .await
        .map_err(|_| Refusal::Unresponsive { address, deadline })?
        .map_err(|source| Refusal::Unreachable { address, source })
}

impl NotAdmitted {
    fn phase(&self) -> Phase {
        match self {
            Self::Refused(refusal) => refusal.phase(),
            Self::Closed(_) => Phase::Decide,
        }
    }

    fn label(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.label(),
            Self::Closed(closing) => closing.label(),
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Refused(refusal) => refusal.status(),
            Self::Closed(Closing::Refused(_)) => StatusCode::UNAUTHORIZED,
            Self::Closed(Closing::Cut | Closing::Changed) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// Tells of a connection that is let through on trial when it begins: it may go on for days.
fn note_audited(room: &Room, connection: &Connection, reason: &catalog::Reason, cause: &catalog::AuditCause) {
    room.metrics.audited(reason, cause);
    tracing::info!(
        direction = "inbound",
        service = %connection.destination,
        identity = %connection.peer.id,
        src.addr = %connection.from,
        intention = %reason,
        audited = cause.as_str(),
        reason = %cause,
        "connection let through although a rule denies it"
    );
}

fn note_refused(room: &Room, connection: &Connection, why: &NotAdmitted) {
    room.metrics.refused(Direction::Inbound, why.phase(), why.label());
    tracing::info!(
        direction = "inbound",
        service = %connection.destination,
        identity = %connection.peer.id,
        src.addr = %connection.from,
        reason = why.label(),
        error = %wire::one_line(why),
        "connection refused"
    );
}
