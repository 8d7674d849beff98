//! What agents subscribe to: topics, the items that a topic holds, and the events that carry them.

mod follower;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};

use crate::{
    Action, AddressNumber, AuditMode, CatalogIndex, CheckStatus, ConfigEntry, Gateway, Guardrail, IdentityScheme,
    InstanceKey, Intention, KeyExchange, NodeName, PathTemplate, Platform, Relaxation, ServiceKey, TrustDomain,
    Weights,
};

pub use follower::{BrokenPromise, Follower};

/// Names something that an agent keeps up with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Topic {
    /// The mesh's facts, its default action and its guardrails.
    Mesh,
    /// The roots to trust.
    Roots,
    /// The identities that are trusted no longer.
    Revocations,
    /// The ways into networks.
    Gateways,
    /// The intentions that can concern calls to a service, and the providers of tokens that they name.
    Intentions(ServiceKey),
    /// The instances of a service, and its number.
    Endpoints(ServiceKey),
    /// The config entries that say how calls to a service go.
    Config(ServiceKey),
    /// The services that have an instance in a network; for its gateways.
    Network(String),
    /// Where a node is.
    Node(NodeName),
}

impl Topic {
    /// Reports whether who may call whom follows from what the topic holds: such topics count together, as of one index.
    #[must_use]
    pub fn decides_calls(&self) -> bool {
        match self {
            Self::Mesh | Self::Roots | Self::Revocations | Self::Intentions(_) | Self::Config(_) => true,
            Self::Gateways | Self::Endpoints(_) | Self::Network(_) | Self::Node(_) => false,
        }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mesh => f.write_str("mesh"),
            Self::Roots => f.write_str("roots"),
            Self::Revocations => f.write_str("revocations"),
            Self::Gateways => f.write_str("gateways"),
            Self::Intentions(service) => write!(f, "intentions:{service}"),
            Self::Endpoints(service) => write!(f, "endpoints:{service}"),
            Self::Config(service) => write!(f, "config:{service}"),
            Self::Network(network) => write!(f, "network:{network}"),
            Self::Node(node) => write!(f, "node:{node}"),
        }
    }
}

/// Is the mesh as an agent needs to know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshItem {
    /// The random name of the Raft group.
    pub cluster_id: String,
    /// The authority of every identity.
    pub trust_domain: TrustDomain,
    /// The shape of workload identities.
    pub template: PathTemplate,
    /// The datacenter.
    pub datacenter: String,
    /// What happens where no intention matches.
    pub default_action: Action,
    /// Denies that no intention overrides.
    #[serde(default)]
    pub guardrails: Vec<Guardrail>,
    /// Where denials are only logged and counted.
    #[serde(default, skip_serializing_if = "AuditMode::is_off")]
    pub audit: AuditMode,
    /// The weakest key exchange that agents accept from one another.
    #[serde(default, skip_serializing_if = "KeyExchange::is_classical")]
    pub min_key_exchange: KeyExchange,
    /// Whether services whose connections are redirected may call nobody outside the mesh.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mesh_destinations_only: bool,
    /// Whether services may take callers without identity.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allows_permissive: bool,
    /// Where they are for a time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub relaxations: Vec<Relaxation>,
}

impl MeshItem {
    /// Returns how identities are built and read.
    #[must_use]
    pub fn scheme(&self) -> IdentityScheme {
        IdentityScheme {
            trust_domain: self.trust_domain.clone(),
            template: self.template.clone(),
            datacenter: self.datacenter.clone(),
        }
    }
}

