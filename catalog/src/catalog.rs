//! The state that all servers share: an immutable value per index, changed only by applying committed commands.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};

use crate::backup::Upload;
use crate::{
    AccessorId, AclPolicy, AclRole, AgentId, AgentRecord, AuthMethod, AuthMethodName, BindingRule, BindingRuleId,
    CaIntermediate, CaRoot, CatalogIndex, Check, CheckKey, CheckStatus, Command, ConfigEntries, ConnectorLease,
    ConnectorName, Digest, Endpoint, Envelope, Gateway, IdentityScheme, Instance, InstanceKey, Intention, IntentionKey,
    Item, JoinToken, KeyFingerprint, Membership, Mesh, MeshEntry, MeshItem, Namespace, Node, NodeName, Outcome, Policy,
    PolicyId, Refusal, Relaxation, RelaxedScope, RequestId, RevokedService, RoleId, RootsAck, SecretHash, ServiceKey,
    ServiceName, ServicePattern, SourcePattern, Timestamp, Token, Topic, TrustBundle, WatchKey, audit::AuditTrail,
    login::UsedBearer,
};

mod acl;
mod addresses;
mod apply;
mod audit;
mod backup;
mod bans;
mod ca;
mod config;
mod connector;
mod enrolment;
mod login;
mod membership;
mod node_state;
mod policy;
mod registration;
mod revocation;
mod sessions;
mod tokens;

pub(crate) use addresses::{Addresses, StoredAddresses};
pub(crate) use ca::CaState;
pub(crate) use node_state::NodeState;
use tokens::{JoinTokens, Tokens};

/// How many answers are remembered for repeats of their requests.
const ANSWERS_MAX: usize = 16_384;
/// How many of the newest answers are remembered however old they look: one server or client whose clock is wrong moves the
/// time inside the commands by minutes within a second, and a retry must be known again all the same.
const ANSWERS_MIN: usize = 4_096;
/// How long answers are remembered, by the time inside the commands.
const ANSWER_AGE_MAX: std::time::Duration = std::time::Duration::from_secs(600);

/// How far one command moves the catalog's clock at most.
const CLOCK_STEP_MAX: std::time::Duration = std::time::Duration::from_secs(60);

/// Tells what an envelope asks, and who does, from any other, alike on every server (64-bit FNV-1a over the JSON of actor
/// and command). When it was first proposed does not count: a retry may say another time.
fn fingerprint(envelope: &Envelope) -> u64 {
    /// Takes what is written into one number.
    struct Hash(u64);
    impl std::io::Write for Hash {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 = bytes.iter().fold(self.0, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut hash = Hash(0xcbf2_9ce4_8422_2325);
    serde_json::to_writer(&mut hash, &(&envelope.actor, &envelope.command))
        .expect("a command has only what JSON can hold");
    hash.0
}

/// How many instances one node holds at most; what serves more than one machine can is a mistake or an attack.
pub(crate) const NODE_INSTANCES_MAX: usize = 10_000;
/// How many checks one node holds at most.
pub(crate) const NODE_CHECKS_MAX: usize = 20_000;

/// How many upstreams the instances of one node name at most. Each is given a number, of which all nodes share some millions.
pub(crate) const NODE_UPSTREAMS_MAX: usize = 4_096;

/// Is what a request was answered, kept for its repeats.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) index: CatalogIndex,
    pub(crate) proposed_at: Timestamp,
    /// What was asked, and by whom.
    pub(crate) fingerprint: u64,
    pub(crate) outcome: Outcome,
}

/// Says what applying one command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// What the caller is answered.
    pub outcome: Outcome,
    /// The keys whose watchers wake; empty where nothing changed.
    pub touched: BTreeSet<WatchKey>,
    /// Whether this was the repeat of a request that was answered before.
    pub repeated: bool,
}

