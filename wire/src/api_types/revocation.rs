//! What is revoked, and how much a revocation hit.

use catalog::{AgentId, Ban, Banned, RevokedService, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::rfc3339;

/// Answers a revocation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct Revoked {
    /// How many live agents it hit.
    pub agents: u64,
}

/// Shows something whose certificates are refused, or that is kept out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct RevocationView {
    /// `agent` or `service`, of which certificates are refused; `key` or `login`, which are kept out until that is lifted.
    pub kind: String,
    /// The agent's id, the service as `namespace/name`, the key, or the auth method and after a `/` whom it vouches for.
    pub name: String,
    /// The node of the agent whose key it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// When it was revoked, as far as that is known.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "rfc3339::optional_text")]
    #[schema(value_type = Option<String>)]
    pub revoked_at: Option<Timestamp>,
}

impl RevocationView {
    /// Shows a revoked agent.
    pub fn agent(id: &AgentId, revoked_at: Option<Timestamp>) -> Self {
        Self { kind: "agent".to_owned(), name: id.to_string(), node: None, revoked_at }
    }

    /// Shows a revoked service.
    pub fn service(revoked: &RevokedService) -> Self {
        let (name, revoked_at) = (revoked.service.to_string(), Some(revoked.revoked_at));
        Self { kind: "service".to_owned(), name, node: None, revoked_at }
    }

    /// Shows a ban.
    pub fn ban(ban: &Ban) -> Self {
        let (kind, name) = match &ban.banned {
            Banned::Key { key } => ("key", key.to_string()),
            Banned::Login { method, subject } => {
                let subject = subject.iter().map(|subject| format!("/{subject}")).collect::<String>();
                ("login", format!("{method}{subject}"))
            }
        };
        let node = ban.node.as_ref().map(ToString::to_string);
        Self { kind: kind.to_owned(), name, node, revoked_at: Some(ban.since) }
    }
}
