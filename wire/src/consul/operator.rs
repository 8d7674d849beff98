//! The servers as an operator sees and changes them.

use std::collections::BTreeMap;
use std::time::Duration;

use ::catalog::{Autopilot, CatalogIndex, MemberRole, ServerId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::decode::{DecodeError, Fields, Shape};

/// Writes a duration as Go does, down to milliseconds: `10s`, `200ms`.
fn go_duration(ms: u64) -> String {
    match ms {
        0 => "0s".to_owned(),
        ms if ms.is_multiple_of(1000) => format!("{}s", ms / 1000),
        ms => format!("{ms}ms"),
    }
}

/// Answers `GET /v1/operator/raft/configuration`: the servers, and which of them Raft counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct RaftConfiguration {
    /// The servers, in the order of their numbers.
    pub servers: Vec<RaftServer>,
    /// The index of the last change of the list.
    #[schema(value_type = u64)]
    pub index: CatalogIndex,
}

/// Shows one server of the group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct RaftServer {
    /// The mark of its data directory, which no other server ever has.
    #[serde(rename = "ID")]
    pub id: String,
    /// Its name.
    #[schema(value_type = String)]
    pub node: ServerId,
    /// Its address for Raft.
    pub address: String,
    /// Whether it leads.
    pub leader: bool,
    /// Whether it votes, by what the answering server has applied.
    pub voter: bool,
    /// The last index that it is known to have; 0 where nobody leads.
    pub last_index: u64,
    /// Always `3`: what Consul's clients expect.
    pub protocol_version: String,
    /// Its number in Raft.
    #[serde(rename = "RaftID")]
    pub raft_id: u64,
    /// What it is meant to be.
    #[schema(value_type = String)]
    pub role: MemberRole,
}

/// Answers that leadership goes elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct LeaderTransferred {
    /// Always true: what did not succeed is an error.
    pub success: bool,
}

/// Writes or shows how the group looks after itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct AutopilotConfiguration {
    /// Whether voters that are gone for long are taken out where that makes the group survive more.
    pub cleanup_dead_servers: bool,
    /// How long a server may be silent and still count as healthy.
    pub last_contact_threshold: String,
    /// How many entries a server may be behind and still count as healthy.
    pub max_trailing_logs: u64,
    /// How many voters are left at least when dead ones are taken out.
    pub min_quorum: u64,
    /// How long a newcomer must be healthy before it votes.
    pub server_stabilization_time: String,
    /// The index at which it was first written; 0 while nobody has.
    #[schema(value_type = u64)]
    pub create_index: CatalogIndex,
    /// The index of the last change.
    #[schema(value_type = u64)]
    pub modify_index: CatalogIndex,
}

impl From<&Autopilot> for AutopilotConfiguration {
    fn from(autopilot: &Autopilot) -> Self {
        Self {
            cleanup_dead_servers: autopilot.cleanup_dead_servers,
            last_contact_threshold: go_duration(autopilot.last_contact_threshold_ms),
            max_trailing_logs: autopilot.max_trailing_logs,
            min_quorum: autopilot.min_quorum,
            server_stabilization_time: go_duration(autopilot.server_stabilization_time_ms),
            create_index: autopilot.created,
            modify_index: autopilot.modified,
        }
    }
}

/// Reads how the group should look after itself; what is left out takes its default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AutopilotRequest(pub Autopilot);

impl Shape for AutopilotRequest {
    fn read(fields: &mut Fields) -> Result<Self, DecodeError> {
        let defaults = Autopilot::default();
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let request = Self(Autopilot {
            cleanup_dead_servers: fields.flag("CleanupDeadServers")?.unwrap_or(defaults.cleanup_dead_servers),
            last_contact_threshold_ms: fields
                .duration("LastContactThreshold")?
                .map_or(defaults.last_contact_threshold_ms, ms),
            max_trailing_logs: fields.number("MaxTrailingLogs")?.unwrap_or(defaults.max_trailing_logs),
            min_quorum: fields.number("MinQuorum")?.unwrap_or(defaults.min_quorum),
            server_stabilization_time_ms: fields
                .duration("ServerStabilizationTime")?
                .map_or(defaults.server_stabilization_time_ms, ms),
            ..defaults
        });
        fields.ignored(&["CreateIndex", "ModifyIndex"]);
        fields.unsupported(&["RedundancyZoneTag", "DisableUpgradeMigration", "UpgradeVersionTag"])?;
        Ok(request)
    }
}

