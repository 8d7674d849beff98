//! The snapshot in force, with what follows from it and is too dear to be made for every connection.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use catalog::{Policy, RetryBudget, Routes, ServiceKey, SpiffeId, UpstreamSettings};
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use wire::tls::{TlsIdentity, TrustAnchors, edge_server_config, mesh_server_config};

use super::http::decide::Rules;
use super::http::provider::{Provider, ProvidersOf};
use super::http::rate::RateLimiter;
use super::outbound::allowance::{Allowance, Allowed, Counted};
use super::outbound::call_error::CallError;
use super::outbound::cluster::Cluster;
use super::outbound::door::Door;
use super::outbound::endpoints::{Endpoints, Scope, Targets};
use super::snapshot::{Snapshot, UpstreamListener, is_same_leaf};
use crate::metrics::{Direction, PairCounters, ProxyMetrics, TcpCounters};
use crate::tally::{RuleCounts, Tally};

/// Is a published snapshot.
#[derive(Debug)]
pub(crate) struct Current {
    /// What was published.
    pub(crate) snapshot: Arc<Snapshot>,
    /// Counts publications, from 1.
    pub(crate) generation: u64,
    /// Whether some rule ends by itself, so that open streams must be decided again as time goes by.
    pub(crate) has_rules_that_end: bool,
    sides: BTreeMap<ServiceKey, Arc<ServerSide>>,
    calls: BTreeMap<SocketAddr, Arc<Called>>,
    /// Of listeners that are for whatever a service calls: by who calls whom.
    pairs: BTreeMap<(ServiceKey, ServiceKey), Arc<Called>>,
    /// Among which instances the calls of each way choose, by the service that is called.
    ways: BTreeMap<ServiceKey, Arc<[Targets]>>,
    /// Of the services that are called over HTTP.
    rules: BTreeMap<ServiceKey, Rules>,
    providers: BTreeMap<ServiceKey, ProvidersOf>,
    /// What decisions are counted with, by the service that is called.
    counts: BTreeMap<ServiceKey, Arc<RuleCounts>>,
    /// How many requests local services take.
    rates: BTreeMap<ServiceKey, Arc<RateLimiter>>,
    nobody: Arc<ServerConfig>,
}

/// Is how one local service answers a TLS client.
#[derive(Debug)]
pub(crate) struct ServerSide {
    /// The leaf that it shows.
    pub(crate) identity: Arc<TlsIdentity>,
    tunnel: Arc<ServerConfig>,
    plain: Arc<ServerConfig>,
    /// For load balancers: to a service that does not speak HTTP, and to one that does.
    outside: [OnceLock<Arc<ServerConfig>>; 2],
}

/// Is what follows from one upstream listener.
#[derive(Debug)]
pub(crate) struct Called {
    /// Which service calls which.
    pub(crate) upstream: UpstreamListener,
    /// Where its calls go.
    pub(crate) routes: Arc<Routes>,
    /// What the caller says of its calls there.
    pub(crate) settings: UpstreamSettings,
    allowance: Arc<Allowance>,
    ends: BTreeMap<ServiceKey, Arc<End>>,
    counters: OnceLock<Arc<PairCounters>>,
    tcp: OnceLock<Arc<TcpCounters>>,
}

/// Is a service that calls may end at.
#[derive(Debug)]
pub(crate) struct End {
    /// Which.
    pub(crate) service: ServiceKey,
    /// The identity that must answer.
    pub(crate) expected: SpiffeId,
    /// The server name that it is asked for by.
    pub(crate) server_name: String,
}

