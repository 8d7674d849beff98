//! The outbound side: accept on loopback, choose an instance, find a tunnel, ask for a stream, carry.

pub(crate) mod allowance;
pub(crate) mod call_error;
pub(crate) mod cluster;
pub(crate) mod door;
pub(crate) mod endpoints;
pub(crate) mod hashing;
pub(crate) mod outside;
pub(crate) mod pool;
pub(crate) mod redirected;
mod ring;
mod standing;
pub(crate) mod tunnel;
pub(crate) mod upstreams;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::net::TcpStream;
use tokio::time::Instant;
use wire::report::{Link, Pair, PairSource};

use self::allowance::Counted;
use self::call_error::CallError;
use self::door::Door;
use self::endpoints::{Chosen, Tried};
use self::outside::Leaving;
use self::pool::TunnelKey;
use self::tunnel::{Lease, Plan};
use super::accept::Accepted;
use super::copy::{CopyError, Ending, Meter, TunnelStream, reset, splice_plain, splice_tunnel};
use super::current::{Called, Current};
use super::http::{self, send};
use super::open_streams::Closing;
use super::room::Room;
use super::snapshot::UpstreamListener;
use crate::metrics::{Direction, Phase};
use crate::sockets::user_of;

/// What an instance gets at least of the time of a request that must be answered soon, where it has that much: a connection to
/// one in good health may need it.
const REACHED_WITHIN_MIN: Duration = Duration::from_secs(1);

/// Says what a call wants of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// A stream of bytes to the application.
    Stream,
    /// A place for a request.
    Request,
}

/// Is what a call got of a tunnel.
#[derive(Debug)]
pub(crate) enum Opened {
    /// A stream of bytes to the application.
    Stream(TunnelStream, Lease),
    /// A tunnel that takes a request now.
    Ready(SendRequest<Bytes>, Lease),
    /// A connection to an application outside the mesh.
    Outside(TcpStream),
}

