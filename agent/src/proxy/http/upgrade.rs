//! Connections that change from HTTP to another protocol, such as WebSocket: asked for like a request, then carried as
//! bytes. Which protocols may be asked for is said where heads are read.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use http::header::{CONNECTION, HeaderMap, HeaderValue, UPGRADE};
use http::{Response, StatusCode};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};

use super::carried::{Exchange, Reply, Tally};

/// Writes into the head of a message what asks for another protocol, or grants it.
pub(crate) fn mark(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// Reports whether an answer changes the connection to the protocol that was asked for, and to no other.
pub(crate) fn is_granted<B>(answer: &Response<B>, protocol: &HeaderValue) -> bool {
    let mut named = answer.headers().get_all(UPGRADE).iter();
    answer.status() == StatusCode::SWITCHING_PROTOCOLS
        && named.next().is_some_and(|named| named.as_bytes().eq_ignore_ascii_case(protocol.as_bytes()))
        && named.next().is_none()
}

/// Is a change of protocol that the other side has granted.
#[derive(Debug)]
pub(crate) struct Granted {
    /// To which protocol.
    pub(crate) protocol: HeaderValue,
    /// The side that asked.
    pub(crate) caller: OnUpgrade,
    /// The side that granted it.
    pub(crate) callee: OnUpgrade,
}

/// Grants the caller the change, and carries bytes both ways once it is made.
pub(crate) fn carry(granted: Granted, headers: HeaderMap, exchange: Box<Exchange>) -> Response<Reply> {
    let Granted { protocol, caller, callee } = granted;
    let mut response = Response::new(Reply::own(None));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = headers;
    mark(response.headers_mut(), protocol);
    let tracker = exchange.tally().stage().tasks.clone();
    tracker.spawn(splice(caller, callee, exchange));
    response
}

async fn splice(caller: OnUpgrade, callee: OnUpgrade, mut exchange: Box<Exchange>) {
    let tally = Arc::clone(exchange.tally());
    let has_ended = AtomicBool::new(false);
    let carrying = async {
        let (caller, callee) = tokio::try_join!(caller, callee).map_err(std::io::Error::other)?;
        let mut caller =
            Counted { io: TokioIo::new(caller), count: Tally::add_sent, tally: &tally, has_ended: &has_ended };
        let mut callee =
            Counted { io: TokioIo::new(callee), count: Tally::add_received, tally: &tally, has_ended: &has_ended };
        copy_bidirectional(&mut caller, &mut callee).await
    };
    let reason = tokio::select! {
        biased;
        closing = poll_fn(|context| exchange.poll_closing(context)) => closing.label(),
        () = half_closed_silence(&tally, &has_ended) => "half_closed_silent",
        carried = carrying => if carried.is_ok() { "done" } else { "connection_failed" },
    };
    exchange.end(reason, false);
}

/// Returns when one direction has ended and the other has carried nothing for too long.
async fn half_closed_silence(tally: &Tally, has_ended: &AtomicBool) {
    let mut before = None;
    loop {
        tokio::time::sleep(tally.half_closed_silence_max()).await;
        let carried = has_ended.load(Ordering::Acquire).then(|| tally.carried());
        if carried.is_some() && carried == before {
            return;
        }
        before = carried;
    }
}

/// Counts what is read, and notes its end.
struct Counted<'a> {
    io: TokioIo<Upgraded>,
    count: fn(&Tally, usize),
    tally: &'a Tally,
    has_ended: &'a AtomicBool,
}

impl AsyncRead for Counted<'_> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(context, buffer))?;
        let read = buffer.filled().len() - before;
        if read == 0 && buffer.remaining() > 0 {
            this.has_ended.store(true, Ordering::Release);
        }
        (this.count)(this.tally, read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Counted<'_> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(context)
    }
}
