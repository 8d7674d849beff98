//! What agents and servers say to each other on port 8300: HTTP/2 over mutual TLS, ALPN `weft-agent/1`.
//!
//! | path | body | answer |
//! | --- | --- | --- |
//! | `POST /v1/join` | [`JoinRequest`] | [`JoinResponse`]; needs no client certificate |
//! | `POST /v1/login` | [`LoginRequest`] | [`JoinResponse`]; needs no client certificate either |
//! | `POST /v1/mesh` | an empty object | [`MeshName`]; needs no client certificate either |
//! | `POST /v1/sign` | [`SignRequest`] | [`SignResponse`]; works under an expired leaf too |
//! | `POST /v1/write` | [`WriteRequest`] | [`WriteResponse`] |
//! | `POST /v1/report` | [`AgentReport`](crate::report::AgentReport) | an empty object; servers before it have no such path |
//! | `POST /v1/stream` | frames of [`ClientFrame`] | frames of [`ServerFrame`] |
//! | `POST /v1/tap` | frames of [`TapFrame`](crate::tap::TapFrame) | an empty object, once the body is over or nobody reads it |
//! | any `/v1/api/...` | as on the HTTP API | as on the HTTP API, judged by the caller's own token |
//!
//! A request that fails is answered with a status and an [`ApiError`]. Agents and servers of two releases run side by side:
//! what a peer understands is told in the first frame of each side, see [`Capabilities`].

mod capability;

use catalog::{
    AgentId, AgentRecord, AuthMethodName, Catalog, CatalogIndex, Check, CheckUpdate, Command, DeregisterTarget, Event,
    Incarnation, Instance, MeshItem, Node, NodeName, Outcome, Platform, RequestId, ServerId, ServiceKey, SessionChange,
    SessionRef, Timestamp, Topic,
};
use serde::{Deserialize, Serialize};

use crate::crypto::Secret;
use crate::tap::TapOrder;
pub use capability::{Capabilities, Capability};

/// The path of [`JoinRequest`].
pub const JOIN_PATH: &str = "/v1/join";
/// The path of [`LoginRequest`].
pub const LOGIN_PATH: &str = "/v1/login";
/// The path at which [`MeshName`] is asked for.
pub const MESH_PATH: &str = "/v1/mesh";
/// The path of [`SignRequest`].
pub const SIGN_PATH: &str = "/v1/sign";
/// The path of [`WriteRequest`].
pub const WRITE_PATH: &str = "/v1/write";
/// The path of [`AgentReport`](crate::report::AgentReport).
pub const REPORT_PATH: &str = "/v1/report";
/// The path of the stream.
pub const STREAM_PATH: &str = "/v1/stream";
/// The path of what is seen of requests that somebody watches.
pub const TAP_PATH: &str = "/v1/tap";
/// What stands before the path of a request for the HTTP API that an agent passes on.
pub const API_PATH_PREFIX: &str = "/v1/api";

/// Says which mesh a server is of, before anybody logs in: what is signed for one mesh is worth nothing in another. The
/// name is no secret: it opens nothing, and only keeps a signature for one mesh from counting in another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshName {
    /// The mesh's own name.
    pub cluster_id: String,
}

/// Asks to enrol an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The secret of the join token.
    pub secret: Secret,
    /// A certificate signing request for the agent's own key, DER. The names in it are ignored.
    #[serde(with = "base64")]
    pub csr: Vec<u8>,
    /// The node that the agent is to stand on.
    pub node: NodeName,
    /// What the node runs on.
    pub platform: Platform,
    /// The failure zone, as the platform names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The flat address space that the node is in; empty is the default one.
    #[serde(default)]
    pub network: String,
}

/// Asks to enrol an agent by the word of its platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginRequest {
    /// The auth method that judges the credential.
    pub method: AuthMethodName,
    /// The credential.
    pub bearer: Secret,
    /// A certificate signing request for the agent's own key, DER. The names in it are ignored.
    #[serde(with = "base64")]
    pub csr: Vec<u8>,
    /// The node that the agent is to stand on.
    pub node: NodeName,
    /// What the node runs on.
    pub platform: Platform,
    /// The failure zone, as the platform names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The flat address space that the node is in; empty is the default one.
    #[serde(default)]
    pub network: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

