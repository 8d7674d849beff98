//! What the agent needs of servers, and what the catalog should say of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use catalog::{Check, CheckKey, Instance, InstanceKey, Item, Node, Owner, ServiceKey, Topic};
use wire::agent_protocol::Subject;
use wire::mesh_status::NODE_VERSION;

use super::Core;
use crate::sync::{Desired, Input};

impl Core {
    /// Tells every part what the local services make necessary.
    pub(super) fn follow_local(&mut self) {
        let services: BTreeSet<ServiceKey> = self.local.services().map(|it| it.instance.service_key()).collect();
        let probes = self.local.checks().into_iter().map(|(key, check)| (key, check.probe)).collect();
        self.checks.set(&probes);
        self.statuses.retain(|key, _| probes.contains_key(key));
        if self.local.give_outbound_ports() {
            self.saver.state_changed();
        }
        self.follow_topics();
        let mut subjects: BTreeSet<Subject> = services.into_iter().map(Subject::Service).collect();
        subjects.insert(Subject::Agent);
        if self.leaves.need(&subjects) {
            self.saver.leaves_changed();
        }
        self.rules_changed = true;
    }

    /// Tells the machine what to follow: what concerns the local services and whom they call, and of a gateway, who is in
    /// its network.
    pub(super) fn follow_topics(&mut self) {
        let mut topics = BTreeSet::from([Topic::Mesh, Topic::Roots, Topic::Revocations]);
        for service in self.local.services().map(|it| it.instance.service_key()) {
            topics.extend([Topic::Intentions(service.clone()), Topic::Config(service)]);
        }
        let called = self.called();
        topics.extend(called.first().map(|_| Topic::Gateways));
        topics.extend(called.iter().cloned().map(Topic::Config));
        // Who may call a service outside the mesh is told with its own entries.
        topics.extend(self.routing.external().into_iter().map(Topic::Config));
        topics.extend(called.into_iter().chain(self.routing.targets()).map(Topic::Endpoints));
        topics.extend(self.sought.other_topics());
        if let Some(network) = self.leads_into() {
            topics.insert(Topic::Gateways);
            let here = self.sync.view().get(&network).into_iter().flat_map(|state| state.items.values());
            topics.extend(here.filter_map(|item| match item {
                Item::Service(service) => Some(Topic::Endpoints(service.clone())),
                _ => None,
            }));
            topics.insert(network);
        }
        self.step(Input::Needs(topics));
    }

    /// Returns what tells who is in the network that this agent is a gateway into; none where it is none, or is no longer
    /// entitled to be one.
    fn leads_into(&self) -> Option<Topic> {
        self.gateway_port?;
        let network = &self.config.network;
        self.identity.record.entitles_gateway(network).then(|| Topic::Network(network.clone()))
    }

    /// Follows where calls of local services go; what they may end at is followed too.
    pub(super) fn follow_routes(&mut self) {
        let before = (self.routing.targets(), self.routing.external());
        self.routing.follow(&self.called(), self.sync.view());
        if (self.routing.targets(), self.routing.external()) != before {
            self.follow_topics();
        }
    }

    /// Returns the services that local ones call, or may call, for somebody asked for their names.
    pub(super) fn called(&self) -> BTreeSet<ServiceKey> {
        let upstreams = self.local.services().flat_map(|service| &service.upstreams);
        upstreams.map(|upstream| &upstream.destination).chain(self.sought.services()).cloned().collect()
    }

    pub(super) fn node(&self) -> Node {
        Node {
            name: self.identity.record.node.clone(),
            id: None,
            address: self.advertise.to_string(),
            platform: self.identity.record.platform,
            zone: self.config.zone.clone(),
            network: self.config.network.clone(),
            // Advertised once it knows whom to pass tunnels to.
            gateway_port: self
                .gateway_port
                .filter(|_| self.leads_into().is_some_and(|network| self.sync.view().contains_key(&network))),
            owner: Owner::Agent(self.identity.record.id.clone()),
            incarnation: None,
            meta: self.node_meta(),
            tagged_addresses: BTreeMap::new(),
            created: Default::default(),
            modified: Default::default(),
        }
    }

    fn node_meta(&self) -> BTreeMap<String, String> {
        let mut meta = self.config.node_meta.clone();
        meta.insert(NODE_VERSION.to_owned(), env!("CARGO_PKG_VERSION").to_owned());
        meta
    }

    /// Returns what the catalog should say of this node now.
    ///
    /// An instance is advertised once its agent can answer for it: a caller that was sent here before there is a leaf,
    /// a policy and word of how the service is read would only be refused.
    pub(super) fn desired(&self) -> Desired {
        let view = self.sync.view();
        let serves = |service: &ServiceKey| {
            self.leaves.held().contains_key(&Subject::Service(service.clone()))
                && view.contains_key(&Topic::Intentions(service.clone()))
                && view.contains_key(&Topic::Config(service.clone()))
        };
        let instances: BTreeMap<InstanceKey, Instance> = self
            .local
            .services()
            .filter(|service| serves(&service.instance.service_key()))
            .map(|service| {
                let address = self.advertised_address(&service.instance);
                let mesh_port = service.instance.mesh_port.or(Some(self.mesh_port));
                let bypassable = self.bypassable.get(&service.instance.key).copied();
                let instance = Instance { address, mesh_port, bypassable, ..service.instance.clone() };
                (instance.key.clone(), instance)
            })
            .collect();
        let mut checks = self.present_checks();
        checks.retain(|_, check| check.instance_key().is_none_or(|key| instances.contains_key(&key)));
        Desired { node: self.node(), instances, checks }
    }

    /// Returns the address of its own that an instance is advertised under, if it has one.
    ///
    /// An application that listens on loopback is reached through its agent, under the node's address; its own would
    /// send callers to themselves.
    pub(super) fn advertised_address(&self, instance: &Instance) -> Option<String> {
        let own = instance.address.clone()?;
        let is_loopback = own.parse().is_ok_and(|address: IpAddr| address.is_loopback());
        (!is_loopback || self.advertise.is_loopback()).then_some(own)
    }

    /// Returns every check with what it says now.
    pub(super) fn present_checks(&self) -> BTreeMap<CheckKey, Check> {
        let mut checks: BTreeMap<CheckKey, Check> =
            self.local.checks().into_iter().map(|(key, definition)| (key, definition.check)).collect();
        for (key, check) in &mut checks {
            if let Some((status, output)) = self.statuses.get(key) {
                check.status = *status;
                check.output.clone_from(output);
            }
        }
        checks
    }
}
