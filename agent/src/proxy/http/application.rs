//! Connections to local applications, kept open between requests.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use h2::client as http2;
use http::header::{AUTHORIZATION, HeaderMap, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, WWW_AUTHENTICATE};
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1};
use hyper_util::rt::TokioIo;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::body::Received;
use super::carried::Question;
use super::head;
use super::send::{self, Pump, Unanswered};
use super::{CONNECTION_WINDOW, HEADER_BYTES_MAX, STREAM_WINDOW, STREAMS_MAX};
use crate::proxy::inbound::dial;
use crate::proxy::proxy_header::Opener;
use crate::proxy::refusal::Refusal;
use crate::proxy::room::Room;
use crate::proxy::stream_count::StreamCount;

/// How long a connection is kept for the next request. Shorter than servers commonly wait for one, so that a request rarely
/// meets a connection that is being closed.
const IDLE_MAX: Duration = Duration::from_secs(4);

/// Connections over HTTP/1.1 that are kept to one application.
const IDLE_CONNECTIONS_MAX: usize = 256;

/// How long a connection that is kept may take to be ready for the next request, before another one is opened.
const READY_MAX: Duration = Duration::from_millis(100);

/// How many connections over HTTP/2 an application may end before it has taken a request up, until the request fails.
const ENDED_MAX: usize = 3;

/// A kept connection that ends so soon after a request was written was being closed when that came; whoever takes longer has
/// worked on it.
const CROSSED_MAX: Duration = Duration::from_secs(1);

/// What is read ahead of an application that speaks HTTP/1.1.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// Says why an application gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplicationError {
    /// It closed the connection, or spoke no HTTP/1.
    #[error("the application at {address} gave no answer over HTTP/1.1")]
    Http1 {
        address: SocketAddr,
        #[source]
        source: hyper::Error,
    },
    /// It changed to another protocol than the one it was asked for, or was asked for none.
    #[error("the application at {address} changed to a protocol that it was not asked for")]
    Changed { address: SocketAddr },
    /// It closed the connection or reset the stream, or spoke no HTTP/2.
    #[error("the application at {address} gave no answer over HTTP/2")]
    Http2 {
        address: SocketAddr,
        #[source]
        source: h2::Error,
    },
}

impl ApplicationError {
    /// Returns the label of the metric that counts it.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Http1 { .. } => "no_http1_answer",
            Self::Changed { .. } => "unasked_upgrade",
            Self::Http2 { .. } => "no_http2_answer",
        }
    }
}