/// Holds everything that the servers agree on. Cloning costs a few reference counts, so that a reader keeps its own.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Catalog {
    pub(crate) index: CatalogIndex,
    /// The latest time seen inside a command: the only clock that the catalog has.
    pub(crate) clock: Timestamp,
    /// The highest version of a command that was applied. What the first release did not keep begins with the first one
    /// that it could not have read: from there on all servers keep it, whatever they were restored from.
    pub(crate) speaks: u16,
    pub(crate) mesh: Option<Arc<Mesh>>,
    pub(crate) mesh_entry: Arc<MeshEntry>,
    pub(crate) membership: Arc<Membership>,
    pub(crate) relaxations: OrdMap<RelaxedScope, Arc<Relaxation>>,
    pub(crate) acl_bootstrapped: bool,
    pub(crate) nodes: OrdMap<NodeName, NodeState>,
    /// The nodes that lead into their network.
    pub(crate) gateways: OrdSet<NodeName>,
    pub(crate) by_service: OrdMap<ServiceKey, OrdSet<InstanceKey>>,
    /// How many nodes each network has; none where it has none.
    pub(crate) nodes_in: OrdMap<String, usize>,
    pub(crate) addresses: Addresses,
    pub(crate) intentions: OrdMap<ServicePattern, OrdMap<SourcePattern, Arc<Intention>>>,
    pub(crate) config: ConfigEntries,
    pub(crate) connectors: OrdMap<ConnectorName, Arc<ConnectorLease>>,
    pub(crate) acl_policies: OrdMap<PolicyId, Arc<AclPolicy>>,
    pub(crate) acl_roles: OrdMap<RoleId, Arc<AclRole>>,
    pub(crate) tokens: Tokens,
    pub(crate) join_tokens: JoinTokens,
    pub(crate) agents: OrdMap<AgentId, Arc<AgentRecord>>,
    pub(crate) agents_by_node: OrdMap<NodeName, AgentId>,
    pub(crate) agents_by_key: OrdMap<KeyFingerprint, AgentId>,
    pub(crate) auth_methods: OrdMap<AuthMethodName, Arc<AuthMethod>>,
    pub(crate) binding_rules: OrdMap<BindingRuleId, Arc<BindingRule>>,
    /// The credentials that agents logged in with, and when each ends.
    pub(crate) bearers: OrdMap<SecretHash, Arc<UsedBearer>>,
    pub(crate) bearer_ends: OrdSet<(Timestamp, SecretHash)>,
    /// How many of them are whose; nobody may fill the memory of all.
    pub(crate) bearers_of: OrdMap<(AuthMethodName, String), usize>,
    pub(crate) revoked: OrdMap<AgentId, CatalogIndex>,
    /// When each of them was revoked, by the time inside the command.
    pub(crate) revoked_at: OrdMap<AgentId, Timestamp>,
    pub(crate) revoked_services: OrdMap<ServiceKey, Arc<RevokedService>>,
    pub(crate) bans: OrdMap<crate::Banned, Arc<crate::Ban>>,
    pub(crate) roots: OrdMap<String, Arc<CaRoot>>,
    pub(crate) intermediates: OrdMap<String, Arc<CaIntermediate>>,
    pub(crate) audit: AuditTrail,
    /// A backup that is being restored.
    pub(crate) upload: Option<Arc<Upload>>,
    /// How far the numbers of agents and sessions are ahead of the log, since a backup of a longer one was restored.
    pub(crate) numbers_ahead: u64,
    pub(crate) ca: CaState,
    /// What agents said of the roots that they have in force, since the rotation began.
    pub(crate) roots_acks: OrdMap<AgentId, RootsAck>,
    pub(crate) answers: OrdMap<RequestId, Arc<Answer>>,
    pub(crate) answer_order: OrdMap<CatalogIndex, RequestId>,
    /// When each watched thing changed last.
    pub(crate) changes: OrdMap<WatchKey, CatalogIndex>,
    /// When a key was last dropped from `changes` because its thing is gone; it stands for all that are not there.
    pub(crate) floor: CatalogIndex,
}

impl Catalog {
    /// Returns the index of the last log entry applied.
    #[must_use]
    pub fn index(&self) -> CatalogIndex {
        self.index
    }

