//! Nodes, instances of services and their checks.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    AgentId, CatalogIndex, CheckId, Incarnation, InstanceId, InstanceKey, Namespace, NodeName, ServiceKey, ServiceName,
};

/// Explains that a text is none of the words that a field takes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is no {kind}: use {words}", text.escape_debug())]
pub struct UnknownWord {
    /// What the word should have been.
    pub kind: &'static str,
    /// The words that the field takes.
    pub words: &'static str,
    /// The text as it was given, cut to 128 characters.
    pub text: String,
}

macro_rules! words {
    ($type:ident, $kind:literal, $words:literal, { $($variant:ident = $word:literal),+ }) => {
        impl $type {
            /// Returns the word as users write it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl FromStr for $type {
            type Err = UnknownWord;

            fn from_str(text: &str) -> Result<Self, UnknownWord> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(UnknownWord { kind: $kind, words: $words, text: text.chars().take(128).collect() }),
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}
pub(crate) use words;

/// Names what a node runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Platform {
    /// A virtual or physical machine.
    #[default]
    Vm,
    /// A task of Amazon ECS.
    Ecs,
    /// A Kubernetes pod.
    Kubernetes,
}
words!(Platform, "platform", "`vm`, `ecs` or `kubernetes`", { Vm = "vm", Ecs = "ecs", Kubernetes = "kubernetes" });

/// Says whose a node is: nobody else's writes touch it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Owner {
    /// The agent that stands on the node.
    Agent(AgentId),
    /// The connector that found the node on its platform.
    Connector(String),
    /// Whoever has the right to write nodes that neither an agent nor a connector holds.
    #[default]
    External,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent(id) => write!(f, "agent:{id}"),
            Self::Connector(name) => write!(f, "connector:{name}"),
            Self::External => f.write_str("external"),
        }
    }
}

impl TryFrom<String> for Owner {
    type Error = UnknownWord;

    fn try_from(text: String) -> Result<Self, UnknownWord> {
        let unknown = || UnknownWord {
            kind: "node owner",
            words: "`agent:<id>`, `connector:<name>` or `external`",
            text: text.clone(),
        };
        match text.split_once(':') {
            None if text == "external" => Ok(Self::External),
            Some(("agent", id)) => AgentId::try_from(id.to_owned()).map(Self::Agent).map_err(|_| unknown()),
            Some(("connector", name)) if !name.is_empty() => Ok(Self::Connector(name.to_owned())),
            _ => Err(unknown()),
        }
    }
}

impl From<Owner> for String {
    fn from(owner: Owner) -> Self {
        owner.to_string()
    }
}

/// Is where instances live: a VM, an ECS task, a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// The node's name, unique in the datacenter.
    pub name: NodeName,
    /// The node's id as its platform gives it, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The IP address or host name that others reach the node at.
    pub address: String,
    /// What the node runs on.
    pub platform: Platform,
    /// The failure zone, as the platform names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The flat address space that `address` is of; empty is the default one.
    #[serde(default)]
    pub network: String,
    /// The port at which the node's agent lets others into `network`; none where it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway_port: Option<u16>,
    /// Whose the node is.
    #[serde(default)]
    pub owner: Owner,
    /// The session of the owning agent that wrote last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<Incarnation>,
    /// Free facts about the node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub meta: BTreeMap<String, String>,
    /// Further addresses by name, such as `lan` and `wan`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tagged_addresses: BTreeMap<String, String>,
    /// The index at which the node was first registered.
    #[serde(default)]
    pub created: CatalogIndex,
    /// The index of the last change.
    #[serde(default)]
    pub modified: CatalogIndex,
}

/// Holds a further address of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaggedAddress {
    /// An IP address or host name.
    pub address: String,
    /// A port; 0 for none.
    pub port: u16,
}

/// Weighs an instance against its siblings, by its health.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weights {
    /// The weight while all its checks pass.
    pub passing: u32,
    /// The weight while a check warns.
    pub warning: u32,
}

impl Default for Weights {
    fn default() -> Self {
        Self { passing: 1, warning: 1 }
    }
}

/// Is a service that a local workload calls, with the local listener for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// The service that is called.
    pub destination: ServiceKey,
    /// The loopback address that the listener binds; 127.0.0.1 where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_bind_address: Option<String>,
    /// The port that the listener binds.
    pub local_bind_port: u16,
}

/// Is one address with named ports that serves a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instance {
    /// The node, namespace and id.
    pub key: InstanceKey,
    /// The service that the instance serves, within the namespace of `key`.
    pub service: ServiceName,
    /// The address if it is not the node's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The port that the application listens on; 0 for none.
    #[serde(default)]
    pub port: u16,
    /// Further ports of the application, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<String, u16>,
    /// The port of the agent's inbound mesh listener; none where no agent stands before the instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh_port: Option<u16>,
    /// Free labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Free facts about the instance.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub meta: BTreeMap<String, String>,
    /// Further addresses by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tagged_addresses: BTreeMap<String, TaggedAddress>,
    /// The instance's weights.
    #[serde(default)]
    pub weights: Weights,
    /// Whether others may override the tags (kept for Consul's clients).
    #[serde(default)]
    pub enable_tag_override: bool,
    /// The services that this one calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub upstreams: Vec<Upstream>,
    /// Whether the application's own port can be dialled past the agent; none where nobody has looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bypassable: Option<bool>,
    /// The index at which the instance was first registered.
    #[serde(default)]
    pub created: CatalogIndex,
    /// The index of the last change.
    #[serde(default)]
    pub modified: CatalogIndex,
}

impl Instance {
    /// Returns the service that the instance serves.
    #[must_use]
    pub fn service_key(&self) -> ServiceKey {
        ServiceKey::new(self.key.namespace.clone(), self.service.clone())
    }

    /// Reports whether somebody has seen that it can be dialled past its agent.
    #[must_use]
    pub fn is_bypassable(&self) -> bool {
        self.bypassable == Some(true)
    }
}

/// Says how healthy something is. The order is from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckStatus {
    /// All is well.
    Passing,
    /// It serves, and someone should look.
    Warning,
    /// It must not be called.
    Critical,
}
words!(CheckStatus, "check status", "`passing`, `warning` or `critical`", {
    Passing = "passing", Warning = "warning", Critical = "critical"
});

/// Names one check in the datacenter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckKey {
    /// The node that the check is on.
    pub node: NodeName,
    /// The namespace of the instance that it checks; `default` for a check of the node itself.
    pub namespace: Namespace,
    /// The check's id, unique on the node within the namespace.
    pub id: CheckId,
}

impl fmt::Display for CheckKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.node, self.namespace, self.id)
    }
}

/// Is one health check of an instance or of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// The node, namespace and id.
    pub key: CheckKey,
    /// The name that people see.
    pub name: String,
    /// What the check said last.
    pub status: CheckStatus,
    /// What the operator noted about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub notes: String,
    /// What the check printed last.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub output: String,
    /// The instance that it checks; none for the node itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// How the check is done: `http`, `tcp`, `ttl`, or empty where somebody else does it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// The index at which the check was first registered.
    #[serde(default)]
    pub created: CatalogIndex,
    /// The index of the last change.
    #[serde(default)]
    pub modified: CatalogIndex,
}

impl Check {
    /// Returns the instance that the check is of; none for a check of the node.
    #[must_use]
    pub fn instance_key(&self) -> Option<InstanceKey> {
        let id = self.instance.clone()?;
        Some(InstanceKey { node: self.key.node.clone(), namespace: self.key.namespace.clone(), id })
    }
}
