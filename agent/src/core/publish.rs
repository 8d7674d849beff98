//! What follows from everything that the core knows: the proxy's snapshot, and the status that people see.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use catalog::{
    AddressNumber, AgentRecord, Check, CheckKey, ConfigContent, ConfigEntries, ConfigEntry, Endpoint, Gateway,
    IdentityScheme, Intention, Item, MeshItem, NodeName, ServiceKey, Timestamp, TokenProvider, Topic, TrustDomain,
};
use tokio::sync::watch;
use wire::agent_protocol::Subject;
use wire::tap::TapOrder;
use wire::tls::{TlsIdentity, TrustAnchors};

use super::placing::Unplaced;
use super::restraint::{both_revocations, policy_of, stricter};
use super::saving::Kept;
use super::{Core, Reach};
use crate::local::Definition;
use crate::proxy::{Distrust, LocalInstance, Proxy, Revocations, Snapshot, Watched};
use crate::state::Identity;
use crate::sync::connection::Connection;
use crate::sync::{Input, TopicState, View};

/// What the agent knows and does, as its APIs show it.
#[derive(Clone, Debug)]
pub(crate) struct Status {
    pub(crate) record: AgentRecord,
    pub(crate) datacenter: String,
    /// The address that other agents dial.
    pub(crate) address: IpAddr,
    pub(crate) mesh_port: u16,
    /// The network that the agent is a gateway into.
    pub(crate) gateway: Option<String>,
    /// What the catalog is told of each service, and what stays here.
    pub(crate) services: Vec<Definition>,
    pub(crate) checks: BTreeMap<CheckKey, Check>,
    /// Upstreams that have no listener, each with the reason.
    pub(crate) unplaced: Vec<Unplaced>,
    /// Definitions that are not served, each with the reason.
    pub(crate) refused: Vec<String>,
    pub(crate) view: View,
    /// What is said of each service that is called, by what calls go by: it may be older than the view.
    pub(crate) routed_by: BTreeMap<ServiceKey, Arc<TopicState>>,
    /// When the leaf of each service ends.
    pub(crate) leaves: BTreeMap<ServiceKey, Timestamp>,
    /// What would be there after a restart without servers.
    pub(crate) kept: Kept,
    /// What could not be written to disk, each with the reason.
    pub(crate) unsaved: Vec<String>,
    /// The server that the agent is connected to.
    pub(crate) server: Option<String>,
}

impl Status {
    /// Returns the status of an agent that knows nothing yet but who it is.
    pub(super) fn initial(identity: &Identity, address: IpAddr, mesh_port: u16) -> Self {
        Self {
            record: identity.record.clone(),
            datacenter: identity.mesh.datacenter.clone(),
            address,
            mesh_port,
            gateway: None,
            services: Vec::new(),
            checks: BTreeMap::new(),
            unplaced: Vec::new(),
            refused: Vec::new(),
            view: View::new(),
            routed_by: BTreeMap::new(),
            leaves: BTreeMap::new(),
            kept: Kept::default(),
            unsaved: Vec::new(),
            server: None,
        }
    }

    /// Returns what is missing before every local service is served, one line each; nothing when the agent is ready.
    pub(crate) fn missing(&self, now: Timestamp) -> Vec<String> {
        let mut missing: Vec<String> = [Topic::Mesh, Topic::Roots, Topic::Revocations]
            .into_iter()
            .filter(|topic| !self.view.contains_key(topic))
            .map(|topic| format!("{topic}: not received from a server yet"))
            .collect();
        if let Some(network) = self.gateway.clone().map(Topic::Network)
            && !self.view.contains_key(&network)
        {
            missing.push(format!("{network}: not received from a server yet"));
        }
        let services: BTreeSet<ServiceKey> = self.services.iter().map(|it| it.instance.service_key()).collect();
        for service in services {
            match self.leaves.get(&service) {
                None => missing.push(format!("leaf of {service}: not signed by a server yet")),
                Some(not_after) if *not_after <= now => missing.push(format!("leaf of {service}: expired")),
                Some(_) if !self.kept.leaf(&service) => missing.push(format!("leaf of {service}: not on disk yet")),
                Some(_) => {}
            }
            let config = Topic::Config(service.clone());
            if !self.view.contains_key(&config) {
                missing.push(format!("{config}: not received from a server yet"));
            }
            let intentions = Topic::Intentions(service);
            if !self.view.contains_key(&intentions) {
                missing.push(format!("{intentions}: not received from a server yet"));
            } else if !self.kept.topic(&intentions) {
                missing.push(format!("{intentions}: not on disk yet"));
            }
        }
        let upstreams = self.services.iter().flat_map(|service| &service.upstreams);
        let called: BTreeSet<&ServiceKey> = upstreams.map(|upstream| &upstream.destination).collect();
        let topics = called.into_iter().flat_map(|it| [Topic::Endpoints(it.clone()), Topic::Config(it.clone())]);
        let unknown = topics.filter(|topic| !self.view.contains_key(topic));
        missing.extend(unknown.map(|topic| format!("{topic}: not received from a server yet")));
        missing.extend(self.unsaved.iter().cloned());
        missing.extend(self.refused.iter().map(|reason| format!("refused: {reason}")));
        missing
    }
}

