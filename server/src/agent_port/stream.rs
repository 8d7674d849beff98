//! `POST /v1/stream`: an agent's session. Its frames come in the request's body, the hub's go out in the answer's.

use std::time::Duration;

use axum::body::Body;
use catalog::{Actor, AgentId, AgentRecord, Command, Incarnation, Outcome, RootsAck};
use http::{HeaderValue, Response, header};
use hyper::body::Incoming;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use wire::agent_protocol::{Capabilities, ClientFrame, GroupEpoch, ServerFrame};
use wire::body::BodyError;
use wire::frame::{FrameReadError, FrameReader};

use super::refusal::PortError;
use super::route::Call;
use super::{AgentPort, fresh_request_id};
use crate::held_body::HeldBody;
use crate::hub::shell::{Opening, Session};
use crate::hub::{Frame, HELD_ALONE};
use crate::outage;

/// Time for the first frame to arrive.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Between two lines about what one session's agent cannot take passes at least this time.
const REJECTED_PAUSE: Duration = Duration::from_secs(10);

/// The number of a session that was opened without a quorum: nothing is written on it.
pub(super) const HELD: Incarnation = Incarnation(0);

/// Opens a session for the agent and answers with its frames. The session ends with either body.
pub(super) async fn stream(call: Call) -> Result<Response<Body>, PortError> {
    let record = call.agent()?.clone();
    let Call { port, connection, request, .. } = call;
    let place = connection.place_for_session().ok_or(PortError::SecondSession)?;
    let source = connection.source();
    let mut frames = FrameReader::new(request.into_body());
    let hello = tokio::time::timeout(HELLO_TIMEOUT, next(&mut frames))
        .await
        .map_err(|_| BodyError::TooSlow { limit_s: HELLO_TIMEOUT.as_secs() })??;
    let Some(ClientFrame::Hello { knows }) = hello else {
        return Err(PortError::Malformed { what: "stream", reason: "it does not start with a hello".to_owned() });
    };
    // A session that is opened costs a write and a view of every topic: a herd that comes back takes turns.
    port.take_turn_at_session(&record.id)?;
    let (incarnation, held) = match open_session(&port, &record, source).await? {
        Some(incarnation) => (incarnation, None),
        None => (HELD, Some(port.outage.session())),
    };
    let servers = port.addresses();
    let welcome = ServerFrame::Welcome {
        incarnation,
        server: port.server.clone(),
        servers: servers.clone(),
        group: GroupEpoch::of(&port.consensus.catalog()),
        knows: Capabilities::ours(),
    };
    let welcome = Frame::new(welcome).map_err(|error| PortError::Internal { reason: error.to_string() })?;
    let agent = record.id.clone();
    // The hub closes sessions whose records are gone or have newer ones: of one that the mesh has not heard of it cannot
    // know that, and the session ends when the mesh can be asked.
    let is_gateway = record.gateway.is_some();
    let fence = if held.is_some() { HELD_ALONE } else { incarnation };
    let opening = Opening {
        agent: record.id,
        incarnation: fence,
        services: record.services,
        gateway: record.gateway,
        knows,
        welcome,
        servers,
        cut: connection.cut().clone(),
    };
    let (session, body) = port.hub.open(opening).await?;
    info!(%agent, node = %record.node, src.addr = %source, incarnation = incarnation.0, "agent session opened");
    tokio::spawn(async move {
        match follow(&port, (&agent, is_gateway), &mut frames, &session, held).await {
            Ok(()) => debug!(%agent, incarnation = incarnation.0, "agent session closed"),
            Err(error) => {
                port.metrics.agent_port_refused(error.label());
                let reason = error.label();
                let error = wire::harmless(&error.to_string());
                warn!(%agent, src.addr = %source, reason, error, "agent session ended by its frames");
            }
        }
    });
    let mut response = Response::new(HeldBody::holding(place, Body::new(body)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    Ok(response)
}

/// Opens the session in the log; its index is what fences the agent's writes. None where there is no log to open it in,
/// for an agent that may be served all the same.
async fn open_session(
    port: &AgentPort,
    record: &AgentRecord,
    source: std::net::SocketAddr,
) -> Result<Option<Incarnation>, PortError> {
    let agent = &record.id;
    if port.stands_in() && outage::is_platform_attested(record) {
        return Ok(None);
    }
    let command = Command::OpenSession { agent: agent.clone(), server: port.server.clone() };
    let committed = port.propose(source, Actor::Agent(agent.clone()), fresh_request_id()?, command).await?;
    match committed.outcome {
        Outcome::SessionOpened { incarnation } => Ok(Some(incarnation)),
        Outcome::Refused(refusal) => Err(PortError::Refused(refusal)),
        other => Err(PortError::Internal { reason: format!("opening a session was answered with {other:?}") }),
    }
}

/// Passes the agent's frames to the hub until either side ends.
async fn follow(
    port: &AgentPort,
    (agent, is_gateway): (&AgentId, bool),
    frames: &mut FrameReader<Incoming>,
    session: &Session,
    held: Option<CancellationToken>,
) -> Result<(), PortError> {
    let held = held.unwrap_or_default();
    let mut rejected: Option<Instant> = None;
    loop {
        let frame = tokio::select! {
            () = session.ended() => return Ok(()),
            () = held.cancelled() => return Ok(()),
            frame = next(frames) => frame,
        };
        match frame {
            Ok(Some(ClientFrame::Subscribe { topic, from })) => {
                // Meanwhile nothing more is read of what it asks.
                tokio::select! {
                    () = session.ended() => return Ok(()),
                    () = held.cancelled() => return Ok(()),
                    () = port.turn_at_topic(agent, is_gateway) => {}
                }
                session.subscribe(topic, from).await?;
            }
            Ok(Some(ClientFrame::Acknowledge { roots, renewed })) => {
                port.acks.note(agent, RootsAck { roots, renewed });
            }
            Ok(Some(ClientFrame::Rejected { topic, error })) => {
                port.metrics.agent_port_refused("event_rejected");
                // Each is counted; what an agent sends must not fill the log.
                if rejected.is_none_or(|said| said.elapsed() >= REJECTED_PAUSE) {
                    rejected = Some(Instant::now());
                    let error = wire::harmless(&error);
                    warn!(%agent, %topic, error, "agent cannot take what it was sent, and goes on with what it held");
                }
            }
            Ok(Some(ClientFrame::Unsubscribe { topic })) => session.unsubscribe(topic).await?,
            Ok(Some(ClientFrame::Hello { .. })) => {
                return Err(PortError::Malformed { what: "stream", reason: "it says hello twice".to_owned() });
            }
            // A connection that breaks is how most sessions end.
            Ok(None) | Err(PortError::BodyUnread(BodyError::Broken { .. })) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Waits for the agent's next frame; none at the end of the body.
///
/// Cancel safe: what was read is in the reader.
async fn next(frames: &mut FrameReader<Incoming>) -> Result<Option<ClientFrame>, PortError> {
    frames.next().await.map_err(|error| match error {
        FrameReadError::Frame(error) => PortError::Malformed { what: "stream", reason: error.to_string() },
        FrameReadError::Broken(error) => BodyError::Broken { reason: error.to_string() }.into(),
    })
}
