//! Connections from other servers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use catalog::ServerId;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};
use wire::accept::{Accepted, accept_all};
use wire::one_line;
use wire::tls::{ALPN_RAFT, PeerRejected, raft_peer, raft_server_config, speaks};

use super::frame::{self, Frame, FrameError};
use super::hello::{Hello, HelloAnswer, PROTOCOL_VERSION, Purpose, Refusal, Verdict, judge};
use super::pieces::Partials;
use super::{Context, HANDSHAKE_TIMEOUT, raft_id_of, read_alive, snapshots, write_alive, write_only_alive};
use crate::consensus::{admit, ask, forward, gather};

/// Connections that may be in their handshake at once; the next ones wait in the kernel's queue.
const HANDSHAKES_MAX: usize = 256;

/// The newest connection of each peer for each purpose; it ends the one before, whose peer must have given it up.
type Sessions = Mutex<BTreeMap<(ServerId, Purpose), CancellationToken>>;

/// Serves other servers on `listener` until the context is stopped, then cuts them.
pub(crate) async fn serve(listener: TcpListener, context: Arc<Context>) {
    let acceptor = TlsAcceptor::from(raft_server_config(&context.identity));
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let sessions = Arc::new(Sessions::default());
    let partials = Arc::new(Partials::default());
    let connections = TaskTracker::new();
    accept_all(
        "raft",
        listener,
        handshakes,
        context.stop.cancelled(),
        || {},
        |accepted| {
            let Accepted { stream, from: source, permit } = accepted;
            let (context, acceptor, sessions) = (Arc::clone(&context), acceptor.clone(), Arc::clone(&sessions));
            let partials = Arc::clone(&partials);
            connections.spawn(async move {
                let stop = context.stop.clone();
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = carry(&context, &acceptor, &sessions, &partials, stream, source, permit) => {}
                }
            });
        },
    )
    .await;
    connections.close();
    connections.wait().await;
}

/// Carries one connection from its handshake to its end.
async fn carry(
    context: &Context,
    acceptor: &TlsAcceptor,
    sessions: &Sessions,
    partials: &Arc<Partials>,
    stream: TcpStream,
    source: SocketAddr,
    permit: OwnedSemaphorePermit,
) {
    let greeted = match tokio::time::timeout(HANDSHAKE_TIMEOUT, greet(context, acceptor, stream)).await {
        Ok(greeted) => greeted,
        Err(_) => return context.refused("handshake_timeout", &source, &"the handshake took too long"),
    };
    drop(permit);
    let (stream, peer, purpose) = match greeted {
        Ok(Some(greeted)) => greeted,
        Ok(None) => return,
        Err(NotGreeted { label, error }) => return context.refused(label, &source, &error),
    };
    let (mut reader, mut writer) = tokio::io::split(stream);
    let ended = if purpose == Purpose::Meet {
        meet(context, &peer, &mut reader, &mut writer).await
    } else if purpose == Purpose::Gather {
        // Several may be asked at once, for as many who want to know.
        gather::serve(&context.consensus, &mut reader, &mut writer).await
    } else {
        let session = begin_session(sessions, &peer, purpose);
        tokio::select! {
            () = session.cancelled() => return,
            ended = async {
                match purpose {
                    Purpose::Snapshot => snapshots::receive(context, &peer, partials, &mut reader, &mut writer).await,
                    Purpose::Ask => ask::serve(&context.consensus, &mut reader, &mut writer).await,
                    Purpose::Forward => forward::serve(&context.consensus, reader, writer).await,
                    Purpose::Messages | Purpose::Meet | Purpose::Gather => tokio::select! {
                        ended = receive(context, &peer, &mut reader) => ended,
                        error = write_only_alive(&mut writer) => Err(error),
                    },
                }
            } => ended,
        }
    };
    match ended {
        Ok(()) => {}
        Err(error) => match error.label() {
            Some(label) => context.refused(label, &peer, &error),
            None => debug!(peer = %peer, error = one_line(&error), "raft connection ended"),
        },
    }
}

fn begin_session(sessions: &Sessions, peer: &ServerId, purpose: Purpose) -> CancellationToken {
    let session = CancellationToken::new();
    let mut sessions = sessions.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(before) = sessions.insert((peer.clone(), purpose), session.clone()) {
        before.cancel();
    }
    session
}

/// Says why a connection was refused before it was of use.
struct NotGreeted {
    label: &'static str,
    error: String,
}

impl NotGreeted {
    fn new(label: &'static str, error: impl ToString) -> Self {
        Self { label, error: error.to_string() }
    }
}

type Greeted = (TlsStream<TcpStream>, ServerId, Purpose);

