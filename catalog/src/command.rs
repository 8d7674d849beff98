//! Commands: every change of the catalog, wrapped with who asked for it and when.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    AccessorId, AclChange, AgentId, AuthMethodName, BackupStep, CaChange, CaIntermediate, CaRoot, CatalogIndex, Check,
    CheckId, CheckKey, CheckStatus, ConfigChange, ConnectorChange, Incarnation, Instance, InstanceId, Intention,
    IntentionKey, JoinToken, KeyFingerprint, LoginChange, MembershipChange, Mesh, MeshEntry, NameError, Namespace,
    Node, NodeName, Platform, PolicyChange, RevocationChange, SecretHash, ServerId, SessionChange, Timestamp, Token,
    name::written_as_text,
};

/// The highest version that this release writes, and so reads: a server reads every older one, too.
pub const ENVELOPE_VERSION: u16 = 2;

/// Marks a request, so that its repeat is answered as it was the first time: 1 to 64 of `A-Z`, `a-z`, `0-9` and `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(Arc<str>);

written_as_text!(RequestId);

impl RequestId {
    /// Returns the id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for RequestId {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl std::str::FromStr for RequestId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let valid = (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if valid {
            Ok(Self(text.into()))
        } else {
            Err(NameError::new("request id", text, "use 1 to 64 of A-Z, a-z, 0-9 and `-`"))
        }
    }
}

impl From<RequestId> for String {
    fn from(id: RequestId) -> Self {
        id.0.as_ref().to_owned()
    }
}

/// Says who asked for a change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Actor {
    /// A server, of its own accord.
    Server(ServerId),
    /// The holder of a token.
    Token(AccessorId),
    /// An agent, about itself.
    Agent(AgentId),
    /// Somebody who presented a join token's secret.
    Join,
    /// Somebody whom an auth method vouches for.
    Login(AuthMethodName),
    /// Somebody who proved to hold the cluster key.
    ClusterKey,
}

/// Explains why the bytes of a log entry cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// A newer server wrote it.
    #[error("the log entry has version {found}, and this server reads up to {ENVELOPE_VERSION}: upgrade this server")]
    Newer {
        /// The version found.
        found: u16,
    },
    /// It is no command that this server knows.
    #[error("the log entry is no command that this server knows: upgrade this server, or restore its log")]
    Unknown(#[source] serde_json::Error),
}

/// Wraps a command with what the state machine and the audit need to know about it.
///
/// On disk and on the wire it is one JSON object, self-describing by the `kind` of its command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// The lowest version whose readers know the command: [`Command::reads_from`] when written by this release.
    pub version: u16,
    /// Marks the request across retries.
    pub request_id: RequestId,
    /// Who asked.
    pub actor: Actor,
    /// From where, as `address:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_address: Option<String>,
    /// When a server first proposed it, by that server's clock.
    pub proposed_at: Timestamp,
    /// What changes.
    pub command: Command,
}

impl Envelope {
    /// Writes the envelope as the bytes of a log entry.
    ///
    /// # Panics
    /// Never: every field is a string, a number, a list or a map with string keys, which JSON can hold.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("an envelope has only what JSON can hold")
    }

    /// Reads the bytes of a log entry.
    ///
    /// # Errors
    /// [`DecodeError::Newer`] where a later release wrote it, [`DecodeError::Unknown`] where it is not a command.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        #[derive(Deserialize)]
        struct Version {
            version: u16,
        }
        let read = serde_json::from_slice::<Self>(bytes);
        // What cannot be read may be of a newer form, which its version alone tells.
        let version = match &read {
            Ok(envelope) => envelope.version,
            Err(_) => serde_json::from_slice(bytes).map_or(0, |Version { version }| version),
        };
        if version > ENVELOPE_VERSION {
            return Err(DecodeError::Newer { found: version });
        }
        read.map_err(DecodeError::Unknown)
    }
}

/// Says when a write counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WriteMode {
    /// Only if there is none yet.
    Create,
    /// Always.
    Upsert,
    /// Only if what is there was last changed at this index; 0 is "only if there is none".
    CompareAndSet(CatalogIndex),
}

/// Names what of a node is removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeregisterTarget {
    /// The node with everything on it.
    Node,
    /// One instance with its checks.
    Instance {
        /// The instance's namespace.
        namespace: Namespace,
        /// The instance's id.
        id: InstanceId,
    },
    /// One check.
    Check {
        /// The check's namespace.
        namespace: Namespace,
        /// The check's id.
        id: CheckId,
    },
}

/// Is news from one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckUpdate {
    /// Which check.
    pub key: CheckKey,
    /// What it says now.
    pub status: CheckStatus,
    /// What it printed.
    #[serde(default)]
    pub output: String,
}

