//! The data plane: carries connections of local services to other agents, and those of other agents to local services.
//!
//! All that it knows is one immutable [`Snapshot`]; it works on with the last one when nobody can give it a newer one.
//! A connection's life is one function, read from top to bottom, for each direction: [`inbound`] and [`outbound`].

mod accept;
mod copy;
mod current;
mod decide;
mod distrust;
mod forbidden;
mod forwarded;
mod gateway;
mod handshake;
mod http;
mod inbound;
mod limits;
mod observers;
mod open_streams;
mod outbound;
mod patience;
mod proxy_header;
mod refusal;
mod room;
mod shown;
mod snapshot;
mod stream_count;
mod taps;
#[cfg(test)]
mod tests;
mod tunnel_settings;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use catalog::{KeyExchange, KeyFingerprint, NodeName, ServiceKey, SpiffeId, Timestamp};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use wire::jwt::KeptKeys;
use wire::pki::Serial;
use wire::tap::TapOrder;
use wire::tls::PeerIdentity;

use self::current::Current;
use self::forbidden::Forbidden;
use self::observers::Observers;
use self::outbound::cluster::is_panic;
use self::outbound::redirected;
use self::outbound::upstreams::{self, UpstreamsStatus};
use self::room::Room;
use crate::access_log::{AccessLog, AccessLogError, AccessLogSettings};
use crate::metrics::Direction;
use crate::spans::{Spans, TracingError, TracingSettings};

pub use self::distrust::Distrust;
pub(crate) use self::forwarded::{Forwarded, ForwardedPlace};
pub use self::inbound::ingress::{INGRESS_NAMESPACE, Ingress};
pub use self::limits::Limits;
pub use self::open_streams::OpenConnection;
pub use self::outbound::upstreams::UpstreamStatus;
pub use self::room::Clock;
pub(crate) use self::shown::name_of;
pub use self::snapshot::{DEFAULT_PORT_NAME, LocalInstance, Revocations, Snapshot, UpstreamListener};
pub(crate) use self::taps::Watched;
pub use crate::metrics::ProxyMetrics;

/// How often rules that end by themselves are looked at, and idle tunnels.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(1);

/// Callers that may wait to be accepted; the standard library's listeners start with fewer.
const BACKLOG: i32 = 1024;

/// Says where and within which bounds a proxy works.
pub struct ProxyConfig {
    /// The inbound mesh listener.
    pub mesh_listener: std::net::TcpListener,
    /// The listener for other networks, where the agent is a gateway.
    pub gateway_listener: Option<std::net::TcpListener>,
    /// The listeners for load balancers, with what each may bring.
    pub ingress: Vec<(std::net::TcpListener, Ingress)>,
    /// Where else this process listens; nobody is carried to such an address.
    pub own_listeners: Vec<SocketAddr>,
    /// The runtime to work on; one of its own, apart from everything else in the process, where absent.
    pub runtime: Option<Handle>,
    /// The bounds.
    pub limits: Limits,
    /// The wall clock, by which leaves and rules end.
    pub clock: Clock,
    /// Where to count.
    pub metrics: ProxyMetrics,
    /// Where to write a line for each request, and which.
    pub access_log: Option<AccessLogSettings>,
    /// Where to send spans, and how many.
    pub tracing: Option<TracingSettings>,
    /// Where the keys of providers of tokens are kept across restarts.
    pub kept_keys: Option<Arc<dyn KeptKeys>>,
}

