//! What is revoked, and how much a revocation hit.

use catalog::{AgentId, RevokedService, Timestamp};
use serde::{Deserialize, Serialize};

use crate::rfc3339;

/// Answers a revocation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Revoked {
    /// How many live agents it hit.
    pub agents: u64,
}

/// Shows something whose certificates are refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RevocationView {
    /// `agent` or `service`.
    pub kind: String,
    /// The agent's id, or the service as `namespace/name`.
    pub name: String,
    /// When it was revoked, as far as that is known.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "rfc3339::optional_text")]
    pub revoked_at: Option<Timestamp>,
}

impl RevocationView {
    /// Shows a revoked agent.
    pub fn agent(id: &AgentId, revoked_at: Option<Timestamp>) -> Self {
        Self { kind: "agent".to_owned(), name: id.to_string(), revoked_at }
    }

    /// Shows a revoked service.
    pub fn service(revoked: &RevokedService) -> Self {
        let (name, revoked_at) = (revoked.service.to_string(), Some(revoked.revoked_at));
        Self { kind: "service".to_owned(), name, revoked_at }
    }
}
