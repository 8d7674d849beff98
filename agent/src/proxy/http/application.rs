//! Connections to local applications, kept open between requests.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use h2::client as http2;
use http::{Request, Response, Version};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::body::Received;
use super::carried::Question;
use super::send::{self, Pump};
use super::{CONNECTION_WINDOW, HEADER_BYTES_MAX, STREAM_WINDOW, STREAMS_MAX};
use crate::proxy::inbound::dial;
use crate::proxy::refusal::Refusal;
use crate::proxy::room::Room;

/// How long a connection is kept for the next request. Shorter than servers commonly wait for one, so that a request rarely
/// meets a connection that is being closed.
const IDLE_MAX: Duration = Duration::from_secs(4);

/// Connections over HTTP/1.1 that are kept to one application.
const IDLE_CONNECTIONS_MAX: usize = 256;

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
    sender: http1::SendRequest<Question>,
    since: Instant,
}

/// Is a connection over HTTP/2, which requests share.
#[derive(Debug)]
struct Shared {
    requests: http2::SendRequest<Bytes>,
    open: AtomicUsize,
    is_over: Arc<AtomicBool>,
    quiet_since: Mutex<Instant>,
}

/// Is a request's hold on a connection, for as long as its answer comes over it.
#[derive(Debug)]
pub(crate) enum Held {
    /// All of the connection.
    Http1 { address: SocketAddr, sender: http1::SendRequest<Question> },
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
            Self::Http1 { address, sender } => room.applications.put(address, sender),
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
    let no_answer = |source| SendError::NoAnswer(ApplicationError::Http1 { address, source });
    loop {
        let kept = room.applications.take(address).await;
        let is_kept = kept.is_some();
        let mut sender = match kept {
            Some(sender) => sender,
            None => connect_http1(room, address).await?,
        };
        match sender.try_send_request(request).await {
            Ok(answer) => {
                let answer = answer.map(|body| Received::of_hyper(Version::HTTP_11, body));
                return Ok((answer, Held::Http1 { address, sender }));
            }
            Err(mut failed) => match failed.take_message() {
                // The application closed the connection while it was idle, and has seen nothing of the request.
                Some(unsent) if is_kept => request = unsent,
                _ => return Err(no_answer(failed.into_error())),
            },
        }
    }
}

/// Opens a connection over HTTP/1.1 that can be upgraded.
pub(super) async fn connect_http1(room: &Room, address: SocketAddr) -> Result<http1::SendRequest<Question>, SendError> {
    let stream = dial(room, address).await?;
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(BUFFER_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|source| ApplicationError::Http1 { address, source })?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(dst.addr = %address, %error, "connection to an application failed");
        }
    });
    Ok(sender)
}

async fn send_http2(
    room: &Room,
    address: SocketAddr,
    request: Request<Question>,
) -> Result<(Response<Received>, Held), SendError> {
    let no_answer = |source| SendError::NoAnswer(ApplicationError::Http2 { address, source });
    let (lease, ready) = room.applications.lease(room, address).await?;
    let (head, body) = request.into_parts();
    match send::request(ready, Request::from_parts(head, ()), body).await {
        Ok((answer, pump)) => Ok((answer, Held::Http2 { shared: lease, pump })),
        Err(source) => {
            if !source.is_reset() {
                lease.0.is_over.store(true, Ordering::Release);
            }
            Err(no_answer(source))
        }
    }
}

async fn connect_http2(room: &Room, address: SocketAddr) -> Result<Arc<Shared>, SendError> {
    let stream = dial(room, address).await?;
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
    Ok(Arc::new(Shared { requests, open: AtomicUsize::new(0), is_over, quiet_since: Mutex::new(Instant::now()) }))
}

impl Applications {
    /// Takes a connection that is kept and still open.
    async fn take(&self, address: SocketAddr) -> Option<http1::SendRequest<Question>> {
        loop {
            let mut sender = lock(&self.idle).get_mut(&address)?.pop()?.sender;
            // Its last answer is whole, so that it is ready by now or about to be, or closed.
            if !sender.is_closed() && sender.ready().await.is_ok() {
                return Some(sender);
            }
        }
    }

    fn put(&self, address: SocketAddr, sender: http1::SendRequest<Question>) {
        if sender.is_closed() {
            return;
        }
        let mut idle = lock(&self.idle);
        let kept = idle.entry(address).or_default();
        if kept.len() < IDLE_CONNECTIONS_MAX {
            kept.push(Idle { sender, since: Instant::now() });
        }
    }

    /// Takes a place on a connection over HTTP/2, and opens one if all are taken.
    async fn lease(
        &self,
        room: &Room,
        address: SocketAddr,
    ) -> Result<(SharedLease, http2::SendRequest<Bytes>), SendError> {
        while let Some(lease) = self.lease_kept(address) {
            match lease.0.requests.clone().ready().await {
                Ok(ready) => return Ok((lease, ready)),
                Err(_) => lease.0.is_over.store(true, Ordering::Release),
            }
        }
        let shared = connect_http2(room, address).await?;
        let ready = shared.requests.clone().ready().await;
        let ready = ready.map_err(|source| ApplicationError::Http2 { address, source })?;
        shared.open.fetch_add(1, Ordering::AcqRel);
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
            kept.retain(|idle| !idle.sender.is_closed() && idle.since.elapsed() < IDLE_MAX);
            !kept.is_empty()
        });
        lock(&self.shared).retain(|_, kept| {
            kept.retain(|one| !one.is_over.load(Ordering::Acquire) && !one.is_idle());
            !kept.is_empty()
        });
    }
}

impl Shared {
    fn lease(self: &Arc<Self>) -> Option<SharedLease> {
        let places = self.requests.current_max_send_streams().min(STREAMS_MAX as usize);
        self.open
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |open| (open < places).then_some(open + 1))
            .ok()
            .map(|_| SharedLease(Arc::clone(self)))
    }

    fn is_idle(&self) -> bool {
        self.open.load(Ordering::Acquire) == 0 && lock(&self.quiet_since).elapsed() >= IDLE_MAX
    }
}

impl Drop for SharedLease {
    fn drop(&mut self) {
        *lock(&self.0.quiet_since) = Instant::now();
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these locks guard is whole at every step, also after a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
