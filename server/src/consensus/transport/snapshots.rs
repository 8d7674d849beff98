//! Snapshots on connections of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use catalog::ServerId;
use raft::eraftpb::{Message, MessageType};
use tokio::io::{AsyncRead, AsyncWrite};
use tracing::{info, warn};
use wire::one_line;

use super::frame::{self, Frame, FrameError};
use super::hello::Purpose;
use super::{Context, raft_id_of};
use crate::consensus::inbox::Request;

/// From the connection to the confirmation: 64 MiB at 1 MB/s.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(90);

/// Sends a snapshot and reports what became of it; one at a time to each peer, so that they cannot pile up.
///
/// Returns false where one is under way already.
pub(super) fn send(context: &Arc<Context>, busy: &Arc<AtomicBool>, peer: u64, message: Message) -> bool {
    if busy.swap(true, Ordering::Relaxed) {
        return false;
    }
    let (runtime, context, busy) = (context.runtime.clone(), Arc::clone(context), Arc::clone(busy));
    runtime.spawn(async move {
        let index = message.get_snapshot().get_metadata().index;
        let sending = tokio::time::timeout(SNAPSHOT_TIMEOUT, deliver(&context, peer, message));
        let error = tokio::select! {
            () = context.stop.cancelled() => Some("this server stops".to_owned()),
            sent = sending => match sent {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error),
                Err(_) => Some(format!("it took more than {SNAPSHOT_TIMEOUT:?}")),
            },
        };
        busy.store(false, Ordering::Relaxed);
        context.shared().inbox.tell(Request::SnapshotStatus { peer, delivered: error.is_none() });
        match error {
            None => info!(peer, index, "raft snapshot sent"),
            Some(error) => warn!(peer, index, error, "raft snapshot not sent"),
        }
    });
    true
}

async fn deliver(context: &Context, peer: u64, message: Message) -> Result<(), String> {
    let member = context.shared().members.member(peer).ok_or("the peer is no member any more")?;
    let dialled = context.dial(&member.raft_address, Some(&member.id), Purpose::Snapshot).await;
    let mut stream = dialled.map_err(|error| one_line(&error))?.stream;
    frame::write(&mut stream, &Frame::Snapshot(Box::new(message))).await.map_err(|error| one_line(&error))?;
    match frame::read(&mut stream).await {
        Ok((Frame::SnapshotTaken, _)) => Ok(()),
        Ok((other, _)) => Err(other.unexpected().to_string()),
        Err(error) => Err(one_line(&error)),
    }
}

/// Takes one snapshot from a peer and confirms it.
pub(super) async fn receive<R, W>(
    context: &Context,
    peer: &ServerId,
    reader: &mut R,
    writer: &mut W,
) -> Result<(), FrameError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let read = tokio::time::timeout(SNAPSHOT_TIMEOUT, frame::read(reader)).await;
    let (message, bytes) = match read.unwrap_or(Err(FrameError::Io(std::io::ErrorKind::TimedOut.into())))? {
        (Frame::Snapshot(message), bytes) => (message, bytes),
        (other, _) => return Err(other.unexpected()),
    };
    let is_snapshot = message.msg_type == MessageType::MsgSnapshot as i32;
    let is_peers = raft_id_of(context, peer) == Some(message.from);
    let is_ours = context.shared().members.own_raft_id() == Some(message.to);
    if !is_snapshot || !is_peers || !is_ours {
        context.refused("wrong_address", peer, &"a raft snapshot names other servers");
        return Ok(());
    }
    if context.shared().inbox.peer_message(*message, bytes) {
        frame::write(writer, &Frame::SnapshotTaken).await
    } else {
        context.shared().metrics.raft_message_dropped();
        Ok(())
    }
}
