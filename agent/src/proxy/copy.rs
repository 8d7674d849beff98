//! Carrying bytes both ways between a caller and an application, with half-close and back pressure.

mod plain;
mod tunnel;

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use h2::Reason;
use tokio::net::TcpStream;

use super::open_streams::Closing;
use crate::metrics::{Direction, Look, ProxyMetrics, TcpCounters};

pub(crate) use plain::splice_plain;
pub(crate) use tunnel::{TunnelStream, splice_tunnel};

/// What is read at once from a connection that has been quiet.
const QUIET_BYTES: usize = 16 * 1024;
/// What is read at once from a connection that keeps filling what it is given.
const BULK_BYTES: usize = 256 * 1024;

/// Says why carrying ended other than by both ends of stream.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CopyError {
    /// The TCP or TLS connection failed.
    #[error("connection failed")]
    Io(#[source] io::Error),
    /// The other agent reset the stream.
    #[error("stream reset by the peer ({0})")]
    StreamReset(Reason),
    /// The caller had given up before it could be told that the stream is open.
    #[error("given up by the caller before it was opened")]
    Ungranted(#[source] h2::Error),
    /// The tunnel failed.
    #[error("tunnel failed")]
    Tunnel(#[source] h2::Error),
    /// One direction had ended and the other stayed silent.
    #[error("half-closed and silent for {0:?}")]
    HalfClosedSilent(Duration),
}

impl CopyError {
    /// Returns the label of the metric that counts it.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Io(_) => "connection_failed",
            Self::StreamReset(_) | Self::Ungranted(_) => "stream_reset",
            Self::Tunnel(_) => "tunnel_failed",
            Self::HalfClosedSilent(_) => "half_closed_silent",
        }
    }
}

impl CopyError {
    /// Reports whether the caller gave the stream up before it was open.
    pub(crate) fn is_reset_before_grant(&self) -> bool {
        matches!(self, Self::Ungranted(_))
    }
}

impl From<h2::Error> for CopyError {
    fn from(error: h2::Error) -> Self {
        match error.reason() {
            Some(reason) if error.is_reset() => Self::StreamReset(reason),
            _ => Self::Tunnel(error),
        }
    }
}

/// Says how a carried connection ended, other than by both ends of stream.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ending {
    /// It had to close.
    #[error("closed ({})", .0.label())]
    Closed(Closing),
    /// Carrying failed.
    #[error(transparent)]
    Failed(CopyError),
}

impl Ending {
    /// Returns the label of the metric that counts it.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Closed(closing) => closing.label(),
            Self::Failed(error) => error.label(),
        }
    }
}

/// Counts the bytes of one connection; sent is from caller to application.
#[derive(Debug)]
pub(crate) struct Meter {
    direction: Direction,
    metrics: ProxyMetrics,
    pair: Option<Arc<TcpCounters>>,
    is_looked_at: AtomicBool,
    sent: AtomicU64,
    received: AtomicU64,
}

impl Meter {
    /// Starts at zero.
    pub(crate) fn new(direction: Direction, metrics: ProxyMetrics) -> Self {
        let (sent, received) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { direction, metrics, pair: None, is_looked_at: AtomicBool::new(false), sent, received }
    }

    /// Counts a connection of one service to another, and its bytes with theirs.
    pub(crate) fn of(self, pair: Arc<TcpCounters>) -> Self {
        pair.opened();
        Self { pair: Some(pair), ..self }
    }

    /// Returns the bytes from caller to application so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Returns the bytes from application to caller so far.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Looks at the first bytes, for whoever wants to know what a service speaks; nothing hangs on it.
    fn look(&self, way: Way, bytes: &[u8]) {
        let Some(pair) = &self.pair else { return };
        if self.is_looked_at.load(Ordering::Relaxed)
            || bytes.is_empty()
            || self.is_looked_at.swap(true, Ordering::Relaxed)
        {
            return;
        }
        pair.looked(match way {
            Way::Sent => Look::of_caller(bytes),
            Way::Received => Look::ServerFirst,
        });
    }

    /// Counts bytes that one side has taken.
    fn add(&self, way: Way, bytes: usize) {
        let bytes = bytes as u64;
        match way {
            Way::Sent => {
                self.sent.fetch_add(bytes, Ordering::Relaxed);
                self.metrics.sent(self.direction, bytes);
                if let Some(pair) = &self.pair {
                    pair.sent(bytes);
                }
            }
            Way::Received => {
                self.received.fetch_add(bytes, Ordering::Relaxed);
                self.metrics.received(self.direction, bytes);
                if let Some(pair) = &self.pair {
                    pair.received(bytes);
                }
            }
        }
    }
}

/// Names a direction of bytes within one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// From caller to application.
    Sent,
    /// From application to caller.
    Received,
}

/// Makes the close of a TCP connection a reset: its peer must not take what it got for the whole.
pub(crate) fn reset(tcp: &TcpStream) {
    // An error only says that the connection is gone already.
    let _ = tcp.set_zero_linger();
}

/// Returns how much to read next after a read of `read` bytes into room for `room`.
fn next_room(room: usize, read: usize) -> usize {
    if read >= room {
        (room * 2).min(BULK_BYTES)
    } else if read < room / 4 {
        (room / 2).max(QUIET_BYTES)
    } else {
        room
    }
}

/// Runs both directions until both have ended, or one has failed.
async fn both(
    sending: impl Future<Output = Result<(), CopyError>>,
    receiving: impl Future<Output = Result<(), CopyError>>,
    meter: &Meter,
    silence_max: Duration,
) -> Result<(), CopyError> {
    let mut sending = pin!(sending);
    let mut receiving = pin!(receiving);
    tokio::select! {
        result = &mut sending => {
            result?;
            until_silent(receiving, meter, silence_max).await
        }
        result = &mut receiving => {
            result?;
            until_silent(sending, meter, silence_max).await
        }
    }
}

/// Waits for the direction that is left, as long as it carries something now and then.
async fn until_silent(
    mut rest: Pin<&mut impl Future<Output = Result<(), CopyError>>>,
    meter: &Meter,
    silence_max: Duration,
) -> Result<(), CopyError> {
    loop {
        let before = (meter.sent(), meter.received());
        match tokio::time::timeout(silence_max, rest.as_mut()).await {
            Ok(result) => return result,
            Err(_) if before == (meter.sent(), meter.received()) => {
                return Err(CopyError::HalfClosedSilent(silence_max));
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l6_room_for_reading_grows_in_bulk_and_shrinks_in_quiet() {
        let mut room = QUIET_BYTES;
        for _ in 0..10 {
            room = next_room(room, room);
        }
        assert_eq!(room, BULK_BYTES);
        assert_eq!(next_room(room, room / 2), room);
        for _ in 0..10 {
            room = next_room(room, 1);
        }
        assert_eq!(room, QUIET_BYTES);
    }
}
