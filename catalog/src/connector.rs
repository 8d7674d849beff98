//! Connectors: what keeps the catalog in step with a platform, which process runs each, and what it writes.
//!
//! A connector runs in one process at a time. That one holds a lease, and every write carries the lease's term: whoever has
//! lost it, and has not heard of that, changes nothing any more.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    CatalogIndex, Check, ConnectorName, Incarnation, Instance, Node, NodeName, Owner, ServicePattern, Timestamp,
    UnknownWord, node::words,
};

/// The shortest lease: a process that renews it has to survive an election of the servers.
pub const CONNECTOR_LEASE_MIN: std::time::Duration = std::time::Duration::from_secs(5);
/// The longest lease: so long nobody takes over from a process that has died.
pub const CONNECTOR_LEASE_MAX: std::time::Duration = std::time::Duration::from_secs(600);
/// How many nodes one command writes at most.
pub const CONNECTOR_WRITES_MAX: usize = 128;
/// How the ids of checks begin that connectors keep on the nodes of others. Nobody else writes these.
pub const CONNECTOR_CHECK_PREFIX: &str = "connector:";

/// Is one change by a connector, or of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ConnectorChange {
    /// Lets a process run the connector, if no other one does; its index is the new term.
    Acquire {
        /// The connector.
        name: ConnectorName,
        /// What it looks at, such as `aws`.
        #[serde(rename = "platform")]
        kind: String,
        /// The process, as it tells itself from all others.
        holder: String,
        /// For how long, in milliseconds, from when this was proposed.
        lasts_ms: u64,
    },
    /// Lets the process go on, and notes how the connector fares.
    Renew {
        /// The connector.
        name: ConnectorName,
        /// The term that it was granted.
        term: Incarnation,
        /// For how long, in milliseconds, from when this was proposed.
        lasts_ms: u64,
        /// How it fares; none where that is as before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        status: Option<Box<ConnectorStatus>>,
    },
    /// Gives the lease back, so that another process need not wait for its end.
    Release {
        /// The connector.
        name: ConnectorName,
        /// The term that it was granted.
        term: Incarnation,
    },
    /// Writes what the connector found. What of it is refused changes nothing, and the rest is done.
    Write {
        /// The connector.
        name: ConnectorName,
        /// The term that it was granted.
        term: Incarnation,
        /// The services to which it may add instances although others serve them.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        shares: Vec<ServicePattern>,
        /// What it found; at most [`CONNECTOR_WRITES_MAX`].
        writes: Vec<ConnectorWrite>,
    },
    /// Says that a removal of many nodes at once, which the connector holds, is meant.
    Confirm {
        /// The connector.
        name: ConnectorName,
        /// How many nodes may go at most.
        removals: u64,
    },
    /// Forgets a connector that nobody runs, with its nodes and checks.
    Forget {
        /// The connector.
        name: ConnectorName,
    },
}

impl ConnectorChange {
    /// Returns the connector.
    #[must_use]
    pub fn name(&self) -> &ConnectorName {
        match self {
            Self::Acquire { name, .. }
            | Self::Renew { name, .. }
            | Self::Release { name, .. }
            | Self::Write { name, .. }
            | Self::Confirm { name, .. }
            | Self::Forget { name } => name,
        }
    }
}

/// Is what a connector says of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "write", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ConnectorWrite {
    /// Makes a node of the connector's own this, with everything on it.
    Put {
        /// The whole node.
        node: Box<ConnectorNode>,
    },
    /// Removes a node of the connector's own.
    Remove {
        /// Which.
        node: NodeName,
    },
    /// Makes the connector's checks on somebody else's node these.
    Checks {
        /// Whose health it is.
        node: NodeName,
        /// All of the connector's checks there.
        checks: Vec<Check>,
    },
}

impl ConnectorWrite {
    /// Returns the node that is written.
    #[must_use]
    pub fn node(&self) -> &NodeName {
        match self {
            Self::Put { node } => &node.node.name,
            Self::Remove { node } | Self::Checks { node, .. } => node,
        }
    }
}

/// Is a node with all that is on it, as a connector sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectorNode {
    /// The node.
    pub node: Node,
    /// The instances on it.
    #[serde(default)]
    pub instances: Vec<Instance>,
    /// Its checks, and those of its instances.
    #[serde(default)]
    pub checks: Vec<Check>,
}

/// Names a write that was refused, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefusedWrite {
    /// The node.
    pub node: NodeName,
    /// Why, and what to do.
    pub reason: String,
    /// Whether it is because the node, or the service, is somebody else's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub conflict: bool,
}

/// Sorts what keeps a connector from its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProblemKind {
    /// The platform, or a part of it, was not heard of: nothing is removed meanwhile.
    Degraded,
    /// So much would be removed at once that somebody has to say that it is meant.
    Held,
    /// It belongs to somebody else.
    Conflict,
    /// It is not what may be written, or there is no room for it.
    Refused,
}
words!(ProblemKind, "kind of problem", "`degraded`, `held`, `conflict` or `refused`", {
    Degraded = "degraded", Held = "held", Conflict = "conflict", Refused = "refused"
});

/// Names one thing that keeps a connector from its work.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectorProblem {
    /// Of what sort it is.
    pub kind: ProblemKind,
    /// What it concerns, such as a node or a service.
    pub subject: String,
    /// What is wrong, and what to do.
    pub reason: String,
}

/// Says how a connector fares.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectorStatus {
    /// When it last saw the whole of its platform and wrote what it saw; none where it has not yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub synced_at: Option<Timestamp>,
    /// How many nodes it keeps.
    #[serde(default)]
    pub nodes: u64,
    /// What keeps it from its work, worst first; the first few of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<ConnectorProblem>,
    /// How many there are beyond those.
    #[serde(default)]
    pub problems_beyond: u64,
}

/// Says which process runs a connector, and how it fares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectorLease {
    /// The connector.
    pub name: ConnectorName,
    /// What it looks at, such as `aws`.
    #[serde(rename = "platform")]
    pub kind: String,
    /// The process that runs it; none where the lease was given back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
    /// The number that its writes carry.
    pub term: Incarnation,
    /// When the lease ends unless it is renewed.
    pub ends_at: Timestamp,
    /// How it fares.
    #[serde(default)]
    pub status: ConnectorStatus,
    /// How many nodes an operator lets it remove at once, until it holds none back any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmed: Option<u64>,
    /// The index at which it was first acquired.
    #[serde(default)]
    pub created: CatalogIndex,
    /// The index of the last change.
    #[serde(default)]
    pub modified: CatalogIndex,
}

impl ConnectorLease {
    /// Returns the process that runs the connector now.
    #[must_use]
    pub fn holder_at(&self, now: Timestamp) -> Option<&str> {
        self.holder.as_deref().filter(|_| now < self.ends_at)
    }
}

impl ConnectorName {
    /// Returns whose nodes of this connector are.
    #[must_use]
    pub fn owner(&self) -> Owner {
        Owner::Connector(self.to_string())
    }

    /// Returns how the ids of its checks on the nodes of others begin.
    #[must_use]
    pub fn check_prefix(&self) -> String {
        format!("{CONNECTOR_CHECK_PREFIX}{self}:")
    }
}
