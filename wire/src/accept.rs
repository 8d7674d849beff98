//! Accepting connections without losing the loop to a shortage, or to a client that has gone.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long accepting pauses when the process or the system has run out of something.
const PAUSE: Duration = Duration::from_millis(100);

/// Is a connection with its share of the limit on connections.
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub stream: TcpStream,
    /// Where it comes from.
    pub from: SocketAddr,
    /// To be kept as long as the connection.
    pub permit: OwnedSemaphorePermit,
}

/// Accepts connections until `stopped`; then the listener is closed. `what` names the listener in the log.
///
/// At the limit of connections it leaves further ones in the kernel's queue. A shortage of file descriptors or memory
/// makes it pause, and tells `paused`: the kernel reports the same connection again at once, so that going on would only spin.
/// A client that went away before it was accepted costs nothing.
pub async fn accept_all(
    what: &'static str,
    listener: TcpListener,
    permits: Arc<Semaphore>,
    stopped: impl Future<Output = ()>,
    paused: impl Fn(),
    mut each: impl FnMut(Accepted),
) {
    tokio::pin!(stopped);
    let mut short = false;
    loop {
        let accepted = tokio::select! {
            () = &mut stopped => return,
            accepted = accept_one(&listener, &permits) => accepted,
        };
        match accepted {
            Ok(accepted) => {
                short = false;
                each(accepted);
            }
            Err(error) if is_shortage(&error) => {
                paused();
                if !short {
                    tracing::warn!(listener = what, %error, "accepting connections pauses; raise the limit of open files");
                }
                short = true;
                tokio::select! {
                    () = &mut stopped => return,
                    () = tokio::time::sleep(PAUSE) => {}
                }
            }
            // The client went away between its connect and our accept.
            Err(error) => tracing::debug!(listener = what, %error, "connection lost before it was accepted"),
        }
    }
}

async fn accept_one(listener: &TcpListener, permits: &Arc<Semaphore>) -> io::Result<Accepted> {
    let permit = Arc::clone(permits)
        .acquire_owned()
        .await
        .map_err(|_| io::Error::other("the limit on connections was taken down"))?;
    let (stream, from) = listener.accept().await?;
    Ok(Accepted { stream, from, permit })
}

/// Reports whether accepting failed for want of something that the next connection would want, too.
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

    #[tokio::test]
    async fn connections_beyond_the_limit_wait_for_their_turn_and_the_end_closes_the_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (taken, mut accepted) = tokio::sync::mpsc::unbounded_channel();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let each = move |one| drop(taken.send(one));
        let stopped = async { drop(stopped.await) };
        let accepting = tokio::spawn(accept_all("test", listener, Arc::new(Semaphore::new(1)), stopped, || {}, each));
        let first = TcpStream::connect(address).await.unwrap();
        let held: Accepted = accepted.recv().await.unwrap();
        assert_eq!(held.from, first.local_addr().unwrap());
        let second = TcpStream::connect(address).await.unwrap();
        assert!(accepted.try_recv().is_err(), "there is no room yet");
        drop(held);
        assert_eq!(accepted.recv().await.unwrap().from, second.local_addr().unwrap());
        stop.send(()).unwrap();
        accepting.await.unwrap();
        TcpStream::connect(address).await.unwrap_err();
    }
}
