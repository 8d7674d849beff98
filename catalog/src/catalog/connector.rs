//! Which process runs a connector, and what the catalog takes from it.

use std::{sync::Arc, time::Duration};

use super::{Attempt, Catalog, Touched};
use crate::{
    CONNECTOR_CHECK_PREFIX, CatalogIndex, Check, ConnectorChange, ConnectorLease, ConnectorName, ConnectorNode,
    ConnectorStatus, ConnectorWrite, DeregisterTarget, Incarnation, Instance, Node, NodeName, Outcome, Owner,
    ProblemKind, Refusal, RefusedWrite, ServicePattern, Timestamp, WatchKey,
};

/// How many connectors there are at most.
const CONNECTORS_MAX: usize = 256;

impl Catalog {
    /// Returns all connectors by name, those that nobody runs included.
    pub fn connectors(&self) -> impl Iterator<Item = &ConnectorLease> {
        self.connectors.values().map(|lease| &**lease)
    }

    /// Returns a connector.
    pub(crate) fn connector(&self, name: &ConnectorName) -> Option<&ConnectorLease> {
        self.connectors.get(name).map(|lease| &**lease)
    }

    /// Returns what a connector keeps: its own nodes with everything on them but the checks of other connectors, and the nodes
    /// of others with its checks there.
    pub fn nodes_of_connector(&self, name: &ConnectorName) -> impl Iterator<Item = ConnectorNode> {
        let (owner, prefix) = (name.owner(), name.check_prefix());
        self.nodes.values().filter_map(move |state| {
            let is_own = state.node.owner == owner;
            let checks: Vec<Check> = state
                .checks()
                .values()
                .filter(|check| is_of(check, &prefix) || is_own && !is_of(check, CONNECTOR_CHECK_PREFIX))
                .map(|check| (**check).clone())
                .collect();
            let instances = if is_own { state.instances.values().map(|one| (**one).clone()).collect() } else { vec![] };
            (is_own || !checks.is_empty()).then(|| ConnectorNode { node: (*state.node).clone(), instances, checks })
        })
    }

    /// Carries out one change of a connector, or by one. Leases are judged by the catalog's own clock, which one server whose
    /// clock is wrong moves by little: by that server's time, a lease would last for hours, or be over at once.
    pub(super) fn change_connectors(
        &mut self,
        index: CatalogIndex,
        change: &ConnectorChange,
        touched: &mut Touched,
    ) -> Attempt {
        match change {
            ConnectorChange::Acquire { name, kind, holder, lasts_ms } => {
                self.acquire_connector(index, name, kind, holder, self.lease_end(*lasts_ms), touched)
            }
            ConnectorChange::Renew { name, term, lasts_ms, status } => {
                let ends_at = self.lease_end(*lasts_ms);
                self.renew_connector(index, name, *term, ends_at, status.as_deref(), touched)
            }
            ConnectorChange::Release { name, term } => {
                let held = self.check_term(name, *term)?.clone();
                let ends_at = self.clock;
                self.put_connector(ConnectorLease { holder: None, ends_at, modified: index, ..held }, touched);
                Ok(Outcome::Done)
            }
            ConnectorChange::Write { name, term, shares, writes } => {
                self.check_term(name, *term)?;
                Ok(self.write_for_connector(index, name, shares, writes, touched))
            }
            ConnectorChange::Confirm { name, removals } => self.confirm_removals(index, name, *removals, touched),
            ConnectorChange::Forget { name } => self.forget_connector(index, name, touched),
        }
    }

    fn lease_end(&self, lasts_ms: u64) -> Timestamp {
        self.clock.saturating_add(Duration::from_millis(lasts_ms))
    }

    fn acquire_connector(
        &mut self,
        index: CatalogIndex,
        name: &ConnectorName,
        kind: &str,
        holder: &str,
        ends_at: Timestamp,
        touched: &mut Touched,
    ) -> Attempt {
        let held = self.connector(name);
        if let Some((held, other)) = held.and_then(|held| Some((held, held.holder_at(self.clock)?)))
            && other != holder
        {
            return Err(held_by(held, other, self.clock));
        }
        if held.is_none() && self.connectors.len() >= CONNECTORS_MAX {
            let problem = format!("there are {CONNECTORS_MAX} already: remove one with `weft connector remove`");
            return Err(Refusal::invalid("connector", problem));
        }
        let term = Incarnation(self.number_at(index).0);
        let lease = ConnectorLease {
            name: name.clone(),
            kind: kind.to_owned(),
            holder: Some(holder.to_owned()),
            term,
            ends_at,
            status: held.map(|held| held.status.clone()).unwrap_or_default(),
            confirmed: held.and_then(|held| held.confirmed),
            created: held.map_or(index, |held| held.created),
            modified: index,
        };
        self.put_connector(lease, touched);
        Ok(Outcome::LeaseGranted { term })
    }

