//! The sync machine's hands: connections, frames and writes.

use std::sync::Arc;
use std::time::Duration;

use catalog::Topic;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};
use wire::agent_protocol::{
    ClientFrame, SIGN_PATH, STREAM_PATH, ServerFrame, SignRequest, SignResponse, Subject, WRITE_PATH, WriteRequest,
    WriteResponse,
};
use wire::frame::{FrameReader, encode_frame};
use wire::pki::LeafKey;
use wire::tap::TapOrder;
use wire::tls::{TrustAnchors, agent_port_client_config};

use super::{Core, Event, SignFailed};
use crate::leaf::{HeldLeaf, key_for, named};
use crate::sync::connection::{CallError, Connection};
use crate::sync::{Input, Output, WriteResult};

/// A write waits for Raft.
const WRITE_TIMEOUT: Duration = Duration::from_secs(14);
/// Signing waits for a ReadIndex.
const SIGN_TIMEOUT: Duration = Duration::from_secs(15);
/// Frames that wait to be sent; an agent has a few topics and writes no frames otherwise.
const FRAMES_MAX: usize = 16 * 1024;

/// What a connection did.
#[derive(Debug)]
pub(super) enum LinkEvent {
    Connected(Connection),
    Frame(ServerFrame),
    Closed(Ended),
}

/// Why a connection is over.
#[derive(Debug, Default)]
pub(super) struct Ended {
    error: String,
    /// Whether the server has no record of this agent, so that it should log in again, if it can.
    log_in: bool,
    /// How long the server wants to be left alone, where it has too much to do.
    retry_after: Option<Duration>,
}

impl Ended {
    fn by(error: String) -> Self {
        Self { error, ..Self::default() }
    }
}

/// The connection that the machine asked for last.
#[derive(Debug)]
pub(super) struct Link {
    attempt: u64,
    server: String,
    connection: Option<Connection>,
    frames: mpsc::Sender<ClientFrame>,
    _task: AbortOnDropHandle<()>,
}

impl Link {
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    pub(super) fn is_up(&self) -> bool {
        self.connection.is_some()
    }
}

impl Core {
    /// Feeds the machine and carries out what it wants done.
    pub(super) fn step(&mut self, input: Input) {
        let mut outputs = Vec::new();
        let now = self.now();
        self.sync.step(input, now, &mut |output| outputs.push(output));
        for output in outputs {
            self.carry_out(output);
        }
    }

    pub(super) fn link_event(&mut self, attempt: u64, event: LinkEvent) {
        let Some(link) = self.link.as_mut().filter(|link| link.attempt == attempt) else { return };
        match event {
            LinkEvent::Connected(connection) => {
                link.connection = Some(connection.clone());
                self.publisher.connected(connection);
                self.metrics.connected(true);
                let now = self.now();
                self.leaves.retry_now(now);
                self.step(Input::Connected { attempt });
            }
            LinkEvent::Frame(frame) => {
                if let ServerFrame::Tap(order) = &frame {
                    self.tap(order);
                }
                self.step(Input::Frame { attempt, frame });
            }
            LinkEvent::Closed(Ended { error, log_in, retry_after }) => {
                // While servers are away the same thing happens every few seconds; it is said once.
                if link.is_up() || self.last_failure.as_ref() != Some(&error) {
                    warn!(server = link.server, error, "no connection to a server; trying the next one");
                    self.last_failure = Some(error);
                }
                self.drop_link();
                self.step(match retry_after {
                    Some(retry_after) => Input::SentAway { attempt, retry_after },
                    None => Input::Closed { attempt },
                });
                if log_in {
                    self.log_in();
                }
            }
        }
    }

    /// Begins to send what is seen of a service's requests, where that is here and somebody may ask for it still.
    fn tap(&mut self, order: &TapOrder) {
        let node = self.identity.record.node.clone();
        if let (Some(watched), Ok(tls)) = (self.publisher.watch(order.clone(), node), self.server_tls()) {
            tokio::spawn(crate::tap::carry(order.clone(), watched, tls));
        }
    }