/// Says why a connection was not carried.
#[derive(Debug, thiserror::Error)]
enum NotOpened {
    #[error(transparent)]
    Failed(#[from] CallError),
    #[error("closed before it was carried ({})", .0.label())]
    Closed(Closing),
}

/// Carries one connection to an upstream's listener from accept to close.
async fn serve(room: Arc<Room>, listener: SocketAddr, accepted: Accepted) {
    serve_by(room, Door::Upstream(listener), accepted).await;
}

/// Carries one connection of a local service from accept to close.
async fn serve_by(room: Arc<Room>, door: Door, accepted: Accepted) {
    let Accepted { stream: caller, from, permit: _permit } = accepted;
    let started = Instant::now();
    let call = match identify(&room, &door) {
        Ok(call) => call,
        Err(error) => return refuse(&room, caller, &door, from, &NotOpened::Failed(error)),
    };
    if let Err(error) = check_user(&room, &call.called.upstream, &caller).await {
        return refuse(&room, caller, &door, from, &NotOpened::Failed(error));
    }
    if call.current.snapshot.protocol(&call.called.upstream.destination).is_http() {
        return http::outbound::serve(room, door, from, caller).await;
    }
    let destination = &call.called.upstream.destination;
    let mut place = room.streams.enter_outbound(Some(destination.clone()));
    // Entered too late to be walked, it is seen here that its bytes must be read.
    if room.current.load().as_ref().is_some_and(|current| current.snapshot.protocol(destination).is_http()) {
        return refuse(&room, caller, &door, from, &NotOpened::Closed(Closing::Changed));
    }
    let opened = tokio::select! {
        closing = place.closing() => Err(NotOpened::Closed(closing)),
        opened = open_unread(&room, &call, from) => opened.map_err(NotOpened::Failed),
    };
    // The endpoint counts the stream where it runs, for as long as it does.
    let (opened, endpoint) = match opened {
        Ok(opened) => opened,
        Err(why) => return refuse(&room, caller, &door, from, &why),
    };
    let end = call.called.end(&endpoint.service).filter(|_| !endpoint.is_outside);
    match (&opened, end) {
        (Opened::Stream(_, lease), Some(end)) => place.reached(Arc::clone(end), lease.peer().key_exchange),
        (Opened::Outside(_), _) => {
            let leaving = Leaving::of(&call, &endpoint);
            place.leaves(leaving.clone());
            // Said too late to be walked, it is decided here by what is in force by now.
            let current = room.current.load_full().unwrap_or_else(|| Arc::clone(&call.current));
            if let Err(refusal) = leaving.decide(&current.snapshot, room.now()) {
                return refuse(&room, caller, &door, from, &NotOpened::Failed(CallError::Refused(refusal)));
            }
            room.metrics.left_mesh();
            let (destination, owner) = (endpoint.service.clone(), call.called.upstream.owner.clone());
            let pair = Pair { destination, source: PairSource::Service(owner), link: Link::Outside };
            room.metrics.tally().opened(pair, room.now());
        }
        _ => {}
    }
    let _open = room.metrics.carried(Direction::Outbound);
    let meter = Meter::new(Direction::Outbound, room.metrics.clone()).of(call.called.tcp(&room.metrics));
    let outcome = tokio::select! {
        biased;
        closing = place.closing() => Err(Ending::Closed(closing)),
        copied = carry(caller, opened, &meter, room.limits.half_closed_silence_max) => copied.map_err(Ending::Failed),
    };
    let reason = outcome.as_ref().map_or_else(Ending::label, |()| "done");
    room.metrics.closed(Direction::Outbound, reason);
    tracing::info!(
        direction = "outbound",
        service = %endpoint.service,
        instance = %endpoint.key,
        identity = end.map(|end| tracing::field::display(&end.expected)),
        unverified = endpoint.is_outside,
        source = %call.called.upstream.owner,
        src.addr = %from,
        dst.addr = &*endpoint.mesh_address,
        bytes_sent = meter.sent(),
        bytes_recv = meter.received(),
        duration_s = started.elapsed().as_secs_f64(),
        reason,
        error = outcome.as_ref().err().map(|ending| tracing::field::display(wire::one_line(ending))),
        "connection closed"
    );
}

/// Checks that a connection to a listener that is for one user's processes comes from one of these. Those of the agent's own
/// forward proxy pass, since it has asked whose they are; whatever else the agent asks for somebody does not.
async fn check_user(room: &Room, upstream: &UpstreamListener, caller: &TcpStream) -> Result<(), CallError> {
    let Some(user) = upstream.user else { return Ok(()) };
    let ends = caller.peer_addr().and_then(|client| Ok((client, caller.local_addr()?))).ok();
    let looked = tokio::task::spawn_blocking(move || ends.and_then(|(client, own)| user_of(client, own)));
    let found = looked.await.ok().flatten();
    let is_forwarded = |found| {
        let is_own = found == rustix::process::geteuid().as_raw();
        is_own && ends.is_some_and(|(client, _)| room.forwarded.has_made(client))
    };
    let is_admitted = found.is_some_and(|found| found == user || is_forwarded(found));
    is_admitted.then_some(()).ok_or_else(|| CallError::OtherUser { owner: upstream.owner.clone(), user, found })
}

/// Carries the bytes of a connection over what was opened for it.
async fn carry(caller: TcpStream, opened: Opened, meter: &Meter, silence_max: Duration) -> Result<(), CopyError> {
    match opened {
        // The lease is held for as long as the stream runs.
        Opened::Stream(stream, _lease) => splice_tunnel(caller, stream, meter, silence_max).await,
        Opened::Outside(application) => splice_plain(caller, application, meter, silence_max).await,
        // Only a request asks for one.
        Opened::Ready(..) => Ok(()),
    }
}

/// Is what a connection or a request asks for.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// Which service calls which.
    pub(crate) called: Arc<Called>,
    /// The snapshot that says so.
    pub(crate) current: Arc<Current>,
}

/// Opens a way for a connection that nobody looks into.
async fn open_unread(room: &Arc<Room>, call: &Call, from: SocketAddr) -> Result<(Opened, Chosen), CallError> {
    let turn = call.called.routes.otherwise(room.endpoints.draw_any()).ok_or(CallError::NoRoute)?;
    let hash = hashing::of_connection(&turn.leg.balancing.hashing, from);
    let allowed = call.called.allow(Counted::Connections)?;
    let course = Course { way: turn.way, hash, deadline: None };
    let (opened, mut endpoint) = open(room, call, course, &mut Tried::default(), Wanted::Stream).await?;
    endpoint.hold(allowed);
    Ok((opened, endpoint))
}

/// Says which way a call goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Course {
    /// The number of the way.
    pub(crate) way: usize,
    /// What leads to an instance where these stand on a ring.
    pub(crate) hash: Option<u64>,
    /// When the answer must have begun.
    pub(crate) deadline: Option<Instant>,
}

