//! One snapshot over one connection: offered, sent in pieces from where an earlier attempt broke off, taken only whole.
//!
//! No piece waits behind another connection's messages, and no transfer has a time limit as a whole: it goes on as long as
//! every piece arrives in time, however slow the line and however large the state.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft::eraftpb::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use wire::crypto;

use super::frame::{self, Frame, FrameError};

/// Largest snapshot that is sent or taken.
const SNAPSHOT_BYTES_MAX: u64 = 4 << 30;
/// How much is sent at once: a fraction of a second on a line of one megabyte a second.
const PIECE_BYTES: usize = 128 << 10;
/// How long one piece, or the answer to an offer, may take.
const STALL_MAX: Duration = Duration::from_secs(30);
/// How long the other side may take over a snapshot that it has whole: it is hashed, and waits for the Raft thread.
const TAKING_MAX: Duration = Duration::from_secs(120);
/// How long what arrived is kept for an attempt to go on with it.
pub(super) const KEPT_MAX: Duration = Duration::from_secs(600);
/// How long an attempt waits for the one that it replaces to let go.
const LET_GO_MAX: Duration = Duration::from_secs(2);

/// What a sender has to offer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Offer {
    /// How long the snapshot is.
    pub(crate) bytes: u64,
    /// Its SHA-256.
    pub(crate) sha256: [u8; 32],
    /// The Raft message that it belongs to, without it.
    pub(crate) message: Message,
}

/// Sends a snapshot, or what the other side still lacks of it; `progress` is called as pieces leave.
pub(super) async fn send<R, W>(
    offer: Offer,
    data: &Bytes,
    reader: &mut R,
    writer: &mut W,
    mut progress: impl FnMut(),
) -> Result<u64, FrameError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    in_time(STALL_MAX, frame::write(writer, &Frame::SnapshotOffer(Box::new(offer)))).await?;
    let from = match in_time(STALL_MAX, frame::read(reader)).await?.0 {
        Frame::SnapshotFrom(from) => from,
        other => return Err(other.unexpected()),
    };
    let mut offset = usize::try_from(from).ok().filter(|from| *from <= data.len()).ok_or(BEYOND)?;
    while offset < data.len() {
        let end = (offset + PIECE_BYTES).min(data.len());
        let piece = Frame::SnapshotPiece { offset: offset as u64, data: data.slice(offset..end) };
        in_time(STALL_MAX, frame::write(writer, &piece)).await?;
        progress();
        offset = end;
    }
    match in_time(TAKING_MAX, frame::read(reader)).await?.0 {
        Frame::SnapshotTaken => Ok(data.len() as u64 - from),
        other => Err(other.unexpected()),
    }
}

const BEYOND: FrameError = FrameError::Snapshot { problem: "more of it is said to be there than it has" };

/// Waits for something that must not take longer.
async fn in_time<T>(limit: Duration, what: impl Future<Output = Result<T, FrameError>>) -> Result<T, FrameError> {
    tokio::time::timeout(limit, what).await.unwrap_or(Err(FrameError::Io(io::ErrorKind::TimedOut.into())))
}

/// Reads what a sender offers.
pub(super) async fn read_offer<R: AsyncRead + Unpin>(reader: &mut R) -> Result<Offer, FrameError> {
    match in_time(STALL_MAX, frame::read(reader)).await?.0 {
        Frame::SnapshotOffer(offer) if (1..=SNAPSHOT_BYTES_MAX).contains(&offer.bytes) => Ok(*offer),
        Frame::SnapshotOffer(_) => {
            Err(FrameError::Snapshot { problem: "it is empty, or larger than any that is taken" })
        }
        other => Err(other.unexpected()),
    }
}

/// Receives what is missing of an offered snapshot, and returns all of it once it is the one that was offered.
///
/// # Errors
/// [`FrameError`]. After a connection that broke, what arrived is kept for the next attempt; after anything else it is gone.
pub(super) async fn receive<R, W>(
    offer: &Offer,
    partials: &Partials,
    reader: &mut R,
    writer: &mut W,
) -> Result<Vec<u8>, FrameError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut receiving = partials.take(offer).await;
    in_time(STALL_MAX, frame::write(writer, &Frame::SnapshotFrom(receiving.held() as u64))).await?;
    while (receiving.held() as u64) < offer.bytes {
        match in_time(STALL_MAX, frame::read(reader)).await?.0 {
            Frame::SnapshotPiece { offset, data } => receiving.add(offset, &data, offer)?,
            other => {
                receiving.forget();
                return Err(other.unexpected());
            }
        }
    }
    let data = receiving.forget();
    let sha256 = offer.sha256;
    let checked = tokio::task::spawn_blocking(move || (crypto::sha256(&data) == sha256).then_some(data)).await;
    checked.ok().flatten().ok_or(FrameError::Snapshot { problem: "it is not the one that was offered" })
}

