//! Carrying bytes of a caller that is a connection of its own: one that speaks plain mutual TLS, or one that is passed on.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::{CopyError, Meter, QUIET_BYTES, Way, both, next_room, reset};

/// Is a caller's connection.
pub(crate) trait CallerStream: AsyncRead + AsyncWrite + Unpin {
    /// Returns what carries it.
    fn tcp(&self) -> &TcpStream;
}

impl CallerStream for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl CallerStream for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// Carries bytes between a caller's connection and the application until both directions have ended.
///
/// On an error, or when dropped, both sides are reset.
pub(crate) async fn splice_plain(
    caller: impl CallerStream,
    application: TcpStream,
    meter: &Meter,
    silence_max: Duration,
) -> Result<(), CopyError> {
    let mut guard = ResetOnDrop { caller, application, armed: true };
    let result = {
        let (mut caller_read, mut caller_write) = tokio::io::split(&mut guard.caller);
        let (mut application_read, mut application_write) = guard.application.split();
        both(
            copy(&mut caller_read, &mut application_write, meter, Way::Sent),
            copy(&mut application_read, &mut caller_write, meter, Way::Received),
            meter,
            silence_max,
        )
        .await
    };
    guard.armed = result.is_err();
    result
}

/// Resets both sides unless told that they ended in order.
struct ResetOnDrop<C: CallerStream> {
    caller: C,
    application: TcpStream,
    armed: bool,
}

impl<C: CallerStream> Drop for ResetOnDrop<C> {
    fn drop(&mut self) {
        if self.armed {
            reset(self.caller.tcp());
            reset(&self.application);
        }
    }
}

/// Carries one direction. A TLS stream that ends without its closing alert is an error, not an end.
async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    meter: &Meter,
    way: Way,
) -> Result<(), CopyError> {
    let mut room = QUIET_BYTES;
    let mut buffer = BytesMut::with_capacity(room);
    loop {
        buffer.reserve(room);
        let read = from.read_buf(&mut buffer).await.map_err(CopyError::Io)?;
        if read == 0 {
            return to.shutdown().await.map_err(CopyError::Io);
        }
        meter.look(way, &buffer);
        to.write_all(&buffer).await.map_err(CopyError::Io)?;
        to.flush().await.map_err(CopyError::Io)?;
        meter.add(way, read);
        buffer.clear();
        let next = next_room(room, read);
        if next < room {
            // Given back, so that a burst does not hold its memory for the rest of the connection's life.
            buffer = BytesMut::with_capacity(next);
        }
        room = next;
    }
}
