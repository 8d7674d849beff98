//! The inbound engine: a request of the mesh is read, decided and carried to the application.

use std::net::SocketAddr;
use std::sync::Arc;

use catalog::http::NotNormal;
use catalog::{AuditCause, ServiceKey};
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::Authority;
use http::{Request, Response, StatusCode, Version};
use hyper::body::{Body, Incoming};
use hyper::client::conn::TrySendError;
use hyper::upgrade::OnUpgrade;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::application::{self, ApplicationError, Held, SendError, connect_http1};
use super::body::Received;
use super::carried::{Exchange, Question, Reply, Tally, Way};
use super::decide::{Facts, decide_request, permitted, reason};
use super::head::{self, BadRequest, Origin};
use super::introduce::{self, introduce};
use super::normal::{Lines, Normal};
use super::refusal::{Manner, NotCarried};
use super::send::{self, send_body};
use super::server::{self, Reader};
use super::story::Story;
use super::tokens::{Accepted, RequestTokens, Wanted};
use super::tunnel_io::TunnelIo;
use super::upgrade::{self, Granted};
use crate::metrics::{Direction, PairCounters, Phase};
use crate::proxy::copy::TunnelStream;
use crate::proxy::current::Current;
use crate::proxy::decide::{are_in_time, may_ask, target_of_authority, target_of_request};
use crate::proxy::handshake::Connection;
use crate::proxy::inbound::{Standing, caller_label, standing};
use crate::proxy::open_streams::Place;
use crate::proxy::refusal::Refusal;
use crate::proxy::room::Room;
use crate::proxy::snapshot::Snapshot;

/// Is what a caller's requests have in common.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// Shared with everything else.
    pub(crate) room: Arc<Room>,
    /// Who calls whom.
    pub(crate) connection: Arc<Connection>,
    /// What the carrier was opened to; each request says for itself where there is none. Where that is, is looked up for
    /// each request: it may have moved.
    pub(crate) target: Option<Authority>,
}

/// Answers one request on a tunnel.
pub(crate) async fn serve_request(
    caller: Caller,
    request: Request<RecvStream>,
    mut respond: SendResponse<bytes::Bytes>,
) {
    let connection = Arc::clone(&caller.connection);
    let answering = answer(caller, request.map(Received::of_stream), None);
    let response = tokio::select! {
        response = answering => response,
        // Nobody waits for the answer any more.
        _ = std::future::poll_fn(|context| respond.poll_reset(context)) => return connection.patience.given_up(),
    };
    let (mut head, body) = response.into_parts();
    // The stream's framing says it all; what HTTP/1 said of its own was taken off.
    head.version = Version::HTTP_2;
    let is_whole = body.is_end_stream();
    match respond.send_response(Response::from_parts(head, ()), is_whole) {
        Ok(send) if !is_whole => {
            if let Err(error) = send_body(body, send).await {
                if matches!(error, send::SendError::Reset(_)) {
                    connection.patience.given_up();
                }
                tracing::debug!(error = %wire::one_line(&error), "answer cut short");
            }
        }
        Ok(_) => {}
        Err(error) => {
            tracing::debug!(%error, "answer not sent");
            respond.send_reset(Reason::INTERNAL_ERROR);
        }
    }
}

/// Answers the requests on a CONNECT stream that was granted.
pub(crate) async fn serve_connect(caller: Caller, stream: TunnelStream) {
    serve_bytes(caller, TunnelIo::new(stream)).await;
}

