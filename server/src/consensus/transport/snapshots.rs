//! Snapshots on connections of their own, which give way to Raft's messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use catalog::{CatalogIndex, ServerId};
use raft::eraftpb::{Message, MessageType};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tracing::{info, warn};
use wire::{crypto, one_line};

use super::frame::FrameError;
use super::hello::Purpose;
use super::pieces::{self, KEPT_MAX, Offer, Partials};
use super::{Context, raft_id_of};
use crate::consensus::inbox::Request;
use crate::raft::{Aside, SnapshotFileError, read_snapshot};

/// How often the Raft thread hears that a transfer goes on.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// Bytes that wait in the kernel: more would delay whatever else goes over a slow line.
const SEND_BUFFER_BYTES: usize = 128 << 10;
/// The class of service of what can wait (RFC 8622, as a TOS octet).
const LOWER_EFFORT: u32 = 0x04;
/// How long a snapshot waits for the Raft thread to have room for it.
const HAND_OVER_MAX: Duration = Duration::from_secs(60);
const HAND_OVER_PAUSE: Duration = Duration::from_millis(50);

/// Why a snapshot did not reach its server.
enum Undelivered {
    /// Another attempt may succeed.
    Now(String),
    /// What is on this server's disk is not what was written.
    Damaged(SnapshotFileError),
}

/// Sends a snapshot and reports what became of it; one at a time to each peer, so that they cannot pile up.
///
/// A message without the snapshot's bytes is filled from the disk. Returns false where one is under way already.
pub(super) fn send(
    context: &Arc<Context>,
    busy: &Arc<AtomicBool>,
    message: Message,
    aside: Option<Arc<dyn Aside>>,
) -> bool {
    if busy.swap(true, Ordering::Relaxed) {
        return false;
    }
    let (runtime, context, busy) = (context.runtime.clone(), Arc::clone(context), Arc::clone(busy));
    runtime.spawn(async move {
        let (peer, index) = (message.to, message.get_snapshot().get_metadata().index);
        let delivered = tokio::select! {
            () = context.stop.cancelled() => Err(Undelivered::Now("this server stops".to_owned())),
            delivered = deliver(&context, message, aside) => delivered,
        };
        busy.store(false, Ordering::Relaxed);
        let inbox = &context.shared().inbox;
        inbox.tell(Request::SnapshotStatus { peer, delivered: delivered.is_ok() });
        match delivered {
            Ok(bytes) => info!(peer, index, bytes, "raft snapshot sent"),
            Err(Undelivered::Now(error)) => warn!(peer, index, error, "raft snapshot not sent"),
            Err(Undelivered::Damaged(error)) => inbox.tell(Request::SnapshotBroken { error }),
        }
    });
    true
}

async fn deliver(context: &Context, mut message: Message, aside: Option<Arc<dyn Aside>>) -> Result<u64, Undelivered> {
    let now = |error: &dyn std::error::Error| Undelivered::Now(one_line(error));
    let peer = message.to;
    let member = context.shared().members.member(peer);
    let member = member.ok_or_else(|| Undelivered::Now("the peer is no member any more".to_owned()))?;
    let (data, sha256) = load(&mut message, aside).await?;
    let dialled = context.dial(&member.raft_address, Some(&member.id), Purpose::Snapshot).await;
    let stream = dialled.map_err(|error| now(&error))?.stream;
    give_way(stream.get_ref().0);
    let (mut reader, mut writer) = tokio::io::split(stream);
    let offer = Offer { bytes: data.len() as u64, sha256, message };
    let mut told = Instant::now();
    let progress = || {
        if told.elapsed() >= PROGRESS_EVERY {
            told = Instant::now();
            context.shared().inbox.tell(Request::SnapshotProgress { peer });
        }
    };
    pieces::send(offer, &data, &mut reader, &mut writer, progress).await.map_err(|error| now(&error))
}

