//! Where a denial is only logged and counted: audit mode of a namespace or the mesh, and its form that ends by itself.

use std::{collections::BTreeSet, fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{AccessorId, CatalogIndex, Namespace, ServiceKey, Timestamp};

/// How long a relaxation lasts at most. One that would go on for longer by the reader's clock is not in force: that clock is
/// wrong, or the one was that made it.
pub const RELAXATION_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// How far the clocks of honest servers and agents differ at most.
const CLOCKS_DIFFER_MAX: Duration = Duration::from_secs(5 * 60);

/// Says toward which destinations a denial is only logged and counted, until somebody changes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditMode {
    /// Toward all.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mesh: bool,
    /// Toward the services of these namespaces.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub namespaces: BTreeSet<Namespace>,
}

impl AuditMode {
    /// Reports whether it concerns nobody.
    #[must_use]
    pub fn is_off(&self) -> bool {
        !self.mesh && self.namespaces.is_empty()
    }
}

/// Names the destinations that a relaxation concerns.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RelaxedScope {
    /// All of them.
    Mesh,
    /// The services of one namespace.
    Namespace(Namespace),
}

impl RelaxedScope {
    /// Reports whether it concerns calls to `destination`.
    #[must_use]
    pub fn covers(&self, destination: &ServiceKey) -> bool {
        match self {
            Self::Mesh => true,
            Self::Namespace(namespace) => *namespace == destination.namespace,
        }
    }
}

impl fmt::Display for RelaxedScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mesh => f.write_str("the whole mesh"),
            Self::Namespace(namespace) => write!(f, "namespace {namespace}"),
        }
    }
}

/// Is audit mode for a limited time.
///
/// Whoever decides a call judges its end by their own clock, so that it ends where no server can be reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Relaxation {
    /// What it concerns.
    pub scope: RelaxedScope,
    /// Why, in the words of whoever made it.
    pub reason: String,
    /// Whose token made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<AccessorId>,
    /// When it was made.
    pub since: Timestamp,
    /// When it ends.
    pub ends_at: Timestamp,
    /// The index at which it was made.
    #[serde(default)]
    pub modified: CatalogIndex,
}

impl Relaxation {
    /// Reports whether it is in force at `now`, by the clock of whoever asks.
    ///
    /// One that has more time left than it was made for was made by a clock that is ahead: it opens nothing before its time,
    /// or it would last for longer than anybody asked.
    #[must_use]
    pub fn is_live(&self, now: Timestamp) -> bool {
        let lasts = self.ends_at.since(self.since).min(RELAXATION_MAX);
        now < self.ends_at && self.ends_at.since(now) <= lasts.saturating_add(CLOCKS_DIFFER_MAX)
    }
}

/// Says what turns a denial into a logged one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuditCause {
    /// The intention that denies is in audit mode.
    Intention,
    /// The destination's namespace is.
    Namespace,
    /// The mesh is.
    Mesh,
    /// Somebody relaxed the destination's namespace or the mesh for a time.
    Relaxation {
        /// Which of the two.
        scope: RelaxedScope,
        /// Until when.
        ends_at: Timestamp,
    },
}

impl AuditCause {
    /// Returns the cause as one word.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Intention => "intention",
            Self::Namespace => "namespace",
            Self::Mesh => "mesh",
            Self::Relaxation { .. } => "relaxation",
        }
    }
}

impl fmt::Display for AuditCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Intention => f.write_str("the intention is in audit mode"),
            Self::Namespace => f.write_str("the destination's namespace is in audit mode"),
            Self::Mesh => f.write_str("the mesh is in audit mode"),
            Self::Relaxation { scope, ends_at } => write!(f, "{scope} is relaxed until {ends_at}"),
        }
    }
}
