//! The shell around a router on loopback: accepts connections and bounds what each may hold.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tracing::debug;
use wire::accept::{Accepted, accept_all};

/// Connections held at once; the next ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 1024;
/// Time for a request's head to arrive, and the longest that a connection may idle: hyper has one clock for both.
const HEAD_READ_TIMEOUT: Duration = Duration::from_secs(30);
const HEADERS_MAX: usize = 100;
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Serves until `stopping` is cancelled; requests in flight are cut when the returned future is dropped or ends.
pub(super) async fn serve(listener: TcpListener, router: Router, stopping: CancellationToken) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let cut = CancellationToken::new();
    let _cut_at_the_end = cut.clone().drop_guard();
    accept_all(
        "local API",
        listener,
        room,
        stopping.cancelled(),
        || {},
        |Accepted { stream, permit, .. }| {
            tokio::spawn(cut.clone().run_until_cancelled_owned(connection(stream, router.clone(), permit)));
        },
    )
    .await;
}

async fn connection(stream: TcpStream, router: Router, _permit: OwnedSemaphorePermit) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_READ_TIMEOUT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await;
    if let Err(error) = served {
        debug!(error = %error, "local API connection ended");
    }
}