    /// Connects anew, to show a renewed leaf.
    pub(super) fn reconnect(&mut self) {
        if let Some(attempt) = self.link.as_ref().map(|link| link.attempt) {
            info!("connecting to a server anew, with the renewed leaf");
            self.drop_link();
            self.step(Input::Closed { attempt });
        }
        // A server may have refused the old leaf because it had expired.
        self.step(Input::Retry);
    }

    fn drop_link(&mut self) {
        self.link = None;
        self.changed = true;
        self.publisher.disconnected();
        self.metrics.connected(false);
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Connect { attempt, server } => self.connect(attempt, server),
            Output::Disconnect { attempt, reason } => {
                if let Some(link) = self.link.as_ref().filter(|link| link.attempt == attempt) {
                    warn!(server = link.server, error = %reason, "server connection given up");
                    self.drop_link();
                }
            }
            Output::Send { attempt, frame } => self.send(attempt, frame),
            Output::Write { attempt, request } => self.write(attempt, *request),
            Output::Opened { server, incarnation } => {
                info!(server = %server, incarnation = incarnation.0, "session open");
                self.metrics.session_opened();
                self.last_failure = None;
                self.changed = true;
            }
            Output::Publish(view) => match self.sought_nothing(view) {
                true => self.changed = true,
                false => self.rules_changed = true,
            },
            Output::Persist => self.saver.state_changed(),
            Output::Dropped { topic, error } => {
                self.metrics.event_dropped();
                dropped(&topic, &error);
            }
            Output::Refused { error } => {
                self.metrics.registration_refused();
                warn!(error, "a server refused a registration; it is tried again in a minute");
            }
            Output::Left => {
                self.has_left = true;
                for leaver in self.leavers.drain(..) {
                    // Whoever asked may have stopped waiting.
                    let _ = leaver.send(());
                }
            }
        }
    }

    fn connect(&mut self, attempt: u64, server: String) {
        let (frames, outgoing) = mpsc::channel(FRAMES_MAX);
        let events = self.events.clone();
        let tls = self.server_tls();
        let address = server.clone();
        let task = tokio::spawn(async move {
            let ended = match tls {
                Ok(tls) => converse(attempt, &address, tls, outgoing, &events).await,
                Err(error) => Ended::by(error),
            };
            let _ = events.send(Event::Link { attempt, event: LinkEvent::Closed(ended) }).await;
        });
        let task = AbortOnDropHandle::new(task);
        self.link = Some(Link { attempt, server, connection: None, frames, _task: task });
    }

    /// Returns what servers are dialled with: the newest leaf and roots there are, and an expired leaf if need be.
    fn server_tls(&mut self) -> Result<Arc<rustls::ClientConfig>, String> {
        let leaf = self.leaves.held().get(&Subject::Agent).ok_or("the agent has no leaf")?;
        let identity = Arc::clone(leaf.tls());
        let anchors = match self.publisher.anchors(&self.identity.mesh.trust_domain, self.sync.view()) {
            Some(anchors) => anchors,
            None => TrustAnchors::of_domain(&self.identity.mesh.trust_domain, self.identity.roots_pem.clone())
                .map(Arc::new)
                .map_err(|error| wire::one_line(&error))?,
        };
        let trust_domain = self.identity.mesh.trust_domain.clone();
        Ok(Arc::new(agent_port_client_config(anchors, trust_domain, &identity)))
    }

    fn send(&mut self, attempt: u64, frame: ClientFrame) {
        let Some(link) = self.link.as_ref().filter(|link| link.attempt == attempt) else { return };
        if link.frames.try_send(frame).is_err() {
            warn!(server = link.server, "server reads too slowly; its connection is dropped");
            self.drop_link();
            self.step(Input::Closed { attempt });
        }
    }

    fn write(&mut self, attempt: u64, request: WriteRequest) {
        let connection =
            self.link.as_ref().filter(|link| link.attempt == attempt).and_then(|link| link.connection.clone());
        let Some(connection) = connection else { return };
        let events = self.events.clone();
        tokio::spawn(async move {
            let answer = connection.call::<_, WriteResponse>(WRITE_PATH, &request, WRITE_TIMEOUT).await;
            let result = match answer {
                Ok(response) => WriteResult::Answered(response.outcome),
                Err(CallError::Refused { status, error, .. }) if status != StatusCode::REQUEST_TIMEOUT => {
                    WriteResult::Rejected { error }
                }
                Err(error) => {
                    debug!(error = wire::one_line(&error), "write not answered; it is sent again");
                    let retry_after = SignFailed::from(error).retry_after;
                    WriteResult::Unavailable { retry_after }
                }
            };
            let _ = events.send(Event::Written { request_id: request.request_id, result }).await;
        });
    }

    /// Asks for a leaf if one is due and a server is there.
    pub(super) fn ask_for_leaf(&mut self) {
        let Some(connection) = self.link.as_ref().and_then(|link| link.connection.clone()) else { return };
        let now = self.now();
        let Some(subject) = self.leaves.ask(wire::crypto::now(), now) else { return };
        let key = key_for(&subject, &self.key);
        let wanted = named(&subject, &self.identity);
        let events = self.events.clone();
        tokio::spawn(async move {
            let result = sign(&connection, &subject, &key, &wanted).await;
            let _ = events.send(Event::Signed { subject, result: result.map(Box::new) }).await;
        });
    }
}