/// Answers the requests on a connection until it ends.
pub(crate) async fn serve_bytes<I>(caller: Caller, io: I)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let room = Arc::clone(&caller.room);
    let connection = Arc::clone(&caller.connection);
    let leave = async {
        tokio::select! {
            () = until(&room, &connection, |standing| standing != Standing::Good) => {}
            () = room.inbound.stopping.cancelled() => {}
        }
    };
    let cut = async {
        tokio::select! {
            () = until(&room, &connection, |standing| standing == Standing::Unfit) => {}
            () = room.inbound.cut.cancelled() => {}
        }
    };
    // Who may ask for nothing at all is told so once, over a connection of his own.
    let is_answered = CancellationToken::new();
    let leave = async {
        tokio::select! {
            () = leave => {}
            () = is_answered.cancelled() => {}
        }
    };
    let is_welcome = is_welcome(&room, &connection);
    let answer = |request: Request<Incoming>| {
        if !is_welcome {
            is_answered.cancel();
        }
        let (is_http1, answer) = (request.version() <= Version::HTTP_11, answer_hyper(caller.clone(), request));
        async move {
            let mut answer = answer.await;
            if !is_welcome && is_http1 {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            answer
        }
    };
    let reader = if connection.ingress.is_none() { Reader::Inbound } else { Reader::Ingress };
    let ended = room.server.serve(reader, io, answer, leave, cut);
    if let Err(error) = ended.await {
        room.metrics.refused(Direction::Inbound, Phase::Read, server::label(error.as_ref()));
        tracing::debug!(
            direction = "inbound", service = %connection.destination, identity = %connection.peer.id,
            src.addr = %connection.from, error = %wire::one_line(error.as_ref()), "connection of requests failed"
        );
    }
}

/// Reports whether a caller may ask for anything.
fn is_welcome(room: &Room, connection: &Connection) -> bool {
    let Some(current) = room.current.load_full() else { return false };
    let own_not_after = connection.own.not_after();
    may_ask(&current.snapshot, &connection.peer, &connection.destination, own_not_after, room.now()).is_ok()
}

/// Waits until a snapshot comes into force that means so much for the connection.
async fn until(room: &Room, connection: &Connection, is_reached: impl Fn(Standing) -> bool) {
    let mut generation = room.generation.subscribe();
    // Published between the handshake and the subscription, a snapshot would go unnoticed.
    while !is_reached(standing(room, connection)) {
        if generation.changed().await.is_err() {
            return;
        }
    }
}

async fn answer_hyper(caller: Caller, mut request: Request<Incoming>) -> Response<Reply> {
    let upgrade = request.headers().contains_key(http::header::UPGRADE).then(|| hyper::upgrade::on(&mut request));
    let version = request.version();
    answer(caller, request.map(|body| Received::of_hyper(version, body)), upgrade).await
}

/// Answers one request: the path that all of them take.
pub(crate) async fn answer(caller: Caller, request: Request<Received>, upgrade: Option<OnUpgrade>) -> Response<Reply> {
    let manner = Manner::of(&request);
    let mut story = Some(Story::new(Direction::Inbound, caller.counters()));
    match carry(&caller, request, upgrade, &mut story).await {
        Ok(response) => response,
        Err(why) => {
            note_refused(&caller, &why);
            if let Some(mut story) = story {
                story.answered(why.status());
                story.tell(why.label(), 0, 0);
            }
            manner.refuse(&why)
        }
    }
}

impl Caller {
    /// Reports whether what is called is spoken to in HTTP/2 alone.
    fn is_http2_only(&self) -> bool {
        let current = self.room.current.load();
        current.as_ref().is_some_and(|current| current.snapshot.protocol(&self.connection.destination).is_http2_only())
    }

    /// Reports whether a request that brings nothing and asks for no other protocol may ask how the application is, whatever
    /// the rules are.
    fn is_health_check(&self, normal: &Normal<'_>) -> bool {
        self.connection.ingress.as_ref().is_some_and(|ingress| ingress.is_health_check(normal))
    }

    /// Returns what the caller's requests are counted with.
    fn counters(&self) -> Arc<PairCounters> {
        let Self { room, connection, .. } = self;
        let counters = connection.counters.get_or_init(|| {
            let scheme =
                room.current.load().as_ref().map(|current| current.snapshot.scheme.classify(&connection.peer.id));
            let source = caller_label(scheme.map(catalog::Caller::from).as_ref());
            room.metrics.requests(Direction::Inbound, source, connection.destination.to_string())
        });
        Arc::clone(counters)
    }
}

