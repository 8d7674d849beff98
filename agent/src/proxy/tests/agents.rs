//! Proxies with their snapshots, and applications beside them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use catalog::{
    Action, CheckStatus, Endpoint, InstanceKey, Intention, KeyExchange, Platform, Policy, Timestamp, Weights,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use wire::crypto;

use super::certificates::{Authority, service_key};
use crate::metrics::Metrics;
use crate::proxy::{Ingress, Limits, LocalInstance, Proxy, ProxyConfig, Revocations, Snapshot, UpstreamListener};

/// How long a promise of two seconds may take on a busy machine.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);

/// One agent: its proxy, and the snapshot that it was last given or will be given next.
pub(super) struct Agent {
    pub(super) proxy: Proxy,
    pub(super) metrics: Metrics,
    pub(super) snapshot: Snapshot,
    clock: Arc<AtomicU64>,
}

/// Says who is told of an agent's requests.
#[derive(Debug, Clone, Default)]
pub(super) struct Told {
    pub(super) access_log: Option<crate::AccessLogSettings>,
    pub(super) tracing: Option<crate::TracingSettings>,
    pub(super) kept_keys: Option<Arc<dyn wire::jwt::KeptKeys>>,
}

impl Agent {
    pub(super) fn start(authority: &Authority) -> Self {
        Self::start_with(authority, Limits::default())
    }

    pub(super) fn start_with(authority: &Authority, limits: Limits) -> Self {
        Self::start_as(authority, limits, Told::default(), None, Vec::new())
    }

    pub(super) fn start_telling(authority: &Authority, limits: Limits, told: Told) -> Self {
        Self::start_as(authority, limits, told, None, Vec::new())
    }

    /// Starts an agent that is a gateway; returns it with where other networks reach it.
    pub(super) fn start_gateway(authority: &Authority, limits: Limits) -> (Self, SocketAddr) {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        (Self::start_as(authority, limits, Told::default(), Some(listener), Vec::new()), address)
    }

    /// Starts an agent that listens to a load balancer; returns it with where.
    pub(super) fn start_ingress(authority: &Authority, limits: Limits, ingress: Ingress) -> (Self, SocketAddr) {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        (Self::start_as(authority, limits, Told::default(), None, vec![(listener, ingress)]), address)
    }

    fn start_as(
        authority: &Authority,
        limits: Limits,
        told: Told,
        gateway_listener: Option<std::net::TcpListener>,
        ingress: Vec<(std::net::TcpListener, Ingress)>,
    ) -> Self {
        let metrics = Metrics::new();
        let ahead = Arc::new(AtomicU64::new(0));
        let clock = Arc::clone(&ahead);
        let config = ProxyConfig {
            mesh_listener: std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(),
            gateway_listener,
            ingress,
            own_listeners: Vec::new(),
            runtime: Some(Handle::current()),
            limits,
            clock: Arc::new(move || Timestamp(crypto::now().0 + ahead.load(Ordering::Relaxed))),
            metrics: metrics.proxy.clone(),
            access_log: told.access_log,
            tracing: told.tracing,
            kept_keys: told.kept_keys,
        };
        let snapshot = Snapshot { scheme: authority.scheme.clone(), anchors: authority.anchors(), ..bare_snapshot() };
        Self { proxy: Proxy::start(config).unwrap(), metrics, snapshot, clock }
    }

    /// Puts the wall clock forward.
    pub(super) fn put_clock_forward(&self, by: Duration) {
        self.clock.fetch_add(u64::try_from(by.as_millis()).unwrap(), Ordering::Relaxed);
    }

    pub(super) async fn publish(&self) {
        self.proxy.publish(Arc::new(self.snapshot.clone()));
        self.proxy.settled().await;
    }

    /// Adds an instance of a service, with its application on loopback.
    pub(super) fn serve(&mut self, authority: &Authority, service: &str, application: SocketAddr) {
        let key = service_key(service);
        self.snapshot.identities.insert(key.clone(), authority.leaf(service));
        self.snapshot.locals.entry(key.clone()).or_default().push(LocalInstance {
            key: instance(service, application.port()),
            advertised_address: Ipv4Addr::LOCALHOST.to_string(),
            local_address: application.ip(),
            port: application.port(),
            ports: BTreeMap::from([("http".to_owned(), application.port())]),
            takes_proxy_header: false,
        });
        self.rule(service, Action::Deny, &[]);
    }