    /// Applies one committed command at its log index.
    ///
    /// Total: a committed entry cannot be refused, so a command that does not fit the state changes nothing and its caller
    /// gets the reason. Deterministic: equal logs give equal catalogs on every server, where all use the same `digest`; it
    /// chains the audit trail.
    ///
    /// # Panics
    /// If `index` does not follow the last one: the log would have been replayed out of order.
    pub fn apply(&mut self, index: CatalogIndex, envelope: &Envelope, digest: Digest) -> Applied {
        self.apply_empty(index);
        self.speaks = self.speaks.max(envelope.version);
        let fingerprint = fingerprint(envelope);
        if let Some(answer) = self.answers.get(&envelope.request_id) {
            // The id is the caller's choice. Under one that marks something else, nothing may be swallowed.
            let is_repeat = answer.fingerprint == fingerprint;
            let reused = || Outcome::Refused(Refusal::RequestIdReused { request_id: envelope.request_id.clone() });
            let outcome = if is_repeat { answer.outcome.clone() } else { reused() };
            return Applied { outcome, touched: BTreeSet::new(), repeated: is_repeat };
        }
        self.clock = self.advanced_clock(envelope);
        self.forget_idle_upload();
        let mut touched = Touched::default();
        let description = self.described(&envelope.command);
        let outcome = match self.carry_out(index, envelope, digest, &mut touched) {
            Ok(outcome) => {
                self.number_first(&mut touched);
                outcome
            }
            Err(refusal) => Outcome::Refused(refusal),
        };
        self.record(index, envelope, description, &outcome, digest, &mut touched);
        self.remember(index, envelope, fingerprint, &outcome);
        for key in &touched.keys {
            self.changes.insert(key.clone(), index);
        }
        for key in &touched.gone {
            self.changes.remove(key);
            self.floor = index;
        }
        Applied { outcome, touched: touched.keys, repeated: false }
    }

    /// Reports whether everything that applies commands by now is of the second release or a later one.
    pub(crate) fn is_past_first_release(&self) -> bool {
        self.speaks >= 2
    }

    /// Advances past a log entry that holds no command, such as the one with which a leader starts its term.
    ///
    /// # Panics
    /// If `index` does not follow the last one.
    pub fn apply_empty(&mut self, index: CatalogIndex) {
        assert!(index > self.index, "the log index went from {} to {index}", self.index);
        self.index = index;
    }

    /// Follows the time inside commands. One server whose clock is far ahead moves it by little, so that what the others
    /// propose is not taken for old. What is judged by this very clock does not move it: asked again and again, it would come
    /// early.
    fn advanced_clock(&self, envelope: &Envelope) -> Timestamp {
        if let Command::Ca { not_before: Some(_), .. } = &envelope.command {
            return self.clock;
        }
        let proposed_at = envelope.proposed_at;
        let is_first = self.clock == Timestamp::default();
        let furthest = self.clock.saturating_add(CLOCK_STEP_MAX);
        if is_first { proposed_at } else { self.clock.max(proposed_at.min(furthest)) }
    }

    /// Keeps the answer for repeats of its request, and forgets those that are too many or too old.
    fn remember(&mut self, index: CatalogIndex, envelope: &Envelope, fingerprint: u64, outcome: &Outcome) {
        let answer = Answer { index, proposed_at: self.clock, fingerprint, outcome: outcome.clone() };
        self.answers.insert(envelope.request_id.clone(), Arc::new(answer));
        self.answer_order.insert(index, envelope.request_id.clone());
        while let Some((oldest, request_id)) = self.answer_order.get_min().cloned() {
            let too_old = self
                .answers
                .get(&request_id)
                .is_none_or(|answer| self.clock.since(answer.proposed_at) > ANSWER_AGE_MAX);
            let kept = self.answer_order.len();
            if kept <= ANSWERS_MIN || (kept <= ANSWERS_MAX && !too_old) {
                break;
            }
            self.answers.remove(&request_id);
            self.answer_order.remove(&oldest);
        }
    }

    /// Returns the mesh's facts; none before it is bootstrapped.
    #[must_use]
    pub fn mesh(&self) -> Option<&Mesh> {
        self.mesh.as_deref()
    }