/// Carries one request from its arrival to the head of its answer.
async fn carry(
    caller: &Caller,
    request: Request<Received>,
    upgrade: Option<OnUpgrade>,
    story: &mut Option<Story>,
) -> Result<Response<Reply>, NotCarried> {
    let room = &caller.room;
    let (mut head, body) = request.into_parts();
    let lines = Lines::of(&head)?;
    if let Some(story) = story {
        story.take_down(&room.observers, caller.connection.from, &lines);
    }
    let normal = lines.normal().map_err(BadRequest::from)?;
    let client = introduce::client(&caller.connection, &head.headers);
    let origin = if caller.connection.ingress.is_none() { Origin::Mesh } else { Origin::Outside };
    let taken = head::take(&mut head, origin);
    let begins_trace = head::name(&mut head.headers, &room.request_ids);
    if let Some(story) = story {
        story.name(&room.observers, &mut head.headers, begins_trace);
    }
    introduce(&caller.connection, client, &mut head.headers);
    let is_http2 = taken.version == Version::HTTP_2 || caller.is_http2_only();
    let upgrade = upgrade.zip(taken.upgrade).filter(|_| !is_http2);
    let protocol = upgrade.as_ref().map(|(_, protocol)| protocol);
    finish(&mut head, &lines, &normal, Onward { is_http2, protocol, is_empty: body.is_end_stream() })?;
    // From here on nothing is written into the head but for the token that let the request in, which is taken out, and what
    // it says, which nobody else can have written there: all else is judged as the application gets it.
    let is_bare = upgrade.is_none() && body.is_end_stream();
    let asked = Asked { lines: &lines, normal: &normal, is_health_check: is_bare && caller.is_health_check(&normal) };
    let Admission { mut place, current, accepted } = admit(caller, &asked, &mut head.headers, story).await?;
    for Accepted { provider, token } in &accepted {
        provider.forward(token, &mut head.headers);
    }
    if let Some(rate) = current.rate(&caller.connection.destination) {
        rate.take(&caller.connection.peer.id, normal.path.decoded()).map_err(NotCarried::TooFast)?;
    }
    let tally = Tally::new(Arc::clone(room), Direction::Inbound);
    let body =
        Question::new(body, Arc::clone(&tally), &place).without(told_in(&current, &caller.connection.destination));
    let question = Asking { request: Request::from_parts(head, body), port: taken.port, upgrade };
    let forwarded = tokio::select! {
        biased;
        closing = place.closing() => return Err(NotCarried::Closed(closing)),
        forwarded = forward(caller, &current.snapshot, question) => forwarded?,
    };
    let Forwarded { answer, held, permit, granted } = forwarded;
    let (mut head, body) = answer.into_parts();
    head::take_of_answer(&mut head.headers, Origin::Application);
    let mut story = story.take().unwrap_or_else(|| Story::new(Direction::Inbound, caller.counters()));
    story.answered(head.status);
    let exchange = exchange(room, place, tally, Way::Application { held, permit }, story);
    Ok(match granted {
        Some(granted) => upgrade::carry(granted, head.headers, exchange),
        None => Response::from_parts(head, Reply::carried(body, exchange)),
    })
}

/// Returns the fields in which an application is told what tokens say: nobody else may.
fn told_in(current: &Current, destination: &ServiceKey) -> Vec<HeaderName> {
    current.providers(destination).iter().filter_map(|provider| provider.told_in().cloned()).collect()
}

/// Is a request that is to be decided.
struct Asked<'a> {
    lines: &'a Lines,
    normal: &'a Normal<'a>,
    /// Whether it only asks how the application is, and may.
    is_health_check: bool,
}

/// Is a request that may pass.
struct Admission {
    place: Place,
    current: Arc<Current>,
    /// The tokens that let it in.
    accepted: Vec<Accepted>,
}

