//! Restores a backup: what it takes the place of, and what of the running group stays.
//!
//! A backup of this very cluster brings back what operators wrote: tokens, intentions, config entries, and nodes that no
//! agent stands on. What the group learned since stays, for taking it back would open what was closed or cut who is alive:
//! agent records and their nodes, join tokens and logins (what was used must stay used), revocations and the certificate authority. A
//! backup of another cluster brings all of these along, for then there is nothing to lose. In both cases the group keeps
//! its own facts, members, log position, clock and audit trail.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use serde_json::Value;

use super::{Attempt, CaState, Catalog, NodeState, Touched};
use crate::{
    AgentId, AuthMethod, AuthMethodName, BackupStep, CaIntermediate, CaRoot, CatalogIndex, Digest, Envelope, Mesh,
    NodeName, Outcome, Owner, Refusal, RequestId, Restored, SealedKind, SealedSecret, SnapshotError, Token, WatchKey,
    backup::{Reading, UPLOAD_IDLE_MAX, Unreadable, Upload},
};

/// Numbers that are left out where another log gave some away that are not known: after the backup of another cluster, and
/// where the majority of this one was lost.
pub(super) const NUMBERS_SKIPPED: u64 = 1 << 32;

impl Catalog {
    /// Says whether a backup is one of this cluster.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] where its identities mean something else than those here: no flag makes it fit.
    pub fn is_own_backup(&self, backup: &Self) -> Result<bool, Refusal> {
        let none = || Refusal::invalid("backup", "it holds no mesh: it was taken before the cluster was bootstrapped");
        let (Some(ours), Some(theirs)) = (self.mesh(), backup.mesh()) else { return Err(none()) };
        let text = |mesh: &Mesh| {
            [mesh.trust_domain.to_string(), mesh.template.to_string(), mesh.datacenter.clone()].map(String::from)
        };
        for ((name, ours), theirs) in
            ["trust domain", "path template", "datacenter"].into_iter().zip(text(ours)).zip(text(theirs))
        {
            if ours != theirs {
                let problem = format!(
                    "its {name} is `{theirs}`, this cluster's is `{ours}`: restore it into a cluster that was bootstrapped with the same"
                );
                return Err(Refusal::invalid("backup", problem));
            }
        }
        Ok(ours.cluster_id == theirs.cluster_id)
    }

    /// Returns the number that belongs to `index` where one must never come twice: it names agent records and sessions.
    ///
    /// It is the index itself, until a backup was restored whose log had gone further than this one.
    #[must_use]
    pub fn number_at(&self, index: CatalogIndex) -> CatalogIndex {
        CatalogIndex(index.0.saturating_add(self.numbers_ahead))
    }

    /// Returns the catalog as it goes into a backup: without another one that is just being restored.
    #[must_use]
    pub fn for_backup(&self) -> Self {
        Self { upload: None, ..self.clone() }
    }

    /// Returns the catalog with every sealed secret as `reseal` makes it.
    ///
    /// # Errors
    /// What `reseal` fails with first.
    pub fn resealed<E>(
        &self,
        mut reseal: impl FnMut(SealedKind, &str, &SealedSecret) -> Result<SealedSecret, E>,
    ) -> Result<Self, E> {
        let mut next = self.clone();
        for root in self.roots() {
            let Some(sealed) = &root.sealed_key else { continue };
            let sealed_key = Some(reseal(SealedKind::Root, &root.id, sealed)?);
            next.roots.insert(root.id.clone(), Arc::new(CaRoot { sealed_key, ..root.clone() }));
        }
        for one in self.intermediates() {
            let Some(sealed) = &one.sealed_key else { continue };
            let sealed_key = Some(reseal(SealedKind::Intermediate, &one.id, sealed)?);
            next.intermediates.insert(one.id.clone(), Arc::new(CaIntermediate { sealed_key, ..one.clone() }));
        }
        Ok(next)
    }

