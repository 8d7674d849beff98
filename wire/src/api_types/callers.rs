//! Who calls whom, and over what kind of connection.

use catalog::{NodeName, ServerId, ServiceKey, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::report::{Link, PairSource, PairUse, Watched};
use crate::rfc3339;

/// Answers who calls whom, by what agents have seen: soft state, which is as old as the agents that tell it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct CallersView {
    /// Who calls whom, in order of who is called.
    pub pairs: Vec<CallerView>,
    /// The services whose callers are seen. Of any other nothing is known.
    pub watched: Vec<WatchedView>,
    /// How many pairs are not told of, for there are too many.
    pub left_out: u64,
    /// The servers that did not answer: what their agents have seen is missing.
    #[schema(value_type = Vec<String>)]
    pub silent_servers: Vec<ServerId>,
}

/// Is one who calls, and whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct CallerView {
    /// Who calls: a service, the SPIFFE ID of somebody else, or an address where nothing proves who it is.
    pub source: String,
    /// The nodes that are known to be at the address; no proof, but a place to look.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub nodes: Vec<NodeName>,
    /// The service that is called.
    #[schema(value_type = String)]
    pub destination: ServiceKey,
    /// Over what: `plaintext`, `outside` where it leaves the mesh, or mutual TLS with a `classical` or a `hybrid` key exchange.
    #[schema(value_type = String)]
    pub link: Link,
    /// How many connections were opened.
    pub opened: u64,
    /// When the last one was.
    #[serde(with = "rfc3339::text")]
    #[schema(value_type = String)]
    pub last: Timestamp,
}

/// Is a service whose callers are seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct WatchedView {
    /// The service.
    #[schema(value_type = String)]
    pub service: ServiceKey,
    /// By how many agents.
    pub agents: u64,
    /// Since when by all of them.
    #[serde(with = "rfc3339::text")]
    #[schema(value_type = String)]
    pub since: Timestamp,
}

impl CallerView {
    /// Shows a pair; `nodes` are those at the address of a caller without identity.
    pub fn new(used: &PairUse, nodes: Vec<NodeName>) -> Self {
        Self {
            source: used.pair.source.to_string(),
            nodes,
            destination: used.pair.destination.clone(),
            link: used.pair.link,
            opened: used.opened,
            last: used.last,
        }
    }
}

impl PairSource {
    /// Returns the address of a caller that proved no identity.
    pub fn address(&self) -> Option<std::net::IpAddr> {
        match self {
            Self::Address(address) => Some(*address),
            Self::Service(_) | Self::Identity(_) => None,
        }
    }
}

impl From<&Watched> for WatchedView {
    fn from(watched: &Watched) -> Self {
        Self { service: watched.service.clone(), agents: watched.agents, since: watched.since }
    }
}
