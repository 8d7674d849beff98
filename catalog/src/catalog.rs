//! The state that all servers share: an immutable value per index, changed only by applying committed commands.

use std::{collections::BTreeSet, sync::Arc};

use imbl::{OrdMap, OrdSet};

use crate::backup::Upload;
use crate::{
    AclPolicy, AclRole, AgentId, AgentRecord, AuthMethod, AuthMethodName, BindingRule, BindingRuleId, CaIntermediate,
    CaRoot, CatalogIndex, Command, ConfigEntries, ConnectorLease, ConnectorName, Digest, Envelope, InstanceKey,
    Intention, KeyFingerprint, Membership, Mesh, MeshEntry, NodeName, Outcome, PolicyId, Refusal, Relaxation,
    RelaxedScope, RequestId, RevokedService, RoleId, RootsAck, SecretHash, ServiceKey, ServicePattern, SourcePattern,
    Timestamp, WatchKey, audit::AuditTrail, login::UsedBearer,
};

mod acl;
mod addresses;
mod answers;
mod apply;
mod audit;
mod backup;
mod bans;
mod ca;
mod config;
mod connector;
mod enrolment;
mod login;
mod lookups;
mod membership;
mod node_state;
mod policy;
mod registration;
mod revocation;
mod sessions;
mod tokens;
mod topics;
mod touched;

pub(crate) use addresses::{Addresses, StoredAddresses};
pub(crate) use answers::Answer;
use answers::fingerprint;
pub(crate) use ca::CaState;
pub(crate) use node_state::NodeState;
use tokens::{JoinTokens, Tokens};
pub(crate) use touched::Touched;

/// How far one command moves the catalog's clock at most.
const CLOCK_STEP_MAX: std::time::Duration = std::time::Duration::from_secs(60);

/// How many instances one node holds at most; what serves more than one machine can is a mistake or an attack.
pub(crate) const NODE_INSTANCES_MAX: usize = 10_000;
/// How many checks one node holds at most.
pub(crate) const NODE_CHECKS_MAX: usize = 20_000;

/// How many upstreams the instances of one node name at most. Each is given a number, of which all nodes share some millions.
pub(crate) const NODE_UPSTREAMS_MAX: usize = 4_096;

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
        if let Some((outcome, repeated)) = self.answer_again(envelope, fingerprint) {
            return Applied { outcome, touched: BTreeSet::new(), repeated };
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
