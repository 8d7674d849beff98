//! What `agent/self` answers, on agents and on servers.

use serde::{Deserialize, Serialize};

/// Answers `agent/self`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AgentSelf {
    /// Who answers.
    pub config: AgentConfig,
}

/// Shows who answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