/// Is one change of the catalog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Command {
    /// Takes a step of saving or restoring a backup.
    Backup {
        /// The step.
        step: BackupStep,
    },
    /// Fixes the mesh's facts; once.
    Bootstrap {
        /// The facts.
        mesh: Mesh,
    },
    /// Installs the first root and intermediate; once.
    InstallCa {
        /// The root.
        root: Box<CaRoot>,
        /// The intermediate that it signed.
        intermediate: Box<CaIntermediate>,
    },
    /// Says which process a connector runs in, or what it found on its platform.
    Connector {
        /// The change.
        change: ConnectorChange,
    },
    /// Changes the certificate authority.
    Ca {
        /// What changes.
        change: CaChange,
        /// When it counts at the earliest, by the catalog's own clock: a server whose clock is wrong hurries nothing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        not_before: Option<Timestamp>,
    },
    /// Makes the first token; once.
    BootstrapAcl {
        /// The token.
        token: Token,
    },
    /// Changes tokens, policies or roles.
    Acl {
        /// What changes.
        change: AclChange,
    },
    /// Makes or changes a token.
    WriteToken {
        /// The token.
        token: Token,
    },
    /// Ends a token.
    DeleteToken {
        /// Which.
        accessor: AccessorId,
    },
    /// Makes a join token.
    CreateJoinToken {
        /// The join token.
        token: JoinToken,
    },
    /// Ends a join token.
    DeleteJoinToken {
        /// Which.
        accessor: AccessorId,
    },
    /// Turns a join token into an agent record.
    Enrol {
        /// The hash of the join token's secret.
        secret: SecretHash,
        /// The agent's key.
        key: KeyFingerprint,
        /// The agent's node.
        node: NodeName,
        /// What the node runs on.
        platform: Platform,
    },
    /// Changes who may log in, or lets somebody in.
    Login {
        /// The change.
        change: LoginChange,
    },
    /// Changes the list of servers.
    Membership {
        /// How.
        change: MembershipChange,
    },
    /// Says how sessions of agents stand.
    Sessions {
        /// The change.
        change: SessionChange,
    },
    /// Revokes certificates, many at once, or forgets that.
    Revoke {
        /// The change.
        change: RevocationChange,
    },
    /// Ends an agent's record, and with it its certificates.
    RevokeAgent {
        /// Which.
        agent: AgentId,
    },
    /// Opens a session; its index is the agent's new incarnation.
    OpenSession {
        /// The agent.
        agent: AgentId,
        /// The server that holds the session.
        server: ServerId,
    },
    /// Registers a node, instances and checks on it. What is not named stays.
    Register {
        /// The node.
        node: Box<Node>,
        /// Instances on it.
        #[serde(default)]
        instances: Vec<Instance>,
        /// Checks on it.
        #[serde(default)]
        checks: Vec<Check>,
        /// Whether a node that is there already keeps its fields.
        #[serde(default)]
        skip_node_update: bool,
        /// The session of the agent that writes; none for external nodes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        incarnation: Option<Incarnation>,
    },
    /// Removes a node, an instance or a check.
    Deregister {
        /// The node.
        node: NodeName,
        /// What of it.
        target: DeregisterTarget,
        /// The session of the agent that writes; none for external nodes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        incarnation: Option<Incarnation>,
    },
    /// Records what checks of one node say.
    UpdateChecks {
        /// The news; at least one, all of the same node.
        updates: Vec<CheckUpdate>,
        /// The session of the agent that writes; none for external nodes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        incarnation: Option<Incarnation>,
    },
    /// Writes an intention.
    WriteIntention {
        /// The intention.
        intention: Box<Intention>,
        /// When the write counts.
        mode: WriteMode,
    },
    /// Removes an intention.
    DeleteIntention {
        /// Which.
        key: IntentionKey,
        /// Only if it was last changed at this index.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        compare: Option<CatalogIndex>,
    },
    /// Changes the config entries that shape the traffic of services.
    Config {
        /// How.
        change: ConfigChange,
    },
    /// Sets the `mesh` config entry back to its default.
    DeleteMesh {
        /// Only if it was last changed at this index.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        compare: Option<CatalogIndex>,
    },
    /// Changes policy in another way.
    Policy {
        /// How.
        change: PolicyChange,
    },
    /// Says that time has passed while nothing else was written; the time is when it was proposed.
    Time,
    /// Writes the `mesh` config entry.
    WriteMesh {
        /// The entry.
        entry: MeshEntry,
        /// Only if it was last changed at this index.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        compare: Option<CatalogIndex>,
    },
}

impl Command {
    /// Returns the lowest envelope version whose readers know this command in the form that it has.
    ///
    /// The leader proposes nothing that one of the servers could not read.
    #[must_use]
    pub fn reads_from(&self) -> u16 {
        match self {
            Self::Bootstrap { mesh } if mesh.servers.iter().any(|server| server.reads > 1) => 2,
            Self::Backup { step: BackupStep::Commit { form: Some(form), .. } } => 2.max(*form),
            Self::CreateJoinToken { token } if token.maker.is_some() || token.gateway.is_some() => 2,
            Self::Register { node, .. } if node.gateway_port.is_some() => 2,
            Self::WriteIntention { intention, .. } if intention.owner.is_some() || intention.judges_requests() => 2,
            Self::WriteMesh { entry, .. } if !entry.audit.is_off() || !entry.min_key_exchange.is_classical() => 2,
            Self::WriteMesh { entry, .. } if entry.mesh_destinations_only || entry.allows_permissive => 2,
            Self::WriteMesh { entry, .. } if !entry.refuses_bypassable.is_empty() => 2,
            Self::WriteToken { token } if token.has_later_fields() => 2,
            // The first release could read them. A group that this one founds speaks its version from the beginning, so that
            // its trail has the first token, too.
            Self::Bootstrap { .. } | Self::BootstrapAcl { .. } => 2,
            Self::InstallCa { .. }
            | Self::WriteToken { .. }
            | Self::DeleteToken { .. }
            | Self::CreateJoinToken { .. }
            | Self::DeleteJoinToken { .. }
            | Self::Enrol { .. }
            | Self::RevokeAgent { .. }
            | Self::OpenSession { .. }
            | Self::Register { .. }
            | Self::Deregister { .. }
            | Self::UpdateChecks { .. }
            | Self::WriteIntention { .. }
            | Self::DeleteIntention { .. }
            | Self::WriteMesh { .. }
            | Self::DeleteMesh { .. } => 1,
            // What came after the first release.
            _ => 2,
        }
    }
}
