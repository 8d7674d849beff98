//! Nodes and instances, as the `catalog/...` paths answer with them.

use std::collections::BTreeMap;

use ::catalog::{CatalogIndex, Instance, InstanceId, Namespace, NodeName, Owner, Platform, ServiceName, Upstream};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::HealthCheck;

/// Shows a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct Node {
    /// The node's id as its platform gives it; empty where there is none.
    #[serde(rename = "ID")]
    pub id: String,
    /// The node's name.
    #[serde(rename = "Node")]
    #[schema(value_type = String)]
    pub name: NodeName,
    /// The address or host name that others reach it at.
    pub address: String,
    /// The datacenter that it is in.
    pub datacenter: String,
    /// Further addresses by name.
    pub tagged_addresses: BTreeMap<String, String>,
    /// Free facts.
    pub meta: BTreeMap<String, String>,
    /// What it runs on.
    #[schema(value_type = String)]
    pub platform: Platform,
    /// The failure zone; empty where none is known.
    pub zone: String,
    /// The flat address space that the address is of.
    pub network: String,
    /// Whose the node is.
    #[schema(value_type = String)]
    pub owner: Owner,
    /// The index at which it was first registered.
    #[schema(value_type = u64)]
    pub create_index: CatalogIndex,
    /// The index of the last change.
    #[schema(value_type = u64)]
    pub modify_index: CatalogIndex,
}

impl Node {
    /// Shows `node`.
    pub fn new(node: &::catalog::Node, datacenter: &str) -> Self {
        Self {
            id: node.id.clone().unwrap_or_default(),
            name: node.name.clone(),
            address: node.address.clone(),
            datacenter: datacenter.to_owned(),
            tagged_addresses: node.tagged_addresses.clone(),
            meta: node.meta.clone(),
            platform: node.platform,
            zone: node.zone.clone().unwrap_or_default(),
            network: node.network.clone(),
            owner: node.owner.clone(),
            create_index: node.created,
            modify_index: node.modified,
        }
    }
}

/// Shows a further address of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct ServiceAddress {
    /// An IP address or host name.
    pub address: String,
    /// A port; 0 for none.
    pub port: u16,
}

/// Shows an instance's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct ServiceWeights {
    /// The weight while all its checks pass.
    pub passing: u32,
    /// The weight while a check warns.
    pub warning: u32,
}

impl From<::catalog::Weights> for ServiceWeights {
    fn from(weights: ::catalog::Weights) -> Self {
        Self { passing: weights.passing, warning: weights.warning }
    }
}

/// Shows what an instance's agent does for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct ServiceProxy {
    /// The services that the instance calls.
    #[serde(default)]
    pub upstreams: Vec<ServiceUpstream>,
}

/// Shows a service that an instance calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct ServiceUpstream {
    /// Always `service`.
    pub destination_type: String,
    /// The namespace of the service that is called.
    #[schema(value_type = String)]
    pub destination_namespace: Namespace,
    /// The service that is called.
    #[schema(value_type = String)]
    pub destination_name: ServiceName,
    /// Where the local listener is; empty for 127.0.0.1.
    pub local_bind_address: String,
    /// The port of the local listener.
    pub local_bind_port: u16,
}

impl From<&Upstream> for ServiceUpstream {
    fn from(upstream: &Upstream) -> Self {
        Self {
            destination_type: "service".to_owned(),
            destination_namespace: upstream.destination.namespace.clone(),
            destination_name: upstream.destination.name.clone(),
            local_bind_address: upstream.local_bind_address.clone().unwrap_or_default(),
            local_bind_port: upstream.local_bind_port,
        }
    }
}

fn proxy(instance: &Instance) -> ServiceProxy {
    ServiceProxy { upstreams: instance.upstreams.iter().map(ServiceUpstream::from).collect() }
}

/// The name of the address that stands for a service, among the others of each of its instances.
const VIRTUAL: &str = "consul-virtual";

/// Adds the address that stands for a service, as Consul does to instances that are called over the mesh; one that was registered
/// under its name stays.
fn add_virtual(
    addresses: &mut BTreeMap<String, ServiceAddress>,
    instance: &Instance,
    number: Option<::catalog::AddressNumber>,
) {
    if let (Some(number), Some(_)) = (number, instance.mesh_port) {
        let address = || ServiceAddress { address: number.virtual_v4().to_string(), port: instance.port };
        addresses.entry(VIRTUAL.to_owned()).or_insert_with(address);
    }
}

