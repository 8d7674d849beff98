//! The outbound engine: a request of a local application becomes a request on a tunnel, which costs no handshake.

use std::net::SocketAddr;
use std::sync::Arc;

use catalog::Turn;
use catalog::http::NotNormal;
use http::header::{HeaderValue, SET_COOKIE};
use http::request::Parts;
use http::uri::Authority;
use http::{Request, Response, StatusCode, Version};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::body::Received;
use super::carried::{Exchange, Question, Reply, Tally, Way};
use super::head::{self, BadRequest, Origin, PORT, REFUSED, VERSION};
use super::mirror;
use super::normal::Lines;
use super::refusal::{Manner, NotCarried};
use super::route;
use super::send::{self, Pump, Unanswered};
use super::server::{self, Reader};
use super::story::Story;
use super::tunnel_io::TunnelIo;
use super::upgrade::{self, Granted};
use crate::metrics::{Direction, Phase};
use crate::proxy::outbound::allowance::Counted;
use crate::proxy::outbound::call_error::CallError;
use crate::proxy::outbound::door::Door;
use crate::proxy::outbound::endpoints::{Chosen, Tried};
use crate::proxy::outbound::hashing::{self, HashedRequest};
use crate::proxy::outbound::{Call, Course, Opened, Wanted, identify, note, open};
use crate::proxy::room::Room;

/// Answers the requests of a local application's connection until it ends.
pub(crate) async fn serve(room: Arc<Room>, door: Door, from: SocketAddr, stream: TcpStream) {
    let answer = |request| answer(Arc::clone(&room), door.clone(), from, request);
    let (leave, cut) = (room.outbound.stopping.cancelled(), room.outbound.cut.cancelled());
    let ended = room.server.serve(Reader::Outbound, stream, answer, leave, cut);
    if let Err(error) = ended.await {
        room.metrics.refused(Direction::Outbound, Phase::Read, server::label(error.as_ref()));
        tracing::debug!(
            direction = "outbound", src.addr = %from, dst.addr = %door, error = %wire::one_line(error.as_ref()),
            "connection of requests failed"
        );
    }
}

async fn answer(room: Arc<Room>, door: Door, from: SocketAddr, mut request: Request<Incoming>) -> Response<Reply> {
    let manner = Manner::of(&request);
    let upgrade = request.headers().contains_key(http::header::UPGRADE).then(|| hyper::upgrade::on(&mut request));
    let carried = match identify(&room, &door) {
        Ok(call) => {
            let mut story = Some(Story::new(Direction::Outbound, call.called.counters(&room.metrics)));
            let carried = carry(&room, &call, from, request, upgrade, &mut story).await;
            if let (Err(why), Some(mut story)) = (&carried, story) {
                story.answered(why.status());
                story.tell(why.label(), 0, 0);
            }
            carried
        }
        Err(error) => Err(NotCarried::Call(error)),
    };
    carried.unwrap_or_else(|why| {
        room.metrics.refused(Direction::Outbound, why.phase(), why.label());
        tracing::debug!(
            direction = "outbound", src.addr = %from, dst.addr = %door, reason = why.label(),
            error = %wire::one_line(&why), "request refused"
        );
        manner.refuse(&why)
    })
}

/// Carries one request from its arrival to the head of its answer.
async fn carry(
    room: &Arc<Room>,
    call: &Call,
    from: SocketAddr,
    request: Request<Incoming>,
    upgrade: Option<OnUpgrade>,
    story: &mut Option<Story>,
) -> Result<Response<Reply>, NotCarried> {
    let mut place = room.streams.enter_outbound(None);
    let tally = Tally::new(Arc::clone(room), Direction::Outbound);
    let (mut head, body) = request.into_parts();
    let lines = Lines::of(&head)?;
    let body = Question::new(Received::of_hyper(head.version, body), Arc::clone(&tally), &place);
    let begins_trace = head::name(&mut head.headers, &room.request_ids);
    if let Some(story) = story {
        story.take_down(&room.observers, from, &lines);
        story.name(&room.observers, &mut head.headers, begins_trace);
    }
    let forwarded = tokio::select! {
        biased;
        closing = place.closing() => return Err(NotCarried::Closed(closing)),
        forwarded = forward(room, call, from, &lines, Request::from_parts(head, body), upgrade, &tally) => forwarded?,
    };
    let Forwarded { answer, way, granted } = forwarded;
    if let Way::Tunnel { lease, endpoint, .. } = &way
        && let Some(end) = call.called.end(&endpoint.service)
    {
        place.reached(Arc::clone(end), lease.peer().key_exchange);
    }
    let (mut head, body) = answer.into_parts();
    head::take_of_answer(&mut head.headers, Origin::Mesh);
    let counters = || call.called.counters(&room.metrics);
    let mut story = story.take().unwrap_or_else(|| Story::new(Direction::Outbound, counters()));
    story.answered(head.status);
    let exchange = Box::new(Exchange::new(place, tally, room.metrics.carried(Direction::Outbound), way, story));
    Ok(match granted {
        Some(granted) => upgrade::carry(granted, head.headers, exchange),
        None => Response::from_parts(head, Reply::carried(body, exchange)),
    })
}

