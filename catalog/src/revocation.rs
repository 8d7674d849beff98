//! Revocation of more than one agent at once: of a service, and of what a join token or an auth method let in.

use serde::{Deserialize, Serialize};

use crate::{AccessorId, AgentId, AuthMethodName, Banned, CatalogIndex, ServiceKey, Timestamp};

/// The most revocations that one command forgets.
pub const FORGOTTEN_MAX: usize = 1024;

/// Is a service of which older certificates are trusted no longer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokedService {
    /// The service.
    pub service: ServiceKey,
    /// Its certificates whose serials start below this index are refused.
    pub below: CatalogIndex,
    /// When that was decided, by the time inside the command.
    pub revoked_at: Timestamp,
}

/// Is a revocation of several certificates at once, or the end of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case", deny_unknown_fields)]
pub enum RevocationChange {
    /// Refuses a service's certificates, and new ones to the agents that are enrolled now. Those enrolled later may serve it.
    Service {
        /// The service.
        service: ServiceKey,
    },
    /// Ends a join token and every agent record that came of it.
    JoinToken {
        /// Which.
        accessor: AccessorId,
    },
    /// Ends every agent record and API token that came of logins by an auth method, and keeps out whom it vouches for.
    Login {
        /// The method.
        method: AuthMethodName,
        /// Only those of whom the method called this; none for all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        subject: Option<String>,
    },
    /// Lets somebody in again who was kept out. Certificates that were revoked stay so.
    Lift {
        /// Whom.
        banned: Banned,
    },
    /// Lets the keys of revoked agents in again, all at once. Certificates that were revoked stay so.
    LiftAgent {
        /// The node that they were on, or one of the keys.
        named: String,
    },
    /// Forgets revocations that no certificate is left for.
    Forget {
        /// Revoked agents.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        agents: Vec<AgentId>,
        /// Revoked services as they were when that was found: a revocation made since stays.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        services: Vec<RevokedService>,
    },
}