fn addresses(instance: &Instance) -> BTreeMap<String, ServiceAddress> {
    let shown =
        |tagged: &::catalog::TaggedAddress| ServiceAddress { address: tagged.address.clone(), port: tagged.port };
    instance.tagged_addresses.iter().map(|(name, tagged)| (name.clone(), shown(tagged))).collect()
}

/// Shows an instance, as an agent and the health paths do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct AgentService {
    /// The instance's id.
    #[serde(rename = "ID")]
    #[schema(value_type = String)]
    pub id: InstanceId,
    /// The service.
    #[schema(value_type = String)]
    pub service: ServiceName,
    /// The service's namespace.
    #[schema(value_type = String)]
    pub namespace: Namespace,
    /// Free labels.
    pub tags: Vec<String>,
    /// Free facts.
    pub meta: BTreeMap<String, String>,
    /// The port that the application listens on; 0 for none.
    pub port: u16,
    /// Further ports by name.
    pub ports: BTreeMap<String, u16>,
    /// The address if it is not the node's; empty otherwise.
    pub address: String,
    /// Further addresses by name.
    pub tagged_addresses: BTreeMap<String, ServiceAddress>,
    /// The weights.
    pub weights: ServiceWeights,
    /// Whether others may override the tags.
    pub enable_tag_override: bool,
    /// What the agent does for it.
    pub proxy: ServiceProxy,
    /// The port of the agent's mesh listener; none where no agent stands before it.
    pub mesh_port: Option<u16>,
    /// Whether its own port can be dialled past the agent; none where nobody has looked.
    pub bypassable: Option<bool>,
    /// The datacenter that it is in.
    pub datacenter: String,
    /// The index at which it was first registered.
    #[schema(value_type = u64)]
    pub create_index: CatalogIndex,
    /// The index of the last change.
    #[schema(value_type = u64)]
    pub modify_index: CatalogIndex,
}

impl AgentService {
    /// Shows `instance`.
    pub fn new(instance: &Instance, datacenter: &str) -> Self {
        Self {
            id: instance.key.id.clone(),
            service: instance.service.clone(),
            namespace: instance.key.namespace.clone(),
            tags: instance.tags.clone(),
            meta: instance.meta.clone(),
            port: instance.port,
            ports: instance.ports.clone(),
            address: instance.address.clone().unwrap_or_default(),
            tagged_addresses: addresses(instance),
            weights: instance.weights.into(),
            enable_tag_override: instance.enable_tag_override,
            proxy: proxy(instance),
            mesh_port: instance.mesh_port,
            bypassable: instance.bypassable,
            datacenter: datacenter.to_owned(),
            create_index: instance.created,
            modify_index: instance.modified,
        }
    }

    /// Adds the virtual address of the service with this number; `instance` is what is shown.
    #[must_use]
    pub fn with_virtual(mut self, instance: &Instance, number: Option<::catalog::AddressNumber>) -> Self {
        add_virtual(&mut self.tagged_addresses, instance, number);
        self
    }

    /// Returns the key of an instance in an object of Consul's, which knows ids only.
    ///
    /// Ids of other namespaces stand behind their namespace, so that two equal ones do not hide each other.
    pub fn object_key(instance: &Instance) -> String {
        if instance.key.namespace == Namespace::default_namespace() {
            instance.key.id.to_string()
        } else {
            format!("{}/{}", instance.key.namespace, instance.key.id)
        }
    }
}

/// Answers `catalog/node/:node`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct NodeServices {
    /// The node.
    pub node: Node,
    /// Its instances by [`AgentService::object_key`].
    pub services: BTreeMap<String, AgentService>,
}

impl NodeServices {
    /// Shows a node with its instances.
    pub fn new<'a>(
        node: &::catalog::Node,
        instances: impl IntoIterator<Item = &'a Instance>,
        datacenter: &str,
    ) -> Self {
        let shown = |instance| (AgentService::object_key(instance), AgentService::new(instance, datacenter));
        Self { node: Node::new(node, datacenter), services: instances.into_iter().map(shown).collect() }
    }
}

/// Answers `catalog/node-services/:node`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct NodeServiceList {
    /// The node.
    pub node: Node,
    /// Its instances, by namespace and id.
    pub services: Vec<AgentService>,
}

