//! How nodes, instances and checks enter the catalog, change and leave it.

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::OrdSet;

use super::{Attempt, Catalog, NODE_CHECKS_MAX, NODE_INSTANCES_MAX, NODE_UPSTREAMS_MAX, NodeState, Touched};
use crate::{
    CatalogIndex, Check, CheckUpdate, DeregisterTarget, Incarnation, Instance, InstanceKey, Node, NodeName, Outcome,
    Owner, Refusal, ServiceKey, WatchKey,
};

impl Catalog {
    /// Refuses a registration that is not its owner's, comes from an older session, or exceeds what the agent may serve.
    pub(super) fn check_registration(
        &self,
        node: &Node,
        instances: &[Instance],
        incarnation: Option<Incarnation>,
    ) -> Result<(), Refusal> {
        let held_by = self.node(&node.name).map(|held| &held.owner);
        let is_free = match held_by {
            None => true,
            // The record behind the name may have been replaced; its successor inherits the node.
            Some(Owner::Agent(id)) if self.agent_record(id).is_none() => true,
            Some(owner) => *owner == node.owner,
        };
        if let (false, Some(owner)) = (is_free, held_by) {
            return Err(Refusal::NotOwner { node: node.name.clone(), owner: owner.clone() });
        }
        let Owner::Agent(id) = &node.owner else {
            return match self.agent_on(&node.name) {
                Some(record) => {
                    Err(Refusal::NotOwner { node: node.name.clone(), owner: Owner::Agent(record.id.clone()) })
                }
                None => self.check_session(&node.name, None, incarnation),
            };
        };
        let record = self
            .agent_record(id)
            .filter(|record| record.node == node.name)
            .ok_or_else(|| Refusal::AgentUnknown { agent: id.to_string() })?;
        self.check_session(&node.name, Some(record), incarnation)?;
        self.check_not_draining(&node.name, record, incarnation)?;
        if node.gateway_port.is_some() && !record.entitles_gateway(&node.network) {
            return Err(Refusal::NoGateway { node: node.name.clone(), network: node.network.clone() });
        }
        for service in instances.iter().map(Instance::service_key) {
            if !record.entitles(&service) {
                return Err(Refusal::NotEntitled { node: node.name.clone(), service });
            }
            if self.is_service_revoked(&service, record.enrolled) {
                return Err(Refusal::ServiceRevoked { node: node.name.clone(), service });
            }
        }
        Ok(())
    }

    /// Refuses more than a node holds, and a check of an instance that is neither on the node nor comes with the check.
    pub(super) fn check_checks(
        &self,
        node: &NodeName,
        instances: &[Instance],
        checks: &[Check],
    ) -> Result<(), Refusal> {
        // What is there already is written anew, and takes no more room.
        let new_instances = instances.iter().map(|one| &one.key).filter(|key| self.instance(key).is_none());
        let new_checks = checks.iter().map(|one| &one.key).filter(|key| self.check(key).is_none());
        let added = (new_instances.collect::<BTreeSet<_>>().len(), new_checks.collect::<BTreeSet<_>>().len());
        let held = self.nodes.get(node).map_or((0, 0), |state| (state.instances.len(), state.checks().len()));
        if held.0 + added.0 > NODE_INSTANCES_MAX || held.1 + added.1 > NODE_CHECKS_MAX {
            return Err(Refusal::invalid(
                format!("node `{node}`"),
                format!(
                    "it would hold more than {NODE_INSTANCES_MAX} instances or {NODE_CHECKS_MAX} checks: use more nodes"
                ),
            ));
        }
        let is_known =
            |key: &InstanceKey| self.instance(key).is_some() || instances.iter().any(|instance| instance.key == *key);
        match checks.iter().filter_map(Check::instance_key).find(|key| !is_known(key)) {
            Some(key) => Err(Refusal::not_found("instance", format!("{} on node {node}", key.id))),
            None => Ok(()),
        }
    }

