//! Connections that were on their way elsewhere and were led here: one listener for each local service, so that who calls is
//! known. Where a connection was going, the kernel remembers.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use catalog::{AddressNumber, ServiceKey};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::door::Door;
use super::serve_by;
use crate::loopback::{LOOPBACK, is_absent};
use crate::metrics::{Direction, Phase};
use crate::proxy::accept::{Accepted, accept_all, prepare};
use crate::proxy::copy::{Ending, Meter, reset, splice_plain};
use crate::proxy::room::Room;
use crate::proxy::snapshot::Snapshot;

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;
/// A port that is taken may become free.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// Says why a connection that was led here goes nowhere.
#[derive(Debug, thiserror::Error)]
enum Stray {
    #[error("nothing led it here: the listener is for redirected connections only")]
    NotRedirected,
    #[error("no service of this node has the listener any more")]
    NoOwner,
    #[error("no service that is known has the address {0}; look its name up again")]
    Nobodys(IpAddr),
    #[error("{0} is none of the mesh, and its `mesh` entry lets services call nobody else")]
    OutsideMesh(SocketAddr),
    #[error(
        "{0} is the agent's own, or link-local, such as a metadata service: whoever needs that leaves the address out of \
         redirection (`weft redirect apply --exclude-outbound-cidr`, in pods `weft.dev/exclude-outbound-cidrs`)"
    )]
    Forbidden(SocketAddr),
    #[error("{0} did not answer in time")]
    Unresponsive(SocketAddr),
    #[error("cannot reach {address}")]
    Unreachable {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
}

impl Stray {
    fn label(&self) -> &'static str {
        match self {
            Self::NotRedirected => "not_redirected",
            Self::NoOwner => "no_upstream",
            Self::Nobodys(_) => "no_such_address",
            Self::OutsideMesh(_) => "outside_mesh",
            Self::Forbidden(_) => "forbidden_address",
            Self::Unresponsive(_) => "unresponsive",
            Self::Unreachable { .. } => "unreachable",
        }
    }
}

/// Is where a connection goes.
#[derive(Debug, PartialEq, Eq)]
enum Course {
    /// To a service of the mesh.
    Mesh(Door),
    /// To where it was going.
    Onward(ServiceKey, SocketAddr),
}