impl Called {
    fn new(snapshot: &Snapshot, upstream: &UpstreamListener, known: Option<&Arc<Self>>) -> Self {
        // What is open stays counted whatever else changes.
        let known = known.filter(|known| known.upstream == *upstream);
        let allowance = known.map(|known| Arc::clone(&known.allowance)).unwrap_or_default();
        let settings = snapshot.settings(&upstream.owner, &upstream.destination);
        let routes = snapshot.routes(&upstream.destination);
        let end = |service: &ServiceKey| {
            let (expected, server_name) = (snapshot.scheme.workload(service), snapshot.scheme.sni(service));
            (service.clone(), Arc::new(End { service: service.clone(), expected, server_name }))
        };
        let ends = routes.targets().map(|target| end(&target.key.service)).collect();
        Self {
            upstream: upstream.clone(),
            routes,
            settings,
            allowance,
            ends,
            counters: OnceLock::new(),
            tcp: OnceLock::new(),
        }
    }

    /// Counts one more of the calls at once.
    ///
    /// # Errors
    ///
    /// [`CallError::TooMany`] if there are as many as the caller's settings allow.
    pub(crate) fn allow(&self, counted: Counted) -> Result<Option<Allowed>, CallError> {
        self.allowance.take(counted, self.settings.limits.as_ref())
    }

    /// Returns what may be spent on repeating its requests.
    pub(crate) fn retries(&self) -> &RetryBudget {
        &self.allowance.retries
    }

    /// Returns a service that calls may end at.
    pub(crate) fn end(&self, service: &ServiceKey) -> Option<&Arc<End>> {
        self.ends.get(service)
    }

    /// Reports whether the same follows from another snapshot.
    fn is_of(&self, snapshot: &Snapshot, before: &Snapshot, upstream: &UpstreamListener) -> bool {
        let same_routes = match snapshot.routes.get(&upstream.destination) {
            Some(routes) => Arc::ptr_eq(routes, &self.routes),
            None => {
                !before.routes.contains_key(&upstream.destination)
                    && self.routes.protocol() == snapshot.protocol(&upstream.destination)
            }
        };
        same_routes
            && self.upstream == *upstream
            && self.settings == snapshot.settings(&upstream.owner, &upstream.destination)
            && before.scheme == snapshot.scheme
    }

    /// Returns what its connections are counted with that nobody looks into.
    pub(crate) fn tcp(&self, metrics: &ProxyMetrics) -> Arc<TcpCounters> {
        let counters = self.tcp.get_or_init(|| {
            let UpstreamListener { owner, destination, .. } = &self.upstream;
            metrics.tcp(Direction::Outbound, owner.to_string(), destination.to_string())
        });
        Arc::clone(counters)
    }

    /// Returns what its requests are counted with.
    pub(crate) fn counters(&self, metrics: &ProxyMetrics) -> Arc<PairCounters> {
        let counters = self.counters.get_or_init(|| {
            let UpstreamListener { owner, destination, .. } = &self.upstream;
            metrics.requests(Direction::Outbound, owner.to_string(), destination.to_string())
        });
        Arc::clone(counters)
    }
}

/// Works out what follows from a snapshot, and takes over from the one before what has not changed.
struct Renewal<'a> {
    snapshot: &'a Snapshot,
    previous: Option<&'a Current>,
}

