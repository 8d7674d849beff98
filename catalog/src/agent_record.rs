//! Agent records: what an enrolled agent is and is entitled to.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    AccessorId, AuthMethodName, CatalogIndex, Incarnation, NameError, NodeName, Platform, Presence, ServerId,
    ServiceKey, name::written_as_text,
};

/// Names an agent record: `a` and the log index at which the agent was enrolled.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentId(CatalogIndex);

written_as_text!(AgentId);

impl AgentId {
    /// Returns the id of the agent that was enrolled at `index`.
    #[must_use]
    pub fn enrolled_at(index: CatalogIndex) -> Self {
        Self(index)
    }

    /// Returns the index at which the agent was enrolled; the first half of the serials of its certificates.
    #[must_use]
    pub fn index(&self) -> CatalogIndex {
        self.0
    }
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a{}", self.0)
    }
}

impl TryFrom<String> for AgentId {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl std::str::FromStr for AgentId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let digits = text.strip_prefix('a').filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
        match digits.and_then(|digits| digits.parse().ok()) {
            Some(index) => Ok(Self(CatalogIndex(index))),
            None => Err(NameError::new("agent id", text, "use `a` and a number, as `weft join-token list` shows it")),
        }
    }
}

impl From<AgentId> for String {
    fn from(id: AgentId) -> Self {
        id.to_string()
    }
}

/// Identifies a public key: the SHA-256 of its SubjectPublicKeyInfo, as 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyFingerprint(pub String);

impl fmt::Display for KeyFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Says how an agent proved what it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Attestation {
    /// It held a join token.
    JoinToken(AccessorId),
    /// It logged in.
    Login {
        /// Who vouched.
        method: AuthMethodName,
        /// Whom for, in the method's own words.
        subject: String,
    },
}

/// Is what an enrolled agent is and is entitled to. Its leaf certificates are signed from this alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentRecord {
    /// The record's id.
    pub id: AgentId,
    /// The agent's node; one live record a node.
    pub node: NodeName,
    /// What the node runs on.
    pub platform: Platform,
    /// The agent's key: while the record lives, holding it is enough to renew.
    pub key: KeyFingerprint,
    /// The services that the agent may stand before; sorted, unique, empty only for a gateway.
    pub services: Vec<ServiceKey>,
    /// The network that the agent may be a gateway into; none where it may be none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// How the agent proved what it is.
    pub attestation: Attestation,
    /// The indexes that serials of its certificates carry beside its own: those of its earlier records, and of what a server
    /// gave it alone. They are revoked with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<CatalogIndex>,
    /// The index at which it was enrolled; it names the record in the serials of its certificates and never changes.
    pub enrolled: CatalogIndex,
    /// The agent's latest session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<Incarnation>,
    /// The server that holds the latest session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerId>,
    /// How that session stands.
    #[serde(default, skip_serializing_if = "Presence::is_plain")]
    pub presence: Presence,
    /// The index of the last change.
    #[serde(default)]
    pub modified: CatalogIndex,
}

impl AgentRecord {
    /// Reports whether the agent may stand before `service`.
    #[must_use]
    pub fn entitles(&self, service: &ServiceKey) -> bool {
        self.services.contains(service)
    }

    /// Reports whether the agent may be a gateway into `network`.
    #[must_use]
    pub fn entitles_gateway(&self, network: &str) -> bool {
        self.gateway.as_deref() == Some(network)
    }

    /// Reports whether it entitles to all that `other` does.
    #[must_use]
    pub(crate) fn keeps_all_of(&self, other: &Self) -> bool {
        other.services.iter().all(|service| self.entitles(service))
    }
}
