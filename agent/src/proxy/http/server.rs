//! Reading requests off a connection, be it a caller's or a local application's.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use catalog::http::FIELDS_MAX;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::carried::Reply;
use super::{CONNECTION_WINDOW, ERROR_STREAMS_MAX, HEADER_BYTES_MAX, RESET_STREAMS_MAX, STREAM_WINDOW, STREAMS_MAX};
use crate::proxy::limits::Limits;
use crate::proxy::patience::Patience;

/// How long a local application may take for the head of a request, the wait for it included: it keeps connections for
/// its next call, and nobody else uses them.
const HEAD_TIMEOUT_OUTBOUND: Duration = Duration::from_secs(600);

/// The same for a load balancer, which must be the one that closes what it no longer uses: those of clouds keep connections
/// for up to ten minutes, and fail a request that meets a closing one.
const HEAD_TIMEOUT_INGRESS: Duration = Duration::from_secs(620);

/// How often the other end of an HTTP/2 connection is asked whether it is still there.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// How long it may take to say so.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// The most that is read ahead of a request over HTTP/1; its head must fit.
const BUFFER_BYTES_MAX: usize = HEADER_BYTES_MAX as usize;

/// Knows how requests are read off connections.
#[derive(Debug)]
pub(crate) struct Server {
    inbound: Side,
    outbound: Side,
    ingress: Side,
    given_up_max: u32,
}

#[derive(Debug)]
struct Side {
    builder: auto::Builder<TokioExecutor>,
    head_timeout: Duration,
}

/// Says that a connection was opened and nothing asked over it.
#[derive(Debug, thiserror::Error)]
#[error("no request came within {0:?}")]
struct Silent(Duration);

/// Says that too much of what was asked over a connection was given up.
#[derive(Debug, thiserror::Error)]
#[error("too many requests were given up before they were answered")]
struct GivenUp;

/// Returns the label of the metric that counts a connection of requests that failed.
pub(crate) fn label(error: &(dyn std::error::Error + Send + Sync + 'static)) -> &'static str {
    if error.is::<GivenUp>() { "given_up_too_often" } else { "not_http" }
}

/// Is what a connection is known by while it is read: set by every request, and held by every one that is open.
#[derive(Debug)]
pub(crate) struct Attention {
    is_asked: AtomicBool,
    patience: Patience,
}

impl Attention {
    /// Counts a request that was given up by its caller.
    pub(crate) fn given_up(&self) {
        self.patience.given_up();
    }
}

/// Counts a request as given up, unless it is answered first.
struct Unanswered(Option<Arc<Attention>>);

impl Unanswered {
    /// Takes note of the answer.
    fn answered(mut self) -> Option<Arc<Attention>> {
        self.0.take()
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if let Some(attention) = &self.0 {
            attention.given_up();
        }
    }
}

/// Names whose connections are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    /// A caller's from the mesh.
    Inbound,
    /// A local application's.
    Outbound,
    /// A load balancer's.
    Ingress,
}

impl Side {
    fn new(head_timeout: Duration) -> Self {
        Self { builder: builder(head_timeout), head_timeout }
    }

    /// Returns when to look whether anything is asked.
    fn looks(&self) -> Interval {
        let mut looks = interval_at(Instant::now() + self.head_timeout, self.head_timeout);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        looks
    }
}

fn builder(head_timeout: Duration) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_headers(FIELDS_MAX)
        .max_buf_size(BUFFER_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .max_pending_accept_reset_streams(RESET_STREAMS_MAX)
        .max_local_error_reset_streams(ERROR_STREAMS_MAX);
    builder
}

impl Server {
    /// Reads connections within these bounds.
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            inbound: Side::new(limits.request_timeout),
            outbound: Side::new(HEAD_TIMEOUT_OUTBOUND),
            ingress: Side::new(HEAD_TIMEOUT_INGRESS),
            given_up_max: limits.given_up_max,
        }
    }

    /// Answers the requests of a connection until it ends, or nothing has been asked over it for a while. Once `leave` is over
    /// it takes no more of them, once `cut` is it ends at once.
    ///
    /// # Errors
    ///
    /// What hyper says of a connection that failed or carried no HTTP; that nothing came over it at all.
    pub(crate) async fn serve<I, A>(
        &self,
        reader: Reader,
        io: I,
        answer: impl Fn(Request<Incoming>) -> A,
        leave: impl Future<Output = ()>,
        cut: impl Future<Output = ()>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        A: Future<Output = Response<Reply>> + Send + 'static,
    {
        let side = match reader {
            Reader::Inbound => &self.inbound,
            Reader::Outbound => &self.outbound,
            Reader::Ingress => &self.ingress,
        };
        let patience = Patience::new(self.given_up_max);
        let attention = Arc::new(Attention { is_asked: AtomicBool::new(false), patience });
        let service = service_fn(|request| {
            attention.is_asked.store(true, Ordering::Relaxed);
            let (answer, unanswered) = (answer(request), Unanswered(Some(Arc::clone(&attention))));
            async move {
                let mut answer = answer.await;
                if let Some(attention) = unanswered.answered() {
                    answer.body_mut().hold(attention);
                }
                Ok::<_, Infallible>(answer)
            }
        });
        let mut connection = pin!(side.builder.serve_connection_with_upgrades(TokioIo::new(io), service));
        let (mut leave, mut cut) = (pin!(leave), pin!(cut));
        let (mut leaving, mut was_asked, mut looks) = (false, false, side.looks());
        loop {
            tokio::select! {
                ended = connection.as_mut() => return ended,
                () = cut.as_mut() => return Ok(()),
                () = attention.patience.spent() => return Err(GivenUp.into()),
                _ = looks.tick(), if !leaving => {
                    let was_asked_since = attention.is_asked.swap(false, Ordering::Relaxed);
                    let is_quiet = !was_asked_since && Arc::strong_count(&attention) == 1;
                    if !is_quiet {
                        was_asked = true;
                        continue;
                    }
                    if !was_asked {
                        return Err(Silent(side.head_timeout).into());
                    }
                }
                () = leave.as_mut(), if !leaving => {}
            }
            leaving = true;
            connection.as_mut().graceful_shutdown();
        }
    }
}