impl Renewal<'_> {
    /// Returns the one before if the same roots are trusted.
    fn with_same_anchors(&self) -> Option<&Current> {
        self.previous.filter(|previous| Arc::ptr_eq(&previous.snapshot.anchors, &self.snapshot.anchors))
    }

    fn nobody(&self) -> Arc<ServerConfig> {
        match self.with_same_anchors() {
            Some(previous) => Arc::clone(&previous.nobody),
            None => Arc::new(mesh_server_config(Arc::clone(&self.snapshot.anchors), Arc::new(Nobody))),
        }
    }

    fn sides(&self) -> BTreeMap<ServiceKey, Arc<ServerSide>> {
        let side = |(service, identity): (&ServiceKey, &Arc<TlsIdentity>)| {
            let known = self.with_same_anchors().and_then(|previous| previous.sides.get(service));
            let side = match known.filter(|side| is_same_leaf(&side.identity, identity)) {
                Some(side) => Arc::clone(side),
                None => Arc::new(ServerSide::new(&self.snapshot.anchors, Arc::clone(identity))),
            };
            (service.clone(), side)
        };
        self.snapshot.identities.iter().map(side).collect()
    }

    fn rules(&self) -> BTreeMap<ServiceKey, Rules> {
        let of_requests =
            self.snapshot.policies.iter().filter(|(service, _)| self.snapshot.protocol(service).is_http());
        let rules = of_requests.map(|(service, policy)| {
            let known = self.previous.and_then(|previous| previous.rules(service));
            (service.clone(), Rules::renewed(known, policy, service))
        });
        rules.collect()
    }

    fn counts(&self, tally: &Tally) -> BTreeMap<ServiceKey, Arc<RuleCounts>> {
        // Of a service that is both, those that stand beside it decide as its callers here do.
        let counted = self.snapshot.external.iter().chain(&self.snapshot.policies);
        let counts = counted.map(|(service, policy)| {
            let known = self
                .previous
                .filter(|previous| previous.snapshot.rules_for(service) == Some(policy))
                .and_then(|previous| previous.counts.get(service));
            let counts = known.map_or_else(|| Arc::new(RuleCounts::of(tally, service, policy)), Arc::clone);
            (service.clone(), counts)
        });
        counts.collect()
    }

    fn called(&self, upstream: &UpstreamListener, known: Option<&Arc<Called>>) -> Arc<Called> {
        match self.previous.zip(known) {
            Some((previous, known)) if known.is_of(self.snapshot, &previous.snapshot, upstream) => Arc::clone(known),
            known => Arc::new(Called::new(self.snapshot, upstream, known.map(|(_, known)| known))),
        }
    }

    fn calls(&self) -> BTreeMap<SocketAddr, Arc<Called>> {
        let mut calls = BTreeMap::new();
        for upstream in &self.snapshot.upstreams {
            // Of several with one address only the first is heard.
            let known = self.previous.and_then(|previous| previous.call(upstream.address));
            calls.entry(upstream.address).or_insert_with(|| self.called(upstream, known));
        }
        calls
    }

    fn pairs(&self) -> BTreeMap<(ServiceKey, ServiceKey), Arc<Called>> {
        let mut pairs = BTreeMap::new();
        for owner in self.snapshot.outbound.values() {
            for (number, destination) in &self.snapshot.numbered {
                let address = SocketAddr::new(number.virtual_v4().into(), 0);
                let (owner, destination) = (owner.clone(), destination.clone());
                // The kernel led here the connections of one user, or of the one service that there is.
                let upstream =
                    UpstreamListener { owner: owner.clone(), destination: destination.clone(), address, user: None };
                let pair = (owner, destination);
                let known = self.previous.and_then(|previous| previous.pairs.get(&pair));
                pairs.insert(pair, self.called(&upstream, known));
            }
        }
        pairs
    }

    fn ways<'b>(
        &self,
        all: impl Iterator<Item = &'b Arc<Called>>,
        endpoints: &Endpoints,
    ) -> BTreeMap<ServiceKey, Arc<[Targets]>> {
        let mut ways = BTreeMap::new();
        for called in all {
            ways.entry(called.upstream.destination.clone()).or_insert_with(|| {
                let legs = called.routes.legs().iter();
                legs.map(|leg| endpoints.targets(self.snapshot, leg, Scope::Anywhere)).collect()
            });
        }
        ways
    }

    fn rates(&self) -> BTreeMap<ServiceKey, Arc<RateLimiter>> {
        let rates = self.snapshot.rate_limits.iter().filter_map(|(service, limits)| {
            let known = self.previous.and_then(|previous| previous.rates.get(service));
            Some((service.clone(), RateLimiter::renewed(known, limits)?))
        });
        rates.collect()
    }
}

