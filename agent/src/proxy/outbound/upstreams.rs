//! The loopback listeners, one for each upstream of a local service, opened and closed as snapshots change.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::serve;
use crate::proxy::accept::accept_all;
use crate::proxy::room::Room;
use crate::proxy::snapshot::UpstreamListener;
use crate::sockets;

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;

/// Says how one upstream stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamStatus {
    /// What was asked for.
    pub listener: UpstreamListener,
    /// Where it listens, or why it does not.
    pub outcome: Result<SocketAddr, String>,
}

/// Says how all upstreams stand.
#[derive(Debug, Clone, Default)]
pub(crate) struct UpstreamsStatus {
    /// The generation of the snapshot that this is about.
    pub(crate) generation: u64,
    /// Every upstream of that snapshot.
    pub(crate) upstreams: Vec<UpstreamStatus>,
}

/// Says why an upstream has no listener.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    /// Anybody could call through it as the service that it belongs to.
    #[error("{}, where `{}` calls `{}`, is not loopback", upstream.address, upstream.owner, upstream.destination)]
    NotLoopback { upstream: Box<UpstreamListener> },
    /// Another upstream has the address.
    #[error(
        "{}, where `{}` calls `{}`, is where `{}` calls `{}` already; choose another port for one of them",
        upstream.address, upstream.owner, upstream.destination, first.owner, first.destination
    )]
    Claimed { upstream: Box<UpstreamListener>, first: Box<UpstreamListener> },
    /// The address cannot be had.
    #[error(
        "cannot listen on {}, where `{}` calls `{}`{}; choose another port or free this one",
        upstream.address, upstream.owner, upstream.destination,
        other.as_ref().map(|other| format!(": {other}")).unwrap_or_default()
    )]
    Bind {
        upstream: Box<UpstreamListener>,
        /// Who has the port, where that can be seen.
        other: Option<String>,
        #[source]
        source: io::Error,
    },
}

struct Listening {
    stop: CancellationToken,
    task: JoinHandle<()>,
    bound: SocketAddr,
}

/// Keeps the listeners that the snapshot in force asks for, until the outbound side stops.
pub(crate) async fn keep(room: Arc<Room>, status: watch::Sender<UpstreamsStatus>) {
    let mut generation = room.generation.subscribe();
    // A snapshot may have been published before this task first ran.
    generation.mark_changed();
    let mut open: BTreeMap<SocketAddr, Listening> = BTreeMap::new();
    loop {
        tokio::select! {
            () = room.outbound.stopping.cancelled() => break,
            changed = generation.changed() => if changed.is_err() { break },
        }
        let Some(current) = room.current.load_full() else { continue };
        let wanted = &current.snapshot.upstreams;
        close_all_but(&mut open, wanted).await;
        let upstreams: Vec<UpstreamStatus> = wanted
            .iter()
            .map(|upstream| {
                let opened = is_unclaimed(wanted, upstream).and_then(|()| ensure(&room, &mut open, upstream));
                let outcome = opened.map_err(|error| {
                    tracing::error!(service = %upstream.owner, error = %wire::one_line(&error), "upstream not available");
                    wire::one_line(&error)
                });
                UpstreamStatus { listener: upstream.clone(), outcome }
            })
            .collect();
        room.forbidden.set_upstreams(open.values().map(|listening| listening.bound).collect());
        room.metrics.upstreams_failed(upstreams.iter().filter(|upstream| upstream.outcome.is_err()).count());
        status.send_replace(UpstreamsStatus { generation: current.generation, upstreams });
    }
    close_all_but(&mut open, &[]).await;
}

/// Closes the listeners that nobody wants any more, and waits until their ports are free for others.
async fn close_all_but(open: &mut BTreeMap<SocketAddr, Listening>, wanted: &[UpstreamListener]) {
    let unwanted: Vec<SocketAddr> =
        open.keys().filter(|address| !wanted.iter().any(|upstream| upstream.address == **address)).copied().collect();
    for address in unwanted {
        if let Some(listening) = open.remove(&address) {
            listening.stop.cancel();
            // An error would be a panic of the task, and its listener is closed then too.
            let _ = listening.task.await;
        }
    }
}

/// Checks that no upstream before this one has its address.
fn is_unclaimed(wanted: &[UpstreamListener], upstream: &UpstreamListener) -> Result<(), ListenError> {
    match wanted.iter().find(|other| other.address == upstream.address) {
        Some(first) if first != upstream => {
            Err(ListenError::Claimed { upstream: Box::new(upstream.clone()), first: Box::new(first.clone()) })
        }
        _ => Ok(()),
    }
}

/// Opens a listener unless it is open. Which service calls which through it is looked up for every connection.
fn ensure(
    room: &Arc<Room>,
    open: &mut BTreeMap<SocketAddr, Listening>,
    upstream: &UpstreamListener,
) -> Result<SocketAddr, ListenError> {
    if let Some(listening) = open.get(&upstream.address) {
        return Ok(listening.bound);
    }
    let address = upstream.address;
    if !address.ip().to_canonical().is_loopback() {
        return Err(ListenError::NotLoopback { upstream: Box::new(upstream.clone()) });
    }
    let listened = listen(address).and_then(|listener| Ok((listener.local_addr()?, listener)));
    let (bound, listener) = listened.map_err(|source| {
        let is_taken = source.kind() == io::ErrorKind::AddrInUse;
        let other = is_taken.then(sockets::listening).flatten();
        let other = other.and_then(|sockets| sockets::whoever_has(address, &sockets));
        ListenError::Bind { upstream: Box::new(upstream.clone()), other, source }
    })?;
    let stop = room.outbound.stopping.child_token();
    let task = tokio::spawn(accept(Arc::clone(room), listener, address, stop.clone()));
    open.insert(address, Listening { stop, task, bound });
    Ok(bound)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Connections of a former life that linger in TIME_WAIT must not keep a restarted agent from its ports.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn accept(room: Arc<Room>, listener: TcpListener, address: SocketAddr, stop: CancellationToken) {
    let permits = Arc::clone(&room.outbound_permits);
    let metrics = room.metrics.clone();
    accept_all(listener, permits, stop, metrics, |accepted| {
        room.outbound.tasks.spawn(serve(Arc::clone(&room), address, accepted));
    })
    .await;
}