/// Tells the proxy and the APIs, and remembers what is expensive to make.
pub(super) struct Publisher {
    proxy: Arc<Proxy>,
    status: watch::Sender<Arc<Status>>,
    server: watch::Sender<Reach>,
    anchors: Option<(Arc<TopicState>, Arc<TrustAnchors>)>,
    /// The roots that the proxy was told last.
    in_force: Option<Arc<TrustAnchors>>,
    /// Every root that was trusted since the start and is not distrusted: one that was merely retired closes nothing that
    /// was opened under it.
    known_roots: BTreeMap<String, String>,
    distrust: Option<(BTreeMap<String, String>, Arc<Distrust>)>,
}

type Observers = (watch::Receiver<Arc<Status>>, watch::Receiver<Reach>);

impl Publisher {
    pub(super) fn new(proxy: Arc<Proxy>, first: Status) -> (Self, Observers) {
        let (status, seen) = watch::channel(Arc::new(first));
        let (server, reached) = watch::channel(Reach::Away(Instant::now()));
        let known_roots = BTreeMap::new();
        let publisher = Self { proxy, status, server, anchors: None, in_force: None, known_roots, distrust: None };
        (publisher, (seen, reached))
    }

    pub(super) fn has_failed_upstreams(&self) -> bool {
        self.proxy.status().upstreams.iter().any(|upstream| upstream.outcome.is_err())
    }

    /// Begins to watch the requests to a local service.
    pub(super) fn watch(&self, order: TapOrder, node: NodeName) -> Option<Watched> {
        self.proxy.watch(order, node)
    }

    pub(super) fn connected(&self, connection: Connection) {
        self.server.send_replace(Reach::Connected(connection));
    }

    pub(super) fn disconnected(&self) {
        self.server.send_if_modified(|reach| {
            let was_connected = matches!(reach, Reach::Connected(_));
            if was_connected {
                *reach = Reach::Away(Instant::now());
            }
            was_connected
        });
    }

    /// Returns the roots of a view; they were looked at before they came into it.
    pub(super) fn anchors(&mut self, trust_domain: &TrustDomain, view: &View) -> Option<Arc<TrustAnchors>> {
        let state = view.get(&Topic::Roots)?;
        if let Some((made_of, anchors)) = &self.anchors
            && Arc::ptr_eq(made_of, state)
        {
            return Some(Arc::clone(anchors));
        }
        let roots = state.items.values().filter_map(|item| match item {
            Item::Root { certificate_pem, .. } => Some(certificate_pem.clone()),
            _ => None,
        });
        let anchors = Arc::new(TrustAnchors::of_domain(trust_domain, roots.collect()).ok()?);
        self.anchors = Some((Arc::clone(state), Arc::clone(&anchors)));
        Some(anchors)
    }
}

impl Publisher {
    /// Returns what judges peers since a root was distrusted on purpose; none while no root was.
    fn distrust(&mut self, trust_domain: &TrustDomain, view: &View) -> Option<Arc<Distrust>> {
        for (id, item) in view.get(&Topic::Roots).into_iter().flat_map(|state| &state.items) {
            if let Item::Root { certificate_pem, .. } = item {
                self.known_roots.insert(id.clone(), certificate_pem.clone());
            }
        }
        let distrusted = distrusted(view.get(&Topic::Revocations)?);
        if distrusted.is_empty() {
            return None;
        }
        self.known_roots.retain(|id, _| !distrusted.contains(id));
        if let Some((made_of, distrust)) = &self.distrust
            && *made_of == self.known_roots
        {
            return Some(Arc::clone(distrust));
        }
        let roots = self.known_roots.values().cloned().collect();
        // They were all looked at before; were one unreadable after all, nobody would be vouched for, which is safe.
        let anchors = TrustAnchors::of_domain(trust_domain, roots).unwrap_or_default();
        let distrust = Arc::new(Distrust::new(anchors));
        self.distrust = Some((self.known_roots.clone(), Arc::clone(&distrust)));
        Some(distrust)
    }
}