/// Says that there is no need for any of it.
pub(super) async fn decline<W: AsyncWrite + Unpin>(offer: &Offer, writer: &mut W) -> Result<(), FrameError> {
    in_time(STALL_MAX, frame::write(writer, &Frame::SnapshotFrom(offer.bytes))).await
}

/// Says that the snapshot was taken.
pub(super) async fn confirm<W: AsyncWrite + Unpin>(writer: &mut W) -> Result<(), FrameError> {
    in_time(STALL_MAX, frame::write(writer, &Frame::SnapshotTaken)).await
}

/// What arrived of the newest snapshot that was offered: one, so that memory is bounded.
#[derive(Debug, Default)]
pub(crate) struct Partials {
    slot: Mutex<Slot>,
    let_go: Notify,
}

#[derive(Debug, Default)]
struct Slot {
    /// Which receiver has it; receivers are counted, so that one that was passed over does not free a newer one's.
    holder: Option<u64>,
    receivers: u64,
    kept: Option<Partial>,
}

#[derive(Debug)]
struct Partial {
    /// Which snapshot it is of.
    sha256: [u8; 32],
    bytes: u64,
    data: Vec<u8>,
    kept_at: Instant,
}

impl Partials {
    /// Takes up what is there of an offered snapshot; what is there of another is dropped.
    async fn take(&self, offer: &Offer) -> Receiving<'_> {
        // The connection that broke may not have been noticed here yet; the newer one ends it.
        let waiting = async {
            loop {
                let let_go = self.let_go.notified();
                if self.lock().holder.is_none() {
                    return;
                }
                let_go.await;
            }
        };
        let _ = tokio::time::timeout(LET_GO_MAX, waiting).await;
        let mut slot = self.lock();
        let kept = slot.kept.take().filter(|kept| {
            (kept.sha256, kept.bytes) == (offer.sha256, offer.bytes) && kept.kept_at.elapsed() < KEPT_MAX
        });
        slot.receivers += 1;
        let number = slot.receivers;
        slot.holder = Some(number);
        let fresh = || Partial { sha256: offer.sha256, bytes: offer.bytes, data: Vec::new(), kept_at: Instant::now() };
        Receiving { partials: self, partial: Some(kept.unwrap_or_else(fresh)), number }
    }

    /// Drops what nobody went on with in time.
    pub(super) fn expire(&self) {
        let mut slot = self.lock();
        slot.kept.take_if(|kept| kept.kept_at.elapsed() >= KEPT_MAX);
    }

    fn lock(&self) -> MutexGuard<'_, Slot> {
        // What it guards is consistent after every single operation.
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A snapshot that is arriving. Dropped before it is whole, it is kept for the next attempt.
struct Receiving<'a> {
    partials: &'a Partials,
    partial: Option<Partial>,
    /// Its number among all receivers.
    number: u64,
}

impl Receiving<'_> {
    fn held(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| partial.data.len())
    }

    /// Adds a piece, which has to follow what is there.
    fn add(&mut self, offset: u64, data: &[u8], offer: &Offer) -> Result<(), FrameError> {
        let held = self.held() as u64;
        let fits = offset == held && !data.is_empty() && held + data.len() as u64 <= offer.bytes;
        match self.partial.as_mut().filter(|_| fits) {
            Some(partial) => {
                partial.data.extend_from_slice(data);
                Ok(())
            }
            None => {
                self.forget();
                Err(FrameError::Snapshot { problem: "a piece does not follow the one before" })
            }
        }
    }

    /// Takes what is there; nothing is kept.
    fn forget(&mut self) -> Vec<u8> {
        self.partial.take().map(|partial| partial.data).unwrap_or_default()
    }
}

impl Drop for Receiving<'_> {
    fn drop(&mut self) {
        let mut slot = self.partials.lock();
        let kept = self.partial.take().filter(|partial| !partial.data.is_empty());
        // One that was passed over by a newer attempt for being too slow to let go comes too late.
        if slot.holder != Some(self.number) {
            return;
        }
        slot.kept = kept.map(|partial| Partial { kept_at: Instant::now(), ..partial });
        slot.holder = None;
        drop(slot);
        self.partials.let_go.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