    /// Refuses a node that would call more than one machine does: whoever names ever new services as its upstreams would use
    /// up the numbers of all.
    pub(super) fn check_upstreams<'a>(
        &'a self,
        node: &NodeName,
        kept: impl Iterator<Item = &'a Instance>,
        instances: &[Instance],
    ) -> Result<(), Refusal> {
        let count = |instance: &Instance| instance.upstreams.len();
        let added: usize = instances.iter().map(count).sum();
        if added == 0 || !self.is_past_first_release() {
            return Ok(());
        }
        let written: BTreeSet<&InstanceKey> = instances.iter().map(|one| &one.key).collect();
        let kept: usize = kept.filter(|held| !written.contains(&held.key)).map(count).sum();
        if kept + added > NODE_UPSTREAMS_MAX {
            let problem = format!("its instances would name more than {NODE_UPSTREAMS_MAX} upstreams: use more nodes");
            return Err(Refusal::invalid(format!("node `{node}`"), problem));
        }
        Ok(())
    }

    /// Refuses a write to a node of somebody else, or from an older session of its owner.
    fn check_write(&self, node: &NodeName, incarnation: Option<Incarnation>) -> Result<(), Refusal> {
        let held = self.node(node).ok_or_else(|| Refusal::not_found("node", node))?;
        match &held.owner {
            Owner::External => self.check_session(node, None, incarnation),
            // The record may have been replaced since the node was registered; its successor holds the node now.
            Owner::Agent(_) => match (self.agent_on(node), incarnation) {
                (Some(record), Some(_)) => self.check_session(node, Some(record), incarnation),
                (Some(record), None) => {
                    Err(Refusal::NotOwner { node: node.clone(), owner: Owner::Agent(record.id.clone()) })
                }
                // Nobody is left who could clean up: an operator may, and no late voice of the agent.
                (None, None) => Ok(()),
                (None, Some(found)) => {
                    Err(Refusal::StaleIncarnation { node: node.clone(), found, current: Incarnation(0) })
                }
            },
            Owner::Connector(_) => Err(Refusal::NotOwner { node: node.clone(), owner: held.owner.clone() }),
        }
    }

    /// Writes what is on a node that is there.
    pub(super) fn register_on(
        &mut self,
        index: CatalogIndex,
        node: &NodeName,
        instances: &[Instance],
        checks: &[Check],
        touched: &mut Touched,
    ) {
        let mut state = self.nodes.get(node).cloned().expect("whoever asks has looked, or has just put it there");
        for instance in instances {
            self.put_instance(index, &mut state, instance, touched);
        }
        for check in checks {
            put_check(index, &mut state, check, touched);
        }
        self.nodes.insert(node.clone(), state);
    }

    /// Writes a node; what is on it stays.
    pub(super) fn put_node(&mut self, index: CatalogIndex, node: &Node, touched: &mut Touched) {
        let state = match self.nodes.get(&node.name).cloned() {
            Some(held) => self.changed_node(index, held, node, touched),
            None => self.new_node(index, node, touched),
        };
        if node.gateway_port.is_some() {
            self.gateways.insert(node.name.clone());
        } else {
            self.gateways.remove(&node.name);
        }
        self.nodes.insert(node.name.clone(), state);
    }

    fn new_node(&mut self, index: CatalogIndex, node: &Node, touched: &mut Touched) -> NodeState {
        touched.changed(WatchKey::Nodes);
        touched.changed(WatchKey::Node(node.name.clone()));
        touch_gateway(node, touched);
        self.enter_network(&node.network);
        let node = Node { created: index, modified: index, ..node.clone() };
        NodeState::new(Arc::new(node))
    }

    fn changed_node(
        &mut self,
        index: CatalogIndex,
        mut state: NodeState,
        node: &Node,
        touched: &mut Touched,
    ) -> NodeState {
        let held = Arc::clone(&state.node);
        let written = Node { created: held.created, modified: held.modified, ..node.clone() };
        if written == *held {
            return state;
        }
        // A new session of the same agent is no news to those who watch the node.
        let is_news = Node { incarnation: held.incarnation, ..written.clone() } != *held;
        let modified = if is_news { index } else { held.modified };
        state.node = Arc::new(Node { modified, ..written });
        if is_news {
            touched.changed(WatchKey::Nodes);
            touched.changed(WatchKey::Node(node.name.clone()));
            touch_gateway(&held, touched);
            touch_gateway(node, touched);
            touch_services(&state, touched);
            if held.network != node.network {
                self.leave_network(&held.network, touched);
                self.enter_network(&node.network);
                touched.changed(WatchKey::Network(node.network.clone()));
            }
        }
        state
    }

    fn put_instance(&mut self, index: CatalogIndex, state: &mut NodeState, instance: &Instance, touched: &mut Touched) {
        let slot = (instance.key.namespace.clone(), instance.key.id.clone());
        let held = state.instances.get(&slot).cloned();
        let created = held.as_ref().map_or(index, |held| held.created);
        if let Some(held) = &held {
            let written = Instance { created, modified: held.modified, ..instance.clone() };
            if written == **held {
                return;
            }
            if held.service != instance.service {
                self.unlist(&held.service_key(), &held.key, touched);
            }
        }
        let service = instance.service_key();
        if held.as_ref().is_none_or(|held| held.service != instance.service) {
            touched.changed(WatchKey::Network(state.node.network.clone()));
        }
        if held.as_ref().is_none_or(|held| held.tags != instance.tags || held.service != instance.service) {
            touched.changed(WatchKey::Services(service.namespace.clone()));
        }
        touched.changed(WatchKey::Node(instance.key.node.clone()));
        touched.changed(WatchKey::Service(service.clone()));
        let mut keys = self.by_service.get(&service).cloned().unwrap_or_default();
        keys.insert(instance.key.clone());
        self.by_service.insert(service, keys);
        state.instances.insert(slot, Arc::new(Instance { created, modified: index, ..instance.clone() }));
        self.settle_address(&instance.service_key(), touched);
        self.note_calls(held.as_deref(), Some(instance), touched);
    }

    fn unlist(&mut self, service: &ServiceKey, key: &InstanceKey, touched: &mut Touched) {
        let mut keys: OrdSet<InstanceKey> = self.by_service.get(service).cloned().unwrap_or_default();
        keys.remove(key);
        // One that has just left its network has it here still.
        if let Some(node) = self.node(&key.node).filter(|node| self.nodes_in.contains_key(&node.network)) {
            touched.changed(WatchKey::Network(node.network.clone()));
        }
        if keys.is_empty() {
            self.by_service.remove(service);
            self.settle_address(service, touched);
            let key = WatchKey::Service(service.clone());
            if self.has_behind(&key) { touched.changed(key) } else { touched.gone(key) }
        } else {
            self.by_service.insert(service.clone(), keys);
            touched.changed(WatchKey::Service(service.clone()));
        }
        let list = WatchKey::Services(service.namespace.clone());
        if self.has_services_beside(service) { touched.changed(list) } else { touched.gone(list) }
    }

    /// Reports whether there is any service in the namespace of `service`, itself included.
    fn has_services_beside(&self, service: &ServiceKey) -> bool {
        // They are sorted by namespace first: the nearest to either side is of the same one, or none is.
        let nearest = [self.by_service.get_prev(service), self.by_service.get_next(service)];
        nearest.into_iter().flatten().any(|(near, _)| near.namespace == service.namespace)
    }

    fn enter_network(&mut self, network: &str) {
        let nodes = self.nodes_in.get(network).map_or(1, |nodes| nodes + 1);
        self.nodes_in.insert(network.to_owned(), nodes);
    }

    /// Notes that a node is not in a network any more. The name is an agent's own word: the last node out takes it along, or
    /// an agent that thinks of ever new ones would fill every server.
    fn leave_network(&mut self, network: &str, touched: &mut Touched) {
        let left = self.nodes_in.get(network).map_or(0, |nodes| nodes.saturating_sub(1));
        if left == 0 {
            self.nodes_in.remove(network);
            touched.gone(WatchKey::Network(network.to_owned()));
        } else {
            self.nodes_in.insert(network.to_owned(), left);
            touched.changed(WatchKey::Network(network.to_owned()));
        }
    }

    pub(super) fn deregister(
        &mut self,
        index: CatalogIndex,
        node: &NodeName,
        target: &DeregisterTarget,
        incarnation: Option<Incarnation>,
        touched: &mut Touched,
    ) -> Attempt {
        // Removing what is not there is done already; a retry after a lost answer must not fail.
        if self.node(node).is_some() {
            self.check_write(node, incarnation)?;
            self.remove(index, node, target, touched);
        }
        Ok(Outcome::Done)
    }

    pub(super) fn remove(
        &mut self,
        index: CatalogIndex,
        node: &NodeName,
        target: &DeregisterTarget,
        touched: &mut Touched,
    ) {
        let Some(mut state) = self.nodes.get(node).cloned() else { return };
        match target {
            DeregisterTarget::Node => {
                for instance in state.instances.values() {
                    self.unlist(&instance.service_key(), &instance.key, touched);
                    self.note_calls(Some(&**instance), None, touched);
                }
                if !state.checks().is_empty() {
                    touched.changed(WatchKey::Checks);
                }
                touch_gateway(&state.node, touched);
                self.gateways.remove(node);
                self.nodes.remove(node);
                self.leave_network(&state.node.network, touched);
                touched.changed(WatchKey::Nodes);
                touched.gone(WatchKey::Node(node.clone()));
                return;
            }
            DeregisterTarget::Instance { namespace, id } => {
                let Some(instance) = state.instances.remove(&(namespace.clone(), id.clone())) else { return };
                self.unlist(&instance.service_key(), &instance.key, touched);
                self.note_calls(Some(&*instance), None, touched);
                if state.remove_checks_of(&(namespace.clone(), id.clone())) {
                    touched.changed(WatchKey::Checks);
                }
            }
            DeregisterTarget::Check { namespace, id } => {
                let Some(check) = state.remove_check(&(namespace.clone(), id.clone())) else { return };
                touch_check(&state, &check, touched);
            }
        }
        debug_assert!(index == self.index, "a command is applied at its own index");
        touched.changed(WatchKey::Node(node.clone()));
        self.nodes.insert(node.clone(), state);
    }

    pub(super) fn update_checks(
        &mut self,
        index: CatalogIndex,
        updates: &[CheckUpdate],
        incarnation: Option<Incarnation>,
        touched: &mut Touched,
    ) -> Attempt {
        for update in updates {
            self.check_write(&update.key.node, incarnation)?;
            if let Some(record) = self.agent_on(&update.key.node) {
                self.check_not_draining(&update.key.node, record, incarnation)?;
            }
            if self.check(&update.key).is_none() {
                return Err(Refusal::not_found("check", &update.key));
            }
        }
        for update in updates {
            let (Some(mut state), Some(held)) =
                (self.nodes.get(&update.key.node).cloned(), self.check(&update.key).cloned())
            else {
                continue;
            };
            let check = Check { status: update.status, output: update.output.clone(), ..held };
            put_check(index, &mut state, &check, touched);
            self.nodes.insert(update.key.node.clone(), state);
        }
        Ok(Outcome::Done)
    }
}

