//! Credentials of the API and of joining agents. Secrets are here only as hashes.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    AgentId, CatalogIndex, KeyFingerprint, NameError, Namespace, NodeName, Platform, PolicyId, RoleId, ServiceKey,
    ServiceName, Timestamp, name::is_uuid,
};

/// Holds the SHA-256 of a secret, as 64 lower-case hexadecimal digits.
///
/// A plain hash is enough: every secret is 256 random bits, so there is nothing to guess.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretHash(pub String);

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(..)")
    }
}

/// Names a token without revealing it: a random UUID.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AccessorId(String);

impl AccessorId {
    /// Returns the accessor as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for AccessorId {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        if is_uuid(&text) {
            Ok(Self(text))
        } else {
            Err(NameError::new("accessor id", &text, "use a lower-case UUID, as the listing of tokens shows it"))
        }
    }
}

impl std::str::FromStr for AccessorId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        text.to_owned().try_into()
    }
}

impl From<AccessorId> for String {
    fn from(accessor: AccessorId) -> Self {
        accessor.0
    }
}

impl fmt::Display for AccessorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Says what a token may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rights {
    /// Everything.
    Management,
    /// What the policies, roles and identities grant that it is linked to.
    Rules,
}

/// Is a policy that weft writes itself, for one name: what a service, a node or a DNS server needs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "template", rename_all = "kebab-case", deny_unknown_fields)]
pub enum TemplatedPolicy {
    /// What a service needs for itself.
    Service {
        /// The service.
        name: ServiceName,
    },
    /// What a node needs for itself.
    Node {
        /// The node.
        name: NodeName,
    },
    /// What answering names needs.
    Dns,
}

fn is_default(namespace: &Namespace) -> bool {
    *namespace == Namespace::default_namespace()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

/// Is a bearer credential for the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// The token's public name.
    pub accessor: AccessorId,
    /// The hash of its secret.
    pub secret: SecretHash,
    /// What the operator noted about it.
    pub description: String,
    /// What it may do.
    pub rights: Rights,
    /// The policies that it is linked to; sorted, unique.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<PolicyId>,
    /// The roles that it is linked to; sorted, unique.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<RoleId>,
    /// The services of its namespace that it stands for; sorted, unique.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub service_identities: Vec<ServiceName>,
    /// The nodes that it stands for; sorted, unique.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub node_identities: Vec<NodeName>,
    /// The templated policies that it is linked to; sorted, unique.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub templated_policies: Vec<TemplatedPolicy>,
    /// The namespace that it belongs to, whose own people may change it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub namespace: Namespace,
    /// Whether the caller asked for one of this datacenter only; there is no other, so that it is only shown.
    #[serde(default, skip_serializing_if = "is_false")]
    pub local: bool,
    /// The auth method by which somebody logged in to get it; none where it was made otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_method: Option<String>,
    /// Whom that method vouched for; of one subject, only so many tokens live at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login_subject: Option<String>,
    /// When it was made, by the clock of the server that made it.
    pub created_at: Timestamp,
    /// When it ends; never where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// The index at which it was made.
    #[serde(default)]
    pub created: CatalogIndex,
    /// The index of the last change.
    #[serde(default)]
    pub modified: CatalogIndex,
}

impl Token {
    /// Reports whether it says what the first release could not read: there tokens had no links, no namespace and no login.
    pub(crate) fn has_later_fields(&self) -> bool {
        let plain = Self {
            description: self.description.clone(),
            expires_at: self.expires_at,
            created: self.created,
            modified: self.modified,
            ..Self::new(self.accessor.clone(), self.secret.clone(), self.rights.clone(), self.created_at)
        };
        *self != plain || self.rights == Rights::Rules
    }

    /// Makes a token that is linked to nothing yet, in the namespace `default`.
    #[must_use]
    pub fn new(accessor: AccessorId, secret: SecretHash, rights: Rights, created_at: Timestamp) -> Self {
        Self {
            accessor,
            secret,
            description: String::new(),
            rights,
            policies: Vec::new(),
            roles: Vec::new(),
            service_identities: Vec::new(),
            node_identities: Vec::new(),
            templated_policies: Vec::new(),
            namespace: Namespace::default_namespace(),
            local: false,
            auth_method: None,
            login_subject: None,
            created_at,
            expires_at: None,
            created: CatalogIndex::default(),
            modified: CatalogIndex::default(),
        }
    }
}

/// Lets one agent enrol, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinToken {
    /// The token's public name.
    pub accessor: AccessorId,
    /// The hash of its secret.
    pub secret: SecretHash,
    /// The services that the agent will be entitled to; sorted, unique, empty only for a gateway.
    pub services: Vec<ServiceKey>,
    /// The network that the agent will be entitled to be a gateway into; none where it is to be none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// The only node that may use it; any where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// The only platform that may use it; any where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Whether it may take over a node name that has a live record with another key.
    #[serde(default)]
    pub replace_node: bool,
    /// Whose right it is to take the node over, judged once more when it is used; none in what the first release wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maker: Option<AccessorId>,
    /// When it ends, judged by the time inside the enrolling command.
    pub expires_at: Timestamp,
    /// The key that used it; a retry with the same key gets the same record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_by: Option<KeyFingerprint>,
    /// The record that it became.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<AgentId>,
    /// The index at which it was made.
    #[serde(default)]
    pub created: CatalogIndex,
    /// The index of the last change.
    #[serde(default)]
    pub modified: CatalogIndex,
}

impl JoinToken {
    /// Makes a join token for any node, which takes nobody's place.
    #[must_use]
    pub fn new(accessor: AccessorId, secret: SecretHash, services: Vec<ServiceKey>, expires_at: Timestamp) -> Self {
        Self {
            accessor,
            secret,
            services,
            node: None,
            platform: None,
            replace_node: false,
            maker: None,
            expires_at,
            gateway: None,
            used_by: None,
            record: None,
            created: CatalogIndex::default(),
            modified: CatalogIndex::default(),
        }
    }
}
