//! One connection to each peer for Raft's messages, dialled by this server.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use catalog::{ServerId, ServerMember};
use raft::eraftpb::{Message, MessageType};
use raft_prost::Message as _;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::client::TlsStream;
use tracing::{debug, info, warn};
use wire::one_line;

use super::frame::{Frame, FrameError};
use super::hello::Purpose;
use super::{ALIVE_INTERVAL, Context, SILENCE_MAX, jittered, read_only_alive, snapshots};
use crate::consensus::budget::{ByteBudget, HeldBytes};
use crate::consensus::inbox::Request;
use crate::raft::Aside;

/// Messages that wait for one peer; beyond it they are dropped, and Raft sends them again.
const MESSAGES_MAX: usize = 1024;
/// Bytes of messages that wait for one peer.
const QUEUE_BYTES_MAX: usize = 64 << 20;
/// Messages are gathered up to this size before they are written.
const WRITE_BYTES: usize = 256 << 10;
const REDIAL_PAUSE_MIN: Duration = Duration::from_millis(50);
const REDIAL_PAUSE_MAX: Duration = Duration::from_secs(2);

struct Queued {
    message: Message,
    _held: HeldBytes,
}

/// Is the sending end toward every peer. Sending never waits, and drops what has no room.
pub(crate) struct Links {
    context: Arc<Context>,
    aside: OnceLock<Arc<dyn Aside>>,
    links: Mutex<BTreeMap<u64, Arc<Link>>>,
}

struct Link {
    queue: mpsc::Sender<Queued>,
    budget: ByteBudget,
    connected: Arc<AtomicBool>,
    sending_snapshot: Arc<AtomicBool>,
}

impl Links {
    /// Starts dialling every member but this server; it goes on until the context is stopped.
    pub(crate) fn start(context: &Arc<Context>) -> Self {
        let links = Self { links: Mutex::default(), context: Arc::clone(context), aside: OnceLock::new() };
        links.follow();
        links
    }

    /// Dials whoever has become a member, and ends the links to those that are none any more.
    pub(crate) fn follow(&self) {
        let members = &self.context.shared().members;
        let own = members.own_raft_id();
        let all = members.all();
        let mut links = self.lock();
        links.retain(|raft_id, _| all.iter().any(|member| member.raft_id == *raft_id));
        for member in all.iter().filter(|member| Some(member.raft_id) != own) {
            links.entry(member.raft_id).or_insert_with(|| Arc::new(self.link_to(member)));
        }
    }