/// Tells an agent that it is enrolled, and all it needs to go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinResponse {
    /// What the agent is and is entitled to.
    pub record: AgentRecord,
    /// The mesh.
    pub mesh: MeshItem,
    /// The roots to trust, PEM.
    pub roots_pem: Vec<String>,
    /// The agent's own certificate.
    pub leaf: Leaf,
    /// Where servers serve agents, as `host:port`.
    pub servers: Vec<String>,
    /// Whether one server decided this alone, while the mesh could not be asked; it is asked later.
    #[serde(default, skip_serializing_if = "is_false")]
    pub provisional: bool,
}

/// A certificate that the CA has just signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaf {
    /// The leaf and then its issuer, PEM.
    pub chain_pem: Vec<String>,
    /// When the leaf expires.
    pub not_after: Timestamp,
}

/// Names whom a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// The agent itself.
    Agent,
    /// A service that the agent's record entitles it to.
    Service(ServiceKey),
}

/// Asks for a certificate: the first one for a service, or the renewal of any.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignRequest {
    /// A certificate signing request, DER. The names in it are ignored.
    #[serde(with = "base64")]
    pub csr: Vec<u8>,
    /// Whom the certificate is for.
    pub subject: Subject,
}

/// Hands out the certificate that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignResponse {
    /// The certificate.
    pub leaf: Leaf,
}

/// Is a change that an agent makes to its own node. The incarnation fences it: a later session makes it stale.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum AgentWrite {
    /// Registers the node, instances and checks; see [`Command::Register`].
    Register {
        /// The node.
        node: Box<Node>,
        /// Instances on it.
        instances: Vec<Instance>,
        /// Checks on it.
        checks: Vec<Check>,
        /// The session that writes.
        incarnation: Incarnation,
    },
    /// Removes the node, an instance or a check; see [`Command::Deregister`].
    Deregister {
        /// The node.
        node: NodeName,
        /// What of it.
        target: DeregisterTarget,
        /// The session that writes.
        incarnation: Incarnation,
    },
    /// Says that the agent is shutting down; see [`SessionChange::Drain`].
    Drain {
        /// The agent's node.
        node: NodeName,
        /// The agent.
        agent: AgentId,
        /// The session that writes.
        incarnation: Incarnation,
    },
    /// Records what checks say; see [`Command::UpdateChecks`].
    UpdateChecks {
        /// The news; at least one.
        updates: Vec<CheckUpdate>,
        /// The session that writes.
        incarnation: Incarnation,
    },
}

impl AgentWrite {
    /// Returns the node that the write is about; none for an update of no checks.
    pub fn node(&self) -> Option<&NodeName> {
        match self {
            Self::Register { node, .. } => Some(&node.name),
            Self::Deregister { node, .. } | Self::Drain { node, .. } => Some(node),
            Self::UpdateChecks { updates, .. } => updates.first().map(|update| &update.key.node),
        }
    }

    /// Returns the session that writes.
    pub fn incarnation(&self) -> Incarnation {
        match self {
            Self::Register { incarnation, .. }
            | Self::Deregister { incarnation, .. }
            | Self::Drain { incarnation, .. }
            | Self::UpdateChecks { incarnation, .. } => *incarnation,
        }
    }

    /// Returns the command that carries the write out.
    pub fn into_command(self) -> Command {
        match self {
            Self::Register { node, instances, checks, incarnation } => {
                Command::Register { node, instances, checks, skip_node_update: false, incarnation: Some(incarnation) }
            }
            Self::Deregister { node, target, incarnation } => {
                Command::Deregister { node, target, incarnation: Some(incarnation) }
            }
            Self::Drain { agent, incarnation, .. } => {
                Command::Sessions { change: SessionChange::Drain { session: SessionRef { agent, incarnation } } }
            }
            Self::UpdateChecks { updates, incarnation } => {
                Command::UpdateChecks { updates, incarnation: Some(incarnation) }
            }
        }
    }
}