impl Current {
    /// Derives what follows from a snapshot; takes over from `previous` what has not changed.
    pub(crate) fn new(
        snapshot: Arc<Snapshot>,
        generation: u64,
        previous: Option<&Self>,
        providers: BTreeMap<ServiceKey, ProvidersOf>,
        tally: &Tally,
        endpoints: &Endpoints,
    ) -> Self {
        let renewal = Renewal { snapshot: &snapshot, previous };
        let (calls, pairs) = (renewal.calls(), renewal.pairs());
        Self {
            generation,
            has_rules_that_end: snapshot.policies.values().chain(snapshot.external.values()).any(Policy::ends_in_part),
            sides: renewal.sides(),
            ways: renewal.ways(calls.values().chain(pairs.values()), endpoints),
            calls,
            pairs,
            rules: renewal.rules(),
            providers,
            counts: renewal.counts(tally),
            rates: renewal.rates(),
            nobody: renewal.nobody(),
            snapshot,
        }
    }

    /// Returns how a local service answers; nothing while it has no leaf.
    pub(crate) fn server_side(&self, service: &ServiceKey) -> Option<&Arc<ServerSide>> {
        self.sides.get(service)
    }

    /// Returns which service calls which through a listener.
    pub(crate) fn call(&self, listener: SocketAddr) -> Option<&Arc<Called>> {
        self.calls.get(&listener)
    }

    /// Returns who calls whom for a caller that came in by a door.
    pub(crate) fn called_by(&self, door: &Door) -> Option<&Arc<Called>> {
        match door {
            Door::Upstream(listener) => self.call(*listener),
            Door::Service { owner, destination, .. } => self.pairs.get(&(owner.clone(), destination.clone())),
        }
    }

    /// Returns among which instances calls of a service choose that go a way.
    pub(crate) fn targets(&self, called: &ServiceKey, way: usize) -> &[Arc<Cluster>] {
        self.ways.get(called).and_then(|ways| ways.get(way)).map(Vec::as_slice).unwrap_or_default()
    }

    /// Returns the rules for the requests to a local service; nothing where it is not called over HTTP, or has none.
    pub(crate) fn rules(&self, service: &ServiceKey) -> Option<&Rules> {
        self.rules.get(service)
    }

    /// Returns the providers whose tokens the rules for a local service ask for.
    pub(crate) fn providers(&self, service: &ServiceKey) -> &[Arc<Provider>] {
        self.providers.get(service).map_or(&[], |providers| providers)
    }

    /// Returns what decisions about a local service are counted with.
    pub(crate) fn counts(&self, service: &ServiceKey) -> Option<&RuleCounts> {
        self.counts.get(service).map(Arc::as_ref)
    }

    /// Returns what bounds the requests to a local service.
    pub(crate) fn rate(&self, service: &ServiceKey) -> Option<&Arc<RateLimiter>> {
        self.rates.get(service)
    }

    /// Returns the configuration that ends every handshake with an alert, for clients that ask for no service of ours.
    pub(crate) fn nobody(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.nobody)
    }
}

impl ServerSide {
    fn new(anchors: &Arc<TrustAnchors>, identity: Arc<TlsIdentity>) -> Self {
        let config = mesh_server_config(Arc::clone(anchors), identity.resolver());
        let mut plain = config.clone();
        plain.alpn_protocols.clear();
        Self { identity, tunnel: Arc::new(config), plain: Arc::new(plain), outside: Default::default() }
    }

    /// Returns the configuration for a client: one that offers no `h2` may offer any other protocol or none, for the
    /// bytes within are not ours to understand.
    pub(crate) fn config_for(&self, speaks_tunnel: bool) -> Arc<ServerConfig> {
        Arc::clone(if speaks_tunnel { &self.tunnel } else { &self.plain })
    }

    /// Returns the configuration for a load balancer, which is no part of the mesh.
    pub(crate) fn config_for_outside(&self, speaks_http: bool) -> Arc<ServerConfig> {
        let [bytes, http] = &self.outside;
        let place = if speaks_http { http } else { bytes };
        Arc::clone(place.get_or_init(|| Arc::new(edge_server_config(&self.identity, speaks_http))))
    }
}

/// Has no certificate to show.
#[derive(Debug)]
struct Nobody;

impl ResolvesServerCert for Nobody {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}