fn dropped(topic: &Topic, error: &str) {
    tracing::error!(topic = %topic, error, "a server sent what cannot be true; the last good state stays in force");
}

async fn sign(
    connection: &Connection,
    subject: &Subject,
    key: &LeafKey,
    wanted: &catalog::SpiffeId,
) -> Result<HeldLeaf, SignFailed> {
    let request = SignRequest { csr: key.csr_der(Some(wanted)), subject: subject.clone() };
    let response: SignResponse = connection.call(SIGN_PATH, &request, SIGN_TIMEOUT).await?;
    HeldLeaf::new(key, &response.leaf, wanted, wire::crypto::now())
        .map_err(|error| SignFailed { error: wire::one_line(&error), retry_after: None })
}

/// Holds one connection from its handshakes to its end; returns why it ended.
async fn converse(
    attempt: u64,
    server: &str,
    tls: Arc<rustls::ClientConfig>,
    outgoing: mpsc::Receiver<ClientFrame>,
    events: &mpsc::Sender<Event>,
) -> Ended {
    let connection = match Connection::open(server, tls).await {
        Ok(connection) => connection,
        Err(error) => return Ended::by(wire::one_line(&error)),
    };
    let tell = |event| events.send(Event::Link { attempt, event });
    if tell(LinkEvent::Connected(connection.clone())).await.is_err() {
        return Ended::default();
    }
    // The server may wait for the first frames before it answers, so they are sent while the answer is awaited.
    let frames = futures_util::stream::unfold(outgoing, |mut outgoing| async move {
        let frame = outgoing.recv().await?;
        let encoded = encode_frame(&frame)
            .map(Frame::data)
            .map_err(|error| -> Box<dyn std::error::Error + Send + Sync> { error.into() });
        Some((encoded, outgoing))
    });
    let body = BodyExt::boxed_unsync(StreamBody::new(frames));
    let response = match connection.send(Method::POST, STREAM_PATH, HeaderMap::new(), body, STREAM_PATH).await {
        Ok(response) => response,
        Err(error) => return Ended::by(wire::one_line(&error)),
    };
    if !response.status().is_success() {
        let (parts, body) = response.into_parts();
        let failure = connection.failure(parts, body).await;
        let log_in = failure.asks_to_log_in();
        let SignFailed { error, retry_after } = failure.into();
        return Ended { error, log_in, retry_after };
    }
    let mut frames = FrameReader::new(response.into_body());
    loop {
        match frames.next::<ServerFrame>().await {
            Ok(Some(frame)) => {
                if tell(LinkEvent::Frame(frame)).await.is_err() {
                    return Ended::default();
                }
            }
            Ok(None) => return Ended::by("the server ended the stream".to_owned()),
            Err(error) => return Ended::by(wire::one_line(&error)),
        }
    }
}