/// Says why an application was not asked, or did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// It could not be dialled.
    #[error(transparent)]
    Dial(#[from] Refusal),
    /// It gave no answer.
    #[error(transparent)]
    NoAnswer(#[from] ApplicationError),
}

/// Holds the connections to all local applications.
#[derive(Debug, Default)]
pub(crate) struct Applications {
    idle: Mutex<HashMap<SocketAddr, Vec<Idle>>>,
    shared: Mutex<HashMap<SocketAddr, Vec<Arc<Shared>>>>,
}

#[derive(Debug)]
struct Idle {
    connection: Http1,
    since: Instant,
}

/// Is a connection over HTTP/1.1. It ends when this is dropped, be a question still under way on it or not: an application
/// that has answered is told no more.
#[derive(Debug)]
pub(crate) struct Http1 {
    sender: http1::SendRequest<Question>,
    driving: Driving,
}

/// Is the task that reads and writes a connection.
#[derive(Debug)]
struct Driving {
    task: JoinHandle<()>,
    is_left_open: bool,
}

impl Http1 {
    /// Asks over it and waits for the head of the answer. The connection comes with it where it goes on.
    pub(super) async fn ask(
        self,
        request: Request<Question>,
    ) -> Result<(Response<Incoming>, Option<Self>), TrySendError<Request<Question>>> {
        let Self { mut sender, mut driving } = self;
        let mut answering = pin!(sender.try_send_request(request));
        let answered = tokio::select! {
            biased;
            answered = &mut answering => Some(answered),
            _ = &mut driving.task => None,
        };
        match answered {
            Some(answered) => Ok((answered?, Some(Self { sender, driving }))),
            None => {
                // What was put in its queue as it ended is taken out by nobody, and comes back only when the queue goes.
                drop(sender);
                Ok((answering.await?, None))
            }
        }
    }

    /// Leaves it to the bytes of an upgrade that was granted.
    pub(super) fn leave_open(&mut self) {
        self.driving.is_left_open = true;
    }
}

impl Drop for Driving {
    fn drop(&mut self) {
        if !self.is_left_open {
            self.task.abort();
        }
    }
}

/// Is a connection over HTTP/2, which requests share.
#[derive(Debug)]
struct Shared {
    requests: http2::SendRequest<Bytes>,
    streams: StreamCount,
    is_over: Arc<AtomicBool>,
}

/// Is a request's hold on a connection, for as long as its answer comes over it.
#[derive(Debug)]
pub(crate) enum Held {
    /// All of the connection where it goes on, and whether anybody may ask over it next.
    Http1 { address: SocketAddr, connection: Option<Http1>, is_anybodys: bool },
    /// One stream of it, and the body of the request where it has one.
    Http2 { shared: SharedLease, pump: Option<Pump> },
}

/// Is a place for one stream on a connection.
#[derive(Debug)]
pub(crate) struct SharedLease(Arc<Shared>);

impl Held {
    /// Gives the connection back for the next request.
    pub(crate) fn give_back(self, room: &Room) {
        match self {
            Self::Http1 { address, connection: Some(connection), is_anybodys: true } => {
                room.applications.put(address, connection);
            }
            Self::Http1 { .. } => {}
            Self::Http2 { shared, pump } => drop((pump, shared)),
        }
    }
}

/// Sends a request to an application and waits for the head of its answer.
pub(crate) async fn send(
    room: &Room,
    address: SocketAddr,
    request: Request<Question>,
) -> Result<(Response<Received>, Held), SendError> {
    if request.version() == Version::HTTP_2 {
        send_http2(room, address, request).await
    } else {
        send_http1(room, address, request).await
    }
}

async fn send_http1(
    room: &Room,
    address: SocketAddr,
    mut request: Request<Question>,
) -> Result<(Response<Received>, Held), SendError> {
    let is_asked_for_itself = !is_for_connection(request.headers());
    let mut may_be_kept = true;
    loop {
        let kept = if may_be_kept { room.applications.take(address).await } else { None };
        let is_kept = kept.is_some();
        let again = if is_kept { harmless(&request) } else { None };
        let asked = Instant::now();
        let connection = match kept {
            Some(connection) => connection,
            None => connect_http1(room, address).await?,
        };
        match connection.ask(request).await {
            Ok((answer, _)) if answer.status() == StatusCode::SWITCHING_PROTOCOLS => {
                return Err(SendError::NoAnswer(ApplicationError::Changed { address }));
            }
            Ok((answer, connection)) => {
                let answer = answer.map(|body| Received::of_hyper(Version::HTTP_11, body));
                let is_anybodys = is_asked_for_itself && !is_for_connection(answer.headers());
                return Ok((answer, Held::Http1 { address, connection, is_anybodys }));
            }
            // The application closed the connection while it was idle.
            Err(mut failed) => match (failed.take_message(), again) {
                // It has seen nothing of the request.
                (Some(unsent), _) if is_kept => request = unsent,
                // It has not answered one that changes nothing; a fresh connection says whether it would.
                (None, Some(again)) if is_cut(failed.error()) && asked.elapsed() < CROSSED_MAX => {
                    (request, may_be_kept) = (again, false);
                }
                _ => return Err(SendError::NoAnswer(ApplicationError::Http1 { address, source: failed.into_error() })),
            },
        }
    }
}

/// Returns a copy of a request that changes nothing and brings nothing, which may so be asked twice (RFC 9110 sections 9.2.1
/// and 9.2.2).
fn harmless(request: &Request<Question>) -> Option<Request<Question>> {
    let is_harmless = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let body = request.body().bare_again().filter(|_| is_harmless)?;
    let mut copy = Request::new(body);
    (*copy.method_mut(), *copy.version_mut()) = (request.method().clone(), request.version());
    (*copy.uri_mut(), *copy.headers_mut()) = (request.uri().clone(), request.headers().clone());
    Some(copy)
}

/// Reports whether a connection just ended, instead of bringing what is no answer.
fn is_cut(error: &hyper::Error) -> bool {
    let is_io = || std::error::Error::source(error).is_some_and(|source| source.is::<std::io::Error>());
    error.is_incomplete_message() || is_io()
}

/// Reports whether a message vouches for its whole connection: then nobody else may ask over that.
fn is_for_connection(headers: &HeaderMap) -> bool {
    [AUTHORIZATION, PROXY_AUTHORIZATION, WWW_AUTHENTICATE, PROXY_AUTHENTICATE]
        .iter()
        .any(|name| head::binds_connection(headers, name))
}

/// Opens a connection over HTTP/1.1 that can be upgraded.
pub(super) async fn connect_http1(room: &Room, address: SocketAddr) -> Result<Http1, SendError> {
    let stream = dial(room, address, Opener::Agent).await?;
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(BUFFER_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|source| ApplicationError::Http1 { address, source })?;
    let task = tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(dst.addr = %address, %error, "connection to an application failed");
        }
    });
    Ok(Http1 { sender, driving: Driving { task, is_left_open: false } })
}