/// Says why a proxy did not start.
#[derive(Debug, thiserror::Error)]
pub enum ProxyStartError {
    /// The runtime could not be made.
    #[error("cannot start the threads of the proxy")]
    Runtime(#[source] io::Error),
    /// The listener is not one.
    #[error("cannot use the mesh listener")]
    Listener(#[source] io::Error),
    /// The access log cannot be written.
    #[error(transparent)]
    AccessLog(#[from] AccessLogError),
    /// Spans cannot be sent.
    #[error(transparent)]
    Tracing(#[from] TracingError),
}

/// Says how a proxy stands.
#[derive(Debug, Clone)]
pub struct ProxyStatus {
    /// How many snapshots were published; none yet means that everything is refused.
    pub generation: u64,
    /// Streams to local services that are open.
    pub inbound_streams: usize,
    /// Connections of local services that are open.
    pub outbound_streams: usize,
    /// Tunnels that other agents have opened.
    pub inbound_tunnels: u64,
    /// Tunnels to other agents.
    pub outbound_tunnels: u64,
    /// Whether the upstream listeners are those of the last published snapshot.
    pub is_settled: bool,
    /// How each upstream of the last snapshot that the listeners followed stands.
    pub upstreams: Vec<UpstreamStatus>,
}

/// Says whether somebody would be let in.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) is_allowed: bool,
    /// The rule that decided, in words.
    pub(crate) reason: String,
}

/// Is a running data plane. Dropping it cuts everything; [`Proxy::drain`] does not.
pub struct Proxy {
    room: Arc<Room>,
    mesh_address: SocketAddr,
    upstreams: watch::Receiver<UpstreamsStatus>,
    publishing: Mutex<()>,
    runtime: Option<Runtime>,
}

impl Proxy {
    /// Starts to accept on the mesh listener. Until a snapshot is published, everybody is refused.
    ///
    /// # Errors
    ///
    /// [`ProxyStartError`] if the runtime cannot be made or the listener cannot be used.
    pub fn start(config: ProxyConfig) -> Result<Self, ProxyStartError> {
        let ProxyConfig {
            mesh_listener,
            gateway_listener,
            ingress,
            own_listeners,
            runtime,
            limits,
            clock,
            metrics,
            access_log,
            tracing,
            kept_keys,
        } = config;
        let access_log =
            access_log.map(|settings| AccessLog::open(&settings, metrics.access_lines_dropped())).transpose()?;
        let spans = tracing.map(|settings| Spans::start(&settings, metrics.spans())).transpose()?;
        let observers = Observers { access_log, spans, taps: Arc::default() };
        let mesh_address = mesh_listener.local_addr().map_err(ProxyStartError::Listener)?;
        prepare(&mesh_listener)?;
        let mut carrying = Vec::new();
        if let Some(listener) = &gateway_listener {
            prepare(listener)?;
            // A tunnel that came back would be passed on again, without end.
            carrying.push(listener.local_addr().map_err(ProxyStartError::Listener)?);
        }
        for (listener, _) in &ingress {
            prepare(listener)?;
            carrying.push(listener.local_addr().map_err(ProxyStartError::Listener)?);
        }
        let (handle, runtime) = match runtime {
            Some(handle) => (handle, None),
            None => {
                let runtime = own_runtime().map_err(ProxyStartError::Runtime)?;
                (runtime.handle().clone(), Some(runtime))
            }
        };
        let forbidden = Forbidden::new(mesh_address, own_listeners, carrying);
        let room = Arc::new(Room::new(forbidden, limits, clock, metrics, observers, kept_keys));
        let (status, upstreams) = watch::channel(UpstreamsStatus::default());
        let _entered = handle.enter();
        let gateway = gateway_listener.map(tokio::net::TcpListener::from_std).transpose();
        let ingress: io::Result<Vec<_>> = ingress
            .into_iter()
            .map(|(listener, ingress)| Ok((tokio::net::TcpListener::from_std(listener)?, Arc::new(ingress))))
            .collect();
        let listeners =
            tokio::net::TcpListener::from_std(mesh_listener).and_then(|mesh| Ok((mesh, gateway?, ingress?)));
        let (listener, gateway, ingress) = match listeners {
            Ok(listeners) => listeners,
            Err(error) => {
                // Dropped like any other value, it would panic on a thread of another runtime.
                if let Some(runtime) = runtime {
                    runtime.shutdown_background();
                }
                return Err(ProxyStartError::Listener(error));
            }
        };
        if let Some(gateway) = gateway {
            room.gateway.tasks.spawn(gateway::listen(Arc::clone(&room), gateway));
        }
        for (listener, ingress) in ingress {
            room.inbound.tasks.spawn(inbound::ingress::listen(Arc::clone(&room), ingress, listener));
        }
        room.inbound.tasks.spawn(inbound::listen(Arc::clone(&room), listener));
        room.outbound.tasks.spawn(upstreams::keep(Arc::clone(&room), status));
        room.outbound.tasks.spawn(redirected::keep(Arc::clone(&room)));
        room.outbound.tasks.spawn(keep_house(Arc::clone(&room)));
        Ok(Self { room, mesh_address, upstreams, publishing: Mutex::default(), runtime })
    }

    /// Returns the address of the mesh listener.
    pub fn mesh_address(&self) -> SocketAddr {
        self.mesh_address
    }

    /// Puts a snapshot into force.
    ///
    /// When this returns, new streams are decided by it, and open ones that it refuses have been told to close. Upstream
    /// listeners follow at once, those that failed before are tried again; [`Proxy::settled`] waits for them.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        // One after the other, or an older snapshot could stay in force. Nothing below waits for anybody.
        let _publishing = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        let room = &self.room;
        let previous = room.current.load_full();
        let generation = previous.as_ref().map_or(1, |previous| previous.generation + 1);
        let providers = room.providers.follow(&snapshot.providers);
        let (tally, endpoints) = (room.metrics.tally(), &room.endpoints);
        let (snapshot_in_force, previous) = (Arc::clone(&snapshot), previous.as_deref());
        let current = Arc::new(Current::new(snapshot_in_force, generation, previous, providers, tally, endpoints));
        room.current.store(Some(Arc::clone(&current)));
        let closed = room.streams.decide_again(&current, room.now());
        room.pool.review(&snapshot);
        room.endpoints.retain(&snapshot);
        let panicking = snapshot.endpoints.values().filter(|known| is_panic(known)).count();
        room.metrics.panicking(panicking);
        room.metrics.snapshot_published();
        room.generation.send_replace(generation);
        tracing::debug!(generation, closed, "snapshot published");
    }

    /// Waits until the upstream listeners are those of the last published snapshot, and returns how they stand.
    pub async fn settled(&self) -> Vec<UpstreamStatus> {
        let generation = *self.room.generation.borrow();
        let mut upstreams = self.upstreams.clone();
        match upstreams.wait_for(|status| status.generation >= generation).await {
            Ok(status) => status.upstreams.clone(),
            // The proxy has stopped.
            Err(_) => Vec::new(),
        }
    }

    /// Reports whether a connection to this address would be carried on, as the call of a local service or of somebody outside.
    pub(crate) fn leads_on(&self, address: SocketAddr) -> bool {
        self.room.forbidden.leads_on(address)
    }

    /// Returns what connects to the listeners of upstreams for processes that it has asked whose they are.
    pub(crate) fn forwarded(&self) -> &Arc<Forwarded> {
        &self.room.forwarded
    }

    /// Returns why redirected connections of local services are not taken, one line each; nothing where all are.
    pub(crate) fn not_taken(&self) -> Vec<String> {
        let standing = self.room.redirected.lock().unwrap_or_else(PoisonError::into_inner);
        standing.values().filter_map(|standing| standing.as_ref().err().cloned()).collect()
    }

    /// Returns how many streams of both directions are open.
    pub fn open_streams(&self) -> usize {
        self.room.streams.count(Direction::Inbound) + self.room.streams.count(Direction::Outbound)
    }

    /// Lists the connections that are open, up to a thousand.
    pub fn connections(&self) -> Vec<OpenConnection> {
        self.room.streams.list()
    }

    /// Says whether the holder of a certificate would be let in to a local service now, and by which rule; nothing where
    /// the service has no rules here, for it is none of this agent's.
    pub(crate) fn would_admit(&self, client: &SpiffeId, serial: Serial, destination: &ServiceKey) -> Option<Admitted> {
        let current = self.room.current.load_full()?;
        let snapshot = &current.snapshot;
        snapshot.policies.get(destination)?;
        // Whether the certificate is in time, and how the keys were agreed on, the application has seen at its handshake.
        let peer = PeerIdentity {
            id: client.clone(),
            platform: None,
            serial: *serial.as_bytes(),
            not_before: Timestamp::default(),
            not_after: Timestamp(u64::MAX),
            key: KeyFingerprint(String::new()),
            expired: false,
            chain: Arc::default(),
            key_exchange: KeyExchange::Hybrid,
        };
        Some(match decide::still_allows(snapshot, &peer, destination, self.room.now()) {
            Ok(admission) => Admitted { is_allowed: true, reason: admission.reason.to_string() },
            Err(refusal) => Admitted { is_allowed: false, reason: refusal.to_string() },
        })
    }

    /// Begins to watch the requests to a local service, as an agent of `node`; none for a service that is not here, and where enough watch already.
    pub(crate) fn watch(&self, order: TapOrder, node: NodeName) -> Option<Watched> {
        let is_here = |current: &Arc<Current>| current.snapshot.locals.contains_key(&order.service);
        self.room.current.load().as_ref().is_some_and(is_here).then(|| self.room.observers.taps.watch(order, node))?
    }

    /// Returns how the proxy stands.
    pub fn status(&self) -> ProxyStatus {
        let generation = *self.room.generation.borrow();
        let upstreams = self.upstreams.borrow().clone();
        ProxyStatus {
            generation,
            inbound_streams: self.room.streams.count(Direction::Inbound),
            outbound_streams: self.room.streams.count(Direction::Outbound),
            inbound_tunnels: self.room.metrics.tunnels_open(Direction::Inbound),
            outbound_tunnels: self.room.metrics.tunnels_open(Direction::Outbound),
            is_settled: upstreams.generation >= generation,
            upstreams: upstreams.upstreams,
        }
    }

    /// Takes no more callers, lets what is open finish until the deadline, then cuts it. Returns whether all of it
    /// finished.
    ///
    /// Local services can call others for as long as somebody calls them: what is in flight may need it.
    pub async fn drain(&self, deadline: Duration) -> bool {
        let deadline = Instant::now() + deadline;
        let room = &self.room;
        let (passed, callers_done) = tokio::join!(
            room.gateway.drain(deadline, || {}),
            room.inbound.drain(deadline, || room.streams.cut(Direction::Inbound)),
        );
        room.outbound.drain(deadline, || room.streams.cut(Direction::Outbound)).await && callers_done && passed
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.room.gateway.stopping.cancel();
        self.room.gateway.cut.cancel();
        for (stage, direction) in [(&self.room.inbound, Direction::Inbound), (&self.room.outbound, Direction::Outbound)]
        {
            stage.stopping.cancel();
            self.room.streams.cut(direction);
            stage.cut.cancel();
        }
        if let Some(runtime) = self.runtime.take() {
            // Not waited for: that would block whoever drops this, perhaps a thread of another runtime.
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Proxy").field("mesh_address", &self.mesh_address).finish_non_exhaustive()
    }
}

/// Has a listener work without blocking, and lets callers wait for their turn.
fn prepare(listener: &std::net::TcpListener) -> Result<(), ProxyStartError> {
    listener.set_nonblocking(true).map_err(ProxyStartError::Listener)?;
    socket2::SockRef::from(listener).listen(BACKLOG).map_err(ProxyStartError::Listener)
}

fn own_runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .thread_name("weft-proxy")
        // Only names are resolved there.
        .max_blocking_threads(8)
        .enable_all()
        .build()
}

/// Does what comes due with time: closes streams whose rule has ended, lets go of idle tunnels.
async fn keep_house(room: Arc<Room>) {
    let mut due = tokio::time::interval(HOUSEKEEPING_INTERVAL);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = room.outbound.stopping.cancelled() => return,
            _ = due.tick() => {}
        }
        let now = room.now();
        room.pool.sweep(room.limits.tunnel_idle_max, now);
        room.applications.sweep();
        if let Some(current) = room.current.load_full().filter(|current| current.has_rules_that_end) {
            room.streams.decide_again(&current, now);
        }
    }
}
