//! Facts about the mesh as a whole, and its `mesh` config entry.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    Action, AuditMode, CatalogIndex, Guardrail, IdentityScheme, KeyExchange, Namespace, PathTemplate, ServerId,
    TrustDomain,
};

/// Is a server of the group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerMember {
    /// The server's name.
    pub id: ServerId,
    /// Its number in Raft; never used again for another server.
    pub raft_id: u64,
    /// The random mark of its data directory: a server that comes back with another one has lost its disk.
    pub disk_id: String,
    /// Where it was reached for Raft when it became a member.
    pub raft_address: String,
    /// The highest version of an [`Envelope`](crate::Envelope) that it read when it became a member.
    #[serde(default = "first_version", skip_serializing_if = "is_first_version")]
    pub reads: u16,
}

/// Is what the first release read, which did not say so.
fn first_version() -> u16 {
    1
}

fn is_first_version(version: &u16) -> bool {
    *version == first_version()
}

/// Is what is fixed when the mesh is bootstrapped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mesh {
    /// The random name of this Raft group.
    pub cluster_id: String,
    /// The datacenter's name.
    pub datacenter: String,
    /// The authority of every identity.
    pub trust_domain: TrustDomain,
    /// The shape of workload identities.
    pub template: PathTemplate,
    /// The servers that founded the group, in the order of their numbers; the catalog has those of today.
    pub servers: Vec<ServerMember>,
}

impl Mesh {
    /// Returns how identities are built and read here.
    #[must_use]
    pub fn scheme(&self) -> IdentityScheme {
        IdentityScheme {
            trust_domain: self.trust_domain.clone(),
            template: self.template.clone(),
            datacenter: self.datacenter.clone(),
        }
    }
}

/// Is the `mesh` config entry: what holds for every service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeshEntry {
    /// What happens where no intention matches.
    pub default_action: Action,
    /// Denies that no intention overrides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub guardrails: Vec<Guardrail>,
    /// Where denials are only logged and counted.
    #[serde(default, skip_serializing_if = "AuditMode::is_off")]
    pub audit: AuditMode,
    /// The weakest key exchange that agents accept from one another.
    #[serde(default, skip_serializing_if = "KeyExchange::is_classical")]
    pub min_key_exchange: KeyExchange,
    /// Whether services whose connections are redirected may call nobody outside the mesh.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mesh_destinations_only: bool,
    /// Whether services may take callers without identity.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allows_permissive: bool,
    /// The namespaces of which no caller is told an instance that can be dialled past its agent.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub refuses_bypassable: BTreeSet<Namespace>,
    /// The index at which it was first written; 0 while nobody has.
    #[serde(default)]
    pub created: CatalogIndex,
    /// The index of the last change.
    #[serde(default)]
    pub modified: CatalogIndex,
}

impl Default for MeshEntry {
    fn default() -> Self {
        Self {
            default_action: Action::Deny,
            guardrails: Vec::new(),
            audit: AuditMode::default(),
            min_key_exchange: KeyExchange::default(),
            mesh_destinations_only: false,
            allows_permissive: false,
            refuses_bypassable: BTreeSet::new(),
            created: CatalogIndex::default(),
            modified: CatalogIndex::default(),
        }
    }
}