/// Asks for a change, once: a repeat under the same id is answered as the first was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteRequest {
    /// Marks the request across retries and servers.
    pub request_id: RequestId,
    /// What changes.
    pub command: AgentWrite,
}

/// Answers a write that was carried out or refused by the state machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteResponse {
    /// Where the write stands in the log.
    pub index: CatalogIndex,
    /// What it did.
    pub outcome: Outcome,
}

/// Is what an agent says on its stream; the first frame is [`ClientFrame::Hello`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientFrame {
    /// Opens the agent's session.
    Hello {
        /// What the agent understands.
        #[serde(default, skip_serializing_if = "Capabilities::is_empty")]
        knows: Capabilities,
    },
    /// Asks to be kept up with a topic.
    Subscribe {
        /// Which.
        topic: Topic,
        /// The index that the agent holds, to be told only what changed since; none for all of it.
        from: Option<CatalogIndex>,
    },
    /// Says which roots the agent recognises others by now; a rotation of the CA waits for it.
    Acknowledge {
        /// The index of the roots that its proxy decides by.
        roots: CatalogIndex,
        /// Whether every leaf that it holds was signed by the intermediate that signs as of that index.
        renewed: bool,
    },
    /// Says that an event could not be taken: the agent goes on with what it held of the topic.
    Rejected {
        /// Which.
        topic: Topic,
        /// What is wrong with the event; one line.
        error: String,
    },
    /// Asks to hear no more of a topic.
    Unsubscribe {
        /// Which.
        topic: Topic,
    },
}

/// Names the history that indexes are of: those of two histories say nothing beside each other.
///
/// A group that lost most of its servers for good goes on from one survivor, which may know less than agents were told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupEpoch {
    /// The Raft group.
    pub cluster_id: String,
    /// How often it was rebuilt from one survivor.
    pub epoch: u64,
}

impl GroupEpoch {
    /// Returns the history that a catalog is of; none before the mesh is bootstrapped.
    pub fn of(catalog: &Catalog) -> Option<Self> {
        let mesh = catalog.mesh()?;
        Some(Self { cluster_id: mesh.cluster_id.clone(), epoch: catalog.membership().epoch })
    }
}

impl ClientFrame {
    /// Returns the hello of this release.
    pub fn hello() -> Self {
        Self::Hello { knows: Capabilities::ours() }
    }
}

/// Is what a server says on an agent's stream; the first frame is [`ServerFrame::Welcome`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServerFrame {
    /// The session is open.
    Welcome {
        /// The session's number, which every write carries.
        incarnation: Incarnation,
        /// The server that holds the session.
        server: ServerId,
        /// Where servers serve agents, as `host:port`.
        servers: Vec<String>,
        /// The history that the indexes on this stream are of.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        group: Option<GroupEpoch>,
        /// What the server understands.
        #[serde(default, skip_serializing_if = "Capabilities::is_empty")]
        knows: Capabilities,
    },
    /// There are other servers than before.
    Servers {
        /// Where servers serve agents, as `host:port`.
        servers: Vec<String>,
    },
    /// Somebody watches the requests to a service of the agent's.
    #[serde(rename = "may-tap")]
    Tap(Box<TapOrder>),
    /// News of a topic.
    Event(Event),
    /// All of what decides calls, of what this stream follows, was told as of this index: what was sent since the last such
    /// frame counts from here on, together.
    Settled {
        /// The index.
        index: CatalogIndex,
    },
    /// Nothing happened; the server is alive.
    Ping,
    /// The server ends the stream; the agent turns to another one.
    Goodbye {
        /// Why, for the log.
        reason: String,
    },
}

/// Says why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// What failed, on which input, and what to do; one line.
    pub error: String,
    /// Whether the agent has no record that the server knows of, so that it should log in again, if it can.
    #[serde(default, skip_serializing_if = "is_false")]
    pub log_in: bool,
}

/// Carries bytes as base64 text; for `#[serde(with = "...")]`.
mod base64 {
    use data_encoding::BASE64;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        BASE64.decode(text.as_bytes()).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests;