    pub(super) fn take_backup_step(
        &mut self,
        index: CatalogIndex,
        envelope: &Envelope,
        step: &BackupStep,
        digest: Digest,
        touched: &mut Touched,
    ) -> Attempt {
        match step {
            BackupStep::Saved { .. } => Ok(Outcome::Done),
            BackupStep::Begin { upload, bytes, sha256 } => {
                // Whoever begins anew has given up the one before.
                if self.upload.as_ref().is_some_and(|held| held.actor != envelope.actor) {
                    return Err(Refusal::RestoreUnderWay);
                }
                self.upload = Some(Arc::new(Upload {
                    id: upload.clone(),
                    actor: envelope.actor.clone(),
                    bytes: *bytes,
                    sha256: *sha256,
                    held: 0,
                    pieces: OrdMap::new(),
                    fed_at: self.clock,
                    begun: index,
                    reading: Reading::default(),
                }));
                Ok(Outcome::Done)
            }
            BackupStep::Piece { upload, offset, text } => {
                let mut held = Upload::clone(self.upload_of(upload, envelope)?);
                let next = held.held.saturating_add(text.len() as u64);
                if *offset != held.held || next > held.bytes {
                    let problem = format!("a piece at {offset} does not follow what ends at {}", held.held);
                    return Err(Refusal::invalid("backup", problem));
                }
                held.pieces.insert(*offset, text.as_str().into());
                (held.held, held.fed_at) = (next, self.clock);
                self.upload = Some(Arc::new(held));
                Ok(Outcome::Done)
            }
            BackupStep::Commit { upload, other_cluster, .. } => {
                let upload = self.upload_of(upload, envelope)?;
                let (next, restored) = self.committed(index, upload, *other_cluster, digest)?;
                self.replace_by(next, touched);
                Ok(Outcome::Restored { restored })
            }
            BackupStep::Abandon { upload } => {
                self.upload_of(upload, envelope)?;
                self.upload = None;
                Ok(Outcome::Done)
            }
        }
    }

    /// Forgets an upload whose next piece does not come.
    pub(super) fn forget_idle_upload(&mut self) {
        if self.upload.as_ref().is_some_and(|upload| self.clock.since(upload.fed_at) > UPLOAD_IDLE_MAX) {
            self.upload = None;
        }
    }

    fn upload_of(&self, id: &RequestId, envelope: &Envelope) -> Result<&Upload, Refusal> {
        let held = self.upload.as_deref().filter(|held| held.id == *id && held.actor == envelope.actor);
        held.ok_or_else(|| Refusal::not_found("restore", id.as_str()))
    }

    /// Returns the catalog that a complete upload makes of this one.
    fn committed(
        &self,
        index: CatalogIndex,
        upload: &Upload,
        other_cluster: bool,
        digest: Digest,
    ) -> Result<(Self, Restored), Refusal> {
        // Why it cannot be read is worded here alone: servers of two releases must come to the same outcome.
        let backup = upload.state(digest).map_err(|why| match why {
            Unreadable::Incomplete => Refusal::invalid("backup", "it did not arrive whole: restore it again"),
            Unreadable::Malformed => Refusal::invalid("backup", "its state cannot be read by this release"),
        })?;
        let is_own = self.is_own_backup(&backup)?;
        if !is_own && !other_cluster {
            return Err(Refusal::invalid("backup", "it is of another cluster: say so with `--force-cluster`"));
        }
        Ok(self.adopt(Self::clone(&backup), index, is_own))
    }

    /// Reads a state of a log that may have gone further than this one: nothing in it has changed after `limit`.
    pub(crate) fn restore_not_after(text: &str, limit: CatalogIndex) -> Result<Self, SnapshotError> {
        let backup = Self::restore(text.as_bytes())?;
        if backup.index < limit {
            return Ok(backup);
        }
        let mut value: Value = serde_json::from_str(text).map_err(SnapshotError::Damaged)?;
        clamp(&mut value, limit.0);
        Ok(Self { index: backup.index, ..Self::restore(value.to_string().as_bytes())? })
    }