async fn send_http2(
    room: &Room,
    address: SocketAddr,
    request: Request<Question>,
) -> Result<(Response<Received>, Held), SendError> {
    let (head, mut body) = request.into_parts();
    let is_for_itself = !is_for_connection(&head.headers);
    let mut ended = 0;
    loop {
        let (lease, ready) = room.applications.lease(room, address).await?;
        match send::request(ready, Request::from_parts(head.clone(), ()), body).await {
            Ok((answer, pump)) => {
                if !is_for_itself || is_for_connection(answer.headers()) {
                    lease.0.is_over.store(true, Ordering::Release);
                }
                return Ok((answer, Held::Http2 { shared: lease, pump }));
            }
            Err(Unanswered { error, untaken }) => {
                if !error.is_reset() {
                    lease.0.is_over.store(true, Ordering::Release);
                }
                match untaken {
                    // It takes no more requests over this connection, and has not taken this one up: another one does.
                    Some(untaken) if ended < ENDED_MAX => (body, ended) = (untaken, ended + 1),
                    _ => return Err(SendError::NoAnswer(ApplicationError::Http2 { address, source: error })),
                }
            }
        }
    }
}

async fn connect_http2(room: &Room, address: SocketAddr) -> Result<Arc<Shared>, SendError> {
    let stream = dial(room, address, Opener::Agent).await?;
    let (requests, connection) = http2::Builder::new()
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEADER_BYTES_MAX)
        .handshake::<_, Bytes>(stream)
        .await
        .map_err(|source| ApplicationError::Http2 { address, source })?;
    let is_over = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&is_over);
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(dst.addr = %address, %error, "connection to an application failed");
        }
        ended.store(true, Ordering::Release);
    });
    Ok(Arc::new(Shared { requests, streams: StreamCount::new(Instant::now()), is_over }))
}

impl Applications {
    /// Takes a connection that is kept and still open.
    async fn take(&self, address: SocketAddr) -> Option<Http1> {
        loop {
            let mut connection = lock(&self.idle).get_mut(&address)?.pop()?.connection;
            let sender = &mut connection.sender;
            // Its last answer is whole, so that it is ready by now or about to be, or closed.
            if sender.is_ready() {
                return Some(connection);
            }
            if !sender.is_closed() && matches!(tokio::time::timeout(READY_MAX, sender.ready()).await, Ok(Ok(()))) {
                return Some(connection);
            }
        }
    }

    fn put(&self, address: SocketAddr, connection: Http1) {
        if connection.sender.is_closed() {
            return;
        }
        let mut idle = lock(&self.idle);
        let kept = idle.entry(address).or_default();
        if kept.len() < IDLE_CONNECTIONS_MAX {
            kept.push(Idle { connection, since: Instant::now() });
        }
    }

    /// Takes a place on a connection over HTTP/2, and opens one if all are taken.
    async fn lease(
        &self,
        room: &Room,
        address: SocketAddr,
    ) -> Result<(SharedLease, http2::SendRequest<Bytes>), SendError> {
        while let Some(lease) = self.lease_kept(address) {
            // There is a place for it, so that it waits for nothing but what an application may take back.
            match tokio::time::timeout(READY_MAX, lease.0.requests.clone().ready()).await {
                Ok(Ok(ready)) => return Ok((lease, ready)),
                Ok(Err(_)) | Err(_) => lease.0.is_over.store(true, Ordering::Release),
            }
        }
        let shared = connect_http2(room, address).await?;
        let deadline = room.limits.connect_timeout;
        let ready = tokio::time::timeout(deadline, shared.requests.clone().ready())
            .await
            .map_err(|_| Refusal::Unresponsive { address, deadline })?
            .map_err(|source| ApplicationError::Http2 { address, source })?;
        shared.streams.take(usize::MAX);
        lock(&self.shared).entry(address).or_default().push(Arc::clone(&shared));
        Ok((SharedLease(shared), ready))
    }

    fn lease_kept(&self, address: SocketAddr) -> Option<SharedLease> {
        let mut shared = lock(&self.shared);
        let kept = shared.get_mut(&address)?;
        kept.retain(|one| !one.is_over.load(Ordering::Acquire));
        kept.iter().find_map(|one| one.lease())
    }

    /// Lets go of connections that nobody has used for a while.
    pub(crate) fn sweep(&self) {
        lock(&self.idle).retain(|_, kept| {
            kept.retain(|idle| !idle.connection.sender.is_closed() && idle.since.elapsed() < IDLE_MAX);
            !kept.is_empty()
        });
        lock(&self.shared).retain(|_, kept| {
            kept.retain(|one| !one.is_over.load(Ordering::Acquire) && !one.streams.is_idle(IDLE_MAX));
            !kept.is_empty()
        });
    }
}

impl Shared {
    fn lease(self: &Arc<Self>) -> Option<SharedLease> {
        let places = self.requests.current_max_send_streams().min(STREAMS_MAX as usize);
        self.streams.take(places).then(|| SharedLease(Arc::clone(self)))
    }
}

impl Drop for SharedLease {
    fn drop(&mut self) {
        self.0.streams.give_back();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these locks guard is whole at every step, also after a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