/// Opens a way to an instance that a call may end at: one after the other, each at most once, a few in all, and none that
/// was tried already.
pub(crate) async fn open(
    room: &Arc<Room>,
    call: &Call,
    course: Course,
    tried: &mut Tried,
    wanted: Wanted,
) -> Result<(Opened, Chosen), CallError> {
    let mut failed: Option<CallError> = None;
    let targets = call.current.targets(&call.called.upstream.destination, course.way);
    for _ in 0..room.limits.attempts_max {
        let chosen = room.endpoints.choose(targets, course.hash, tried, Instant::now());
        let endpoint = match (chosen, failed.take()) {
            (Ok(endpoint), _) => endpoint,
            // The last failure says more than that nobody is left.
            (Err(_), Some(last)) => return Err(last),
            (Err(none), None) => return Err(none),
        };
        let has_more = targets.iter().map(|cluster| cluster.count()).sum::<usize>() > tried.len() + 1;
        let deadline = deadline_of(room, call, &endpoint, course, has_more);
        let (since, ends) = (Instant::now(), course.deadline);
        let reaching = Reaching { room, call, endpoint: &endpoint, since, deadline: ends, is_over: false };
        let attempted = attempt(room, call, &endpoint, tried, wanted, deadline).await;
        reaching.end();
        match attempted {
            Ok(opened) => {
                // Of a request nothing is known before its answer.
                if wanted == Wanted::Stream {
                    endpoint.succeeded();
                    note(room, call, &endpoint, false);
                }
                return Ok((opened, endpoint));
            }
            Err(error) if error.may_be_better_elsewhere() => {
                // An instance whose tunnels take no more is none that cannot be reached.
                if !matches!(&error, CallError::TunnelLost { source, .. } if send::is_untaken(source)) {
                    tracing::debug!(
                        direction = "outbound", service = %endpoint.service, instance = %endpoint.key,
                        error = %wire::one_line(&error), "endpoint put aside"
                    );
                    not_reached(room, call, &endpoint);
                }
                tried.add(&endpoint);
                failed = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    let destination = call.called.upstream.destination.clone();
    Err(failed.unwrap_or(CallError::NoHealthyEndpoint { destination, known: tried.len() }))
}

/// Puts an instance aside that was not reached.
fn not_reached(room: &Room, call: &Call, endpoint: &Chosen) {
    // Both are asked: what happened here is one failure of those in a row, too.
    note(room, call, endpoint, true);
    endpoint.failed(Instant::now());
    room.metrics.endpoint_unreachable();
}

/// For how long an instance has been waited for before it is blamed for the end of a request's time: what came before it may have
/// taken all of that.
const BLAMED_AFTER: Duration = Duration::from_millis(250);

/// Waits until an instance is reached. If nobody waits any more because a request has no more time, it was not reached.
struct Reaching<'a> {
    room: &'a Room,
    call: &'a Call,
    endpoint: &'a Chosen,
    since: Instant,
    deadline: Option<Instant>,
    is_over: bool,
}

impl Reaching<'_> {
    fn end(mut self) {
        self.is_over = true;
    }
}

impl Drop for Reaching<'_> {
    fn drop(&mut self) {
        let now = Instant::now();
        let is_out_of_time = self.deadline.is_some_and(|deadline| deadline <= now);
        if !self.is_over && is_out_of_time && now.duration_since(self.since) >= BLAMED_AFTER {
            not_reached(self.room, self.call, self.endpoint);
        }
    }
}

/// Remembers whether an instance did well, where the caller's settings have it ejected if it does not.
pub(crate) fn note(room: &Room, call: &Call, endpoint: &Chosen, is_failure: bool) {
    let Some(passive) = &call.called.settings.passive else { return };
    if endpoint.fared(passive, is_failure, room.endpoints.draw_any(), Instant::now()) {
        room.metrics.endpoint_failing();
        tracing::info!(
            direction = "outbound", service = %endpoint.service, instance = %endpoint.key,
            "endpoint ejected: too many failures in a row"
        );
    }
}

/// Finds which service calls which, and with what identity.
pub(crate) fn identify(room: &Room, door: &Door) -> Result<Call, CallError> {
    let current = room.current.load_full().ok_or(CallError::NoUpstream(door.address()))?;
    let called = Arc::clone(current.called_by(door).ok_or(CallError::NoUpstream(door.address()))?);
    Ok(Call { called, current })
}

