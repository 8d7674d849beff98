//! From a configuration to a running agent.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};
use wire::agent_protocol::Subject;
use wire::pki::LeafKey;
use wire::surroundings::Surroundings;

use crate::config::{Config, IngressListener};
use crate::core::{self, Setup};
use crate::dns;
use crate::enrol::{self, EnrolError, Proof};
use crate::leaf::{self, HeldLeaf, LeafError};
use crate::local::{self, Local, LocalError, Reserved};
use crate::metrics::Metrics;
use crate::proxy::{Ingress, Limits, Proxy, ProxyConfig, ProxyStartError};
use crate::state::{DataDirError, Identity, Saved, Store, TokenKeys};
use crate::{Agent, api, bypass, forward, report, surroundings};

/// Finding the address that others dial may hold up an agent's start for this long, however many servers there are.
const ROUTE_TIMEOUT: Duration = Duration::from_millis(300);
/// Opening the listeners of upstreams may hold it up for this long.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(2);

/// Why an agent did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The wall clock cannot be right.
    #[error("cannot start by this clock")]
    Clock(#[source] wire::wall_clock::ClockError),
    /// The data directory cannot be used.
    #[error("cannot use the agent's data directory")]
    DataDir(#[source] DataDirError),
    /// The agent's key cannot be read, and nothing else proves who it is.
    #[error(
        "cannot read the agent's key; restore it from a backup, or empty the data directory and join again with a token \
         made by `weft join-token create --replace-node`"
    )]
    Key(#[source] DataDirError),
    /// The agent is not enrolled and cannot be.
    #[error("cannot join the mesh")]
    Enrol(#[source] EnrolError),
    /// What enrolment gave cannot be kept.
    #[error("cannot keep the agent's identity; nothing is lost: start again with the same join token")]
    Keep(#[source] DataDirError),
    /// The agent's first leaf is of no use.
    #[error("cannot use the agent's certificate; empty the data directory and join again with a new token")]
    Leaf(#[source] LeafError),
    /// A service definition cannot be read.
    #[error("cannot load service definitions")]
    Services(#[source] LocalError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address} for {what}: stop what uses the port, or choose another one")]
    Listen {
        /// What listens there.
        what: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Names cannot be answered.
    #[error("cannot answer names")]
    Dns(#[source] dns::DnsError),
    /// The proxy cannot start.
    #[error("cannot start the proxy")]
    Proxy(#[source] ProxyStartError),
    /// The agent is told to be what it may not be.
    #[error(
        "this agent is not entitled to be a gateway into network `{network}`: join with a token made by `weft join-token \
         create --gateway --network`, or have a binding rule of type `gateway` say so"
    )]
    NoGateway {
        /// The network that it is in.
        network: String,
    },
    /// No address is known that other agents could dial.
    #[error("cannot tell which of this machine's addresses other agents reach it by: name one by --advertise")]
    Advertise,
}

/// Starts an agent. It has enrolled, and what it kept from an earlier run is in force, when this returns.
///
/// An agent that must enrol first waits for a server as long as it takes; liveness is served meanwhile.
///
/// # Errors
///
/// [`StartError`] says what is wrong and what to do about it.
pub async fn start(config: Config) -> Result<Agent, StartError> {
    wire::crypto::install_provider();
    wire::wall_clock::check(wire::crypto::now()).map_err(StartError::Clock)?;
    // First, so that what cannot be used leaves no trace.
    let definitions = local::read_files(&config.services).map_err(StartError::Services)?;
    let store = Store::open(config.data_dir.as_deref()).map_err(StartError::DataDir)?;
    let metrics = Metrics::new();
    let Listeners { admin, http, dns, health, forward, ingress, mut places } = Listeners::open(&config).await?;
    let (http_address, admin_address) = (address_of(&http)?, address_of(&admin)?);
    let health_address = health.as_ref().map(address_of).transpose()?;
    let dns_address = dns.as_ref().and_then(|dns| dns.addresses().first().copied());
    let zones = dns::Zones::new(&config.dns.clone().unwrap_or_default()).map_err(StartError::Dns)?;
    let stopping = CancellationToken::new();
    let (ready, readiness) = api::readiness();
    let health = health.map(|it| spawned(api::serve_health(it, readiness.clone(), &config.application_probes)));
    let admin = spawned(api::serve_admin(admin, readiness, metrics.clone()));

    let key = store.agent_key().map_err(StartError::Key)?;
    let identity = identify(&config, &store, &key).await?;
    let saved = store.saved(&identity.record.id);
    let mesh = mesh_listener(&config, saved.as_ref()).await?;
    let mesh_address = address_of(&mesh)?;
    let gateway = gateway_listener(&config, &identity).await?;
    let gateway_port = gateway.as_ref().map(address_of).transpose()?.map(|address| address.port());
    let advertise = advertised(&config, mesh_address.ip(), &identity, saved.as_ref()).await?;
    let proxy = ProxyConfig {
        mesh_listener: in_std("the mesh", mesh)?,
        gateway_listener: gateway.map(|gateway| in_std("other networks", gateway)).transpose()?,
        ingress,
        own_listeners: places.iter().map(|(address, _)| *address).filter(|it| it.ip().is_loopback()).collect(),
        runtime: None,
        limits: Limits::default(),
        clock: Arc::new(wire::crypto::now),
        metrics: metrics.proxy.clone(),
        access_log: config.access_log.clone(),
        tracing: config.tracing.clone(),
        kept_keys: config.data_dir.is_some().then(|| -> Arc<dyn wire::jwt::KeptKeys> {
            Arc::new(TokenKeys::open(store.clone(), identity.record.id.clone()))
        }),
    };
    let proxy = Arc::new(Proxy::start(proxy).map_err(StartError::Proxy)?);

    places.push((mesh_address, "mesh listener"));
    places.extend(gateway_port.map(|port| (SocketAddr::new(config.bind, port), "gateway listener")));
    let reserved = Reserved { listeners: places.iter().map(|(at, name)| (at.ip(), at.port(), *name)).collect() };
    let outbound = saved.as_ref().map(|saved| saved.outbound.clone()).unwrap_or_default();
    let mut local = Local::new(identity.record.clone(), reserved, outbound);
    local.take_files(definitions);
    local.take_registered(store.registered());
    let surroundings = config.surroundings.clone();
    look_around(&mut local, surroundings.as_deref()).await;
    info!(node = %config.node, agent = %identity.record.id, mesh = %mesh_address, http = %http_address, "agent started");
    let (drain_deadline, report_interval) = (config.drain_deadline, config.report_interval);
    let leaves = held_leaves(&store, &identity)?;
    let setup = Setup {
        config,
        identity,
        key,
        store,
        saved,
        leaves,
        local,
        advertise,
        mesh_port: mesh_address.port(),
        gateway_port,
        proxy: Arc::clone(&proxy),
        metrics: metrics.control.clone(),
    };
    let (core, task) = core::start(setup);
    // Nobody is told that the agent has started, or is ready, before its listeners listen.
    if tokio::time::timeout(SETTLE_TIMEOUT, proxy.settled()).await.is_err() {
        warn!("listeners of upstreams are not open yet; the agent is not ready before they are");
    }
    ready.running(core.clone(), Arc::clone(&proxy));
    let leaving = CancellationToken::new();
    let tally = Arc::clone(metrics.proxy.tally());
    let state = api::ApiState::new(core.clone(), Arc::clone(&proxy), metrics, leaving.clone());
    let ways = forward::Ways { proxy: Arc::clone(&proxy), core: core.clone(), zones };
    let mut tasks = vec![AbortOnDropHandle::new(task), admin];
    tasks.extend(health);
    tasks.push(spawned(report::keep(core.clone(), tally, report_interval)));
    tasks.push(spawned(bypass::watch(core.clone())));
    tasks.extend(surroundings.map(|it| spawned(surroundings::watch(core.clone(), it))));
    tasks.extend(dns.map(|dns| spawned(dns.serve(core.clone(), state.clone()))));
    tasks.extend(forward.map(|listener| spawned(forward::serve(listener, ways, stopping.clone()))));
    tasks.push(spawned(api::serve_http(http, state, stopping.clone())));
    Ok(Agent {
        core,
        proxy,
        http: http_address,
        admin: admin_address,
        health: health_address,
        dns: dns_address,
        drain_deadline,
        ready,
        leaving,
        stopping,
        _tasks: tasks,
    })
}

/// Asks the platform how things are, before anything is advertised: what is not well yet should not be called.
async fn look_around(local: &mut Local, surroundings: Option<&dyn Surroundings>) {
    let Some(surroundings) = surroundings else { return };
    match surroundings::look(surroundings).await {
        Ok(observed) => drop(local.observe(&observed)),
        Err(error) => warn!(%error, "the platform does not answer"),
    }
}

fn spawned(task: impl Future<Output = ()> + Send + 'static) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(task))
}

/// Returns the leaves that were kept, and at least the one that came with the identity.
fn held_leaves(store: &Store, identity: &Identity) -> Result<BTreeMap<Subject, HeldLeaf>, StartError> {
    let mut leaves = store.leaves(identity);
    if let Entry::Vacant(place) = leaves.entry(Subject::Agent) {
        let first = HeldLeaf::load(identity.leaf.clone(), &leaf::named(&Subject::Agent, identity));
        place.insert(first.map_err(StartError::Leaf)?);
    }
    Ok(leaves)
}

/// The listeners that an agent opens before it knows whether it may be one, so that a port that is taken is told first.
struct Listeners {
    admin: TcpListener,
    http: TcpListener,
    dns: Option<dns::Sockets>,
    health: Option<TcpListener>,
    forward: Option<TcpListener>,
    ingress: Vec<(std::net::TcpListener, Ingress)>,
    /// Where each of them is, and its name.
    places: Vec<(SocketAddr, &'static str)>,
}

impl Listeners {
    async fn open(config: &Config) -> Result<Self, StartError> {
        let admin = listen("readiness and metrics", loopback(config.admin_port)).await?;
        let http = listen("the local API", loopback(config.http_port)).await?;
        let mut places = vec![(address_of(&http)?, "local API"), (address_of(&admin)?, "admin listener")];
        let dns = match config.dns.clone() {
            Some(settings) => Some(dns::Sockets::open(settings).await.map_err(StartError::Dns)?),
            None => None,
        };
        let answered = dns.iter().flat_map(dns::Sockets::addresses);
        places.extend(answered.map(|address| (*address, "DNS listener")));
        let health = match config.health_port {
            Some(port) => Some(listen("the kubelet", SocketAddr::new(config.bind, port)).await?),
            None => None,
        };
        if let Some(health) = &health {
            places.push((address_of(health)?, "listener for the kubelet"));
        }
        let forward = match config.forward_port {
            Some(port) => Some(listen("the forward proxy", loopback(port)).await?),
            None => None,
        };
        if let Some(forward) = &forward {
            places.push((address_of(forward)?, "forward proxy"));
        }
        let mut ingress = Vec::with_capacity(config.ingress.len());
        for IngressListener { ingress: known, port } in &config.ingress {
            let listener = listen("load balancers", SocketAddr::new(config.bind, *port)).await?;
            places.push((address_of(&listener)?, "listener for load balancers"));
            ingress.push((in_std("load balancers", listener)?, known.clone()));
        }
        Ok(Self { admin, http, dns, health, forward, ingress, places })
    }
}

/// Returns the identity that was kept, or enrols.
///
/// Another join token than the one that was used is an operator's wish to enrol again, for other services perhaps. It is
/// tried; but an agent that has an identity and cannot reach a server serves with what it has.
async fn identify(config: &Config, store: &Store, key: &LeafKey) -> Result<Identity, StartError> {
    let kept = store.identity().filter(|identity| is_ours(identity, config, key));
    let identity = match (kept, &config.join_token) {
        (Some(kept), Some(token)) if token.secret_hash() != kept.joined_with => {
            match enrol::once(config, Proof::Token(token), key).await {
                Ok(identity) => identity,
                Err(error) => {
                    warn!(error, "the new join token was not used; the agent goes on with the identity it has");
                    return Ok(kept);
                }
            }
        }
        (Some(kept), _) => return Ok(kept),
        (None, Some(token)) => enrol::enrol(config, Proof::Token(token), key).await.map_err(StartError::Enrol)?,
        (None, None) => match &config.login {
            Some(login) => enrol::enrol(config, Proof::Login(login), key).await.map_err(StartError::Enrol)?,
            None => return Err(StartError::Enrol(EnrolError::NoToken)),
        },
    };
    store.keep_identity(&identity).map_err(StartError::Keep)?;
    Ok(identity)
}

fn is_ours(identity: &Identity, config: &Config, key: &LeafKey) -> bool {
    let ours = identity.record.node == config.node
        && identity.record.platform == config.platform
        && identity.record.key == key.fingerprint();
    if !ours {
        warn!(kept = %identity.record.node, node = %config.node, "kept identity ignored; it is of another node or key");
    }
    ours
}

/// Opens the listener for other networks, where the agent is to be a gateway and may be one.
async fn gateway_listener(config: &Config, identity: &Identity) -> Result<Option<TcpListener>, StartError> {
    let Some(port) = config.gateway_port else { return Ok(None) };
    if !identity.record.entitles_gateway(&config.network) {
        return Err(StartError::NoGateway { network: config.network.clone() });
    }
    listen("other networks", SocketAddr::new(config.bind, port)).await.map(Some)
}

/// Takes the configured port; where that is left open, the port of the last run, for others may still dial it.
async fn mesh_listener(config: &Config, saved: Option<&Saved>) -> Result<TcpListener, StartError> {
    if config.mesh_port == 0
        && let Some(saved) = saved
        && let Ok(listener) = TcpListener::bind((config.bind, saved.mesh_port)).await
    {
        return Ok(listener);
    }
    listen("the mesh", SocketAddr::new(config.bind, config.mesh_port)).await
}

/// Returns the address that others dial: as configured, as bound, by which a server is reached, or as in the last run.
async fn advertised(
    config: &Config,
    bound: IpAddr,
    identity: &Identity,
    saved: Option<&Saved>,
) -> Result<IpAddr, StartError> {
    if let Some(address) = config.advertise {
        return Ok(address);
    }
    if !bound.is_unspecified() {
        return Ok(bound);
    }
    let servers = config.servers.iter().chain(&identity.servers).chain(saved.iter().flat_map(|saved| &saved.servers));
    let mut routes: FuturesUnordered<_> = servers.map(|server| route_to(server, bound)).collect();
    let kept = saved.and_then(|saved| saved.advertised);
    let mut loopback = None;
    let found = tokio::time::timeout(ROUTE_TIMEOUT, async {
        while let Some(route) = routes.next().await {
            match route {
                Ok(address) if address.is_loopback() => loopback = Some(address),
                Ok(address) if !address.is_unspecified() => return Some(address),
                Ok(_) | Err(_) => {}
            }
        }
        None
    });
    // By loopback nobody on another machine is reached, so it is for meshes that are on one machine only.
    let found = found.await.ok().flatten();
    let kept_or = kept.filter(|address| !address.is_loopback() && !address.is_unspecified());
    found.or(kept_or).or(loopback).or(kept).ok_or(StartError::Advertise)
}

/// Returns the address that this machine would reach `server` from. Nothing is sent.
async fn route_to(server: &str, bound: IpAddr) -> io::Result<IpAddr> {
    let local: IpAddr = if bound.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((local, 0)).await?;
    socket.connect(server).await?;
    socket.local_addr().map(|address| address.ip())
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

async fn listen(what: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| listen_failed(what, address, source))
}

fn listen_failed(what: &'static str, address: SocketAddr, source: io::Error) -> StartError {
    StartError::Listen { what, address, source }
}

/// Hands a listener over to another runtime.
fn in_std(what: &'static str, listener: TcpListener) -> Result<std::net::TcpListener, StartError> {
    let address = address_of(&listener)?;
    listener.into_std().map_err(|source| listen_failed(what, address, source))
}

fn address_of(listener: &TcpListener) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(|source| listen_failed("an address", loopback(0), source))
}

#[cfg(test)]
mod tests;