    fn adopt(&self, backup: Self, index: CatalogIndex, is_own: bool) -> (Self, Restored) {
        let skipped = if is_own { 0 } else { NUMBERS_SKIPPED };
        let reached = backup.number_at(backup.index).0.saturating_add(skipped);
        let mut next = Self {
            index: self.index,
            clock: self.clock,
            speaks: self.speaks,
            mesh: self.mesh.clone(),
            membership: self.membership.clone(),
            // One that was ended must not be in force again.
            relaxations: self.relaxations.clone(),
            audit: self.audit.clone(),
            answers: self.answers.clone(),
            answer_order: self.answer_order.clone(),
            numbers_ahead: self.numbers_ahead.max(reached.saturating_sub(index.0)),
            changes: OrdMap::new(),
            floor: index,
            upload: None,
            // Whoever runs a connector is known by this log alone.
            connectors: if is_own { self.connectors.clone() } else { OrdMap::new() },
            ..backup
        };
        let mut restored = Restored::default();
        if is_own {
            restored = next.settle_tokens(self);
            next.agents = self.agents.clone();
            next.agents_by_node = self.agents_by_node.clone();
            next.agents_by_key = self.agents_by_key.clone();
            next.revoked = self.revoked.clone();
            next.revoked_at = self.revoked_at.clone();
            next.revoked_services = self.revoked_services.clone();
            next.bans = self.bans.clone();
            next.join_tokens = self.join_tokens.clone();
            next.bearers = self.bearers.clone();
            next.bearer_ends = self.bearer_ends.clone();
            next.bearers_of = self.bearers_of.clone();
            next.roots = self.roots.clone();
            next.intermediates = self.intermediates.clone();
            next.ca = CaState { config: next.ca.config, ..self.ca.clone() };
            next.roots_acks = self.roots_acks.clone();
        } else {
            next.take_over_rotation(index);
        }
        next.end_logins_under_way(index);
        next.nodes = next.settled_nodes(if is_own { &self.nodes } else { &next.nodes }, &mut restored);
        restored.nodes_forsaken = next.forsaken_nodes();
        next.index_services();
        // What applications were told last stays right; where another cluster's state comes in, they were told there.
        let (first, second) =
            if is_own { (&self.addresses, &next.addresses) } else { (&next.addresses, &self.addresses) };
        next.addresses = first.united_with(second);
        next.count_callers();
        // Everybody is woken for everything anyway.
        next.number_all(&mut Touched::default());
        (next, restored)
    }

    /// Leaves out the tokens of logins that are revoked in `now`, and counts those that were deleted since.
    fn settle_tokens(&mut self, now: &Self) -> Restored {
        let is_revoked = |token: &Token| {
            let Some(method) = &token.auth_method else { return false };
            let is_kept = |method: AuthMethodName| {
                now.auth_method(&method).is_some()
                    && now.check_not_banned(&method, token.login_subject.as_deref(), None).is_ok()
            };
            !method.parse().is_ok_and(is_kept)
        };
        let mut restored = Restored::default();
        let tokens: Vec<Arc<Token>> = self.tokens.all().cloned().collect();
        for token in tokens {
            if is_revoked(&token) {
                self.tokens.remove(&token.accessor);
                restored.tokens_left_out += 1;
            } else if now.tokens.get(&token.accessor).is_none() && token.expires_at.is_none_or(|end| now.clock < end) {
                restored.tokens_back += 1;
            }
        }
        restored
    }

    /// Makes every auth method one that changed just now: a login that was judged before the restore was judged by rules
    /// that may no longer be in force, and none may seem to have changed in the future.
    fn end_logins_under_way(&mut self, index: CatalogIndex) {
        let marked = |method: &AuthMethod| AuthMethod { modified: index, rules_modified: index, ..method.clone() };
        self.auth_methods =
            self.auth_methods.iter().map(|(name, method)| (name.clone(), Arc::new(marked(method)))).collect();
    }

    /// Returns the nodes to go on with: those of live agents as `agents_nodes` has them, the others as this catalog has them,
    /// without those whose name an agent has enrolled under: it would be locked out of it.
    fn settled_nodes(
        &self,
        agents_nodes: &OrdMap<NodeName, NodeState>,
        restored: &mut Restored,
    ) -> OrdMap<NodeName, NodeState> {
        let agent_of = |state: &NodeState| -> Option<AgentId> {
            match &state.node.owner {
                Owner::Agent(id) => Some(id.clone()),
                Owner::Connector(_) | Owner::External => None,
            }
        };
        let is_live = |id: &AgentId| self.agents.contains_key(id);
        let (taken, others): (Vec<_>, Vec<_>) = self
            .nodes
            .iter()
            .filter(|(_, state)| agent_of(state).is_none())
            .partition(|(name, _)| self.agent_on(name).is_some());
        restored.nodes_left_out += taken.len() as u64;
        let of_agents = agents_nodes.iter().filter(|(_, state)| agent_of(state).is_some_and(|id| is_live(&id)));
        others.into_iter().chain(of_agents).map(|(name, state)| (name.clone(), state.clone())).collect()
    }

