//! The shell around the router: accepts connections, bounds what each may hold, drains on shutdown.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use axum::Router;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::debug;
use wire::accept::{Accepted, accept_all};

use super::SourceAddress;
use super::head_clock::{Clocked, HeadClock};
use crate::held_body::HeldBody;
use crate::metrics::Metrics;
use crate::places::{Holder, Places};

/// Connections held at once; the next ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 8192;
/// Connections that one address may hold where others than this machine may connect.
const CONNECTIONS_PER_ADDRESS_MAX: usize = 200;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for a request's head to arrive, counted from its first byte.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest that a connection may wait for its next request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const HEADERS_MAX: usize = 100;
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Time for requests in flight to end after shutdown was asked for; blocking queries do not, and are cut.
const DRAIN_MAX: Duration = Duration::from_secs(2);

/// The TLS that new connections get; none until there is a certificate, and they are closed at once until then.
pub(crate) type Tls = Arc<ArcSwapOption<rustls::ServerConfig>>;

/// How a listener takes connections.
#[derive(Clone)]
struct Door {
    /// None on loopback, where nobody else listens in.
    tls: Option<Tls>,
    places: Option<Places>,
    metrics: Metrics,
    head_timeout: Duration,
    idle_timeout: Duration,
}

/// Serves the API on a loopback `listener` until `shutdown` is cancelled, then drains.
///
/// A failed accept is logged and tried again: a server without its API still votes.
pub(crate) async fn serve_http(listener: TcpListener, router: Router, metrics: Metrics, shutdown: CancellationToken) {
    let (head_timeout, idle_timeout) = (HEAD_TIMEOUT, IDLE_TIMEOUT);
    serve_within(listener, router, Door { tls: None, places: None, metrics, head_timeout, idle_timeout }, shutdown)
        .await;
}

/// Serves the API over TLS to whoever reaches `listener`, until `shutdown` is cancelled, then drains.
pub(crate) async fn serve_https(
    listener: TcpListener,
    router: Router,
    tls: Tls,
    metrics: Metrics,
    shutdown: CancellationToken,
) {
    let places = Some(Places::new(CONNECTIONS_PER_ADDRESS_MAX, 0));
    let (head_timeout, idle_timeout) = (HEAD_TIMEOUT, IDLE_TIMEOUT);
    serve_within(listener, router, Door { tls: Some(tls), places, metrics, head_timeout, idle_timeout }, shutdown)
        .await;
}

async fn serve_within(listener: TcpListener, router: Router, door: Door, shutdown: CancellationToken) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let graceful = GracefulShutdown::new();
    let cut = CancellationToken::new();
    accept_all(
        "API",
        listener,
        connections,
        shutdown.cancelled(),
        || {},
        |Accepted { stream, from: source, permit }| {
            let place = match door.places.as_ref().map(|places| places.take(Holder::Address(source.ip()))) {
                Some(None) => {
                    return door.refuse(source, "too_many_connections", &"this address holds too many connections");
                }
                place => place.flatten(),
            };
            let serving = serve(stream, source, router.clone(), door.clone(), graceful.watcher());
            let cut = cut.clone();
            tokio::spawn(async move {
                let _held = (permit, place);
                tokio::select! {
                    () = cut.cancelled() => {}
                    () = serving => {}
                }
            });
        },
    )
    .await;
    if tokio::time::timeout(DRAIN_MAX, graceful.shutdown()).await.is_err() {
        debug!("API requests were cut at shutdown");
    }
    cut.cancel();
}

/// Carries bytes of a request and its answer, over TLS or not.
trait Carrier: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Carrier for T {}

impl Door {
    /// Counts and logs a connection that was closed before it could send a request.
    fn refuse(&self, source: SocketAddr, reason: &'static str, error: &dyn std::fmt::Display) {
        self.metrics.api_connection_refused(reason);
        debug!(src.addr = %source, reason, error = %error, "API connection refused");
    }

    /// Completes TLS where the listener has it; none where that was refused.
    async fn enter(&self, stream: TcpStream, source: SocketAddr) -> Option<Pin<Box<dyn Carrier>>> {
        // Small answers must not wait for the peer's delayed acknowledgement; without it they only come later.
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else { return Some(Box::pin(stream)) };
        let Some(config) = tls.load_full() else {
            self.refuse(source, "no_certificate", &"the API has no certificate yet");
            return None;
        };
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(stream)).await {
            Ok(Ok(stream)) => Some(Box::pin(stream)),
            Ok(Err(error)) => {
                self.refuse(source, "tls_handshake", &error);
                None
            }
            Err(_) => {
                self.refuse(source, "tls_timeout", &"the TLS handshake took too long");
                None
            }
        }
    }
}

