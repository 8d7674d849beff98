//! Accepting the proxy's connections.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
pub(crate) use wire::accept::Accepted;

use crate::metrics::ProxyMetrics;

/// Accepts connections until told to stop; then the listener is closed. Shortages are counted.
pub(crate) async fn accept_all(
    listener: TcpListener,
    permits: Arc<Semaphore>,
    stop: CancellationToken,
    metrics: ProxyMetrics,
    mut each: impl FnMut(Accepted),
) {
    let each = |accepted: Accepted| {
        prepare(&accepted.stream);
        each(accepted);
    };
    wire::accept::accept_all("proxy", listener, permits, stop.cancelled(), || metrics.accept_paused(), each).await;
}

/// Sets what every connection of the proxy wants: no delay of small writes, and a dead peer found within a minute.
pub(crate) fn prepare(stream: &TcpStream) {
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(30))
        .with_interval(Duration::from_secs(10))
        .with_retries(3);
    let outcome = stream.set_nodelay(true).and_then(|()| socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive));
    if let Err(error) = outcome {
        tracing::debug!(%error, "cannot set options of a connection");
    }
}