struct Listening {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Keeps the listeners that the snapshot in force asks for, until the outbound side stops.
pub(crate) async fn keep(room: Arc<Room>) {
    let mut generation = room.generation.subscribe();
    generation.mark_changed();
    let mut open: BTreeMap<SocketAddr, Listening> = BTreeMap::new();
    let mut failed = false;
    loop {
        tokio::select! {
            () = room.outbound.stopping.cancelled() => break,
            changed = generation.changed() => if changed.is_err() { break },
            () = tokio::time::sleep(TRY_AGAIN), if failed => {}
        }
        let Some(current) = room.current.load_full() else { continue };
        let ports = &current.snapshot.outbound;
        let unwanted: Vec<SocketAddr> = open.keys().filter(|at| !ports.contains_key(&at.port())).copied().collect();
        for listening in unwanted.iter().filter_map(|address| open.remove(address)) {
            close(listening).await;
        }
        failed = false;
        let before = room.redirected.lock().map(|standing| standing.clone()).unwrap_or_default();
        let mut standing = BTreeMap::new();
        for (port, owner) in ports {
            let opened = open_port(&room, &mut open, *port);
            if let Err(error) = &opened {
                failed = true;
                // It is tried again every few seconds, and said once.
                if before.get(port).is_none_or(|standing| standing.as_ref().err() != Some(error)) {
                    tracing::error!(service = %owner, port, error, "redirected connections are not taken");
                }
            }
            standing.insert(*port, opened);
        }
        room.forbidden.set_outbound(open.keys().copied().collect());
        if let Ok(mut known) = room.redirected.lock() {
            *known = standing;
        }
    }
    for (_, listening) in open {
        close(listening).await;
    }
}

async fn close(listening: Listening) {
    listening.stop.cancel();
    // An error would be a panic of the task, and its listener is closed then too.
    let _ = listening.task.await;
}

/// Listens at a port for both families; a machine without IPv6 has one.
fn open_port(room: &Arc<Room>, open: &mut BTreeMap<SocketAddr, Listening>, port: u16) -> Result<(), String> {
    for address in LOOPBACK.map(|address| SocketAddr::new(address, port)) {
        if open.contains_key(&address) {
            continue;
        }
        let listener = match listen(address) {
            Ok(listener) => listener,
            Err(error) if address.is_ipv6() && is_absent(&error) => continue,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(format!("cannot listen on {address}: {error}; stop what uses the port"));
            }
            Err(error) => return Err(format!("cannot listen on {address}: {error}")),
        };
        let stop = room.outbound.stopping.child_token();
        let task = tokio::spawn(accept(Arc::clone(room), listener, port, stop.clone()));
        open.insert(address, Listening { stop, task });
    }
    Ok(())
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn accept(room: Arc<Room>, listener: TcpListener, port: u16, stop: CancellationToken) {
    let permits = Arc::clone(&room.outbound_permits);
    let metrics = room.metrics.clone();
    accept_all(listener, permits, stop, metrics, |accepted| {
        room.outbound.tasks.spawn(serve(Arc::clone(&room), port, accepted));
    })
    .await;
}

/// Returns where a connection was going before it was led to its listener; nothing where nobody led it there.
pub(crate) fn original_destination(stream: &TcpStream) -> Option<SocketAddr> {
    let own = stream.local_addr().ok()?;
    let socket = socket2::SockRef::from(stream);
    let told = if own.ip().to_canonical().is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    let told = told.ok()?.as_socket()?;
    let told = SocketAddr::new(told.ip().to_canonical(), told.port());
    (told != SocketAddr::new(own.ip().to_canonical(), own.port())).then_some(told)
}

/// Says where a connection goes that came in at a port and was going to `original`.
fn course(snapshot: &Snapshot, port: u16, original: Option<SocketAddr>) -> Result<Course, Stray> {
    let dialled = original.ok_or(Stray::NotRedirected)?;
    let owner = snapshot.outbound.get(&port).ok_or(Stray::NoOwner)?.clone();
    if AddressNumber::is_virtual(dialled.ip()) {
        let number = AddressNumber::of_virtual(dialled.ip()).ok_or(Stray::Nobodys(dialled.ip()))?;
        let destination = snapshot.numbered.get(&number).ok_or(Stray::Nobodys(dialled.ip()))?.clone();
        return Ok(Course::Mesh(Door::Service { owner, destination, dialled }));
    }
    if snapshot.mesh_destinations_only {
        return Err(Stray::OutsideMesh(dialled));
    }
    Ok(Course::Onward(owner, dialled))
}

async fn serve(room: Arc<Room>, port: u16, accepted: Accepted) {
    let original = original_destination(&accepted.stream);
    let current = room.current.load_full();
    let course = current.as_ref().map_or(Err(Stray::NoOwner), |current| course(&current.snapshot, port, original));
    match course {
        Ok(Course::Mesh(door)) => serve_by(room, door, accepted).await,
        Ok(Course::Onward(owner, address)) => match dial(&room, address).await {
            Ok(stream) => pass(&room, &owner, address, accepted, stream).await,
            Err(stray) => refuse(&room, &accepted, port, &stray),
        },
        Err(stray) => refuse(&room, &accepted, port, &stray),
    }
}

/// Connects to where a connection was going: as if nobody had led it here.
async fn dial(room: &Room, address: SocketAddr) -> Result<TcpStream, Stray> {
    if room.forbidden.forbids_application(address) {
        return Err(Stray::Forbidden(address));
    }
    let stream = tokio::time::timeout(room.limits.connect_timeout, TcpStream::connect(address)).await;
    let stream = stream.map_err(|_| Stray::Unresponsive(address))?;
    let stream = stream.map_err(|source| Stray::Unreachable { address, source })?;
    prepare(&stream);
    Ok(stream)
}

/// Carries a connection that is none of the mesh's, until it ends, or until the mesh lets its services call nobody else.
async fn pass(room: &Arc<Room>, owner: &ServiceKey, address: SocketAddr, accepted: Accepted, stream: TcpStream) {
    let Accepted { stream: caller, from, permit: _permit } = accepted;
    let started = tokio::time::Instant::now();
    let _open = room.metrics.carried(Direction::Outbound);
    let meter = Meter::new(Direction::Outbound, room.metrics.clone());
    let outcome = tokio::select! {
        biased;
        () = no_longer(room) => Err("changed"),
        () = room.outbound.cut.cancelled() => Err("cut"),
        copied = splice_plain(caller, stream, &meter, room.limits.half_closed_silence_max) => {
            copied.map_err(|error| Ending::Failed(error).label())
        }
    };
    let reason = outcome.err().unwrap_or("done");
    room.metrics.closed(Direction::Outbound, reason);
    tracing::info!(
        direction = "outbound", source = %owner, src.addr = %from, dst.addr = %address, outside_mesh = true,
        bytes_sent = meter.sent(), bytes_recv = meter.received(), duration_s = started.elapsed().as_secs_f64(), reason,
        "connection closed"
    );
}

/// Waits until services may call nobody outside the mesh any more.
async fn no_longer(room: &Room) {
    let mut generation = room.generation.subscribe();
    generation.mark_changed();
    while generation.changed().await.is_ok() {
        if room.current.load().as_ref().is_some_and(|current| current.snapshot.mesh_destinations_only) {
            return;
        }
    }
    std::future::pending().await
}

fn refuse(room: &Room, accepted: &Accepted, port: u16, stray: &Stray) {
    room.metrics.refused(Direction::Outbound, Phase::Identify, stray.label());
    tracing::info!(
        direction = "outbound", src.addr = %accepted.from, port, reason = stray.label(), error = %wire::one_line(stray),
        "connection refused"
    );
    reset(&accepted.stream);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::tests::bare_snapshot;

    #[test]
    fn a_connection_goes_to_the_service_whose_address_it_dialled_and_to_nobody_elses() {
        let (web, api): (ServiceKey, ServiceKey) = ("web".parse().unwrap(), "api".parse().unwrap());
        let number = AddressNumber::new(5).unwrap();
        let mut snapshot = bare_snapshot();
        snapshot.outbound = BTreeMap::from([(15_101, web.clone())]);
        snapshot.numbered = BTreeMap::from([(number, api.clone())]);
        let to = |snapshot: &Snapshot, port: u16, address: &str| {
            course(snapshot, port, Some(address.parse().unwrap())).map_err(|stray| stray.label())
        };
        for dialled in ["240.0.0.5:80", "[fd77:6566:7400::5]:8080"] {
            let door =
                Door::Service { owner: web.clone(), destination: api.clone(), dialled: dialled.parse().unwrap() };
            assert_eq!(to(&snapshot, 15_101, dialled), Ok(Course::Mesh(door)));
        }
        let outside: SocketAddr = "192.0.2.1:443".parse().unwrap();
        assert_eq!(to(&snapshot, 15_101, "192.0.2.1:443"), Ok(Course::Onward(web, outside)));
        assert_eq!(to(&snapshot, 15_102, "240.0.0.5:80"), Err("no_upstream"));
        for nobodys in ["240.0.0.6:80", "240.63.255.255:80", "[fd77:6566:7400::]:80"] {
            assert_eq!(to(&snapshot, 15_101, nobodys), Err("no_such_address"), "{nobodys}");
        }
        assert_eq!(course(&snapshot, 15_101, None).map_err(|stray| stray.label()), Err("not_redirected"));
        snapshot.mesh_destinations_only = true;
        assert_eq!(to(&snapshot, 15_101, "192.0.2.1:443"), Err("outside_mesh"));
    }
}