/// Is a request that the other side has begun to answer.
struct Forwarded {
    answer: Response<Received>,
    way: Way,
    granted: Option<Granted>,
}

async fn forward(
    room: &Arc<Room>,
    call: &Call,
    from: SocketAddr,
    lines: &Lines,
    request: Request<Question>,
    upgrade: Option<OnUpgrade>,
    tally: &Arc<Tally>,
) -> Result<Forwarded, NotCarried> {
    let (mut head, mut question) = request.into_parts();
    let normal = lines.normal().map_err(BadRequest::from)?;
    let taken = head::take(&mut head, Origin::Application);
    let turn = route::choose(&call.called.routes, &normal, &head.headers, room.endpoints.draw_any())?;
    let hashed = HashedRequest { headers: &head.headers, query: normal.query, from };
    let hashed = hashing::of_request(&turn.leg.balancing.hashing, hashed, room.endpoints.draw_any());
    if let Some(fault) = turn.action.and_then(|action| action.fault.as_ref()) {
        route::suffer(fault, || room.endpoints.draw_any()).await?;
    }
    let limit = turn.action.and_then(|action| action.request_timeout).or(turn.leg.request_timeout);
    let deadline = limit.map(|limit| Instant::now() + limit);
    let course = Course { way: turn.way, hash: hashed.hash, deadline };
    let target = route::target(turn, lines, &normal).map_err(BadRequest::from)?;
    if let Some(action) = turn.action {
        route::edit(&mut head.headers, &action.request_headers);
    }
    for split in turn.edits {
        route::edit(&mut head.headers, &split.request_headers);
    }
    let asked = async {
        match upgrade.zip(taken.upgrade) {
            Some((caller, protocol)) => {
                head::target_http1(&mut head, target, lines.host(&normal).map_err(BadRequest::from)?);
                ask_to_change(room, call, course, Request::from_parts(head, question), caller, protocol).await
            }
            None => {
                let authority = match lines.authority(&normal).map_err(BadRequest::from)? {
                    Some(authority) => authority,
                    // HTTP/1.0 knows no host, and HTTP/2 not its absence.
                    None => Authority::try_from(call.called.upstream.destination.name.as_str())
                        .map_err(|_| BadRequest::from(NotNormal::Host))?,
                };
                if taken.version != Version::HTTP_2 {
                    head.headers.insert(VERSION, HeaderValue::from_static("1.1"));
                }
                head::target_http2(&mut head, target, authority);
                if let Some(mirror) = turn.action.and_then(|action| action.mirror)
                    && route::is_drawn(mirror.share, room.endpoints.draw_any())
                {
                    mirror::start(room, call, mirror.way, &head, &mut question);
                }
                ask(room, call, turn, course, Request::from_parts(head, question), tally).await
            }
        }
    };
    let mut forwarded = match limit {
        Some(limit) => tokio::time::timeout(limit, asked).await.unwrap_or(Err(NotCarried::Timeout(limit)))?,
        None => asked.await?,
    };
    for split in turn.edits.iter().rev() {
        route::edit(forwarded.answer.headers_mut(), &split.response_headers);
    }
    if let Some(action) = turn.action {
        route::edit(forwarded.answer.headers_mut(), &action.response_headers);
    }
    if let Some(cookie) = hashed.cookie {
        forwarded.answer.headers_mut().append(SET_COOKIE, cookie);
    }
    Ok(forwarded)
}

/// Sends a request, and where its route says so and it can be sent again whole, to another instance after a failure.
async fn ask(
    room: &Arc<Room>,
    call: &Call,
    turn: Turn<'_>,
    course: Course,
    request: Request<Question>,
    tally: &Arc<Tally>,
) -> Result<Forwarded, NotCarried> {
    let mut tried = Tried::default();
    let (head, question) = request.into_parts();
    let rule = turn.action.and_then(|action| action.retry.as_ref()).filter(|_| question.is_end_stream());
    let Some(rule) = rule else { return ask_once(room, call, course, &head, question, &mut tried).await };
    let budget = call.called.retries();
    budget.deposit();
    let mut asked = ask_once(room, call, course, &head, question, &mut tried).await;
    for number in 0..rule.attempts {
        let is_repeated = match &asked {
            Ok(forwarded) => route::is_repeated_after_answer(rule, &forwarded.answer),
            Err(why) => route::is_repeated_after_failure(rule, why),
        };
        if !is_repeated || !budget.spend() {
            break;
        }
        tokio::time::sleep(route::pause(number, room.endpoints.draw_any())).await;
        let question = Question::empty(Arc::clone(tally));
        match ask_once(room, call, course, &head, question, &mut tried).await {
            // Nobody is left to ask: what the last one said stands.
            Err(NotCarried::Call(CallError::NoHealthyEndpoint { .. })) => break,
            again => asked = again,
        }
        room.metrics.request_repeated();
    }
    asked
}

