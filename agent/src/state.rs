//! What an agent keeps across restarts, so that it serves again at once even when no server can be reached.
//!
//! Six files: the agent's key, its identity, its leaves, the last good state, what was registered over the API, and the keys
//! of providers of tokens. A damaged key is an error; any other damaged file is as good as absent: the agent then knows less,
//! and what it does not know it refuses. Nothing here ever widens policy.

mod data_dir;
mod token_keys;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use catalog::{AgentId, AgentRecord, CheckKey, CheckStatus, IdentityScheme, MeshItem, SecretHash, ServiceKey, Topic};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tracing::warn;
use wire::agent_protocol::{GroupEpoch, Subject};
use wire::crypto::Secret;
use wire::pki::LeafKey;

use crate::leaf::{HeldLeaf, StoredLeaf};
use crate::local::Registered;
use crate::sync::{Known, TopicState, View};
pub(crate) use data_dir::DataDir;
pub use data_dir::DataDirError;
pub(crate) use token_keys::TokenKeys;

const KEY_FILE: &str = "agent-key.json";
pub(crate) const IDENTITY_FILE: &str = "identity.json";
const LEAVES_FILE: &str = "leaves.json";
const STATE_FILE: &str = "state.json";
const SERVICES_FILE: &str = "services.json";

/// The version of every file's content.
const VERSION: u16 = 1;

/// What enrolment gave this agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// What the agent is and is entitled to.
    pub(crate) record: AgentRecord,
    /// The mesh as it was then.
    pub(crate) mesh: MeshItem,
    /// The roots as they were then.
    pub(crate) roots_pem: Vec<String>,
    /// The agent's own first leaf.
    pub(crate) leaf: StoredLeaf,
    /// Servers that were named then.
    pub(crate) servers: Vec<String>,
    /// The join token that was used, so that another one in the configuration is noticed.
    pub(crate) joined_with: SecretHash,
}

impl Identity {
    pub(crate) fn scheme(&self) -> IdentityScheme {
        self.mesh.scheme()
    }
}

/// The last good state.
#[derive(Clone, Debug)]
pub(crate) struct Saved {
    /// Servers that a server told of.
    pub(crate) servers: Vec<String>,
    /// The history of the servers that `view` is of.
    pub(crate) group: Option<GroupEpoch>,
    /// Every topic, as it was in force.
    pub(crate) view: View,
    /// What restrained it.
    pub(crate) restraint: View,
    /// What may be registered of this node.
    pub(crate) known: Option<Known>,
    /// What the checks said last.
    pub(crate) statuses: BTreeMap<CheckKey, (CheckStatus, String)>,
    /// The port of the mesh listener, taken again where the configuration leaves it open.
    pub(crate) mesh_port: u16,
    /// The address that others dialled, used again where none can be found.
    pub(crate) advertised: Option<IpAddr>,
    /// The port for redirected connections of each service.
    pub(crate) outbound: BTreeMap<ServiceKey, u16>,
}

/// Wraps what a file holds with what it is of.
#[derive(Serialize, Deserialize)]
struct File<T> {
    version: u16,
    /// The record that the content belongs to; another enrolment's is of no use.
    agent: Option<AgentId>,
    content: T,
}

#[derive(Serialize, Deserialize)]
struct SavedContent {
    servers: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<GroupEpoch>,
    topics: Vec<(Topic, TopicState)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    restraint: Vec<(Topic, TopicState)>,
    known: Option<Known>,
    statuses: Vec<(CheckKey, CheckStatus, String)>,
    mesh_port: u16,
    #[serde(default)]
    advertised: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    outbound: Vec<(ServiceKey, u16)>,
}

/// Keeps an agent's files, or nothing where there is no data directory.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    dir: Option<Arc<DataDir>>,
}

impl Store {
    /// Opens the data directory, if there is one.
    pub(crate) fn open(path: Option<&Path>) -> Result<Self, DataDirError> {
        let dir = path.map(DataDir::open).transpose()?;
        Ok(Self { dir: dir.map(Arc::new) })
    }

    /// Returns the agent's key; a new one is kept before it is returned, so that a repeated enrolment uses it again.
    ///
    /// A damaged key is an error, not a reason for another: the record knows the agent by its key.
    pub(crate) fn agent_key(&self) -> Result<LeafKey, DataDirError> {
        let Some(dir) = &self.dir else { return Ok(LeafKey::generate()) };
        if let Some(File { content, .. }) = dir.read::<File<Secret>>(KEY_FILE)? {
            return LeafKey::from_pem(&content).map_err(|error| dir.damaged(KEY_FILE, error.to_string()));
        }
        let key = LeafKey::generate();
        dir.write(KEY_FILE, &File { version: VERSION, agent: None, content: key.to_pem() })?;
        Ok(key)
    }