impl NodeServiceList {
    /// Shows a node with its instances.
    pub fn new<'a>(
        node: &::catalog::Node,
        instances: impl IntoIterator<Item = &'a Instance>,
        datacenter: &str,
    ) -> Self {
        let services = instances.into_iter().map(|instance| AgentService::new(instance, datacenter)).collect();
        Self { node: Node::new(node, datacenter), services }
    }
}

/// Is one element of the answer to `catalog/service/:service`: an instance together with its node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct CatalogService {
    /// The node's id; empty where there is none.
    #[serde(rename = "ID")]
    pub node_id: String,
    /// The node's name.
    #[schema(value_type = String)]
    pub node: NodeName,
    /// The node's address.
    pub address: String,
    /// The datacenter.
    pub datacenter: String,
    /// The node's further addresses.
    pub tagged_addresses: BTreeMap<String, String>,
    /// The node's free facts.
    pub node_meta: BTreeMap<String, String>,
    /// What the node runs on.
    #[schema(value_type = String)]
    pub platform: Platform,
    /// The node's failure zone; empty where none is known.
    pub zone: String,
    /// The flat address space that the node is in.
    pub network: String,
    /// Whose the node is.
    #[schema(value_type = String)]
    pub owner: Owner,
    /// The service's namespace.
    #[schema(value_type = String)]
    pub namespace: Namespace,
    /// The instance's id.
    #[serde(rename = "ServiceID")]
    #[schema(value_type = String)]
    pub service_id: InstanceId,
    /// The service.
    #[schema(value_type = String)]
    pub service_name: ServiceName,
    /// The instance's address if it is not the node's; empty otherwise.
    pub service_address: String,
    /// The instance's further addresses.
    pub service_tagged_addresses: BTreeMap<String, ServiceAddress>,
    /// The instance's labels.
    pub service_tags: Vec<String>,
    /// The instance's free facts.
    pub service_meta: BTreeMap<String, String>,
    /// The port that the application listens on; 0 for none.
    pub service_port: u16,
    /// Further ports by name.
    pub service_ports: BTreeMap<String, u16>,
    /// The port of the agent's mesh listener; none where no agent stands before it.
    pub service_mesh_port: Option<u16>,
    /// Whether its own port can be dialled past the agent; none where nobody has looked.
    pub service_bypassable: Option<bool>,
    /// The weights.
    pub service_weights: ServiceWeights,
    /// Whether others may override the tags.
    pub service_enable_tag_override: bool,
    /// What the agent does for it.
    pub service_proxy: ServiceProxy,
    /// Always empty here, as Consul has it; the `health/...` paths answer with checks.
    pub checks: Vec<HealthCheck>,
    /// The index at which the instance was first registered.
    #[schema(value_type = u64)]
    pub create_index: CatalogIndex,
    /// The index of its last change.
    #[schema(value_type = u64)]
    pub modify_index: CatalogIndex,
}

impl CatalogService {
    /// Shows an instance with its node.
    pub fn new(node: &::catalog::Node, instance: &Instance, datacenter: &str) -> Self {
        Self {
            node_id: node.id.clone().unwrap_or_default(),
            node: node.name.clone(),
            address: node.address.clone(),
            datacenter: datacenter.to_owned(),
            tagged_addresses: node.tagged_addresses.clone(),
            node_meta: node.meta.clone(),
            platform: node.platform,
            zone: node.zone.clone().unwrap_or_default(),
            network: node.network.clone(),
            owner: node.owner.clone(),
            namespace: instance.key.namespace.clone(),
            service_id: instance.key.id.clone(),
            service_name: instance.service.clone(),
            service_address: instance.address.clone().unwrap_or_default(),
            service_tagged_addresses: addresses(instance),
            service_tags: instance.tags.clone(),
            service_meta: instance.meta.clone(),
            service_port: instance.port,
            service_ports: instance.ports.clone(),
            service_mesh_port: instance.mesh_port,
            service_bypassable: instance.bypassable,
            service_weights: instance.weights.into(),
            service_enable_tag_override: instance.enable_tag_override,
            service_proxy: proxy(instance),
            checks: Vec::new(),
            create_index: instance.created,
            modify_index: instance.modified,
        }
    }

    /// Adds the virtual address of the service with this number; `instance` is what is shown.
    #[must_use]
    pub fn with_virtual(mut self, instance: &Instance, number: Option<::catalog::AddressNumber>) -> Self {
        add_virtual(&mut self.service_tagged_addresses, instance, number);
        self
    }
}

#[cfg(test)]
mod tests;
