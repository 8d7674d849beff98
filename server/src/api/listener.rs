//! The shell around the router: accepts connections, bounds what each may hold, drains on shutdown.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::{debug, warn};

use super::SourceAddress;

/// Connections held at once; the next ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 8192;
/// Time for a request's head to arrive, counted from the end of the request before it. It therefore is the longest
/// that a connection may idle, too: hyper has one clock for both.
const HEAD_READ_TIMEOUT: Duration = Duration::from_secs(10);
const HEADERS_MAX: usize = 100;
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Pause after a failed accept: out of descriptors, the next accept would fail at once and spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time for requests in flight to end after shutdown was asked for; blocking queries do not, and are cut.
const DRAIN_MAX: Duration = Duration::from_secs(2);

/// Serves the API on `listener` until `shutdown` is cancelled, then drains.
///
/// A failed accept is logged and tried again: a server without its API still votes.
pub(crate) async fn serve_http(listener: TcpListener, router: Router, shutdown: CancellationToken) {
    serve_within(listener, router, shutdown, HEAD_READ_TIMEOUT).await;
}

async fn serve_within(listener: TcpListener, router: Router, shutdown: CancellationToken, head_timeout: Duration) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let graceful = GracefulShutdown::new();
    let cut = CancellationToken::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &connections) => accepted,
        };
        let Some((stream, source, permit)) = accepted else { continue };
        let connection = connection(stream, source, router.clone(), head_timeout);
        let watched = graceful.watch(connection);
        let cut = cut.clone();
        tokio::spawn(async move {
            let _permit = permit;
            tokio::select! {
                () = cut.cancelled() => {}
                ended = watched => {
                    if let Err(error) = ended {
                        debug!(src.addr = %source, error = %error, "API connection ended");
                    }
                }
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN_MAX, graceful.shutdown()).await.is_err() {
        debug!("API requests were cut at shutdown");
    }
    cut.cancel();
}

/// Accepts one connection when there is room for it.
async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = Arc::clone(connections).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, source)) => Some((stream, source, permit)),
        Err(error) => {
            warn!(error = %error, "cannot accept an API connection");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

/// Builds the machine that answers one connection's requests.
fn connection(
    stream: TcpStream,
    source: SocketAddr,
    router: Router,
    head_timeout: Duration,
) -> impl hyper_util::server::graceful::GracefulConnection<Error = hyper::Error> + Send {
    // Small answers must not wait for the peer's delayed acknowledgement; without it they only come later.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(SourceAddress(source));
        let router = router.clone();
        async move { router.oneshot(request).await.map_err(|never: Infallible| match never {}) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_headers(HEADERS_MAX)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(2 * HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
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
        let router = Router::new()
            .route("/quick", get(|| async { "done" }))
            .route("/never", get(std::future::pending::<&'static str>));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(serve_within(listener, router, shutdown.clone(), head_timeout));
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
        let serving = serve(HEAD_READ_TIMEOUT).await;
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
    async fn a5_a_large_head_and_too_many_headers_are_refused() {
        let serving = serve(HEAD_READ_TIMEOUT).await;
        let large = format!("GET /quick HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(HEAD_BYTES_MAX));
        let many = format!("GET /quick HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(HEADERS_MAX + 1));
        for request in [large, many] {
            let answer = exchange(serving.address, request.as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
        }
    }

    #[tokio::test]
    async fn shutdown_cuts_what_does_not_end() {
        let serving = serve(HEAD_READ_TIMEOUT).await;
        let mut stream = TcpStream::connect(serving.address).await.unwrap();
        stream.write_all(b"GET /never HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        serving.shutdown.cancel();
        tokio::time::timeout(5 * DRAIN_MAX, serving.task).await.unwrap().unwrap();
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(5 * DRAIN_MAX, stream.read_to_end(&mut rest)).await.unwrap();
        assert!(rest.is_empty());
    }
}