    fn renew_connector(
        &mut self,
        index: CatalogIndex,
        name: &ConnectorName,
        term: Incarnation,
        ends_at: Timestamp,
        status: Option<&ConnectorStatus>,
        touched: &mut Touched,
    ) -> Attempt {
        let held = self.check_term(name, term)?.clone();
        let status = status.cloned().unwrap_or_else(|| held.status.clone());
        let confirmed = held.confirmed.filter(|_| holds_back(&status));
        let ends_at = ends_at.max(held.ends_at);
        self.put_connector(ConnectorLease { ends_at, status, confirmed, modified: index, ..held }, touched);
        Ok(Outcome::LeaseGranted { term })
    }

    fn write_for_connector(
        &mut self,
        index: CatalogIndex,
        name: &ConnectorName,
        shares: &[ServicePattern],
        writes: &[ConnectorWrite],
        touched: &mut Touched,
    ) -> Outcome {
        let mut refused = Vec::new();
        for write in writes {
            if let Err(reason) = self.write_of_connector(index, name, shares, write, touched) {
                let conflict = matches!(reason, Refusal::NotOwner { .. } | Refusal::ServedByOthers { .. });
                let node = write.node().clone();
                refused.push(RefusedWrite { node, reason: reason.to_string(), conflict });
            }
        }
        Outcome::Written { refused }
    }

    fn confirm_removals(
        &mut self,
        index: CatalogIndex,
        name: &ConnectorName,
        removals: u64,
        touched: &mut Touched,
    ) -> Attempt {
        let held = self.connector(name).ok_or_else(|| Refusal::not_found("connector", name))?;
        if !holds_back(&held.status) {
            return Err(Refusal::invalid("connector", format!("`{name}` holds nothing back")));
        }
        let confirmed = Some(removals);
        self.put_connector(ConnectorLease { confirmed, modified: index, ..held.clone() }, touched);
        Ok(Outcome::Done)
    }

    fn put_connector(&mut self, lease: ConnectorLease, touched: &mut Touched) {
        self.connectors.insert(lease.name.clone(), Arc::new(lease));
        touched.changed(WatchKey::Connectors);
    }

    /// Refuses whoever has not the latest term. Its end alone costs nobody the lease: as long as nobody else has asked, the
    /// process that had it last is the only one there is.
    fn check_term(&self, name: &ConnectorName, found: Incarnation) -> Result<&ConnectorLease, Refusal> {
        let held = self.connector(name).filter(|held| held.holder.is_some());
        let current = held.map_or(Incarnation(0), |held| held.term);
        held.filter(|held| held.term == found).ok_or_else(|| Refusal::LeaseOver {
            connector: name.clone(),
            found,
            current,
        })
    }

    fn write_of_connector(
        &mut self,
        index: CatalogIndex,
        name: &ConnectorName,
        shares: &[ServicePattern],
        write: &ConnectorWrite,
        touched: &mut Touched,
    ) -> Result<(), Refusal> {
        match write {
            ConnectorWrite::Put { node } => {
                self.check_owned_by_connector(name, &node.node.name)?;
                self.check_shared(name, shares, &node.instances)?;
                self.check_upstreams(&node.node.name, std::iter::empty(), &node.instances)?;
                self.put_whole_node(index, name, node, touched);
            }
            ConnectorWrite::Remove { node } => {
                if self.node(node).is_some() {
                    self.check_owned_by_connector(name, node)?;
                    self.remove(index, node, &DeregisterTarget::Node, touched);
                }
            }
            ConnectorWrite::Checks { node, checks } => {
                // Where the node is gone, its checks are too.
                if self.node(node).is_none() && checks.is_empty() {
                    return Ok(());
                }
                self.check_checks(node, &[], checks)?;
                self.node(node).ok_or_else(|| Refusal::not_found("node", node))?;
                self.register_on(index, node, &[], checks, touched);
                let prefix = name.check_prefix();
                let is_over = |check: &Check| is_of(check, &prefix) && !checks.iter().any(|kept| kept.key == check.key);
                self.drop_checks(index, node, is_over, touched);
            }
        }
        Ok(())
    }

    /// Refuses a node that somebody else holds, be it by a record that has not registered it yet.
    fn check_owned_by_connector(&self, name: &ConnectorName, node: &NodeName) -> Result<(), Refusal> {
        let of_agent = self.agent_on(node).map(|record| Owner::Agent(record.id.clone()));
        let held = self.node(node).map(|held| held.owner.clone());
        match of_agent.or(held).filter(|owner| *owner != name.owner()) {
            Some(owner) => Err(Refusal::NotOwner { node: node.clone(), owner }),
            None => Ok(()),
        }
    }

