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

impl fmt::Display for Timestamp {
    /// Writes the instant in UTC and to the millisecond, as RFC 3339 has it: `2026-11-21T08:00:00.000Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, milliseconds) = (self.0 / 1000, self.0 % 1000);
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        // Years that start in March put the leap day last, so that months have fixed offsets in them.
        let days = days + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted + 2) / 5 + 1;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        let year = era * 400 + year_of_era + u64::from(month <= 2);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milliseconds:03}Z")
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
    /// Any config entry that shapes the traffic of services.
    Config,
    /// The `proxy-defaults` config entry, which bears on every service.
    ProxyDefaults,
    /// The config entries that say how calls to a service go, but for `proxy-defaults`.
    ConfigOf(ServiceKey),
    /// The connectors: which process each runs in, and how it fares.
    Connectors,
    /// The providers of tokens that intentions name.
    TokenProviders,
    /// The list of servers.
    Members,
    /// The mesh's facts and its `mesh` config entry.
    Mesh,
    /// The roots to trust, and what signs.
    Roots,
    /// The audit trail.
    Audit,
    /// A rotation of the root, what agents acknowledged of it, and how long certificates live.
    CaRotation,
    /// API tokens.
    Tokens,
    /// Auth methods and their binding rules.
    AuthMethods,
    /// ACL policies.
    AclPolicies,
    /// ACL roles.
    AclRoles,
    /// Join tokens.
    JoinTokens,
    /// The list of agent records.
    Agents,
    /// One agent record.
    Agent(AgentId),
    /// The ways into networks.
    Gateways,
    /// Which services have an instance in a network.
    Network(String),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_written_in_utc() {
        let rows = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_700_000_000_123, "2023-11-14T22:13:20.123Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        ];
        for (milliseconds, want) in rows {
            assert_eq!(Timestamp(milliseconds).to_string(), want);
        }
        assert!(Timestamp(u64::MAX).to_string().ends_with('Z'));
    }
}