/// Tries one instance, for so long.
async fn attempt(
    room: &Arc<Room>,
    call: &Call,
    endpoint: &Chosen,
    tried: &mut Tried,
    wanted: Wanted,
    deadline: Duration,
) -> Result<Opened, CallError> {
    let snapshot = &call.current.snapshot;
    let owner = &call.called.upstream.owner;
    let own = snapshot.identities.get(owner).ok_or_else(|| CallError::NoLeaf(owner.clone()))?;
    if own.not_after() <= room.now() {
        return Err(CallError::OwnLeafExpired(owner.clone()));
    }
    if endpoint.is_outside {
        return match wanted {
            Wanted::Stream => outside::open(room, call, endpoint, deadline).await,
            // Nobody reads what leaves the mesh.
            Wanted::Request => Err(CallError::NoMeshPort { destination: endpoint.service.clone() }),
        };
    }
    let end = call.called.end(&endpoint.service).ok_or(CallError::NoRoute)?;
    let key = TunnelKey {
        source: owner.clone(),
        destination: endpoint.service.clone(),
        address: Arc::clone(&endpoint.mesh_address),
        instance: endpoint.server_name.clone(),
    };
    let plan = Plan {
        address: &key.address,
        server_name: key.instance.as_deref().unwrap_or(&end.server_name),
        expected: &end.expected,
        own,
        anchors: &snapshot.anchors,
        deadline,
    };
    // Whoever finds a tunnel does not wait for one.
    let is_bounded = call.called.settings.limits.as_ref().is_some_and(|limits| limits.pending_max.is_some());
    let _waiting = match is_bounded && !room.pool.has_place(&key, &plan, room.now()) {
        true => call.called.allow(Counted::Pending)?,
        false => None,
    };
    loop {
        let lease = room.pool.lease(room, &key, &plan).await;
        let lease = lease.map_err(|source| CallError::Connect { address: key.address.to_string(), source })?;
        let error = match wanted {
            Wanted::Stream => match lease.connect(&endpoint.authority, room.limits.answer_timeout).await {
                Ok(stream) => return Ok(Opened::Stream(stream, lease)),
                Err(error) => error,
            },
            Wanted::Request => match lease.ready().await {
                Ok(ready) => return Ok(Opened::Ready(ready, lease)),
                Err(error) => error,
            },
        };
        match error {
            // A tunnel that had been idle may have died unnoticed, or its other side may be taking a new leaf, be the tunnel
            // as new as it may. Nothing of the caller's has been sent yet, so that to ask again is safe.
            CallError::TunnelLost { ref source, .. }
                if (lease.is_reused || send::is_untaken(source)) && tried.may_meet_stale() => {}
            error => {
                if matches!(error, CallError::NoAnswer { .. }) {
                    lease.retire();
                }
                return Err(error);
            }
        }
    }
}

/// Returns how long it may take until an instance is reached: as its resolver says, else as its caller does. Of a request that
/// must be answered by then, one that is not the last to be tried gets half of the time that is left, so that another is.
fn deadline_of(room: &Room, call: &Call, endpoint: &Chosen, course: Course, has_more: bool) -> Duration {
    let own = call.called.settings.connect_timeout_ms.map(Duration::from_millis);
    let longest = endpoint.connect_timeout().or(own).unwrap_or(room.limits.connect_timeout);
    match course.deadline {
        Some(deadline) if has_more => {
            let left = deadline.saturating_duration_since(Instant::now());
            longest.min((left / 2).max(REACHED_WITHIN_MIN))
        }
        _ => longest,
    }
}

/// Ends a connection that cannot be carried. A reset, not an end of stream: nothing was answered.
fn refuse(room: &Room, caller: TcpStream, door: &Door, from: SocketAddr, why: &NotOpened) {
    let (phase, reason) = match why {
        NotOpened::Failed(error) => (error.phase(), error.label()),
        NotOpened::Closed(closing) => (Phase::Open, closing.label()),
    };
    room.metrics.refused(Direction::Outbound, phase, reason);
    let current = room.current.load_full();
    let upstream = current.as_ref().and_then(|current| current.called_by(door)).map(|called| &called.upstream);
    tracing::info!(
        direction = "outbound",
        service = upstream.map(|upstream| tracing::field::display(&upstream.destination)),
        source = upstream.map(|upstream| tracing::field::display(&upstream.owner)),
        src.addr = %from,
        dst.addr = %door,
        reason,
        error = %wire::one_line(why),
        "connection refused"
    );
    reset(&caller);
}