impl Core {
    /// Publishes what the core knows now.
    pub(super) fn publish(&mut self) {
        // What the proxy refuses comes first: a deny is in force before anybody is told of anything else.
        if self.rules_changed {
            self.follow_routes();
        }
        if std::mem::take(&mut self.rules_changed)
            && let Some(snapshot) = self.snapshot()
        {
            self.follow_roots(&snapshot.anchors);
            self.publisher.proxy.publish(Arc::new(snapshot));
            self.follow_signer();
            self.step(Input::Enforced { renewed: self.leaves.are_renewed() });
        }
        self.changed = false;
        let desired = self.desired();
        self.step(Input::Desired(Box::new(desired)));
        let status = self.status();
        self.metrics.leaves(self.leaves.held().iter().map(|(subject, leaf)| (subject, leaf.not_after())));
        self.publisher.status.send_replace(Arc::new(status));
    }

    /// Has leaves asked for again that came before the roots that vouch for them.
    fn follow_roots(&mut self, anchors: &Arc<TrustAnchors>) {
        let known = self.publisher.in_force.replace(Arc::clone(anchors));
        if known.is_none_or(|known| !Arc::ptr_eq(&known, anchors)) {
            let now = self.now();
            self.leaves.roots_came(now);
        }
    }

    /// Has leaves renewed that were signed by another intermediate than the one that signs now.
    fn follow_signer(&mut self) {
        let view = self.sync.view();
        let items = view.get(&Topic::Roots).into_iter().flat_map(|state| state.items.values());
        let mut signers = items.filter_map(|item| match item {
            Item::Root { signer, .. } => signer.clone(),
            _ => None,
        });
        let Some(signer) = signers.next() else { return };
        let distrusted = view.get(&Topic::Revocations).map(|state| distrusted(state).len()).unwrap_or_default();
        let is_urgent = distrusted > std::mem::replace(&mut self.distrusted_roots, distrusted);
        self.leaves.follow(&signer, wire::crypto::now(), is_urgent);
    }

    /// Returns what the proxy is to decide by.
    ///
    /// Nothing while any of what every decision needs was never received: a list of revocations that is merely not there
    /// yet must not pass for an empty one.
    fn snapshot(&mut self) -> Option<Snapshot> {
        let (mut view, restraint) = (self.sync.view().clone(), self.sync.restraint());
        let mesh = stricter(mesh_of(&view)?, restraint);
        let revocations = both_revocations(view.get(&Topic::Revocations)?, restraint.get(&Topic::Revocations));
        view.insert(Topic::Revocations, Arc::clone(&revocations));
        let anchors = self.publisher.anchors(&mesh.trust_domain, &view)?;
        let distrust = self.publisher.distrust(&mesh.trust_domain, &view);
        let identities = self.leaves.held().iter().filter_map(|(subject, leaf)| match subject {
            Subject::Agent => None,
            Subject::Service(service) => Some((service.clone(), Arc::clone(leaf.tls()))),
        });
        let identities: BTreeMap<ServiceKey, Arc<TlsIdentity>> = identities.collect();
        let mut snapshot = Snapshot {
            network: self.config.network.clone(),
            zone: self.config.zone.clone(),
            scheme: mesh.scheme(),
            anchors,
            identities,
            policies: BTreeMap::new(),
            providers: BTreeMap::new(),
            revocations: Revocations { distrust, ..revoked(&revocations, &mesh.scheme()) },
            min_key_exchange: mesh.min_key_exchange,
            endpoints: BTreeMap::new(),
            gateways: view.get(&Topic::Gateways).map(|state| gateways(state)).unwrap_or_default(),
            locals: BTreeMap::new(),
            protocols: BTreeMap::new(),
            routes: self.routing.in_force(),
            subsets: self.routing.subsets(&view),
            settings: BTreeMap::new(),
            rate_limits: BTreeMap::new(),
            external: BTreeMap::new(),
            upstreams: Vec::new(),
            outbound: self.local.outbound_ports(),
            numbered: BTreeMap::new(),
            mesh_destinations_only: mesh.mesh_destinations_only,
            modes: BTreeMap::new(),
        };
        self.tell_by_topic(&mut snapshot, &view, &mesh);
        self.tell_of_locals(&mut snapshot, &view, &mesh);
        snapshot.upstreams = self.placed().0;
        Some(snapshot)
    }