    /// Returns how identities are built and read; none before the mesh is bootstrapped.
    #[must_use]
    pub fn scheme(&self) -> Option<IdentityScheme> {
        self.mesh().map(Mesh::scheme)
    }

    /// Returns the `mesh` config entry, or its default.
    #[must_use]
    pub fn mesh_entry(&self) -> &MeshEntry {
        &self.mesh_entry
    }

    /// Returns a node.
    #[must_use]
    pub fn node(&self, name: &NodeName) -> Option<&Node> {
        self.nodes.get(name).map(|state| &*state.node)
    }

    /// Returns all nodes by name.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().map(|state| &*state.node)
    }

    /// Returns an instance.
    #[must_use]
    pub fn instance(&self, key: &InstanceKey) -> Option<&Instance> {
        self.nodes.get(&key.node)?.instances.get(&(key.namespace.clone(), key.id.clone())).map(|instance| &**instance)
    }

    /// Returns the instances on a node, by namespace and id.
    pub fn instances_on(&self, node: &NodeName) -> impl Iterator<Item = &Instance> {
        self.nodes.get(node).into_iter().flat_map(|state| state.instances.values()).map(|instance| &**instance)
    }

    /// Returns the instances of a service, by node and id.
    pub fn instances_of(&self, service: &ServiceKey) -> impl Iterator<Item = &Instance> {
        self.by_service.get(service).into_iter().flat_map(OrdSet::iter).filter_map(|key| self.instance(key))
    }

    /// Returns the services of a namespace that have instances, with the tags that any of these carries.
    #[must_use]
    pub fn services(&self, namespace: &Namespace) -> BTreeMap<ServiceName, BTreeSet<String>> {
        self.by_service
            .keys()
            .filter(|service| service.namespace == *namespace)
            .map(|service| {
                (service.name.clone(), self.instances_of(service).flat_map(|instance| instance.tags.clone()).collect())
            })
            .collect()
    }

    /// Returns a check.
    #[must_use]
    pub fn check(&self, key: &CheckKey) -> Option<&Check> {
        self.nodes.get(&key.node)?.checks().get(&(key.namespace.clone(), key.id.clone())).map(|check| &**check)
    }

    /// Returns all checks, by node.
    pub fn checks(&self) -> impl Iterator<Item = &Check> {
        self.nodes.values().flat_map(|state| state.checks().values()).map(|check| &**check)
    }

    /// Returns the checks on a node, its own and its instances'.
    pub fn checks_on(&self, node: &NodeName) -> impl Iterator<Item = &Check> {
        self.nodes.get(node).into_iter().flat_map(|state| state.checks().values()).map(|check| &**check)
    }

    /// Returns the checks that bear on an instance: its own and its node's.
    #[must_use]
    pub fn checks_of(&self, key: &InstanceKey) -> Vec<&Check> {
        let slot = (key.namespace.clone(), key.id.clone());
        self.nodes.get(&key.node).map(|state| state.bearing_on(&slot)).unwrap_or_default()
    }

    /// Returns the worst status that bears on an instance; passing where it has no checks.
    #[must_use]
    pub fn health(&self, key: &InstanceKey) -> CheckStatus {
        let slot = (key.namespace.clone(), key.id.clone());
        self.nodes.get(&key.node).map_or(CheckStatus::Passing, |state| state.health(&slot))
    }

    /// Returns an intention.
    #[must_use]
    pub fn intention(&self, key: &IntentionKey) -> Option<&Intention> {
        self.intentions.get(&key.destination)?.get(&key.source).map(|intention| &**intention)
    }

    /// Returns all intentions in the order in which they are tried.
    pub fn intentions(&self) -> impl Iterator<Item = &Intention> {
        let mut all: Vec<&Intention> =
            self.intentions.values().flat_map(OrdMap::values).map(|intention| &**intention).collect();
        all.sort_by(|a, b| a.order(b));
        all.into_iter()
    }

    /// Returns all the rules that can concern calls to `destination`.
    #[must_use]
    pub fn policy_for(&self, destination: &ServiceKey) -> Policy {
        let intentions = ServicePattern::covering(destination)
            .iter()
            .filter_map(|pattern| self.intentions.get(pattern))
            .flat_map(OrdMap::values)
            .map(|intention| (**intention).clone())
            .collect();
        let guardrails = self.mesh_entry.guardrails.iter().filter(|rule| rule.destination.matches(destination));
        let relaxations = self.relaxations.values().filter(|one| one.scope.covers(destination));
        Policy::new(self.mesh_entry.default_action, guardrails.cloned().collect(), intentions)
            .with_audit(self.mesh_entry.audit.clone(), relaxations.map(|one| (**one).clone()).collect())
    }

    /// Reports whether the first token was made, after which no cluster key makes another.
    #[must_use]
    pub fn is_acl_bootstrapped(&self) -> bool {
        self.acl_bootstrapped
    }

    /// Returns the token whose secret has this hash.
    #[must_use]
    pub fn token_by_secret(&self, secret: &SecretHash) -> Option<&Token> {
        self.tokens.by_secret(secret).map(|token| &**token)
    }

    /// Returns a token.
    #[must_use]
    pub fn token(&self, accessor: &AccessorId) -> Option<&Token> {
        self.tokens.get(accessor).map(|token| &**token)
    }

    /// Returns all tokens by accessor.
    pub fn tokens(&self) -> impl Iterator<Item = &Token> {
        self.tokens.all().map(|token| &**token)
    }

    /// Returns the join token whose secret has this hash.
    #[must_use]
    pub fn join_token_by_secret(&self, secret: &SecretHash) -> Option<&JoinToken> {
        self.join_tokens.by_secret(secret).map(|token| &**token)
    }

    /// Returns all join tokens by accessor.
    pub fn join_tokens(&self) -> impl Iterator<Item = &JoinToken> {
        self.join_tokens.all().map(|token| &**token)
    }

    /// Returns a live agent record.
    #[must_use]
    pub fn agent_record(&self, id: &AgentId) -> Option<&AgentRecord> {
        self.agents.get(id).map(|record| &**record)
    }

    /// Returns all live agent records by id.
    pub fn agent_records(&self) -> impl Iterator<Item = &AgentRecord> {
        self.agents.values().map(|record| &**record)
    }

    /// Returns the live record of the agent that holds a key.
    #[must_use]
    pub fn agent_by_key(&self, key: &KeyFingerprint) -> Option<&AgentRecord> {
        self.agent_record(self.agents_by_key.get(key)?)
    }

    /// Returns the live record of the agent on a node.
    #[must_use]
    pub fn agent_on(&self, node: &NodeName) -> Option<&AgentRecord> {
        self.agent_record(self.agents_by_node.get(node)?)
    }

    /// Reports whether the record that was enrolled at `enrolled` has been revoked.
    #[must_use]
    pub fn is_revoked(&self, enrolled: CatalogIndex) -> bool {
        self.revoked.contains_key(&AgentId::enrolled_at(enrolled))
    }

    /// Returns all roots by id.
    pub fn roots(&self) -> impl Iterator<Item = &CaRoot> {
        self.roots.values().map(|root| &**root)
    }

    /// Returns the root that the CA signs with.
    #[must_use]
    pub fn active_root(&self) -> Option<&CaRoot> {
        self.roots().find(|root| root.active)
    }

    /// Returns all intermediates by id.
    pub fn intermediates(&self) -> impl Iterator<Item = &CaIntermediate> {
        self.intermediates.values().map(|intermediate| &**intermediate)
    }

    /// Returns the intermediate that signs leaves.
    #[must_use]
    pub fn active_intermediate(&self) -> Option<&CaIntermediate> {
        self.intermediates().find(|intermediate| intermediate.active)
    }

    /// Returns the roots to trust, one bundle a trust domain; retired and distrusted ones are not among them.
    #[must_use]
    pub fn trust_bundles(&self) -> Vec<TrustBundle> {
        let own = self.mesh().map(|mesh| TrustBundle {
            trust_domain: mesh.trust_domain.clone(),
            roots_pem: self.roots().filter(|root| !root.retired).map(|root| root.certificate_pem.clone()).collect(),
        });
        own.into_iter().collect()
    }

    /// Returns the index at which any of `keys` changed last; at least 1, for Consul's clients take 0 for "never asked".
    #[must_use]
    pub fn index_of(&self, keys: &[WatchKey]) -> CatalogIndex {
        keys.iter()
            .map(|key| self.changes.get(key).copied().unwrap_or(self.floor))
            .max()
            .unwrap_or(self.index)
            .max(CatalogIndex(1))
    }

    /// Returns the keys of everything that is there and has changed: what may differ where a catalog is replaced.
    pub fn watch_keys(&self) -> impl Iterator<Item = &WatchKey> {
        self.changes.keys()
    }

    /// Returns the keys that [`Catalog::view`] of a topic reads.
    #[must_use]
    pub fn reads(topic: &Topic) -> Vec<WatchKey> {
        match topic {
            Topic::Mesh => vec![WatchKey::Mesh],
            Topic::Roots => vec![WatchKey::Roots],
            Topic::Revocations => vec![WatchKey::Revocations],
            Topic::Gateways => vec![WatchKey::Gateways],
            Topic::Intentions(destination) => {
                let rules = ServicePattern::covering(destination).into_iter().map(WatchKey::Destination);
                rules.chain([WatchKey::TokenProviders]).collect()
            }
            Topic::Endpoints(service) => vec![WatchKey::Service(service.clone())],
            Topic::Config(service) => {
                // The rules for a service outside the mesh are told with the word that it is.
                let rules = ServicePattern::covering(service).into_iter().map(WatchKey::Destination);
                rules.chain([WatchKey::ConfigOf(service.clone()), WatchKey::ProxyDefaults]).collect()
            }
            Topic::Network(network) => vec![WatchKey::Network(network.clone())],
            Topic::Node(node) => vec![WatchKey::Node(node.clone())],
        }
    }

    /// Returns what a topic holds now.
    #[must_use]
    pub fn view(&self, topic: &Topic) -> BTreeMap<String, Item> {
        match topic {
            Topic::Mesh => self.mesh().map(|mesh| ("mesh".to_owned(), self.mesh_item(mesh))).into_iter().collect(),
            Topic::Roots => self
                .roots()
                .filter(|root| !root.retired)
                .map(|root| {
                    let signer = self.active_intermediate().filter(|_| root.active).map(|one| one.id.clone());
                    let (certificate_pem, active) = (root.certificate_pem.clone(), root.active);
                    (root.id.clone(), Item::Root { certificate_pem, active, signer })
                })
                .collect(),
            Topic::Revocations => self.revocations(),
            Topic::Gateways => self
                .gateways
                .iter()
                .filter_map(|node| self.gateway(node))
                .map(|gateway| (gateway.node.to_string(), Item::Gateway(Box::new(gateway))))
                .collect(),
            Topic::Intentions(destination) => self.rule_items(self.policy_for(destination)),
            Topic::Config(service) => self.config_items(service),
            Topic::Endpoints(service) => {
                let endpoints = self.instances_of(service).filter_map(|instance| {
                    Some((instance.key.to_string(), Item::Endpoint(Box::new(self.endpoint(instance)?))))
                });
                let number =
                    self.address_number(service).map(|number| (Item::ADDRESS.to_owned(), Item::Address(number)));
                endpoints.chain(number).collect()
            }
            Topic::Node(name) => {
                let node = self.node(name).map(|node| (name.to_string(), Item::Node { address: node.address.clone() }));
                node.into_iter().collect()
            }
            Topic::Network(network) => {
                let is_in = |key: &InstanceKey| self.node(&key.node).is_some_and(|node| node.network == *network);
                let services = self.by_service.iter().filter(|(_, keys)| keys.iter().any(is_in));
                services.map(|(service, _)| (service.to_string(), Item::Service(service.clone()))).collect()
            }
        }
    }

    fn revocations(&self) -> BTreeMap<String, Item> {
        let records = self.revoked.keys().map(|id| (id.to_string(), Item::RevokedRecord { enrolled: id.index() }));
        let services = self.revoked_services().map(|revoked| {
            let RevokedService { service, below, .. } = revoked.clone();
            (format!("service:{service}"), Item::RevokedService { service, below })
        });
        let roots = self.distrusted_roots();
        let roots = roots.map(|(id, _)| (format!("root:{id}"), Item::DistrustedRoot { root: id.clone() }));
        records.chain(services).chain(roots).collect()
    }

    /// Returns the way into its network that a node is; none where it is none, where its own checks are critical, or where
    /// its agent is not entitled to be one any more.
    fn gateway(&self, name: &NodeName) -> Option<Gateway> {
        let node = self.node(name)?;
        if let crate::Owner::Agent(id) = &node.owner
            && !self.agent_record(id).is_some_and(|record| record.entitles_gateway(&node.network))
        {
            return None;
        }
        let is_critical = |check: &Check| check.instance.is_none() && check.status == CheckStatus::Critical;
        if self.checks_on(name).any(is_critical) {
            return None;
        }
        let (address, network) = (node.address.clone(), node.network.clone());
        Some(Gateway { node: name.clone(), network, address, port: node.gateway_port? })
    }

    fn mesh_item(&self, mesh: &Mesh) -> Item {
        Item::Mesh(Box::new(MeshItem {
            cluster_id: mesh.cluster_id.clone(),
            trust_domain: mesh.trust_domain.clone(),
            template: mesh.template.clone(),
            datacenter: mesh.datacenter.clone(),
            default_action: self.mesh_entry.default_action,
            guardrails: self.mesh_entry.guardrails.clone(),
            audit: self.mesh_entry.audit.clone(),
            min_key_exchange: self.mesh_entry.min_key_exchange,
            mesh_destinations_only: self.mesh_entry.mesh_destinations_only,
            allows_permissive: self.mesh_entry.allows_permissive,
            relaxations: self.relaxations.values().map(|one| (**one).clone()).collect(),
        }))
    }

    /// Reports whether no caller is told of an instance: it can be dialled past its agent, and its namespace refuses such.
    #[must_use]
    pub fn is_withheld(&self, instance: &Instance) -> bool {
        instance.is_bypassable() && self.mesh_entry.refuses_bypassable.contains(&instance.key.namespace)
    }

    /// Returns an instance as callers know it; none of one that they are not told of.
    fn endpoint(&self, instance: &Instance) -> Option<Endpoint> {
        let node = self.node(&instance.key.node)?;
        if self.is_withheld(instance) {
            return None;
        }
        Some(Endpoint {
            key: instance.key.clone(),
            address: instance.address.clone().unwrap_or_else(|| node.address.clone()),
            mesh_port: instance.mesh_port,
            port: instance.port,
            ports: instance.ports.clone(),
            status: self.health(&instance.key),
            zone: node.zone.clone(),
            network: node.network.clone(),
            platform: node.platform,
            weights: instance.weights,
            meta: instance.meta.clone(),
            tags: instance.tags.clone(),
            node_meta: node.meta.clone(),
        })
    }
}

/// Gathers what a command touches.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    keys: BTreeSet<WatchKey>,
    gone: BTreeSet<WatchKey>,
}

impl Touched {
    /// Notes that the thing behind `key` changed.
    pub(crate) fn changed(&mut self, key: WatchKey) {
        self.gone.remove(&key);
        self.keys.insert(key);
    }

    /// Notes that the thing behind `key` is gone: its watchers wake, and its index need not be kept.
    pub(crate) fn gone(&mut self, key: WatchKey) {
        self.keys.insert(key.clone());
        self.gone.insert(key);
    }
}

/// Stops a command whose precondition the state does not meet, before it has changed anything.
pub(crate) type Attempt = Result<Outcome, Refusal>;

#[cfg(test)]
mod golden;
#[cfg(test)]
pub(crate) mod login_tests;
#[cfg(test)]
mod session_tests;
#[cfg(test)]
pub(crate) mod tests;
