//! Connectors: who runs each, how it fares, and what its writes are answered.

use catalog::{CatalogIndex, ConnectorLease, ConnectorName, ConnectorProblem, Incarnation, ProblemKind, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::RefusedWriteView;
use crate::rfc3339;

/// Shows a connector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct ConnectorView {
    /// The connector.
    #[schema(value_type = String)]
    pub name: ConnectorName,
    /// What it looks at, such as `aws`.
    pub platform: String,
    /// The process that runs it; none where nobody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
    /// The number that the writes of that process carry.
    #[schema(value_type = u64)]
    pub term: Incarnation,
    /// When the process has to have renewed its lease.
    #[serde(with = "rfc3339::text")]
    #[schema(value_type = String)]
    pub lease_ends_at: Timestamp,
    /// When it last saw the whole of its platform and wrote what it saw; none where it has not yet.
    #[serde(default, with = "rfc3339::optional_text", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub synced_at: Option<Timestamp>,
    /// How many nodes it keeps.
    pub nodes: u64,
    /// What keeps it from its work.
    pub problems: Vec<ConnectorProblemView>,
    /// How many problems there are beyond those.
    pub problems_beyond: u64,
    /// How many nodes an operator lets it remove at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmed: Option<u64>,
    /// The index of the last change.
    #[schema(value_type = u64)]
    pub modify_index: CatalogIndex,
}

/// Shows one thing that keeps a connector from its work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct ConnectorProblemView {
    /// Of what sort it is.
    #[schema(value_type = String)]
    pub kind: ProblemKind,
    /// What it concerns.
    pub subject: String,
    /// What is wrong, and what to do.
    pub reason: String,
}

impl ConnectorView {
    /// Shows a connector as it stands at `now`.
    #[must_use]
    pub fn of(lease: &ConnectorLease, now: Timestamp) -> Self {
        let problem = |one: &ConnectorProblem| ConnectorProblemView {
            kind: one.kind,
            subject: one.subject.clone(),
            reason: one.reason.clone(),
        };
        Self {
            name: lease.name.clone(),
            platform: lease.kind.clone(),
            holder: lease.holder_at(now).map(str::to_owned),
            term: lease.term,
            lease_ends_at: lease.ends_at,
            synced_at: lease.status.synced_at,
            nodes: lease.status.nodes,
            problems: lease.status.problems.iter().map(problem).collect(),
            problems_beyond: lease.status.problems_beyond,
            confirmed: lease.confirmed,
            modify_index: lease.modified,
        }
    }
}

/// Answers `PUT /v1/connector`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct ConnectorAnswer {
    /// The term, where a lease was granted or renewed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub term: Option<Incarnation>,
    /// What of a write was refused, and why; the rest is done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<RefusedWriteView>,
}
