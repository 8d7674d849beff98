//! Which process runs a connector, and what the catalog takes from it.

use std::sync::Arc;

use super::{Attempt, Catalog, Touched};
use crate::{
    CatalogIndex, Check, ConnectorChange, ConnectorLease, ConnectorName, ConnectorNode, ConnectorWrite,
    DeregisterTarget, Incarnation, Instance, NodeName, Outcome, Owner, ProblemKind, Refusal, RefusedWrite,
    ServicePattern, Timestamp, WatchKey,
};

/// How many connectors there are at most.
const CONNECTORS_MAX: usize = 256;

impl Catalog {
    /// Returns all connectors by name, those that nobody runs included.
    pub fn connectors(&self) -> impl Iterator<Item = &ConnectorLease> {
        self.connectors.values().map(|lease| &**lease)
    }

    /// Returns a connector.
    #[must_use]
    pub fn connector(&self, name: &ConnectorName) -> Option<&ConnectorLease> {
        self.connectors.get(name).map(|lease| &**lease)
    }

    /// Returns what a connector keeps: its own nodes with everything on them, and those of others with its checks there.
    pub fn nodes_of_connector(&self, name: &ConnectorName) -> impl Iterator<Item = ConnectorNode> {
        let (owner, prefix) = (name.owner(), name.check_prefix());
        self.nodes.values().filter_map(move |state| {
            let is_own = state.node.owner == owner;
            let checks: Vec<Check> = state
                .checks()
                .values()
                .filter(|check| is_own || check.key.id.as_str().starts_with(&prefix))
                .map(|check| (**check).clone())
                .collect();
            let instances = if is_own { state.instances.values().map(|one| (**one).clone()).collect() } else { vec![] };
            (is_own || !checks.is_empty()).then(|| ConnectorNode { node: (*state.node).clone(), instances, checks })
        })
    }

    pub(super) fn change_connectors(
        &mut self,
        index: CatalogIndex,
        now: Timestamp,
        change: &ConnectorChange,
        touched: &mut Touched,
    ) -> Attempt {
        let ends_at = |lasts_ms: u64| now.saturating_add(std::time::Duration::from_millis(lasts_ms));
        match change {
            ConnectorChange::Acquire { name, kind, holder, lasts_ms } => {
                self.acquire_connector(index, now, (name, kind, holder), ends_at(*lasts_ms), touched)
            }
            ConnectorChange::Renew { name, term, lasts_ms, status } => {
                let held = self.check_term(name, *term)?.clone();
                let status = status.as_deref().cloned().unwrap_or_else(|| held.status.clone());
                let ends_at = ends_at(*lasts_ms).max(held.ends_at);
                let holds = status.problems.iter().any(|problem| problem.kind == ProblemKind::Held);
                let confirmed = held.confirmed.filter(|_| holds);
                self.put_connector(ConnectorLease { ends_at, status, confirmed, modified: index, ..held }, touched);
                Ok(Outcome::LeaseGranted { term: *term })
            }
            ConnectorChange::Release { name, term } => {
                let held = self.check_term(name, *term)?.clone();
                self.put_connector(ConnectorLease { holder: None, ends_at: now, modified: index, ..held }, touched);
                Ok(Outcome::Done)
            }
            ConnectorChange::Write { name, term, shares, writes } => {
                self.check_term(name, *term)?;
                let mut refused = Vec::new();
                for write in writes {
                    if let Err(reason) = self.write_of_connector(index, name, shares, write, touched) {
                        let conflict = matches!(reason, Refusal::NotOwner { .. } | Refusal::ServedByOthers { .. });
                        let node = write.node().clone();
                        refused.push(RefusedWrite { node, reason: reason.to_string(), conflict });
                    }
                }
                Ok(Outcome::Written { refused })
            }
            ConnectorChange::Confirm { name, removals } => {
                let held = self.connector(name).ok_or_else(|| Refusal::not_found("connector", name))?;
                if !held.status.problems.iter().any(|problem| problem.kind == ProblemKind::Held) {
                    return Err(Refusal::invalid("connector", format!("`{name}` holds nothing back")));
                }
                let confirmed = Some(*removals);
                self.put_connector(ConnectorLease { confirmed, modified: index, ..held.clone() }, touched);
                Ok(Outcome::Done)
            }
            ConnectorChange::Forget { name } => self.forget_connector(index, now, name, touched),
        }
    }

    /// Gives a connector to a process, unless another one has it.
    fn acquire_connector(
        &mut self,
        index: CatalogIndex,
        now: Timestamp,
        (name, kind, holder): (&ConnectorName, &str, &str),
        ends_at: Timestamp,
        touched: &mut Touched,
    ) -> Attempt {
        let held = self.connector(name);
        if let Some((held, other)) = held.and_then(|held| Some((held, held.holder_at(now)?)))
            && other != holder
        {
            return Err(held_by(held, other, now));
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
                self.put_whole_node(index, node, touched);
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
                let held = self.node(node).cloned().ok_or_else(|| Refusal::not_found("node", node))?;
                self.register(index, &held, &[], checks, true, touched);
                let prefix = name.check_prefix();
                let is_over = |check: &Check| {
                    check.key.id.as_str().starts_with(&prefix) && !checks.iter().any(|kept| kept.key == check.key)
                };
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

    /// Makes a node what a connector says of it; what is on it besides goes.
    fn put_whole_node(&mut self, index: CatalogIndex, put: &ConnectorNode, touched: &mut Touched) {
        let name = &put.node.name;
        self.register(index, &put.node, &put.instances, &put.checks, false, touched);
        let over: Vec<DeregisterTarget> = self
            .instances_on(name)
            .filter(|held| !put.instances.iter().any(|kept| kept.key == held.key))
            .map(|held| DeregisterTarget::Instance { namespace: held.key.namespace.clone(), id: held.key.id.clone() })
            .collect();
        for target in over {
            self.remove(index, name, &target, touched);
        }
        self.drop_checks(index, name, |check| !put.checks.iter().any(|kept| kept.key == check.key), touched);
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

    fn forget_connector(
        &mut self,
        index: CatalogIndex,
        now: Timestamp,
        name: &ConnectorName,
        touched: &mut Touched,
    ) -> Attempt {
        let held = self.connector(name).ok_or_else(|| Refusal::not_found("connector", name))?;
        if let Some(holder) = held.holder_at(now) {
            return Err(held_by(held, holder, now));
        }
        let prefix = name.check_prefix();
        for node in self.nodes_of_connector(name).collect::<Vec<_>>() {
            if node.node.owner == name.owner() {
                self.remove(index, &node.node.name, &DeregisterTarget::Node, touched);
            } else {
                self.drop_checks(index, &node.node.name, |check| check.key.id.as_str().starts_with(&prefix), touched);
            }
        }
        self.connectors.remove(name);
        touched.changed(WatchKey::Connectors);
        Ok(Outcome::Done)
    }
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