pub(super) fn put_check(index: CatalogIndex, state: &mut NodeState, check: &Check, touched: &mut Touched) {
    let slot = (check.key.namespace.clone(), check.key.id.clone());
    let held = state.checks().get(&slot).cloned();
    let created = held.as_ref().map_or(index, |held| held.created);
    if let Some(held) = &held {
        if (Check { created, modified: held.modified, ..check.clone() }) == **held {
            return;
        }
        if held.instance != check.instance {
            touch_check(state, held, touched);
        }
    }
    let check = Check { created, modified: index, ..check.clone() };
    touch_check(state, &check, touched);
    state.put_check(Arc::new(check));
}

/// Wakes whoever reads the health that a check bears on: its instance's service, or every service on its node.
pub(super) fn touch_check(state: &NodeState, check: &Check, touched: &mut Touched) {
    touched.changed(WatchKey::Checks);
    touched.changed(WatchKey::Node(check.key.node.clone()));
    match check.instance_key() {
        None => {
            touch_gateway(&state.node, touched);
            touch_services(state, touched);
        }
        Some(key) => {
            if let Some(instance) = state.instances.get(&(key.namespace, key.id)) {
                touched.changed(WatchKey::Service(instance.service_key()));
            }
        }
    }
}

fn touch_gateway(node: &Node, touched: &mut Touched) {
    if node.gateway_port.is_some() {
        touched.changed(WatchKey::Gateways);
    }
}

fn touch_services(state: &NodeState, touched: &mut Touched) {
    for instance in state.instances.values() {
        touched.changed(WatchKey::Service(instance.service_key()));
    }
}
