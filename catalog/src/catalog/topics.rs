//! What subscribers of each topic are told, and which keys that depends on.

use std::collections::BTreeMap;

use super::Catalog;
use crate::{
    Check, CheckStatus, Endpoint, Gateway, Instance, InstanceKey, Item, Mesh, MeshItem, NodeName, RevokedService,
    ServicePattern, Topic, WatchKey,
};

impl Catalog {
    /// Returns the keys that [`Catalog::view`] of a topic reads.
    #[must_use]
    pub fn reads(topic: &Topic) -> Vec<WatchKey> {
        match topic {
            Topic::Mesh => vec![WatchKey::Mesh],
            Topic::Roots => vec![WatchKey::Roots],
            Topic::Revocations => vec![WatchKey::Revocations],
            Topic::Gateways => vec![WatchKey::Gateways],
            Topic::Intentions(destination) => {
                let rules = ServicePattern::covering(destination).into_iter().map(WatchKey::Destination);
                rules.chain([WatchKey::TokenProviders]).collect()
            }
            Topic::Endpoints(service) => vec![WatchKey::Service(service.clone())],
            Topic::Config(service) => {
                // The rules for a service outside the mesh are told with the word that it is.
                let rules = ServicePattern::covering(service).into_iter().map(WatchKey::Destination);
                rules.chain([WatchKey::ConfigOf(service.clone()), WatchKey::ProxyDefaults]).collect()
            }
            Topic::Network(network) => vec![WatchKey::Network(network.clone())],
            Topic::Node(node) => vec![WatchKey::Node(node.clone())],
        }
    }

    /// Returns what a topic holds now.
    #[must_use]
    pub fn view(&self, topic: &Topic) -> BTreeMap<String, Item> {
        match topic {
            Topic::Mesh => self.mesh().map(|mesh| ("mesh".to_owned(), self.mesh_item(mesh))).into_iter().collect(),
            Topic::Roots => self
                .roots()
                .filter(|root| !root.retired)
                .map(|root| {
                    let signer = self.active_intermediate().filter(|_| root.active).map(|one| one.id.clone());
                    let (certificate_pem, active) = (root.certificate_pem.clone(), root.active);
                    (root.id.clone(), Item::Root { certificate_pem, active, signer })
                })
                .collect(),
            Topic::Revocations => self.revocations(),
            Topic::Gateways => self
                .gateways
                .iter()
                .filter_map(|node| self.gateway(node))
                .map(|gateway| (gateway.node.to_string(), Item::Gateway(Box::new(gateway))))
                .collect(),
            Topic::Intentions(destination) => self.rule_items(self.policy_for(destination)),
            Topic::Config(service) => self.config_items(service),
            Topic::Endpoints(service) => {
                let endpoints = self.instances_of(service).filter_map(|instance| {
                    Some((instance.key.to_string(), Item::Endpoint(Box::new(self.endpoint(instance)?))))
                });
                let number =
                    self.address_number(service).map(|number| (Item::ADDRESS.to_owned(), Item::Address(number)));
                endpoints.chain(number).collect()
            }
            Topic::Node(name) => {
                let node = self.node(name).map(|node| (name.to_string(), Item::Node { address: node.address.clone() }));
                node.into_iter().collect()
            }
            Topic::Network(network) => {
                let is_in = |key: &InstanceKey| self.node(&key.node).is_some_and(|node| node.network == *network);
                let services = self.by_service.iter().filter(|(_, keys)| keys.iter().any(is_in));
                services.map(|(service, _)| (service.to_string(), Item::Service(service.clone()))).collect()
            }
        }
    }

    fn revocations(&self) -> BTreeMap<String, Item> {
        let records = self.revoked.keys().map(|id| (id.to_string(), Item::RevokedRecord { enrolled: id.index() }));
        let services = self.revoked_services().map(|revoked| {
            let RevokedService { service, below, .. } = revoked.clone();
            (format!("service:{service}"), Item::RevokedService { service, below })
        });
        let roots = self.distrusted_roots();
        let roots = roots.map(|(id, _)| (format!("root:{id}"), Item::DistrustedRoot { root: id.clone() }));
        records.chain(services).chain(roots).collect()
    }

    /// Returns the way into its network that a node is; none where it is none, where its own checks are critical, or where
    /// its agent is not entitled to be one any more.
    fn gateway(&self, name: &NodeName) -> Option<Gateway> {
        let node = self.node(name)?;
        if let crate::Owner::Agent(id) = &node.owner
            && !self.agent_record(id).is_some_and(|record| record.entitles_gateway(&node.network))
        {
            return None;
        }
        let is_critical = |check: &Check| check.instance.is_none() && check.status == CheckStatus::Critical;
        if self.checks_on(name).any(is_critical) {
            return None;
        }
        let (address, network) = (node.address.clone(), node.network.clone());
        Some(Gateway { node: name.clone(), network, address, port: node.gateway_port? })
    }

    fn mesh_item(&self, mesh: &Mesh) -> Item {
        Item::Mesh(Box::new(MeshItem {
            cluster_id: mesh.cluster_id.clone(),
            trust_domain: mesh.trust_domain.clone(),
            template: mesh.template.clone(),
            datacenter: mesh.datacenter.clone(),
            default_action: self.mesh_entry.default_action,
            guardrails: self.mesh_entry.guardrails.clone(),
            audit: self.mesh_entry.audit.clone(),
            min_key_exchange: self.mesh_entry.min_key_exchange,
            mesh_destinations_only: self.mesh_entry.mesh_destinations_only,
            allows_permissive: self.mesh_entry.allows_permissive,
            relaxations: self.relaxations.values().map(|one| (**one).clone()).collect(),
        }))
    }

    /// Reports whether no caller is told of an instance: it can be dialled past its agent, and its namespace refuses such.
    #[must_use]
    pub fn is_withheld(&self, instance: &Instance) -> bool {
        instance.is_bypassable() && self.mesh_entry.refuses_bypassable.contains(&instance.key.namespace)
    }

    /// Returns an instance as callers know it; none of one that they are not told of.
    fn endpoint(&self, instance: &Instance) -> Option<Endpoint> {
        let node = self.node(&instance.key.node)?;
        if self.is_withheld(instance) {
            return None;
        }
        Some(Endpoint {
            key: instance.key.clone(),
            address: instance.address.clone().unwrap_or_else(|| node.address.clone()),
            mesh_port: instance.mesh_port,
            port: instance.port,
            ports: instance.ports.clone(),
            status: self.health(&instance.key),
            zone: node.zone.clone(),
            network: node.network.clone(),
            platform: node.platform,
            weights: instance.weights,
            meta: instance.meta.clone(),
            tags: instance.tags.clone(),
            node_meta: node.meta.clone(),
        })
    }
}