/// Decides one request, and enters it among the open ones. Where the keys of a token's provider are not at hand, they are
/// waited for once.
async fn admit(
    caller: &Caller,
    asked: &Asked<'_>,
    headers: &mut HeaderMap,
    story: &mut Option<Story>,
) -> Result<Admission, Refusal> {
    let wanted = match try_admit(caller, asked, headers, story, false)? {
        Tried::Admitted(admission) => return Ok(admission),
        Tried::Wanting(wanted, _) => wanted,
    };
    let waiting = wanted.iter().map(|(provider, newer_than)| provider.wait_for_keys(*newer_than));
    futures_util::future::join_all(waiting).await;
    match try_admit(caller, asked, headers, story, true)? {
        Tried::Admitted(admission) => Ok(admission),
        Tried::Wanting(_, refusal) => Err(refusal),
    }
}

/// Says what came of deciding a request.
enum Tried {
    Admitted(Admission),
    /// It is refused unless these providers have other keys.
    Wanting(Vec<Wanted>, Refusal),
}

fn try_admit(
    caller: &Caller,
    asked: &Asked<'_>,
    headers: &mut HeaderMap,
    story: &mut Option<Story>,
    is_last: bool,
) -> Result<Tried, Refusal> {
    let Caller { room, connection, .. } = caller;
    let Asked { lines, normal, is_health_check } = asked;
    let destination = &connection.destination;
    loop {
        let current = room.current.load_full();
        let current = current.ok_or_else(|| Refusal::Undecidable { destination: destination.clone() })?;
        let providers = current.providers(destination);
        providers.iter().for_each(|provider| provider.clean(headers));
        if *is_health_check {
            let place = room.streams.enter_request(Arc::clone(connection), Some(Facts::exempt(lines)));
            return Ok(Tried::Admitted(Admission { place, current, accepted: Vec::new() }));
        }
        let now = room.now();
        are_in_time(&connection.peer, destination, connection.own.not_after(), now)?;
        let headers = &*headers;
        let tokens = RequestTokens::new(providers, headers, normal.query, now, is_last);
        let verdict = decide_request(&current, connection, normal, headers, &tokens, now)?;
        if let Some(story) = story {
            story.decided(&verdict);
        }
        let verdict = match permitted(verdict, &tokens) {
            Ok(verdict) => verdict,
            Err(refusal) if tokens.may_wait() => return Ok(Tried::Wanting(tokens.wanting(), refusal)),
            Err(refusal) => return Err(refusal),
        };
        let accepted = tokens.accepted();
        let is_judged = current.rules(destination).is_some_and(|rules| rules.judge_requests);
        let facts = is_judged.then(|| Facts::new(lines, headers, accepted.clone()));
        let place = room.streams.enter_request(Arc::clone(connection), facts);
        // Whoever publishes first puts the snapshot into force and then walks the open streams: one that came between the
        // decision and the entry is seen here, and any later one walks past the entry.
        let is_in_force = room.current.load().as_ref().is_some_and(|now| Arc::ptr_eq(now, &current));
        if is_in_force {
            if let Some(cause) = verdict.audit {
                note_audited(caller, &reason(&verdict.rule), cause);
            }
            return Ok(Tried::Admitted(Admission { place, current, accepted }));
        }
    }
}

/// Is a request that may pass, ready to be written for its application.
struct Asking {
    request: Request<Question>,
    port: Option<HeaderValue>,
    upgrade: Option<(OnUpgrade, HeaderValue)>,
}

/// Says how a request goes on to its application.
struct Onward<'a> {
    is_http2: bool,
    /// The protocol that the caller wants to change to.
    protocol: Option<&'a HeaderValue>,
    is_empty: bool,
}

/// Writes into the head of a request all that is still missing there.
fn finish(head: &mut Parts, lines: &Lines, normal: &Normal<'_>, onward: Onward<'_>) -> Result<(), BadRequest> {
    let target = lines.target(normal)?;
    if onward.is_http2 {
        let authority = lines.authority(normal)?.ok_or(NotNormal::Host)?;
        head::target_http2(head, target, authority);
        return Ok(());
    }
    head::target_http1(head, target, lines.host(normal)?);
    head::frame_http1(&mut head.headers, onward.is_empty);
    if let Some(protocol) = onward.protocol {
        upgrade::mark(&mut head.headers, protocol.clone());
    }
    Ok(())
}

