//! The body of a stream's answer: a session's frames, and the report of what the connection took of them.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::SessionId;

/// What a session's connection reports to the hub.
#[derive(Debug)]
pub(super) enum Progress {
    /// The connection took bytes that waited.
    Written { session: SessionId, bytes: usize },
    /// The session has ended.
    Closed { session: SessionId },
}

/// Carries a session's frames to the agent, and ends when the hub ends the session.
#[derive(Debug)]
pub(crate) struct SessionBody {
    session: SessionId,
    frames: mpsc::UnboundedReceiver<Bytes>,
    progress: mpsc::UnboundedSender<Progress>,
    ended: CancellationToken,
    /// Taken by the connection and not reported yet. HTTP/2 asks for the next frame once it has room for it, so a frame
    /// counts as read only then: what lies in the connection's own buffer still waits.
    unreported_bytes: usize,
}

impl SessionBody {
    pub(super) fn new(
        session: SessionId,
        frames: mpsc::UnboundedReceiver<Bytes>,
        progress: mpsc::UnboundedSender<Progress>,
        ended: CancellationToken,
    ) -> SessionBody {
        SessionBody { session, frames, progress, ended, unreported_bytes: 0 }
    }
}

impl Body for SessionBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.unreported_bytes > 0 {
            let report = Progress::Written { session: self.session, bytes: self.unreported_bytes };
            self.unreported_bytes = 0;
            // Without a hub nobody counts.
            let _ = self.progress.send(report);
        }
        match self.frames.poll_recv(context) {
            Poll::Ready(Some(bytes)) => {
                self.unreported_bytes = bytes.len();
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for SessionBody {
    fn drop(&mut self) {
        // In this order: whoever sees the report also sees that nothing can be sent any more.
        self.frames.close();
        let _ = self.progress.send(Progress::Closed { session: self.session });
        self.ended.cancel();
    }
}
