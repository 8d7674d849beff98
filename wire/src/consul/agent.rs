//! What `agent/self`, `agent/version` and `agent/members` answer, on agents and on servers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Answers `agent/self`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct AgentSelf {
    /// Who answers.
    pub config: AgentConfig,
}

/// Shows who answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct AgentConfig {
    /// The datacenter.
    pub datacenter: String,
    /// The node or server that answers.
    pub node_name: String,
    /// Whether it is a server.
    pub server: bool,
    /// The version of weft.
    pub version: String,
}

impl AgentSelf {
    /// Shows the agent or server `name` of this release.
    pub fn new(datacenter: &str, name: &str, server: bool) -> Self {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Self { config: AgentConfig { datacenter: datacenter.to_owned(), node_name: name.to_owned(), server, version } }
    }
}

/// Answers `agent/version`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct AgentVersion {
    /// The version as people write it.
    pub human_version: String,
}

impl AgentVersion {
    /// Shows the version of this release.
    pub fn here() -> Self {
        Self { human_version: env!("CARGO_PKG_VERSION").to_owned() }
    }
}

/// Is one element of the answer to `agent/members`: a server, or a node with an agent.
///
/// There is no gossip; servers know one another by their log, and agents by the sessions that these hold with servers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct AgentMember {
    /// The server's or the node's name.
    pub name: String,
    /// Its address: a server's for Raft, a node's as the catalog has it.
    pub addr: String,
    /// Its port: a server's for Raft, an agent's for the mesh; 0 where it is not known.
    pub port: u16,
    /// Facts by name; `role` is `consul` for servers and `node` for agents, as Consul's clients look for them.
    pub tags: BTreeMap<String, String>,
    /// 1 for one that is alive, 4 for one that has failed, 0 for a server of which no leader says either.
    pub status: u8,
}

impl AgentMember {
    /// What [`AgentMember::status`] says of one of which it is not known.
    pub const UNKNOWN: u8 = 0;
    /// What [`AgentMember::status`] says of one that is alive.
    pub const ALIVE: u8 = 1;
    /// What [`AgentMember::status`] says of one that has failed.
    pub const FAILED: u8 = 4;
}