    /// Adds what each topic says of a service.
    fn tell_by_topic(&self, snapshot: &mut Snapshot, view: &View, mesh: &MeshItem) {
        let (called, restraint) = (self.called(), self.sync.restraint());
        for (topic, state) in view.iter().filter(|(topic, _)| is_gone_by(topic, &called, view)) {
            match topic {
                Topic::Intentions(service) => {
                    let policy = policy_of(topic, mesh, view, restraint);
                    snapshot.policies.extend(policy.map(|policy| (service.clone(), policy)));
                    snapshot.providers.insert(service.clone(), token_providers(state));
                }
                Topic::Endpoints(service) => {
                    snapshot.endpoints.insert(service.clone(), endpoints(state));
                    if called.contains(service) {
                        snapshot.numbered.extend(number_of(state).map(|number| (number, service.clone())));
                    }
                }
                Topic::Config(service) => {
                    let entries = config_entries(state);
                    snapshot.protocols.insert(service.clone(), entries.protocol_of(service));
                    if entries.is_external(service)
                        && let Some(policy) = policy_of(topic, mesh, view, restraint)
                    {
                        snapshot.external.insert(service.clone(), policy);
                    }
                }
                Topic::Mesh
                | Topic::Roots
                | Topic::Revocations
                | Topic::Gateways
                | Topic::Network(_)
                | Topic::Node(_) => {}
            }
        }
    }

    /// Adds the instances that the agent stands beside, and what is said of how they are called and call.
    fn tell_of_locals(&self, snapshot: &mut Snapshot, view: &View, mesh: &MeshItem) {
        for service in self.local.services() {
            let key = service.instance.service_key();
            let node_address = || self.advertise.to_string();
            snapshot.locals.entry(key.clone()).or_default().push(LocalInstance {
                key: service.instance.key.clone(),
                advertised_address: self.advertised_address(&service.instance).unwrap_or_else(node_address),
                local_address: service.local_address,
                port: service.instance.port,
                ports: service.instance.ports.clone(),
                takes_proxy_header: service.takes_proxy_header,
            });
            let Some(state) = view.get(&Topic::Config(key.clone())) else { continue };
            let entries = config_entries(state);
            if mesh.allows_permissive && service.redirected {
                snapshot.modes.insert(key.clone(), entries.mtls_modes_of(&key));
            }
            if let Some(limits) = entries.rate_limits_of(&key) {
                snapshot.rate_limits.insert(key.clone(), limits.clone());
            }
            let by_name = self.sought.services().filter(|_| service.redirected);
            for called in service.upstreams.iter().map(|upstream| &upstream.destination).chain(by_name) {
                let settings = entries.settings_of(&key, called);
                if !settings.is_empty() {
                    snapshot.settings.insert((key.clone(), called.clone()), settings);
                }
            }
        }
    }

    /// Returns a service with what the agent has found out about it.
    fn shown(&self, service: &Definition) -> Definition {
        let mut shown = service.clone();
        shown.instance.bypassable = self.bypassable.get(&service.instance.key).copied();
        shown
    }

    pub(super) fn status(&self) -> Status {
        let leaves = self.leaves.held().iter().filter_map(|(subject, leaf)| match subject {
            Subject::Agent => None,
            Subject::Service(service) => Some((service.clone(), leaf.not_after())),
        });
        Status {
            record: self.identity.record.clone(),
            datacenter: self.identity.mesh.datacenter.clone(),
            address: self.advertise,
            mesh_port: self.mesh_port,
            gateway: self.gateway_port.map(|_| self.config.network.clone()),
            services: self.local.services().map(|service| self.shown(service)).collect(),
            checks: self.present_checks(),
            unplaced: self.placed().1,
            refused: self.local.refused().to_vec(),
            view: self.sync.view().clone(),
            routed_by: self.routing.entries_in_force(),
            leaves: leaves.collect(),
            kept: self.saver.kept().clone(),
            unsaved: self.saver.unsaved(),
            server: self.link.as_ref().filter(|link| link.is_up()).map(|link| link.server().to_owned()),
        }
    }
}

