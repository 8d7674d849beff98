//! What anybody may look up in a state, one thing or all of a kind.

use std::collections::{BTreeMap, BTreeSet};

use imbl::{OrdMap, OrdSet};

use super::Catalog;
use crate::{
    AccessorId, AgentId, AgentRecord, CaIntermediate, CaRoot, CatalogIndex, Check, CheckKey, CheckStatus,
    IdentityScheme, Instance, InstanceKey, Intention, IntentionKey, JoinToken, KeyFingerprint, Mesh, MeshEntry,
    Namespace, Node, NodeName, Policy, SecretHash, ServiceKey, ServiceName, ServicePattern, Token, TrustBundle,
};

impl Catalog {
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
}