    fn index_services(&mut self) {
        let mut by_service: OrdMap<_, OrdSet<_>> = OrdMap::new();
        for instance in self.nodes.values().flat_map(|state| state.instances.values()) {
            by_service.entry(instance.service_key()).or_default().insert(instance.key.clone());
        }
        self.by_service = by_service;
        let lead = self.nodes.iter().filter(|(_, state)| state.node.gateway_port.is_some());
        self.gateways = lead.map(|(name, _)| name.clone()).collect();
        self.count_networks();
    }

    /// Counts the nodes of each network anew.
    pub(crate) fn count_networks(&mut self) {
        self.nodes_in = OrdMap::new();
        for state in self.nodes.values() {
            *self.nodes_in.entry(state.node.network.clone()).or_insert(0) += 1;
        }
    }

    /// Puts `next` in place, and wakes everybody for everything that either has.
    fn replace_by(&mut self, next: Self, touched: &mut Touched) {
        let known: OrdSet<WatchKey> = self.changes.keys().chain(next.known_keys().iter()).cloned().collect();
        *self = next;
        for key in known {
            if self.has_behind(&key) { touched.changed(key) } else { touched.gone(key) }
        }
    }

    /// Returns the key of everything that is there.
    fn known_keys(&self) -> Vec<WatchKey> {
        let mut keys = vec![
            WatchKey::Nodes,
            WatchKey::Checks,
            WatchKey::Intentions,
            WatchKey::Config,
            WatchKey::Connectors,
            WatchKey::ProxyDefaults,
            WatchKey::Mesh,
            WatchKey::Roots,
            WatchKey::CaRotation,
            WatchKey::Tokens,
            WatchKey::AuthMethods,
            WatchKey::AclPolicies,
            WatchKey::AclRoles,
            WatchKey::JoinTokens,
            WatchKey::Agents,
            WatchKey::Gateways,
            WatchKey::Revocations,
        ];
        keys.extend(self.nodes.keys().cloned().map(WatchKey::Node));
        keys.extend(self.by_service.keys().map(|service| WatchKey::Services(service.namespace.clone())));
        keys.extend(self.by_service.keys().cloned().map(WatchKey::Service));
        keys.extend(self.allotments().map(|allotment| WatchKey::Service(allotment.service.clone())));
        keys.extend(self.nodes.values().map(|state| WatchKey::Network(state.node.network.clone())));
        keys.extend(self.intentions.keys().cloned().map(WatchKey::Destination));
        let services = self.config.iter().filter_map(|entry| entry.key().service().cloned());
        keys.extend(services.map(WatchKey::ConfigOf));
        keys.extend(self.agents.keys().cloned().map(WatchKey::Agent));
        keys
    }

    /// Reports whether there is something behind a key; lists are always there.
    pub(super) fn has_behind(&self, key: &WatchKey) -> bool {
        match key {
            WatchKey::Node(name) => self.nodes.contains_key(name),
            WatchKey::Service(service) => {
                self.by_service.contains_key(service) || self.address_number(service).is_some()
            }
            WatchKey::Services(namespace) => self.by_service.keys().any(|service| service.namespace == *namespace),
            WatchKey::Network(network) => self.nodes_in.contains_key(network),
            WatchKey::Destination(pattern) => self.intentions.contains_key(pattern),
            WatchKey::ConfigOf(service) => self.has_config(service),
            WatchKey::Agent(id) => self.agents.contains_key(id),
            _ => true,
        }
    }
}

/// Cuts every index in a catalog's JSON that says when a record was made or changed down to `index`.
fn clamp(value: &mut Value, index: u64) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_u64() {
                    Some(number) if (name == "created" || name == "modified") && number > index => {
                        *value = index.into()
                    }
                    _ => clamp(value, index),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| clamp(value, index)),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