/// Lets a peer prove its name and present itself, and judges it; none where it was turned away without fault.
async fn greet(context: &Context, acceptor: &TlsAcceptor, stream: TcpStream) -> Result<Option<Greeted>, NotGreeted> {
    // Answers must not wait for the peer's delayed acknowledgement; without it they only come later.
    let _ = stream.set_nodelay(true);
    let mut stream = acceptor.accept(stream).await.map_err(|error| {
        let label = PeerRejected::of(&error).map_or("tls_handshake", |rejected| rejected.label());
        NotGreeted::new(label, error)
    })?;
    let connection = stream.get_ref().1;
    if !speaks(connection, ALPN_RAFT) {
        return Err(NotGreeted::new("tls_protocol", "the peer does not speak `weft-raft/1`"));
    }
    let peer = raft_peer(connection).map_err(|rejected| NotGreeted::new(rejected.label(), &rejected))?;
    let broken = |error: FrameError| NotGreeted::new(error.label().unwrap_or("greeting"), one_line(&error));
    let hello = match frame::read(&mut stream).await.map_err(broken)?.0 {
        Frame::Hello(hello) => *hello,
        other => return Err(broken(other.unexpected())),
    };
    let refusal = context.consider(&peer, &hello).await;
    let answer = match &refusal {
        None => HelloAnswer::Welcome(Box::new(context.about())),
        Some(refusal) => HelloAnswer::Refused(refusal.clone()),
    };
    frame::write(&mut stream, &Frame::HelloAnswer(Box::new(answer))).await.map_err(broken)?;
    match refusal {
        None => Ok(Some((stream, peer, hello.purpose))),
        Some(refusal) => match refusal.label() {
            Some(label) => Err(NotGreeted::new(label, &refusal)),
            None => Ok(None),
        },
    }
}

impl Context {
    /// Judges a peer by its greeting; returns why it is refused.
    async fn consider(&self, peer: &ServerId, hello: &Hello) -> Option<Refusal> {
        let own = self.about();
        let server = own.candidate.server.clone();
        if hello.version != PROTOCOL_VERSION {
            return Some(Refusal::Version { server, ours: PROTOCOL_VERSION, theirs: hello.version });
        }
        match judge(&own, &hello.about, peer, self.consensus.catalog().membership()) {
            Verdict::Refuse(refusal) => return Some(refusal),
            Verdict::OwnFault(refusal) => {
                if refusal.is_final() {
                    self.joiner.end(peer, &refusal);
                } else {
                    self.shared().metrics.raft_peer_refused(refusal.label().unwrap_or("not_ready"));
                    warn!(peer = %peer, error = %refusal, "raft peer belongs elsewhere");
                }
                return Some(Refusal::NotReady { server });
            }
            // The other end of this very process sees by the answer that it dialled itself.
            Verdict::ThisServer => return None,
            Verdict::Welcome => {}
        }
        self.learn(&hello.about);
        self.joiner.met(&hello.about, None).await;
        let is_ready = hello.purpose == Purpose::Meet || raft_id_of(self, peer).is_some();
        (!is_ready).then_some(Refusal::NotReady { server })
    }
}

/// Answers requests for a pledge until the peer is done.
async fn meet<R, W>(context: &Context, peer: &ServerId, reader: &mut R, writer: &mut W) -> Result<(), FrameError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    loop {
        match read_alive(reader).await?.0 {
            Frame::Pledge(mesh) => {
                let answer = context.joiner.pledge_asked(peer.clone(), *mesh).await;
                write_alive(writer, &Frame::Pledged(Box::new(answer))).await?;
            }
            Frame::Admit(applicant) => {
                let answer = admit::answer(context, peer, *applicant).await;
                write_alive(writer, &Frame::Admitted(Box::new(answer))).await?;
            }
            other => return Err(other.unexpected()),
        }
    }
}

/// Hands the peer's Raft messages to the Raft thread.
async fn receive<R: AsyncRead + Unpin>(context: &Context, peer: &ServerId, reader: &mut R) -> Result<(), FrameError> {
    let began_as = raft_id_of(context, peer);
    let _heard = context.shared().members.hear(peer);
    loop {
        match read_alive(reader).await? {
            // One that was taken out learns of it when it dials again.
            (Frame::Alive, _) if raft_id_of(context, peer) != began_as => return Ok(()),
            (Frame::Alive, _) => {}
            (Frame::Message(message), bytes) => {
                // The room drops what is malformed. Whom a message is from and for is the connection's business.
                let is_peers = raft_id_of(context, peer) == Some(message.from);
                let is_ours = context.shared().members.own_raft_id() == Some(message.to);
                if !is_peers || !is_ours {
                    context.refused("wrong_address", peer, &"a raft message names other servers");
                    return Ok(());
                }
                if !context.shared().inbox.peer_message(*message, bytes) {
                    context.shared().metrics.raft_message_dropped();
                }
            }
            (other, _) => return Err(other.unexpected()),
        }
    }
}
