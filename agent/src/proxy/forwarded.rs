//! Which connections the agent's own forward proxy has made: it has asked whose processes they are for.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;

/// Holds the own ends of these connections, each with how often it was entered: a port may be taken again before its last
/// holder is forgotten.
#[derive(Debug, Default)]
pub(crate) struct Forwarded(Mutex<BTreeMap<SocketAddr, usize>>);

/// Is a connection's place among them; dropping it gives the place up.
#[derive(Debug)]
pub(crate) struct ForwardedPlace {
    all: Arc<Forwarded>,
    from: SocketAddr,
}

impl Forwarded {
    /// Connects to an upstream's listener. Whoever accepts the connection finds it here for as long as its place is held.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(crate) async fn dial(self: &Arc<Self>, listener: SocketAddr) -> io::Result<(TcpStream, ForwardedPlace)> {
        let (stream, place) = self.begin(listener)?;
        stream.writable().await?;
        match stream.take_error()? {
            None => Ok((stream, place)),
            Some(error) => Err(error),
        }
    }

    fn begin(self: &Arc<Self>, listener: SocketAddr) -> io::Result<(TcpStream, ForwardedPlace)> {
        let socket = Socket::new(Domain::for_address(listener), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        // Its own end is known only once it is under way: whoever accepts it at once waits here until it is entered.
        let mut all = self.lock();
        match socket.connect(&listener.into()) {
            Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
                return Err(error);
            }
            _ => {}
        }
        let stream = std::net::TcpStream::from(socket);
        let from = stream.local_addr()?;
        *all.entry(from).or_default() += 1;
        drop(all);
        let place = ForwardedPlace { all: Arc::clone(self), from };
        Ok((TcpStream::from_std(stream)?, place))
    }

    /// Reports whether a connection from there is one of these.
    pub(crate) fn has_made(&self, from: SocketAddr) -> bool {
        self.lock().contains_key(&from)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, usize>> {
        // What it guards is whole at every step, also after a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ForwardedPlace {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        if let Some(entered) = all.get_mut(&self.from) {
            *entered -= 1;
            if *entered == 0 {
                all.remove(&self.from);
            }
        }
    }
}