/// Takes a snapshot's bytes out of its message, or from the disk, and checks them; none of it on a thread that others wait
/// for.
async fn load(message: &mut Message, aside: Option<Arc<dyn Aside>>) -> Result<(Bytes, [u8; 32]), Undelivered> {
    let snapshot = message.snapshot.get_or_insert_default();
    let (inside, metadata) = (std::mem::take(&mut snapshot.data), snapshot.metadata.clone().unwrap_or_default());
    let loading = tokio::task::spawn_blocking(move || {
        let data = match aside {
            Some(aside) if inside.is_empty() => read_snapshot(&*aside, &metadata)?,
            _ => inside,
        };
        let sha256 = crypto::sha256(&data);
        Ok::<_, SnapshotFileError>((Bytes::from(data), sha256))
    });
    match loading.await {
        Ok(Ok(loaded)) => Ok(loaded),
        // A newer one has taken its place meanwhile.
        Ok(Err(error)) if error.is_gone() => Err(Undelivered::Now(one_line(&error))),
        Ok(Err(error)) => Err(Undelivered::Damaged(error)),
        Err(error) => Err(Undelivered::Now(error.to_string())),
    }
}

/// Lets everything else on the line go first; where the system does not know how, it is only slower.
fn give_way(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let _ = socket.set_send_buffer_size(SEND_BUFFER_BYTES);
    let _ = socket.set_tos_v4(LOWER_EFFORT);
}

/// Takes one snapshot from a peer and confirms it.
pub(super) async fn receive<R, W>(
    context: &Context,
    peer: &ServerId,
    partials: &Arc<Partials>,
    reader: &mut R,
    writer: &mut W,
) -> Result<(), FrameError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let offer = pieces::read_offer(reader).await?;
    let message = &offer.message;
    let is_snapshot = message.msg_type == MessageType::MsgSnapshot as i32;
    let is_peers = raft_id_of(context, peer) == Some(message.from);
    let is_ours = context.shared().members.own_raft_id() == Some(message.to);
    let has_no_bytes = message.get_snapshot().data.is_empty();
    if !is_snapshot || !is_peers || !is_ours || !has_no_bytes {
        context.refused("wrong_address", peer, &"a raft snapshot names other servers");
        return Ok(());
    }
    if context.shared().standing.borrow().is_read_only {
        warn!(peer = %peer, "no raft snapshot is taken while this server's disk is nearly full");
        return Ok(());
    }
    let index = CatalogIndex(message.get_snapshot().get_metadata().index);
    let applied = *context.shared().applied.borrow();
    let data = if index <= applied {
        // The room tells the leader how far this server really is.
        pieces::decline(&offer, writer).await?;
        Vec::new()
    } else {
        let received = pieces::receive(&offer, partials, reader, writer).await;
        if received.is_err() {
            expire_later(context, partials);
        }
        received?
    };
    let mut message = offer.message;
    message.snapshot.get_or_insert_default().data = data;
    if hand_over(context, message).await {
        pieces::confirm(writer).await
    } else {
        context.shared().metrics.raft_message_dropped();
        Ok(())
    }
}

/// Gives a whole snapshot to the Raft thread as soon as that has room for it.
async fn hand_over(context: &Context, mut message: Message) -> bool {
    let deadline = Instant::now() + HAND_OVER_MAX;
    loop {
        match context.shared().inbox.snapshot_message(message) {
            Ok(()) => return true,
            Err(_) if Instant::now() >= deadline => return false,
            Err(returned) => message = *returned,
        }
        tokio::time::sleep(HAND_OVER_PAUSE).await;
    }
}

/// Gives the memory back that holds part of a snapshot which nobody goes on with.
fn expire_later(context: &Context, partials: &Arc<Partials>) {
    let partials = Arc::downgrade(partials);
    context.runtime.spawn(async move {
        tokio::time::sleep(KEPT_MAX).await;
        if let Some(partials) = partials.upgrade() {
            partials.expire();
        }
    });
}