    /// Replaces the rules for a service: `allow web api`, `deny * api` and so on.
    pub(super) fn rule(&mut self, service: &str, default_action: Action, rules: &[&str]) {
        let rules = rules.iter().map(|rule| intention(rule)).collect();
        self.snapshot.policies.insert(service_key(service), Policy::new(default_action, Vec::new(), rules));
    }

    /// Lets a local service call another one at these agents and ports.
    pub(super) fn call(&mut self, authority: &Authority, owner: &str, destination: &str, at: &[Endpoint]) {
        let leaf = authority.leaf(owner);
        self.snapshot.identities.entry(service_key(owner)).or_insert(leaf);
        self.snapshot.endpoints.insert(service_key(destination), at.to_vec());
        self.snapshot.upstreams.push(UpstreamListener {
            owner: service_key(owner),
            destination: service_key(destination),
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            user: None,
        });
    }

    /// Returns where the listener of the first upstream is.
    pub(super) fn upstream(&self) -> SocketAddr {
        *self.proxy.status().upstreams[0].outcome.as_ref().unwrap()
    }

    /// Connects to the first upstream as the local service.
    pub(super) async fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.upstream()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// Connects to the first upstream and checks that the connection is reset, be it before or after it was seen to stand.
    pub(super) async fn expect_refusal(&self) {
        match TcpStream::connect(self.upstream()).await {
            Ok(mut stream) => expect_reset(&mut stream).await,
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}"),
        }
    }

    /// Connects to the first upstream until a connection is refused. One that slips in, before it is known here that the
    /// other side leaves, is carried to its end.
    pub(super) async fn expect_refusal_soon(&self) {
        let refused = async {
            while let Ok(mut stream) = TcpStream::connect(self.upstream()).await {
                let mut heard = [0];
                let is_carried = stream.write_all(b"x").await.is_ok() && stream.read_exact(&mut heard).await.is_ok();
                if !is_carried {
                    return;
                }
                stream.shutdown().await.unwrap();
                stream.read_to_end(&mut Vec::new()).await.unwrap();
            }
        };
        in_time("a connection is refused", refused).await;
    }

    /// Returns the value of a metric, written as in the text format; 0 where it is not there.
    pub(super) fn metric(&self, name: &str) -> u64 {
        let text = self.metrics.text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0, |value| value.parse().unwrap())
    }

    pub(super) fn refused(&self, direction: &str, phase: &str, reason: &str) -> u64 {
        self.metric(&format!(
            "weft_proxy_refused_total{{direction=\"{direction}\",phase=\"{phase}\",reason=\"{reason}\"}}"
        ))
    }

    /// Returns how often an instance was put aside for this reason.
    pub(super) fn ejected(&self, reason: &str) -> u64 {
        self.metric(&format!("weft_proxy_endpoints_ejected_total{{reason=\"{reason}\"}}"))
    }

    pub(super) fn closed(&self, direction: &str, reason: &str) -> u64 {
        self.metric(&format!("weft_proxy_connections_closed_total{{direction=\"{direction}\",reason=\"{reason}\"}}"))
    }
}

/// What an agent knows that stands beside nothing.
pub(in crate::proxy) fn bare_snapshot() -> Snapshot {
    Snapshot {
        network: String::new(),
        zone: None,
        scheme: catalog::IdentityScheme {
            trust_domain: "mesh.test".parse().unwrap(),
            template: Default::default(),
            datacenter: "dc1".to_owned(),
        },
        anchors: Arc::default(),
        identities: BTreeMap::new(),
        policies: BTreeMap::new(),
        providers: BTreeMap::new(),
        revocations: Revocations::default(),
        min_key_exchange: KeyExchange::default(),
        endpoints: BTreeMap::new(),
        gateways: Vec::new(),
        locals: BTreeMap::new(),
        protocols: BTreeMap::new(),
        routes: BTreeMap::new(),
        subsets: BTreeMap::new(),
        settings: BTreeMap::new(),
        rate_limits: BTreeMap::new(),
        external: BTreeMap::new(),
        upstreams: Vec::new(),
        outbound: BTreeMap::new(),
        numbered: BTreeMap::new(),
        mesh_destinations_only: false,
        modes: BTreeMap::new(),
    }
}