/// Answers `GET /v1/operator/autopilot/health`: how the servers do, as the leader sees them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct AutopilotHealth {
    /// Whether every server is healthy.
    pub healthy: bool,
    /// How many more servers may fail before the group stops.
    pub failure_tolerance: usize,
    /// The servers, in the order of their numbers.
    pub servers: Vec<AutopilotServer>,
    /// Why a change of the servers that is wanted is not made now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
}

/// Shows how one server does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct AutopilotServer {
    /// The mark of its data directory.
    #[serde(rename = "ID")]
    pub id: String,
    /// Its name.
    #[schema(value_type = String)]
    pub name: ServerId,
    /// Its address for Raft.
    pub address: String,
    /// `alive` where it was heard lately, `failed` where not: what Consul's clients expect.
    pub serf_status: String,
    /// The release that it runs.
    pub version: String,
    /// Whether it leads.
    pub leader: bool,
    /// How long ago the leader heard it; `never` where it did not since it leads.
    pub last_contact: String,
    /// The leader's term.
    pub last_term: u64,
    /// The last index that it is known to have.
    pub last_index: u64,
    /// Whether it was heard lately and is not behind.
    pub healthy: bool,
    /// Whether it votes.
    pub voter: bool,
    /// Since when it is as healthy or unhealthy as it is.
    pub stable_since: String,
    /// Its number in Raft.
    #[serde(rename = "RaftID")]
    pub raft_id: u64,
    /// What it is meant to be.
    #[schema(value_type = String)]
    pub role: MemberRole,
    /// The highest version of an envelope that it reads.
    pub reads: u16,
}

impl AutopilotServer {
    /// Says how long ago a server was heard, as [`AutopilotServer::last_contact`] has it.
    #[must_use]
    pub fn contact(silent_ms: Option<u64>) -> String {
        silent_ms.map_or_else(|| "never".to_owned(), go_duration)
    }
}

/// Answers `GET /v1/operator/autopilot/state`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct AutopilotState {
    /// Whether every server is healthy.
    pub healthy: bool,
    /// How many more servers may fail before the group stops.
    pub failure_tolerance: usize,
    /// The same: weft knows no redundancy zones.
    pub optimistic_failure_tolerance: usize,
    /// The servers, by the marks of their data directories.
    pub servers: BTreeMap<String, AutopilotServer>,
    /// The leader's mark.
    pub leader: String,
    /// The voters' marks.
    pub voters: Vec<String>,
    /// Why a change of the servers that is wanted is not made now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
}

impl From<AutopilotHealth> for AutopilotState {
    fn from(health: AutopilotHealth) -> Self {
        let marks = |wanted: fn(&AutopilotServer) -> bool| {
            health.servers.iter().filter(move |server| wanted(server)).map(|server| server.id.clone())
        };
        Self {
            leader: marks(|server| server.leader).next().unwrap_or_default(),
            voters: marks(|server| server.voter).collect(),
            held: health.held.clone(),
            healthy: health.healthy,
            failure_tolerance: health.failure_tolerance,
            optimistic_failure_tolerance: health.failure_tolerance,
            servers: health.servers.into_iter().map(|server| (server.id.clone(), server)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::from_json;

    #[test]
    fn what_consuls_clients_send_is_read_and_what_is_left_out_takes_its_default() {
        let body = br#"{"CleanupDeadServers":false,"LastContactThreshold":"200ms","MaxTrailingLogs":250,"MinQuorum":3,
            "ServerStabilizationTime":"1m","RedundancyZoneTag":"","DisableUpgradeMigration":false,"ModifyIndex":4}"#;
        let AutopilotRequest(read) = from_json(body).unwrap();
        assert_eq!((read.cleanup_dead_servers, read.min_quorum), (false, 3));
        assert_eq!((read.last_contact_threshold_ms, read.server_stabilization_time_ms), (200, 60_000));
        assert_eq!(from_json::<AutopilotRequest>(b"{}").unwrap().0, Autopilot::default());
        let error = from_json::<AutopilotRequest>(br#"{"RedundancyZoneTag":"zone"}"#).unwrap_err().to_string();
        assert!(error.contains("RedundancyZoneTag"), "{error}");
    }

    #[test]
    fn what_is_shown_can_be_written_again() {
        let shown = serde_json::to_vec(&AutopilotConfiguration::from(&Autopilot::default())).unwrap();
        assert_eq!(from_json::<AutopilotRequest>(&shown).unwrap().0, Autopilot::default());
        assert_eq!([0, 10_000, 1_500].map(go_duration), ["0s", "10s", "1500ms"]);
    }
}
