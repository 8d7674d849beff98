//! Accepting connections without losing the loop to a shortage.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::metrics::ProxyMetrics;

/// How long accepting pauses when the process or the system has run out of something.
const PAUSE: Duration = Duration::from_millis(100);

/// Is a connection with its share of the limit on connections.
pub(crate) struct Accepted {
    /// The connection, with small writes sent at once.
    pub(crate) stream: TcpStream,
    /// Where it comes from.
    pub(crate) from: SocketAddr,
    /// To be kept as long as the connection.
    pub(crate) permit: OwnedSemaphorePermit,
}

/// Accepts connections until told to stop; then the listener is closed.
///
/// At the limit of connections it leaves further ones in the kernel's queue. A shortage of file descriptors or memory
/// makes it pause: the kernel reports the same connection again at once, so that going on would only spin.
pub(crate) async fn accept_all(
    listener: TcpListener,
    permits: Arc<Semaphore>,
    stop: CancellationToken,
    metrics: ProxyMetrics,
    mut each: impl FnMut(Accepted),
) {
    let mut short = false;
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = accept_one(&listener, &permits) => accepted,
        };
        match accepted {
            Ok(accepted) => {
                short = false;
                each(accepted);
            }
            Err(error) if is_shortage(&error) => {
                metrics.accept_paused();
                if !short {
                    tracing::warn!(%error, "accepting connections pauses; raise the limit of open files");
                }
                short = true;
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(PAUSE) => {}
                }
            }
            // The client went away between its connect and our accept.
            Err(error) => tracing::debug!(%error, "connection lost before it was accepted"),
        }
    }
}

async fn accept_one(listener: &TcpListener, permits: &Arc<Semaphore>) -> io::Result<Accepted> {
    let permit = Arc::clone(permits)
        .acquire_owned()
        .await
        .map_err(|_| io::Error::other("the limit on connections was taken down"))?;
    let (stream, from) = listener.accept().await?;
    prepare(&stream);
    Ok(Accepted { stream, from, permit })
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

fn is_shortage(error: &io::Error) -> bool {
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l6_running_out_of_files_is_a_shortage_and_a_lost_client_is_not() {
        assert!(is_shortage(&io::Error::from_raw_os_error(24)));
        assert!(!is_shortage(&io::Error::from_raw_os_error(103)));
        assert!(!is_shortage(&io::Error::from(io::ErrorKind::ConnectionReset)));
    }
}