    pub(crate) fn identity(&self) -> Option<Identity> {
        self.read(IDENTITY_FILE, None)
    }

    pub(crate) fn keep_identity(&self, identity: &Identity) -> Result<(), DataDirError> {
        self.write(IDENTITY_FILE, &identity.record.id, identity)
    }

    /// Returns the leaves that were kept and still name whom they should.
    pub(crate) fn leaves(&self, identity: &Identity) -> BTreeMap<Subject, HeldLeaf> {
        let stored: Vec<(Subject, StoredLeaf)> = self.read(LEAVES_FILE, Some(&identity.record.id)).unwrap_or_default();
        let mut leaves = BTreeMap::new();
        for (subject, stored) in stored {
            match HeldLeaf::load(stored, &crate::leaf::named(&subject, identity)) {
                Ok(leaf) => {
                    leaves.insert(subject, leaf);
                }
                Err(error) => {
                    let error = wire::one_line(&error);
                    warn!(subject = ?subject, error, "kept leaf ignored; it is asked for again");
                }
            }
        }
        leaves
    }

    pub(crate) fn keep_leaves(&self, agent: &AgentId, leaves: &[(Subject, StoredLeaf)]) -> Result<(), DataDirError> {
        self.write(LEAVES_FILE, agent, &leaves)
    }

    pub(crate) fn saved(&self, agent: &AgentId) -> Option<Saved> {
        let content: SavedContent = self.read(STATE_FILE, Some(agent))?;
        Some(Saved {
            servers: content.servers,
            group: content.group,
            view: shared(content.topics),
            restraint: shared(content.restraint),
            known: content.known,
            statuses: content.statuses.into_iter().map(|(key, status, output)| (key, (status, output))).collect(),
            mesh_port: content.mesh_port,
            advertised: content.advertised,
            outbound: content.outbound.into_iter().collect(),
        })
    }

    pub(crate) fn save(&self, agent: &AgentId, saved: &Saved) -> Result<(), DataDirError> {
        if self.dir.is_none() {
            return Ok(());
        }
        let statuses = saved.statuses.iter();
        let content = SavedContent {
            servers: saved.servers.clone(),
            group: saved.group.clone(),
            topics: owned(&saved.view),
            restraint: owned(&saved.restraint),
            known: saved.known.clone(),
            statuses: statuses.map(|(key, (status, output))| (key.clone(), *status, output.clone())).collect(),
            mesh_port: saved.mesh_port,
            advertised: saved.advertised,
            outbound: saved.outbound.iter().map(|(service, port)| (service.clone(), *port)).collect(),
        };
        self.write(STATE_FILE, agent, &content)
    }

    /// Takes the state away; a restart then knows nothing until a server says it.
    pub(crate) fn forget_state(&self) -> Result<(), DataDirError> {
        self.dir.as_ref().map_or(Ok(()), |dir| dir.remove(STATE_FILE))
    }

    /// Returns what was registered over the API; it outlives an enrolment, for it is the operator's word.
    pub(crate) fn registered(&self) -> Registered {
        self.read(SERVICES_FILE, None).unwrap_or_default()
    }

    pub(crate) fn keep_registered(&self, agent: &AgentId, registered: &Registered) -> Result<(), DataDirError> {
        self.write(SERVICES_FILE, agent, registered)
    }

    fn write<T: Serialize>(&self, name: &str, agent: &AgentId, content: &T) -> Result<(), DataDirError> {
        match &self.dir {
            Some(dir) => dir.write(name, &File { version: VERSION, agent: Some(agent.clone()), content }),
            None => Ok(()),
        }
    }

    /// Reads a file that the agent can do without; `agent` is the record that it must be of.
    fn read<T: DeserializeOwned>(&self, name: &str, agent: Option<&AgentId>) -> Option<T> {
        let file: File<T> = match self.dir.as_ref()?.read(name) {
            Ok(file) => file?,
            Err(error) => {
                warn!(file = name, error = wire::one_line(&error), "kept file ignored; the agent starts without it");
                return None;
            }
        };
        if file.version != VERSION {
            warn!(file = name, version = file.version, "kept file ignored; it is of another version of weft");
            return None;
        }
        if agent.is_some() && file.agent.as_ref() != agent {
            warn!(file = name, "kept file ignored; it is of an earlier enrolment");
            return None;
        }
        Some(file.content)
    }
}

fn shared(topics: Vec<(Topic, TopicState)>) -> View {
    topics.into_iter().map(|(topic, state)| (topic, Arc::new(state))).collect()
}

fn owned(view: &View) -> Vec<(Topic, TopicState)> {
    view.iter().map(|(topic, state)| (topic.clone(), TopicState::clone(state))).collect()
}

#[cfg(test)]
mod tests;