    fn link_to(&self, member: &ServerMember) -> Link {
        let (queue, messages) = mpsc::channel(MESSAGES_MAX);
        let connected = Arc::new(AtomicBool::new(false));
        let task = Task {
            context: Arc::clone(&self.context),
            raft_id: member.raft_id,
            server: member.id.clone(),
            messages,
            connected: Arc::clone(&connected),
        };
        self.context.runtime.spawn(task.run());
        Link { queue, budget: ByteBudget::new(QUEUE_BYTES_MAX), connected, sending_snapshot: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Link>>> {
        // What it guards is consistent after every single operation.
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells where the bytes of snapshots are read whose messages come without them.
    pub(crate) fn read_snapshots_through(&self, aside: Arc<dyn Aside>) {
        // The first one stays; there is never a second.
        let _ = self.aside.set(aside);
    }

    /// Sends a message to the peer that it names, or drops it.
    pub(crate) fn send(&self, message: Message) {
        let peer = message.to;
        let is_snapshot = message.msg_type == MessageType::MsgSnapshot as i32;
        let link = self.lock().get(&peer).cloned();
        let is_sent =
            link.is_some_and(|link| if is_snapshot { self.send_snapshot(&link, message) } else { link.send(message) });
        if !is_sent {
            self.context.shared().metrics.raft_message_dropped();
            let inbox = &self.context.shared().inbox;
            inbox.tell(if is_snapshot {
                Request::SnapshotStatus { peer, delivered: false }
            } else {
                Request::Unreachable { peer }
            });
        }
    }

    fn send_snapshot(&self, link: &Link, message: Message) -> bool {
        snapshots::send(&self.context, &link.sending_snapshot, message, self.aside.get().cloned())
    }

    /// Returns the peers that are connected.
    pub(crate) fn connected(&self) -> Vec<u64> {
        let links = self.lock();
        links.iter().filter(|(_, link)| link.connected.load(Ordering::Relaxed)).map(|(raft_id, _)| *raft_id).collect()
    }
}

impl Link {
    fn send(&self, message: Message) -> bool {
        let Some(held) = self.budget.hold(message.encoded_len()) else { return false };
        self.queue.try_send(Queued { message, _held: held }).is_ok()
    }
}

/// Keeps one peer connected.
struct Task {
    context: Arc<Context>,
    raft_id: u64,
    server: ServerId,
    messages: mpsc::Receiver<Queued>,
    connected: Arc<AtomicBool>,
}

impl Task {
    async fn run(mut self) {
        let stop = self.context.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.keep_connected() => {}
        }
    }

    async fn keep_connected(&mut self) {
        let mut pause = REDIAL_PAUSE_MIN;
        let mut complaint = String::new();
        loop {
            let Some(member) = self.context.shared().members.member(self.raft_id) else { return };
            match self.context.dial(&member.raft_address, Some(&self.server), Purpose::Messages).await {
                Ok(dialled) => {
                    info!(peer = %self.server, address = member.raft_address, "raft peer connected");
                    (pause, complaint) = (REDIAL_PAUSE_MIN, String::new());
                    self.connected.store(true, Ordering::Relaxed);
                    let error = self.carry(dialled.stream).await;
                    self.connected.store(false, Ordering::Relaxed);
                    info!(peer = %self.server, error = one_line(&error), "raft peer disconnected");
                }
                Err(error) => {
                    let text = one_line(&error);
                    // A peer that is away for hours is one line, not one for each attempt.
                    if text == complaint {
                        debug!(peer = %self.server, error = text, "raft peer not reached");
                    } else {
                        warn!(peer = %self.server, error = text, "raft peer not reached");
                        complaint = text;
                    }
                }
            }
            self.forget();
            tokio::time::sleep(jittered(pause)).await;
            pause = (pause * 2).min(REDIAL_PAUSE_MAX);
        }
    }

    /// Drops what waits: by the time that there is a connection, Raft has newer things to say.
    fn forget(&mut self) {
        while self.messages.try_recv().is_ok() {
            self.context.shared().metrics.raft_message_dropped();
        }
        self.context.shared().inbox.tell(Request::Unreachable { peer: self.raft_id });
    }

    /// Writes messages until the connection breaks, and returns how it did.
    async fn carry(&mut self, stream: TlsStream<TcpStream>) -> FrameError {
        let (mut reader, mut writer) = tokio::io::split(stream);
        tokio::select! {
            error = read_only_alive(&mut reader) => error,
            error = self.write(&mut writer) => error,
        }
    }

    async fn write<W: AsyncWriteExt + Unpin>(&mut self, writer: &mut W) -> FrameError {
        let mut buffer = BytesMut::new();
        loop {
            buffer.clear();
            match tokio::time::timeout(ALIVE_INTERVAL, self.messages.recv()).await {
                Ok(Some(queued)) => self.encode(queued, &mut buffer),
                Ok(None) => return FrameError::Io(std::io::ErrorKind::NotConnected.into()),
                Err(_) => Frame::Alive.encode(&mut buffer).expect("a frame without payload is not too large"),
            }
            while buffer.len() < WRITE_BYTES
                && let Ok(queued) = self.messages.try_recv()
            {
                self.encode(queued, &mut buffer);
            }
            let writing = async {
                writer.write_all(&buffer).await?;
                writer.flush().await
            };
            match tokio::time::timeout(SILENCE_MAX, writing).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return FrameError::Io(error),
                Err(_) => return FrameError::Io(std::io::ErrorKind::TimedOut.into()),
            }
        }
    }

    fn encode(&self, queued: Queued, buffer: &mut BytesMut) {
        if let Err(error) = Frame::Message(Box::new(queued.message)).encode(buffer) {
            self.context.shared().metrics.raft_message_dropped();
            warn!(peer = %self.server, error = %error, "raft message dropped");
        }
    }
}
