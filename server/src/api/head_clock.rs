//! How long a connection has been sending the head of a request: a peer that sends a byte now and then must not hold a
//! connection for ever, while one that waits between two requests may wait for longer.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Instant;

/// What a connection is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Between two requests.
    Idle,
    /// A head has begun to arrive.
    Head(Instant),
    /// A request is being answered.
    Answering,
}

/// Knows what one connection is at.
#[derive(Debug)]
pub(super) struct HeadClock {
    phase: Mutex<Phase>,
    changed: Notify,
}

impl HeadClock {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { phase: Mutex::new(Phase::Idle), changed: Notify::new() })
    }

    fn phase(&self) -> Phase {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, phase: Phase) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
        self.changed.notify_one();
    }

    fn bytes_came(&self) {
        if self.phase() == Phase::Idle {
            self.enter(Phase::Head(Instant::now()));
        }
    }

    /// Notes that a head is complete; the returned guard stands for its request until it is dropped.
    pub(super) fn request_began(self: &Arc<Self>) -> Request {
        self.enter(Phase::Answering);
        Request(Arc::clone(self))
    }

    /// Waits until some head has taken longer than `limit`.
    pub(super) async fn overdue(&self, limit: Duration) {
        loop {
            match self.phase() {
                Phase::Head(since) => {
                    let still = tokio::time::timeout_at(since + limit, self.changed.notified()).await;
                    if still.is_err() && self.phase() == Phase::Head(since) {
                        return;
                    }
                }
                Phase::Idle | Phase::Answering => self.changed.notified().await,
            }
        }
    }
}

/// One request that is being answered.
#[derive(Debug)]
pub(super) struct Request(Arc<HeadClock>);

impl Drop for Request {
    fn drop(&mut self) {
        self.0.enter(Phase::Idle);
    }
}

/// A stream that tells its clock when bytes come.
pub(super) struct Clocked<S: ?Sized> {
    stream: Pin<Box<S>>,
    clock: Arc<HeadClock>,
}

impl<S: ?Sized> Clocked<S> {
    pub(super) fn new(stream: Pin<Box<S>>, clock: Arc<HeadClock>) -> Self {
        Self { stream, clock }
    }
}

impl<S: AsyncRead + ?Sized> AsyncRead for Clocked<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = self.stream.as_mut().poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.clock.bytes_came();
        }
        polled
    }
}

impl<S: AsyncWrite + ?Sized> AsyncWrite for Clocked<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream.as_mut().poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(10);

    async fn is_overdue(clock: &HeadClock) -> bool {
        tokio::time::timeout(5 * SHORT, clock.overdue(SHORT)).await.is_ok()
    }

    #[tokio::test]
    async fn a5_only_a_head_that_has_begun_has_its_time() {
        let clock = HeadClock::new();
        assert!(!is_overdue(&clock).await);
        clock.bytes_came();
        assert!(is_overdue(&clock).await);
        let request = clock.request_began();
        clock.bytes_came();
        assert!(!is_overdue(&clock).await, "a body, and an answer that takes long, have times of their own");
        drop(request);
        assert!(!is_overdue(&clock).await);
        clock.bytes_came();
        assert!(is_overdue(&clock).await, "every head has its time, not only the first");
    }
}