pub(super) fn intention(rule: &str) -> Intention {
    let words: Vec<&str> = rule.split(' ').collect();
    Intention::new(words[1].parse().unwrap(), words[2].parse().unwrap(), words[0].parse().unwrap())
}

fn instance(service: &str, port: u16) -> InstanceKey {
    let key = service_key(service);
    InstanceKey {
        node: "node-1".parse().unwrap(),
        namespace: key.namespace.clone(),
        id: format!("{}-{port}", key.name).parse().unwrap(),
    }
}

/// An instance behind an agent, as callers know it.
pub(super) fn endpoint(service: &str, mesh: SocketAddr, application: SocketAddr) -> Endpoint {
    Endpoint {
        key: instance(service, application.port()),
        address: IpAddr::V4(Ipv4Addr::LOCALHOST).to_string(),
        mesh_port: Some(mesh.port()),
        port: application.port(),
        ports: BTreeMap::new(),
        status: CheckStatus::Passing,
        zone: None,
        network: String::new(),
        platform: Platform::Vm,
        weights: Weights { passing: 1, warning: 1 },
        meta: BTreeMap::new(),
        tags: Vec::new(),
        node_meta: BTreeMap::new(),
    }
}

/// An application that says everything back, and `.` when its caller has finished.
pub(super) struct Echo {
    pub(super) address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Echo {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(echo(stream));
            }
        });
        Self { address, accepted, task }
    }

    pub(super) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Stops to listen; what is open goes on.
    pub(super) async fn stop(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// Waits for what surely happens, and fails where it does not, so that nothing that is lost holds up a run for ever.
pub(super) async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(6 * DEADLINE, future).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

async fn echo(stream: TcpStream) -> std::io::Result<()> {
    let (mut read, mut write) = stream.into_split();
    tokio::io::copy(&mut read, &mut write).await?;
    write.write_all(b".").await?;
    write.shutdown().await
}

/// Says something over a connection and checks that it comes back.
pub(super) async fn say(stream: &mut TcpStream, text: &str) {
    let mut heard = vec![0; text.len()];
    let saying = async {
        stream.write_all(text.as_bytes()).await.unwrap();
        stream.read_exact(&mut heard).await.unwrap();
    };
    in_time("it comes back", saying).await;
    assert_eq!(heard, text.as_bytes());
}

/// Waits until the other side closes the connection, and checks that it does so by a reset.
pub(super) async fn expect_reset(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut rest)).await.expect("closed in time");
    let error = read.expect_err("a reset, not an end of stream");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    assert_eq!(rest, b"", "nothing came before the reset");
}

/// Waits until something holds.
pub(super) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until those who write without end have written nothing more while others were answered time and again.
pub(super) async fn until_stalled(written: &AtomicUsize, mut round_trip: impl AsyncFnMut()) {
    let mut before = 0;
    let stalling = async {
        while before == 0 || written.load(Ordering::SeqCst) != before {
            before = written.load(Ordering::SeqCst);
            for _ in 0..50 {
                round_trip().await;
            }
        }
    };
    in_time("nothing more is written", stalling).await;
}

/// Two agents: `web` calls `api`, whose application says everything back.
pub(super) struct Pair {
    pub(super) authority: Authority,
    pub(super) web: Agent,
    pub(super) api: Agent,
    pub(super) echo: Echo,
}

impl Pair {
    /// Starts both, with these rules for `api`.
    pub(super) async fn start(rules: &[&str]) -> Self {
        Self::start_with(rules, Limits::default()).await
    }

    /// Starts both, `web` within these bounds.
    pub(super) async fn start_with(rules: &[&str], limits: Limits) -> Self {
        let authority = Authority::new("mesh.test");
        let echo = Echo::start().await;
        let mut api = Agent::start(&authority);
        api.serve(&authority, "api", echo.address);
        api.rule("api", Action::Deny, rules);
        api.publish().await;
        let mut web = Agent::start_with(&authority, limits);
        web.call(&authority, "web", "api", &[endpoint("api", api.proxy.mesh_address(), echo.address)]);
        web.publish().await;
        Self { authority, web, api, echo }
    }

    /// Opens a connection that is known to be carried.
    pub(super) async fn connected(&self) -> TcpStream {
        let mut stream = self.web.connect().await;
        say(&mut stream, "hello").await;
        stream
    }
}