/// Carries one connection from its handshake to its end.
async fn serve(stream: TcpStream, source: SocketAddr, router: Router, door: Door, watcher: Watcher) {
    let Some(stream) = door.enter(stream, source).await else { return };
    let clock = HeadClock::new();
    let requests = Arc::clone(&clock);
    let service = service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
        let occupied = requests.request_began();
        request.extensions_mut().insert(SourceAddress(source));
        let router = router.clone();
        async move {
            let response = router.oneshot(request).await.map_err(|never: Infallible| match never {})?;
            Ok::<_, Infallible>(response.map(|body| HeldBody::holding(occupied, body)))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // hyper has one clock for the head and for the pause before it: it keeps the longer time, ours the shorter.
        .header_read_timeout(door.idle_timeout)
        .max_headers(HEADERS_MAX)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(2 * HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(Clocked::new(stream, Arc::clone(&clock))), service);
    tokio::select! {
        ended = watcher.watch(connection) => {
            if let Err(error) = ended {
                debug!(src.addr = %source, error = %error, "API connection ended");
            }
        }
        () = clock.overdue(door.head_timeout) => door.refuse(source, "head_timeout", &"a request's head took too long"),
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::JoinHandle;

    use super::*;

    struct Serving {
        address: SocketAddr,
        shutdown: CancellationToken,
        task: JoinHandle<()>,
    }

    async fn serve(head_timeout: Duration) -> Serving {
        serve_idling(head_timeout, 4 * head_timeout).await
    }

    async fn serve_idling(head_timeout: Duration, idle_timeout: Duration) -> Serving {
        let router = Router::new()
            .route("/quick", get(|| async { "done" }))
            .route("/never", get(std::future::pending::<&'static str>));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let door =
            Door { tls: None, places: Some(Places::new(2, 0)), metrics: Metrics::new(), head_timeout, idle_timeout };
        let task = tokio::spawn(serve_within(listener, router, door, shutdown.clone()));
        Serving { address, shutdown, task }
    }

    /// Sends bytes and returns what comes back until the server closes.
    async fn exchange(address: SocketAddr, sent: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(sent).await.unwrap();
        let mut received = Vec::new();
        // A reset after the answer is as good an end as a close.
        let _ = stream.read_to_end(&mut received).await;
        String::from_utf8(received).unwrap()
    }

    #[tokio::test]
    async fn answers_over_a_socket() {
        let serving = serve(HEAD_TIMEOUT).await;
        let request = b"GET /quick HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        let answer = exchange(serving.address, request).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("done"), "{answer}");
    }

    #[tokio::test]
    async fn a5_a_head_that_does_not_end_in_time_is_cut() {
        let serving = serve(Duration::from_millis(50)).await;
        assert_eq!(exchange(serving.address, b"GET /quick HTTP/1.1\r\nhost: loc").await, "");
        assert_eq!(exchange(serving.address, b"").await, "");
    }

    #[tokio::test]
    async fn a5_a_connection_may_idle_for_longer_than_a_head_may_take() {
        let serving = serve_idling(Duration::from_millis(500), Duration::from_secs(30)).await;
        let mut stream = TcpStream::connect(serving.address).await.unwrap();
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_millis(750)).await;
            stream.write_all(b"GET /quick HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(b"done") {
                assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "{}", String::from_utf8_lossy(&answer));
            }
        }
    }

    #[tokio::test]
    async fn a5_a_connection_that_idles_for_too_long_is_closed() {
        let serving = serve_idling(Duration::from_secs(10), Duration::from_millis(100)).await;
        let mut stream = TcpStream::connect(serving.address).await.unwrap();
        stream.write_all(b"GET /quick HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        tokio::time::timeout(Duration::from_secs(10), read).await.unwrap().unwrap();
        assert!(answer.ends_with(b"done"), "{}", String::from_utf8_lossy(&answer));
    }

    #[tokio::test]
    async fn a5_one_address_holds_so_many_connections_and_others_get_theirs() {
        let serving = serve(HEAD_TIMEOUT).await;
        let held =
            [TcpStream::connect(serving.address).await.unwrap(), TcpStream::connect(serving.address).await.unwrap()];
        assert_eq!(exchange(serving.address, b"").await, "", "the third is closed at once");
        let other = tokio::net::TcpSocket::new_v4().unwrap();
        other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let mut other = other.connect(serving.address).await.unwrap();
        other.write_all(b"GET /quick HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        other.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("done"), "{answer}");
        drop(held);
    }

    #[tokio::test]
    async fn a5_a_large_head_and_too_many_headers_are_refused() {
        let serving = serve(HEAD_TIMEOUT).await;
        let large = format!("GET /quick HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(HEAD_BYTES_MAX));
        let many = format!("GET /quick HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(HEADERS_MAX + 1));
        for request in [large, many] {
            let answer = exchange(serving.address, request.as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
        }
    }

    #[tokio::test]
    async fn shutdown_cuts_what_does_not_end() {
        let serving = serve(HEAD_TIMEOUT).await;
        let mut stream = TcpStream::connect(serving.address).await.unwrap();
        stream.write_all(b"GET /never HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        serving.shutdown.cancel();
        tokio::time::timeout(5 * DRAIN_MAX, serving.task).await.unwrap().unwrap();
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(5 * DRAIN_MAX, stream.read_to_end(&mut rest)).await.unwrap();
        assert!(rest.is_empty());
    }
}
