//! Carrying bytes between a TCP connection and a CONNECT stream.

use std::future::poll_fn;
use std::io;
use std::mem;
use std::net::Shutdown;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream};
use socket2::SockRef;
use tokio::net::TcpStream;

use super::{CopyError, Meter, QUIET_BYTES, Way, both, next_room, reset};
use crate::metrics::Direction;

/// Is the two halves of a CONNECT stream.
#[derive(Debug)]
pub(crate) struct TunnelStream {
    /// Towards the peer.
    pub(crate) send: SendStream<Bytes>,
    /// From the peer.
    pub(crate) receive: RecvStream,
}

/// Carries bytes between a TCP connection and a CONNECT stream until both directions have ended.
///
/// On an error, or when dropped, both sides are reset.
pub(crate) async fn splice_tunnel(
    tcp: TcpStream,
    stream: TunnelStream,
    meter: &Meter,
    silence_max: Duration,
) -> Result<(), CopyError> {
    // The application is at the TCP end on the inbound side, the caller on the outbound side.
    let (from_tcp, from_stream) = match meter.direction {
        Direction::Inbound => (Way::Received, Way::Sent),
        Direction::Outbound | Direction::Gateway => (Way::Sent, Way::Received),
    };
    let mut guard = ResetOnDrop { tcp, stream, armed: true };
    let TunnelStream { send, receive } = &mut guard.stream;
    let result = both(
        tcp_to_stream(&guard.tcp, send, meter, from_tcp),
        stream_to_tcp(receive, &guard.tcp, meter, from_stream),
        meter,
        silence_max,
    )
    .await;
    guard.armed = result.is_err();
    result
}

/// Resets both sides unless told that they ended in order.
struct ResetOnDrop {
    tcp: TcpStream,
    stream: TunnelStream,
    armed: bool,
}

impl Drop for ResetOnDrop {
    fn drop(&mut self) {
        if self.armed {
            reset(&self.tcp);
            self.stream.send.send_reset(Reason::CANCEL);
        }
    }
}

/// Carries what the TCP connection says. A quiet connection holds no buffer.
async fn tcp_to_stream(
    tcp: &TcpStream,
    send: &mut SendStream<Bytes>,
    meter: &Meter,
    way: Way,
) -> Result<(), CopyError> {
    let mut room = QUIET_BYTES;
    loop {
        tokio::select! {
            ready = tcp.readable() => ready.map_err(CopyError::Io)?,
            // Once the peer has ended its direction, nothing else tells that it reset the stream.
            reason = poll_fn(|context| send.poll_reset(context)) => return Err(CopyError::StreamReset(reason?)),
        }
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(room);
            match tcp.try_read_buf(&mut buffer) {
                Ok(0) => return Ok(send.send_data(Bytes::new(), true)?),
                Ok(read) => {
                    room = next_room(room, read);
                    meter.look(way, &buffer);
                    send_all(send, buffer.split().freeze()).await?;
                    meter.add(way, read);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(CopyError::Io(error)),
            }
        }
    }
}

/// Hands bytes to the tunnel as fast as the peer's window lets them go.
async fn send_all(send: &mut SendStream<Bytes>, mut bytes: Bytes) -> Result<(), CopyError> {
    while !bytes.is_empty() {
        send.reserve_capacity(bytes.len());
        let granted = match send.capacity() {
            0 => match poll_fn(|context| send.poll_capacity(context)).await {
                Some(granted) => granted?,
                None => return Err(CopyError::StreamReset(Reason::STREAM_CLOSED)),
            },
            granted => granted,
        };
        let piece = bytes.split_to(granted.min(bytes.len()));
        if !piece.is_empty() {
            send.send_data(piece, false)?;
        }
    }
    Ok(())
}

/// Carries what the CONNECT stream says.
///
/// While the TCP connection takes nothing, frames are still taken out of the tunnel and joined: their number is bounded
/// there, and a peer that sends many small ones to a slow application would cost the whole tunnel. Their bytes are bounded
/// by the stream's window, which is given back only as the TCP connection takes them.
async fn stream_to_tcp(receive: &mut RecvStream, tcp: &TcpStream, meter: &Meter, way: Way) -> Result<(), CopyError> {
    let mut writing = Bytes::new();
    let mut waiting = BytesMut::new();
    let mut ended = false;
    loop {
        if writing.is_empty() {
            writing = mem::take(&mut waiting).freeze();
        }
        if writing.is_empty() {
            if ended {
                break;
            }
            match receive.data().await {
                Some(chunk) => writing = chunk?,
                None => break,
            }
        }
        meter.look(way, &writing);
        match tcp.try_write(&writing) {
            Ok(written) => {
                writing.advance(written);
                receive.flow_control().release_capacity(written)?;
                meter.add(way, written);
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(CopyError::Io(error)),
        }
        tokio::select! {
            ready = tcp.writable() => ready.map_err(CopyError::Io)?,
            chunk = receive.data(), if !ended => match chunk {
                Some(chunk) => waiting.extend_from_slice(&chunk?),
                None => ended = true,
            },
        }
    }
    SockRef::from(tcp).shutdown(Shutdown::Write).map_err(CopyError::Io)
}