/// Sends a request as a stream of its own on a tunnel. Its head is copied each time: what was handed over never comes back.
async fn ask_once(
    room: &Arc<Room>,
    call: &Call,
    course: Course,
    head: &Parts,
    mut question: Question,
    tried: &mut Tried,
) -> Result<Forwarded, NotCarried> {
    loop {
        let allowed = call.called.allow(Counted::Requests)?;
        let (Opened::Ready(ready, lease), mut endpoint) = open(room, call, course, tried, Wanted::Request).await?
        else {
            // What is opened is what is wanted.
            return Err(NotCarried::Call(CallError::NoUpstream(call.called.upstream.address)));
        };
        endpoint.hold(allowed);
        let mut asked = Request::from_parts(head.clone(), ());
        asked.headers_mut().insert(PORT, endpoint.port.clone());
        let waiting = Waiting { room, call, endpoint: &endpoint, deadline: course.deadline, is_over: false };
        let answered = send::request(ready, asked, question).await;
        waiting.end();
        match answered {
            Ok((answer, pump)) => {
                tried.add(&endpoint);
                judge(room, call, &endpoint, &answer);
                return Ok(Forwarded { answer, way: Way::Tunnel { lease, endpoint, pump }, granted: None });
            }
            Err(Unanswered { error, untaken }) => {
                if !error.is_reset() {
                    lease.retire();
                }
                match untaken {
                    // The other side was taking a new leaf just then, and has not taken the request up: another tunnel does.
                    Some(untaken) if tried.may_meet_stale() => question = untaken,
                    _ => {
                        tried.add(&endpoint);
                        blame(room, call, &endpoint, &error);
                        return Err(NotCarried::Tunnel(error));
                    }
                }
            }
        }
    }
}

/// Sends a request that asks for another protocol over a stream of bytes, where it can be granted.
async fn ask_to_change(
    room: &Arc<Room>,
    call: &Call,
    course: Course,
    mut request: Request<Question>,
    caller: OnUpgrade,
    protocol: HeaderValue,
) -> Result<Forwarded, NotCarried> {
    let allowed = call.called.allow(Counted::Connections)?;
    let (Opened::Stream(stream, lease), mut endpoint) =
        open(room, call, course, &mut Tried::default(), Wanted::Stream).await?
    else {
        return Err(NotCarried::Call(CallError::NoUpstream(call.called.upstream.address)));
    };
    endpoint.hold(allowed);
    upgrade::mark(request.headers_mut(), protocol.clone());
    let broken = |_: hyper::Error| NotCarried::Tunnel(h2::Error::from(h2::Reason::CANCEL));
    let (sender, connection) = http1::handshake(TokioIo::new(TunnelIo::new(stream))).await.map_err(broken)?;
    let driving = tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(direction = "outbound", %error, "stream of an upgrade failed");
        }
    });
    let mut answer = wire::ask_once(sender, request).await.map_err(broken)?;
    let is_granted = upgrade::is_granted(&answer, &protocol);
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS && !is_granted {
        return Err(NotCarried::Tunnel(h2::Error::from(h2::Reason::PROTOCOL_ERROR)));
    }
    let granted = is_granted.then(|| Granted { protocol, caller, callee: hyper::upgrade::on(&mut answer) });
    let answer = answer.map(|body| Received::of_hyper(Version::HTTP_11, body));
    judge(room, call, &endpoint, &answer);
    // Aborted only after it is over: the bytes go on without it.
    let pump = granted.is_none().then(|| Pump::of(driving.abort_handle()));
    Ok(Forwarded { answer, way: Way::Tunnel { lease, endpoint, pump }, granted })
}

/// Waits for an answer. If nobody waits any more before it has come, the instance took at least as long; if it had no more
/// time, it failed.
struct Waiting<'a> {
    room: &'a Room,
    call: &'a Call,
    endpoint: &'a Chosen,
    deadline: Option<Instant>,
    is_over: bool,
}

impl Waiting<'_> {
    fn end(mut self) {
        self.is_over = true;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let now = Instant::now();
        self.endpoint.answered(now, true);
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            note(self.room, self.call, self.endpoint, true);
        }
    }
}

/// Remembers that a request went unanswered, unless it was only its tunnel that took no more, or its caller who broke off: neither
/// is a fault of the instance.
fn blame(room: &Room, call: &Call, endpoint: &Chosen, error: &h2::Error) {
    let is_callers = error.is_reset() && !error.is_remote();
    if send::is_untaken(error) || is_callers {
        return;
    }
    let now = Instant::now();
    endpoint.answered(now, true);
    note(room, call, endpoint, true);
    if !error.is_reset() {
        endpoint.failed(now);
    }
}

/// Remembers how the instance fared: one whose agent could not reach it is put aside.
fn judge(room: &Room, call: &Call, endpoint: &Chosen, answer: &Response<Received>) {
    let now = Instant::now();
    note(room, call, endpoint, answer.status().is_server_error());
    endpoint.answered(now, answer.status().is_server_error());
    if answer.status() == StatusCode::SERVICE_UNAVAILABLE && answer.headers().contains_key(REFUSED) {
        endpoint.failed(now);
    } else {
        endpoint.succeeded();
    }
}
