//! A CONNECT stream as bytes, for those who read HTTP off a connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::Reason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::proxy::copy::TunnelStream;

/// Is a CONNECT stream that is read and written like a connection. Dropped before its end, it is reset.
#[derive(Debug)]
pub(crate) struct TunnelIo {
    stream: TunnelStream,
    arrived: Bytes,
    has_ended: bool,
}

impl TunnelIo {
    /// Takes a stream over.
    pub(crate) fn new(stream: TunnelStream) -> Self {
        Self { stream, arrived: Bytes::new(), has_ended: false }
    }
}

impl AsyncRead for TunnelIo {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.arrived.is_empty() {
            match ready!(this.stream.receive.poll_data(context)) {
                Some(arrived) => this.arrived = arrived.map_err(io::Error::other)?,
                None => return Poll::Ready(Ok(())),
            }
        }
        let taken = this.arrived.len().min(buffer.remaining());
        let piece = this.arrived.get(..taken).unwrap_or_default();
        buffer.put_slice(piece);
        this.arrived.advance(taken);
        this.stream.receive.flow_control().release_capacity(taken).map_err(io::Error::other)?;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TunnelIo {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let send = &mut self.get_mut().stream.send;
        send.reserve_capacity(bytes.len());
        let granted = match send.capacity() {
            0 => match ready!(send.poll_capacity(context)) {
                Some(granted) => granted.map_err(io::Error::other)?,
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            },
            granted => granted,
        };
        let taken = granted.min(bytes.len());
        let piece = Bytes::copy_from_slice(bytes.get(..taken).unwrap_or_default());
        send.send_data(piece, false).map_err(io::Error::other)?;
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What was given to the tunnel goes out by itself.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.has_ended {
            this.has_ended = true;
            this.stream.send.send_data(Bytes::new(), true).map_err(io::Error::other)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for TunnelIo {
    fn drop(&mut self) {
        if !self.has_ended {
            self.stream.send.send_reset(Reason::CANCEL);
        }
    }
}
