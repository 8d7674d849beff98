//! Reading requests off a connection, be it a caller's or a local application's.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use catalog::http::FIELDS_MAX;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};

use super::carried::Reply;
use super::{CONNECTION_WINDOW, HEADER_BYTES_MAX, STREAM_WINDOW, STREAMS_MAX};

/// How long a caller from the mesh may take for the head of a request, the wait for it included.
const HEAD_TIMEOUT_INBOUND: Duration = Duration::from_secs(60);

/// How long a local application may: it keeps connections for its next call, and nobody else uses them.
const HEAD_TIMEOUT_OUTBOUND: Duration = Duration::from_secs(600);

/// The most that is read ahead of a request over HTTP/1; its head must fit.
const BUFFER_BYTES_MAX: usize = HEADER_BYTES_MAX as usize;

/// Streams that a caller may have reset before they were answered, beyond which its connection is closed.
const RESET_STREAMS_MAX: usize = 20;

/// Streams that were reset for the caller's errors, beyond which its connection is closed.
const ERROR_STREAMS_MAX: usize = 100;

/// Knows how requests are read off connections.
#[derive(Debug)]
pub(crate) struct Server {
    inbound: auto::Builder<TokioExecutor>,
    outbound: auto::Builder<TokioExecutor>,
}

/// Names whose connections are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    /// A caller's from the mesh.
    Inbound,
    /// A local application's.
    Outbound,
}

impl Default for Server {
    fn default() -> Self {
        Self { inbound: builder(HEAD_TIMEOUT_INBOUND), outbound: builder(HEAD_TIMEOUT_OUTBOUND) }
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
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .max_pending_accept_reset_streams(RESET_STREAMS_MAX)
        .max_local_error_reset_streams(ERROR_STREAMS_MAX);
    builder
}

impl Server {
    /// Answers the requests of a connection until it ends. Once `leave` is over it takes no more of them, once `cut` is
    /// it ends at once.
    ///
    /// # Errors
    ///
    /// What hyper says of a connection that failed or carried no HTTP.
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
        let builder = match reader {
            Reader::Inbound => &self.inbound,
            Reader::Outbound => &self.outbound,
        };
        let service = service_fn(|request| {
            let answer = answer(request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(io), service));
        let (mut leave, mut cut) = (pin!(leave), pin!(cut));
        let mut leaving = false;
        loop {
            tokio::select! {
                ended = connection.as_mut() => return ended,
                () = cut.as_mut() => return Ok(()),
                () = leave.as_mut(), if !leaving => {
                    leaving = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}