/// Is an instance as a caller needs to know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Which instance.
    pub key: InstanceKey,
    /// The address to reach it at: the instance's own, or its node's.
    pub address: String,
    /// The port of its agent's mesh listener; none where no agent stands before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh_port: Option<u16>,
    /// The port that its application listens on; 0 for none.
    pub port: u16,
    /// Further ports by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<String, u16>,
    /// The worst of its checks and its node's.
    pub status: CheckStatus,
    /// The failure zone of its node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The address space that `address` is of.
    #[serde(default)]
    pub network: String,
    /// What its node runs on.
    pub platform: Platform,
    /// Its weights.
    pub weights: Weights,
    /// Free facts about it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub meta: BTreeMap<String, String>,
    /// Its free labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Free facts about its node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_meta: BTreeMap<String, String>,
}

/// Is one thing that a topic holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Item {
    /// Of [`Topic::Mesh`], under the key `mesh`.
    Mesh(Box<MeshItem>),
    /// Of [`Topic::Roots`], under the root's id.
    Root {
        /// The certificate.
        certificate_pem: String,
        /// Whether the CA signs with it now.
        active: bool,
        /// The id of the intermediate that signs leaves now; of the active root only. A leaf of another is renewed early.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signer: Option<String>,
    },
    /// Of [`Topic::Revocations`], under `root:` and the root's id: what only this root vouches for is refused and cut.
    DistrustedRoot {
        /// The root's id.
        root: String,
    },
    /// Of [`Topic::Revocations`], under the agent's id: certificates whose serial starts with this index are refused.
    RevokedRecord {
        /// The index at which the revoked agent was enrolled.
        enrolled: CatalogIndex,
    },
    /// Of [`Topic::Revocations`], under `service:` and the service: its certificates whose serial starts below this index are
    /// refused.
    RevokedService {
        /// The service.
        service: ServiceKey,
        /// The index.
        below: CatalogIndex,
    },
    /// Of [`Topic::Gateways`], under the node's name.
    Gateway(Box<Gateway>),
    /// Of [`Topic::Intentions`], under `source => destination`.
    Intention(Box<Intention>),
    /// Of [`Topic::Endpoints`], under the instance's key.
    Endpoint(Box<Endpoint>),
    /// Of [`Topic::Endpoints`], under [`Item::ADDRESS`]: the service's number.
    Address(AddressNumber),
    /// Of [`Topic::Config`], under the entry's kind and name; and of [`Topic::Intentions`], the providers of tokens that
    /// these name.
    Config(Box<ConfigEntry>),
    /// Of [`Topic::Network`], under its own name.
    Service(ServiceKey),
    /// Of [`Topic::Node`], under the node's name.
    Node {
        /// The IP address or host name that others reach it at.
        address: String,
    },
}

impl Item {
    /// Is what a service's number is under, among its instances; no instance's key is one word.
    pub const ADDRESS: &str = "address";
}

/// Tells a subscriber what a topic holds now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// All of it: forget what you held.
    Snapshot {
        /// Which topic.
        topic: Topic,
        /// The index of its last change.
        index: CatalogIndex,
        /// What it holds.
        items: BTreeMap<String, Item>,
    },
    /// What changed since the event that brought you to `from`.
    Delta {
        /// Which topic.
        topic: Topic,
        /// The index that this continues from; one who holds another must subscribe again.
        from: CatalogIndex,
        /// The index that it leads to.
        index: CatalogIndex,
        /// What is new or different.
        upserts: BTreeMap<String, Item>,
        /// What is gone.
        removes: BTreeSet<String>,
    },
    /// What you hold is current.
    UpToDate {
        /// Which topic.
        topic: Topic,
        /// The index that you hold.
        index: CatalogIndex,
    },
}

impl Event {
    /// Returns the topic that the event speaks of.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        match self {
            Self::Snapshot { topic, .. } | Self::Delta { topic, .. } | Self::UpToDate { topic, .. } => topic,
        }
    }

    /// Returns the index that a subscriber holds after the event.
    #[must_use]
    pub fn index(&self) -> CatalogIndex {
        match self {
            Self::Snapshot { index, .. } | Self::Delta { index, .. } | Self::UpToDate { index, .. } => *index,
        }
    }
}