    /// Refuses to add to a service that others serve, unless the operator said that these are one.
    fn check_shared(
        &self,
        name: &ConnectorName,
        shares: &[ServicePattern],
        instances: &[Instance],
    ) -> Result<(), Refusal> {
        let owner = name.owner();
        for instance in instances {
            let service = instance.service_key();
            let is_there = self.instance(&instance.key).is_some_and(|held| held.service == instance.service);
            if is_there || shares.iter().any(|pattern| pattern.matches(&service)) {
                continue;
            }
            let others = self.instances_of(&service).filter_map(|other| self.node(&other.key.node));
            let other = others.map(|node| node.owner.clone()).find(|held| *held != owner);
            if let Some(owner) = other {
                return Err(Refusal::ServedByOthers { service, owner });
            }
        }
        Ok(())
    }

    /// Makes a node what a connector says of it; what is on it besides goes, but for the checks of other connectors.
    fn put_whole_node(
        &mut self,
        index: CatalogIndex,
        connector: &ConnectorName,
        put: &ConnectorNode,
        touched: &mut Touched,
    ) {
        let name = &put.node.name;
        self.put_node(index, &put.node, touched);
        self.register_on(index, name, &put.instances, &put.checks, touched);
        let over: Vec<DeregisterTarget> = self
            .instances_on(name)
            .filter(|held| !put.instances.iter().any(|kept| kept.key == held.key))
            .map(|held| DeregisterTarget::Instance { namespace: held.key.namespace.clone(), id: held.key.id.clone() })
            .collect();
        for target in over {
            self.remove(index, name, &target, touched);
        }
        let prefix = connector.check_prefix();
        let is_anothers = |check: &Check| is_of(check, CONNECTOR_CHECK_PREFIX) && !is_of(check, &prefix);
        let is_over = |check: &Check| !is_anothers(check) && !put.checks.iter().any(|kept| kept.key == check.key);
        self.drop_checks(index, name, is_over, touched);
    }

    fn drop_checks(
        &mut self,
        index: CatalogIndex,
        node: &NodeName,
        is_over: impl Fn(&Check) -> bool,
        touched: &mut Touched,
    ) {
        let over: Vec<DeregisterTarget> = self
            .checks_on(node)
            .filter(|check| is_over(check))
            .map(|check| DeregisterTarget::Check { namespace: check.key.namespace.clone(), id: check.key.id.clone() })
            .collect();
        for target in over {
            self.remove(index, node, &target, touched);
        }
    }

    /// Forgets a connector with its nodes and checks. A restore may have brought these back without it.
    fn forget_connector(&mut self, index: CatalogIndex, name: &ConnectorName, touched: &mut Touched) -> Attempt {
        let held = self.connector(name);
        if let Some((held, holder)) = held.and_then(|held| Some((held, held.holder_at(self.clock)?))) {
            return Err(held_by(held, holder, self.clock));
        }
        let kept: Vec<ConnectorNode> = self.nodes_of_connector(name).collect();
        if held.is_none() && kept.is_empty() {
            return Err(Refusal::not_found("connector", name));
        }
        let prefix = name.check_prefix();
        for ConnectorNode { node, .. } in kept {
            if node.owner == name.owner() {
                self.remove(index, &node.name, &DeregisterTarget::Node, touched);
            } else {
                self.drop_checks(index, &node.name, |check| is_of(check, &prefix), touched);
            }
        }
        self.connectors.remove(name);
        touched.changed(WatchKey::Connectors);
        Ok(Outcome::Done)
    }

    /// Counts the nodes of connectors that are not there any more: nobody keeps these, and nobody removes them unasked.
    pub(super) fn forsaken_nodes(&self) -> u64 {
        let is_forsaken = |node: &&Node| match &node.owner {
            Owner::Connector(name) => !name.parse().is_ok_and(|name| self.connector(&name).is_some()),
            Owner::Agent(_) | Owner::External => false,
        };
        self.nodes().filter(is_forsaken).count() as u64
    }
}

/// Reports whether a check is one of those whose ids begin like this.
fn is_of(check: &Check, prefix: &str) -> bool {
    check.key.id.as_str().starts_with(prefix)
}

/// Reports whether a connector holds removals back.
fn holds_back(status: &ConnectorStatus) -> bool {
    status.problems.iter().any(|problem| problem.kind == ProblemKind::Held)
}

fn held_by(held: &ConnectorLease, holder: &str, now: Timestamp) -> Refusal {
    Refusal::LeaseHeld {
        connector: held.name.clone(),
        holder: holder.to_owned(),
        left_s: held.ends_at.since(now).as_secs().max(1),
    }
}

#[cfg(test)]
pub(super) mod tests;
