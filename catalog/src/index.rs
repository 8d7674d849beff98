//! Positions in the log and in time, and the keys that watchers wait on.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{AgentId, Namespace, NodeName, ServiceKey, ServicePattern};

/// Counts committed log entries. 0 stands for "before the first"; queries answer at least 1, as Consul's clients expect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CatalogIndex(pub u64);

/// Numbers an agent's session by the log index at which it opened; a write that carries an older one is stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

/// Counts milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Returns the instant `duration` later, or the last representable one.
    #[must_use]
    pub fn saturating_add(self, duration: std::time::Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// Returns the instant `duration` earlier, or the epoch.
    #[must_use]
    pub fn saturating_sub(self, duration: std::time::Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// Returns how long after `earlier` this is; zero if it is not after it.
    #[must_use]
    pub fn since(self, earlier: Self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for CatalogIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names something whose last change the catalog remembers, so that a watcher wakes only for what it read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WatchKey {
    /// The list of nodes.
    Nodes,
    /// A node, its instances and its checks.
    Node(NodeName),
    /// The list of services of a namespace, with their tags.
    Services(Namespace),
    /// The instances of a service, with the nodes and checks that bear on them.
    Service(ServiceKey),
    /// Any check.
    Checks,
    /// Any intention.
    Intentions,
    /// The intentions whose destination is written like this.
    Destination(ServicePattern),
    /// The mesh's facts and its `mesh` config entry.
    Mesh,
    /// Roots and intermediates.
    Roots,
    /// API tokens.
    Tokens,
    /// Join tokens.
    JoinTokens,
    /// The list of agent records.
    Agents,
    /// One agent record.
    Agent(AgentId),
    /// Revoked identities.
    Revocations,
}

impl WatchKey {
    /// Returns the keys that everything concerning policy toward `destination` is read under.
    #[must_use]
    pub fn policy_of(destination: &ServiceKey) -> Vec<Self> {
        let mut keys: Vec<Self> = ServicePattern::covering(destination).into_iter().map(Self::Destination).collect();
        keys.push(Self::Mesh);
        keys
    }
}
