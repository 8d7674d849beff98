//! The catalog as bytes: one self-describing JSON object, equal for equal catalogs.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    AclPolicy, AclRole, AgentId, AgentRecord, AuthMethod, BindingRule, CaIntermediate, CaRoot, Catalog, CatalogIndex,
    Check, ConfigEntry, ConnectorLease, Instance, Intention, JoinToken, Membership, Mesh, MeshEntry, Node, Relaxation,
    RequestId, RevokedService, RootsAck, Timestamp, Token, WatchKey,
    audit::StoredTrail,
    backup::Upload,
    catalog::{Addresses, Answer, CaState, NodeState, StoredAddresses},
    login::UsedBearer,
};

/// The version that this release writes. A server reads this one and every older one.
///
/// A release that writes what this one does not know has a higher one: whether a backup can be restored must not depend on
/// which server is asked. Whoever reads envelopes of a version reads snapshots of the same, so that one number in the list
/// of servers says both.
pub const SNAPSHOT_VERSION: u16 = 2;

const _: () = assert!(SNAPSHOT_VERSION <= crate::ENVELOPE_VERSION, "whoever reads the commands reads the snapshots");

/// Explains why bytes are no catalog.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A newer server wrote it.
    #[error("the snapshot has version {found}, and this server reads up to {SNAPSHOT_VERSION}: upgrade this server")]
    Newer {
        /// The version found.
        found: u16,
    },
    /// It cannot be read.
    #[error("the snapshot is damaged, or none at all")]
    Damaged(#[source] serde_json::Error),
    /// A part of it refers to another that is not there.
    #[error("the snapshot contradicts itself: {0}")]
    Inconsistent(String),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Snapshot {
    version: u16,
    index: CatalogIndex,
    clock: Timestamp,
    /// None in what the first releases wrote.
    #[serde(default)]
    speaks: Option<u16>,
    mesh: Option<Arc<Mesh>>,
    mesh_entry: Arc<MeshEntry>,
    /// None in what the first release wrote: there the servers were those that founded the group.
    #[serde(default)]
    membership: Option<Arc<Membership>>,
    #[serde(default)]
    relaxations: Vec<Arc<Relaxation>>,
    acl_bootstrapped: bool,
    nodes: Vec<Arc<Node>>,
    instances: Vec<Arc<Instance>>,
    checks: Vec<Arc<Check>>,
    /// None in what the first releases wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    addresses: Option<StoredAddresses>,
    intentions: Vec<Arc<Intention>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    config: Vec<Arc<ConfigEntry>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    connectors: Vec<Arc<ConnectorLease>>,
    #[serde(default)]
    acl_policies: Vec<Arc<AclPolicy>>,
    #[serde(default)]
    acl_roles: Vec<Arc<AclRole>>,
    tokens: Vec<Arc<Token>>,
    join_tokens: Vec<Arc<JoinToken>>,
    agents: Vec<Arc<AgentRecord>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    auth_methods: Vec<Arc<AuthMethod>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    binding_rules: Vec<Arc<BindingRule>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    bearers: Vec<Arc<UsedBearer>>,
    revoked: BTreeMap<AgentId, CatalogIndex>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    revoked_at: BTreeMap<AgentId, Timestamp>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    revoked_services: Vec<Arc<RevokedService>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    bans: Vec<Arc<crate::Ban>>,
    roots: Vec<Arc<CaRoot>>,
    intermediates: Vec<Arc<CaIntermediate>>,
    #[serde(default)]
    audit: StoredTrail,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    upload: Option<Arc<Upload>>,
    #[serde(default, skip_serializing_if = "is_zero")]
    numbers_ahead: u64,
    #[serde(default)]
    ca: CaState,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    roots_acks: BTreeMap<AgentId, RootsAck>,
    answers: BTreeMap<RequestId, Arc<Answer>>,
    changes: Vec<(WatchKey, CatalogIndex)>,
    floor: CatalogIndex,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Returns the servers that founded the group, if there is one.
fn founded(mesh: Option<&Mesh>) -> Arc<Membership> {
    Arc::new(mesh.map(Membership::founded_by).unwrap_or_default())
}

impl Catalog {
    /// Writes the whole catalog as bytes, equal for equal catalogs.
    ///
    /// # Panics
    /// Never: every field is a string, a number, a list or a map with string keys, which JSON can hold.
    #[must_use]
    pub fn snapshot(&self) -> Vec<u8> {
        let snapshot = Snapshot {
            version: SNAPSHOT_VERSION,
            index: self.index,
            clock: self.clock,
            speaks: Some(self.speaks),
            mesh: self.mesh.clone(),
            mesh_entry: self.mesh_entry.clone(),
            membership: Some(self.membership.clone()),
            relaxations: self.relaxations.values().cloned().collect(),
            acl_bootstrapped: self.acl_bootstrapped,
            nodes: self.nodes.values().map(|state| state.node.clone()).collect(),
            instances: self.nodes.values().flat_map(|state| state.instances.values().cloned()).collect(),
            checks: self.nodes.values().flat_map(|state| state.checks().values().cloned()).collect(),
            addresses: self.addresses.stored(),
            intentions: self.intentions.values().flat_map(|toward| toward.values().cloned()).collect(),
            config: self.config.iter().cloned().collect(),
            connectors: self.connectors.values().cloned().collect(),
            acl_policies: self.acl_policies.values().cloned().collect(),
            acl_roles: self.acl_roles.values().cloned().collect(),
            tokens: self.tokens.all().cloned().collect(),
            join_tokens: self.join_tokens.all().cloned().collect(),
            agents: self.agents.values().cloned().collect(),
            auth_methods: self.auth_methods.values().cloned().collect(),
            binding_rules: self.binding_rules.values().cloned().collect(),
            bearers: self.bearers.values().cloned().collect(),
            revoked: self.revoked.iter().map(|(id, index)| (id.clone(), *index)).collect(),
            revoked_at: self.revoked_at.iter().map(|(id, at)| (id.clone(), *at)).collect(),
            revoked_services: self.revoked_services.values().cloned().collect(),
            bans: self.bans.values().cloned().collect(),
            roots: self.roots.values().cloned().collect(),
            intermediates: self.intermediates.values().cloned().collect(),
            audit: (&self.audit).into(),
            upload: self.upload.clone(),
            numbers_ahead: self.numbers_ahead,
            ca: self.ca.clone(),
            roots_acks: self.roots_acks.iter().map(|(agent, ack)| (agent.clone(), *ack)).collect(),
            answers: self.answers.iter().map(|(id, answer)| (id.clone(), answer.clone())).collect(),
            changes: self.changes.iter().map(|(key, index)| (key.clone(), *index)).collect(),
            floor: self.floor,
        };
        serde_json::to_vec(&snapshot).expect("a catalog has only what JSON can hold")
    }

    /// Returns the version of the form that a catalog is written in.
    ///
    /// # Errors
    /// [`SnapshotError`] where it is of a newer release, or none at all.
    pub fn form_of(bytes: &[u8]) -> Result<u16, SnapshotError> {
        #[derive(Deserialize)]
        struct Version {
            version: u16,
        }
        let Version { version } = serde_json::from_slice(bytes).map_err(SnapshotError::Damaged)?;
        if version > SNAPSHOT_VERSION {
            return Err(SnapshotError::Newer { found: version });
        }
        Ok(version)
    }

    /// Reads a catalog back; the inverse of [`Catalog::snapshot`].
    ///
    /// # Errors
    /// [`SnapshotError`] says whether it is of a newer release, damaged or inconsistent.
    pub fn restore(bytes: &[u8]) -> Result<Self, SnapshotError> {
        // What a newer release wrote need not look like anything that is known here: that is asked only where it does not.
        let snapshot: Snapshot = match serde_json::from_slice(bytes) {
            Ok(snapshot) => snapshot,
            Err(error) => return Err(Self::form_of(bytes).err().unwrap_or(SnapshotError::Damaged(error))),
        };
        if snapshot.version > SNAPSHOT_VERSION {
            return Err(SnapshotError::Newer { found: snapshot.version });
        }
        let mut catalog = Self {
            index: snapshot.index,
            clock: snapshot.clock,
            speaks: snapshot.speaks.unwrap_or(snapshot.version),
            membership: snapshot.membership.unwrap_or_else(|| founded(snapshot.mesh.as_deref())),
            mesh: snapshot.mesh,
            mesh_entry: snapshot.mesh_entry,
            relaxations: snapshot.relaxations.into_iter().map(|one| (one.scope.clone(), one)).collect(),
            acl_bootstrapped: snapshot.acl_bootstrapped,
            floor: snapshot.floor,
            audit: snapshot.audit.open().map_err(SnapshotError::Inconsistent)?,
            upload: snapshot.upload,
            numbers_ahead: snapshot.numbers_ahead,
            revoked: snapshot.revoked.into_iter().collect(),
            revoked_at: snapshot.revoked_at.into_iter().collect(),
            revoked_services: snapshot.revoked_services.into_iter().map(|it| (it.service.clone(), it)).collect(),
            bans: snapshot.bans.into_iter().map(|ban| (ban.banned.clone(), ban)).collect(),
            auth_methods: snapshot.auth_methods.into_iter().map(|method| (method.name.clone(), method)).collect(),
            binding_rules: snapshot.binding_rules.into_iter().map(|rule| (rule.id.clone(), rule)).collect(),
            roots: snapshot.roots.into_iter().map(|root| (root.id.clone(), root)).collect(),
            intermediates: snapshot.intermediates.into_iter().map(|one| (one.id.clone(), one)).collect(),
            ca: snapshot.ca,
            addresses: Addresses::open(snapshot.addresses).map_err(SnapshotError::Inconsistent)?,
            roots_acks: snapshot.roots_acks.into_iter().collect(),
            changes: snapshot.changes.into_iter().collect(),
            ..Self::default()
        };
        catalog.restore_nodes(snapshot.nodes, snapshot.instances, snapshot.checks)?;
        for intention in snapshot.intentions {
            let mut toward = catalog.intentions.get(&intention.destination).cloned().unwrap_or_default();
            toward.insert(intention.source.clone(), intention.clone());
            catalog.intentions.insert(intention.destination.clone(), toward);
        }
        catalog.config = snapshot.config.into_iter().collect();
        catalog.connectors = snapshot.connectors.into_iter().map(|one| (one.name.clone(), one)).collect();
        catalog.acl_policies = snapshot.acl_policies.into_iter().map(|one| (one.id.clone(), one)).collect();
        catalog.acl_roles = snapshot.acl_roles.into_iter().map(|one| (one.id.clone(), one)).collect();
        for token in snapshot.tokens {
            catalog.tokens.put(token);
        }
        for token in snapshot.join_tokens {
            catalog.join_tokens.put(token);
        }
        for used in snapshot.bearers {
            catalog.restore_bearer(UsedBearer::clone(&used));
        }
        for record in snapshot.agents {
            catalog.agents_by_node.insert(record.node.clone(), record.id.clone());
            catalog.agents_by_key.insert(record.key.clone(), record.id.clone());
            catalog.agents.insert(record.id.clone(), record);
        }
        for (request_id, answer) in snapshot.answers {
            catalog.answer_order.insert(answer.index, request_id.clone());
            catalog.answers.insert(request_id, answer);
        }
        Ok(catalog)
    }

    fn restore_nodes(
        &mut self,
        nodes: Vec<Arc<Node>>,
        instances: Vec<Arc<Instance>>,
        checks: Vec<Arc<Check>>,
    ) -> Result<(), SnapshotError> {
        let missing = |what: &dyn std::fmt::Display| SnapshotError::Inconsistent(format!("{what} is on no node"));
        let mut states: BTreeMap<_, NodeState> =
            nodes.into_iter().map(|node| (node.name.clone(), NodeState::new(node))).collect();
        for instance in instances {
            let state = states.get_mut(&instance.key.node).ok_or_else(|| missing(&instance.key))?;
            let mut keys = self.by_service.get(&instance.service_key()).cloned().unwrap_or_default();
            keys.insert(instance.key.clone());
            self.by_service.insert(instance.service_key(), keys);
            state.instances.insert((instance.key.namespace.clone(), instance.key.id.clone()), instance);
        }
        for check in checks {
            let state = states.get_mut(&check.key.node).ok_or_else(|| missing(&check.key))?;
            state.put_check(check);
        }
        let lead = states.values().filter(|state| state.node.gateway_port.is_some());
        self.gateways = lead.map(|state| state.node.name.clone()).collect();
        self.nodes = states.into_iter().collect();
        self.count_networks();
        self.count_callers();
        Ok(())
    }
}