fn exchange(room: &Room, place: Place, tally: Arc<Tally>, way: Way, story: Story) -> Box<Exchange> {
    Box::new(Exchange::new(place, tally, room.metrics.carried(Direction::Inbound), way, story))
}

/// Is a request that the application has begun to answer.
struct Forwarded {
    answer: Response<Received>,
    held: Held,
    permit: OwnedSemaphorePermit,
    granted: Option<Granted>,
}

/// Sends a request to its application and waits for the head of the answer.
async fn forward(caller: &Caller, snapshot: &Snapshot, asking: Asking) -> Result<Forwarded, NotCarried> {
    let Caller { room, connection, target } = caller;
    let Asking { request, port, upgrade } = asking;
    let address = match target {
        Some(authority) => target_of_authority(snapshot, &connection.destination, authority, room.turn())?,
        None => {
            let port = port.as_ref().and_then(|port| port.to_str().ok());
            target_of_request(snapshot, &connection.destination, port, room.turn())?
        }
    };
    let limit = room.limits.streams_max;
    let permit = Arc::clone(&room.stream_permits).try_acquire_owned().map_err(|_| Refusal::Overloaded { limit })?;
    if let Some((caller, protocol)) = upgrade {
        return ask_to_change(room, address, request, permit, caller, protocol).await;
    }
    let (answer, held) = application::send(room, address, request).await?;
    Ok(Forwarded { answer, held, permit, granted: None })
}

/// Asks an application to change to another protocol, over a connection of its own.
async fn ask_to_change(
    room: &Room,
    address: SocketAddr,
    request: Request<Question>,
    permit: OwnedSemaphorePermit,
    caller: OnUpgrade,
    protocol: HeaderValue,
) -> Result<Forwarded, NotCarried> {
    let sent = connect_http1(room, address).await?.ask(request).await;
    let no_answer = |failed: TrySendError<_>| ApplicationError::Http1 { address, source: failed.into_error() };
    let (mut answer, mut connection) = sent.map_err(no_answer)?;
    let is_granted = upgrade::is_granted(&answer, &protocol);
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS && !is_granted {
        return Err(NotCarried::Application(ApplicationError::Changed { address }));
    }
    let granted = is_granted.then(|| Granted { protocol, caller, callee: hyper::upgrade::on(&mut answer) });
    if let Some(connection) = connection.as_mut().filter(|_| is_granted) {
        connection.leave_open();
    }
    let answer = answer.map(|body| Received::of_hyper(Version::HTTP_11, body));
    // It was opened for this one alone.
    Ok(Forwarded { answer, held: Held::Http1 { address, connection, is_anybodys: false }, permit, granted })
}

impl From<SendError> for NotCarried {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Dial(refusal) => Self::Refused(refusal),
            SendError::NoAnswer(error) => Self::Application(error),
        }
    }
}

/// Tells of a request that is let through on trial.
fn note_audited(caller: &Caller, rule: &catalog::Reason, cause: &AuditCause) {
    let Caller { room, connection, .. } = caller;
    room.metrics.audited(rule, cause);
    tracing::debug!(
        direction = "inbound",
        service = %connection.destination,
        identity = %connection.peer.id,
        src.addr = %connection.from,
        intention = %rule,
        audited = cause.as_str(),
        reason = %cause,
        "request let through although a rule denies it"
    );
}

fn note_refused(caller: &Caller, why: &NotCarried) {
    let Caller { room, connection, .. } = caller;
    room.metrics.refused(Direction::Inbound, why.phase(), why.label());
    // The metrics and the access log have it, too: no caller fills a disk by asking in vain.
    tracing::debug!(
        direction = "inbound",
        service = %connection.destination,
        identity = %connection.peer.id,
        src.addr = %connection.from,
        reason = why.label(),
        error = %wire::one_line(why),
        "request refused"
    );
}