/// Reports whether what a topic says counts yet: until it is known how a service is read, nothing is decided for it, and
/// nobody is called as if it were.
fn is_gone_by(topic: &Topic, called: &BTreeSet<ServiceKey>, view: &View) -> bool {
    let is_read = |service: &ServiceKey| view.contains_key(&Topic::Config(service.clone()));
    match topic {
        Topic::Intentions(service) => is_read(service),
        Topic::Endpoints(service) => !called.contains(service) || is_read(service),
        _ => true,
    }
}

pub(super) fn mesh_of(view: &View) -> Option<MeshItem> {
    view.get(&Topic::Mesh)?.items.values().find_map(|item| match item {
        Item::Mesh(mesh) => Some(MeshItem::clone(mesh)),
        _ => None,
    })
}

fn revoked(state: &TopicState, scheme: &IdentityScheme) -> Revocations {
    let mut revocations = Revocations::default();
    for item in state.items.values() {
        match item {
            Item::RevokedRecord { enrolled } => drop(revocations.records.insert(*enrolled)),
            Item::RevokedService { service, below } => {
                revocations.services.insert(scheme.workload(service), *below);
            }
            _ => {}
        }
    }
    revocations
}

/// Returns the ids of the roots that were distrusted on purpose.
fn distrusted(state: &TopicState) -> BTreeSet<String> {
    let roots = state.items.values().filter_map(|item| match item {
        Item::DistrustedRoot { root } => Some(root.clone()),
        _ => None,
    });
    roots.collect()
}

pub(super) fn intentions(state: &TopicState) -> Vec<Intention> {
    let intentions = state.items.values().filter_map(|item| match item {
        Item::Intention(intention) => Some(Intention::clone(intention)),
        _ => None,
    });
    intentions.collect()
}

fn token_providers(state: &TopicState) -> Vec<Arc<TokenProvider>> {
    let providers = state.items.values().filter_map(|item| match item {
        Item::Config(entry) => match &entry.content {
            ConfigContent::JwtProvider(provider) => Some(Arc::new(TokenProvider::clone(provider))),
            _ => None,
        },
        _ => None,
    });
    providers.collect()
}

fn gateways(state: &TopicState) -> Vec<Gateway> {
    let gateways = state.items.values().filter_map(|item| match item {
        Item::Gateway(gateway) => Some(Gateway::clone(gateway)),
        _ => None,
    });
    gateways.collect()
}

pub(crate) fn config_entries(state: &TopicState) -> ConfigEntries {
    let entries = state.items.values().filter_map(|item| match item {
        Item::Config(entry) => Some(Arc::new(ConfigEntry::clone(entry))),
        _ => None,
    });
    entries.collect()
}

/// Returns a service's number, where it has one.
pub(crate) fn number_of(state: &TopicState) -> Option<AddressNumber> {
    match state.items.get(Item::ADDRESS) {
        Some(Item::Address(number)) => Some(*number),
        _ => None,
    }
}

pub(crate) fn endpoints(state: &TopicState) -> Vec<Endpoint> {
    let endpoints = state.items.values().filter_map(|item| match item {
        Item::Endpoint(endpoint) => Some(Endpoint::clone(endpoint)),
        _ => None,
    });
    endpoints.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h11_nothing_is_decided_or_called_until_it_is_known_how_a_service_is_read() {
        let (api, db): (ServiceKey, ServiceKey) = ("api".parse().unwrap(), "db".parse().unwrap());
        let called = BTreeSet::from([db.clone()]);
        let mut view = View::new();
        let counts = |topic: Topic, view: &View| is_gone_by(&topic, &called, view);
        assert!(!counts(Topic::Intentions(api.clone()), &view) && !counts(Topic::Endpoints(db.clone()), &view));
        assert!(counts(Topic::Endpoints(api.clone()), &view), "it is followed for others");
        let nothing = Arc::new(TopicState { index: catalog::CatalogIndex(1), items: BTreeMap::new() });
        for service in [&api, &db] {
            view.insert(Topic::Config(service.clone()), Arc::clone(&nothing));
        }
        assert!(counts(Topic::Intentions(api), &view) && counts(Topic::Endpoints(db), &view));
    }
}
