//! Keeping what the catalog says of this node equal to what the agent wants it to say.
//!
//! One write is under way at a time. What a server acknowledged is remembered, and the next write is the difference
//! between that and what is wanted. A new session starts from "may be there, with any content", because the servers may
//! have removed or marked anything while the agent was away.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use catalog::{
    Check, CheckKey, CheckUpdate, DeregisterTarget, Incarnation, Instance, InstanceKey, Node, NodeName, Outcome, Owner,
    Refusal,
};
use serde::{Deserialize, Serialize};
use wire::agent_protocol::AgentWrite;

use super::damping::Damping;

/// One write carries at most this many instances, and as many checks.
const BATCH_MAX: usize = 64;
/// One write carries at most this many status updates.
const UPDATES_MAX: usize = 256;
/// More removals than this are not remembered.
const REMOVED_MAX: usize = 1024;
/// What one write carries is no longer than this when it is encoded, unless a single item is; servers take 1 MiB.
const BATCH_BYTES_MAX: usize = 512 * 1024;

/// Everything that the catalog should say of an agent's node. `created` and `modified` are not looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// The node itself; its incarnation is filled in when it is written.
    pub node: Node,
    /// Its instances.
    pub instances: BTreeMap<InstanceKey, Instance>,
    /// Its checks and those of its instances, each with its present status.
    pub checks: BTreeMap<CheckKey, Check>,
}

/// What may exist in the catalog because this agent once wrote it.
///
/// It outlives the process, so that what was registered before a restart and is wanted no longer is removed after it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Instances.
    pub instances: BTreeSet<InstanceKey>,
    /// Checks.
    pub checks: BTreeSet<CheckKey>,
}

/// What a write that is done changes in what is known to be there.
#[derive(Clone, Debug)]
enum Effect {
    Register { node: Box<Node>, instances: Vec<Instance>, checks: Vec<Check> },
    Update(Vec<CheckUpdate>),
    Drain,
    Remove(Removal),
}

/// What is taken out of the catalog.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Removal {
    Node,
    Instance(InstanceKey),
    Check(CheckKey),
}

/// What is to be done about an answered write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// Go on with the next write.
    Done,
    /// The write cannot be made; what it was about is left out until something changes.
    Refused(String),
    /// This session is not the agent's any more.
    Fenced,
}

/// What the catalog is known to hold: `None` stands for "there, with unknown content".
#[derive(Debug, Default)]
struct Acknowledged {
    node: Option<Node>,
    instances: BTreeMap<InstanceKey, Option<Instance>>,
    checks: BTreeMap<CheckKey, Option<Check>>,
}

/// The difference between what is wanted and what is acknowledged, as one write after another.
#[derive(Debug)]
pub(super) struct Registrations {
    desired: Option<Desired>,
    damping: Damping,
    /// When a status that is held back may be written.
    due: Option<Duration>,
    leaving: bool,
    /// The servers know in this session that the agent is leaving, or will not hear it.
    has_drained: bool,
    /// Grows with everything that may be there from now on.
    version: u64,
    /// Nothing while it is unknown what an earlier life of this node left behind.
    acknowledged: Option<Acknowledged>,
    refused_instances: BTreeMap<InstanceKey, Instance>,
    refused_checks: BTreeMap<CheckKey, Check>,
    refused_node: Option<Node>,
    /// Removals that were refused.
    refused_removals: BTreeSet<Removal>,
    /// What was removed in this life.
    removed: BTreeSet<Removal>,
    /// After a refused batch everything is written one by one, to find what the refusal is about.
    one_by_one: bool,
    in_flight: Option<Effect>,
}

impl Registrations {
    pub(super) fn new(known: Option<Known>) -> Self {
        let acknowledged = known.map(|known| Acknowledged {
            node: None,
            instances: known.instances.into_iter().map(|key| (key, None)).collect(),
            checks: known.checks.into_iter().map(|key| (key, None)).collect(),
        });
        Self {
            desired: None,
            damping: Damping::default(),
            due: None,
            leaving: false,
            has_drained: false,
            version: 0,
            acknowledged,
            refused_instances: BTreeMap::new(),
            refused_checks: BTreeMap::new(),
            refused_node: None,
            refused_removals: BTreeSet::new(),
            removed: BTreeSet::new(),
            one_by_one: false,
            in_flight: None,
        }
    }

    pub(super) fn known(&self) -> Option<Known> {
        self.acknowledged.as_ref().map(|acknowledged| Known {
            instances: acknowledged.instances.keys().cloned().collect(),
            checks: acknowledged.checks.keys().cloned().collect(),
        })
    }

    /// Goes on counting from an earlier version, so that what was saved of others does not count.
    pub(super) fn counting_from(self, version: u64) -> Self {
        Self { version, ..self }
    }

    /// Returns the version of what may be there.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Returns when there is something to write, if nothing else happens before; as [`Registrations::next`] found it last.
    pub(super) fn due(&self) -> Option<Duration> {
        self.due
    }

    pub(super) fn desire(&mut self, desired: Desired, now: Duration) {
        self.damping.observe(&desired.checks, now);
        self.desired = Some(desired);
    }

    /// From now on nothing is wanted: the whole node is to go.
    pub(super) fn leave(&mut self) {
        self.leaving = true;
    }

    /// Whether the node is gone from the catalog, as `leave` asked.
    pub(super) fn has_left(&self) -> bool {
        let nothing = |acknowledged: &Acknowledged| acknowledged.node.is_none() && acknowledged.instances.is_empty();
        self.leaving && self.in_flight.is_none() && self.acknowledged.as_ref().is_some_and(nothing)
    }

    /// Forgets what only held for the last session.
    pub(super) fn new_session(&mut self) {
        self.in_flight = None;
        self.one_by_one = false;
        self.has_drained = false;
        self.forgive();
        if let Some(acknowledged) = &mut self.acknowledged {
            acknowledged.node = None;
            acknowledged.instances.values_mut().for_each(|content| *content = None);
            acknowledged.checks.values_mut().for_each(|content| *content = None);
        }
    }

    /// Takes the news that the servers went back to an earlier state: what was removed since may be there again.
    pub(super) fn start_over(&mut self) {
        self.new_session();
        let removed = std::mem::take(&mut self.removed);
        let Some(acknowledged) = &mut self.acknowledged else { return };
        for removal in removed {
            match removal {
                Removal::Node => {}
                Removal::Instance(key) => drop(acknowledged.instances.entry(key).or_insert(None)),
                Removal::Check(key) => drop(acknowledged.checks.entry(key).or_insert(None)),
            }
        }
        self.version += 1;
    }

    /// Tries again what was refused.
    pub(super) fn forgive(&mut self) {
        self.refused_node = None;
        self.refused_instances.clear();
        self.refused_checks.clear();
        self.refused_removals.clear();
    }

    /// Returns the next write, unless one is under way or there is nothing to do.
    pub(super) fn next(&mut self, incarnation: Incarnation, now: Duration) -> Option<AgentWrite> {
        self.due = None;
        if self.in_flight.is_some() {
            return None;
        }
        let desired = self.desired.as_ref()?;
        let name = desired.node.name.clone();
        let Some(acknowledged) = &self.acknowledged else {
            return self.forget_node(name, incarnation);
        };
        if self.leaving {
            let nothing = acknowledged.node.is_none() && acknowledged.instances.is_empty();
            let agent = match &desired.node.owner {
                Owner::Agent(id) if !self.has_drained && !nothing => Some(id.clone()),
                _ => None,
            };
            if let Some(agent) = agent {
                self.in_flight = Some(Effect::Drain);
                return Some(AgentWrite::Drain { node: name, agent, incarnation });
            }
            return if nothing { None } else { self.forget_node(name, incarnation) };
        }
        self.register(incarnation)
            .or_else(|| self.update(incarnation, now))
            .or_else(|| self.forget_unwanted(&name, incarnation))
    }

    /// Takes the answer to the write under way.
    pub(super) fn answer(&mut self, outcome: &Outcome) -> Settled {
        let Some(effect) = self.in_flight.take() else { return Settled::Done };
        match outcome {
            Outcome::Refused(Refusal::StaleIncarnation { .. }) => Settled::Fenced,
            Outcome::Refused(refusal @ Refusal::NotFound { .. }) => self.missing(effect, refusal),
            Outcome::Refused(refusal) => self.refuse(effect, refusal.to_string()),
            _ => {
                self.apply(effect);
                Settled::Done
            }
        }
    }

    /// Takes the news that the server will not have the write at all, whatever the state.
    pub(super) fn reject(&mut self, error: String) -> Settled {
        match self.in_flight.take() {
            Some(effect) => self.refuse(effect, error),
            None => Settled::Done,
        }
    }

    fn forget_node(&mut self, node: NodeName, incarnation: Incarnation) -> Option<AgentWrite> {
        if self.refused_removals.contains(&Removal::Node) {
            return None;
        }
        self.in_flight = Some(Effect::Remove(Removal::Node));
        Some(AgentWrite::Deregister { node, target: DeregisterTarget::Node, incarnation })
    }

    fn register(&mut self, incarnation: Incarnation) -> Option<AgentWrite> {
        let (Some(desired), Some(acknowledged)) = (&self.desired, &self.acknowledged) else { return None };
        if self.refused_node.as_ref() == Some(&desired.node) {
            return None;
        }
        let node_differs = acknowledged.node.as_ref() != Some(&desired.node);
        let alone = self.one_by_one && node_differs;
        let limit = if self.one_by_one { 1 } else { BATCH_MAX };
        let differs = |key: &InstanceKey, instance: &Instance| {
            acknowledged.instances.get(key).and_then(Option::as_ref) != Some(instance)
                && self.refused_instances.get(key) != Some(instance)
        };
        let mut room = BATCH_BYTES_MAX;
        let instances = desired.instances.iter().filter(|(key, instance)| differs(key, instance));
        let instances: Vec<Instance> = instances
            .take(if alone { 0 } else { limit })
            .take_while(|(_, instance)| fits(instance, &mut room))
            .map(|(_, instance)| instance.clone())
            .collect();
        let registered: BTreeSet<&InstanceKey> = instances.iter().map(|instance| &instance.key).collect();
        // A check of an instance that is not there would be refused, and the whole write with it.
        let possible = |check: &Check| match check.instance_key() {
            None => true,
            Some(key) => registered.contains(&key) || acknowledged.instances.get(&key).is_some_and(Option::is_some),
        };
        let check_differs = |key: &CheckKey, check: &Check| {
            let there = acknowledged.checks.get(key).and_then(Option::as_ref);
            !there.is_some_and(|there| same_definition(there, check)) && self.refused_checks.get(key) != Some(check)
        };
        let checks = desired.checks.iter().filter(|(key, check)| check_differs(key, check) && possible(check));
        let checks: Vec<Check> = checks
            .take(if alone || (self.one_by_one && !instances.is_empty()) { 0 } else { limit })
            .take_while(|(_, check)| fits(check, &mut room))
            .map(|(_, check)| check.clone())
            .collect();
        if !node_differs && instances.is_empty() && checks.is_empty() {
            return None;
        }
        let node = Box::new(desired.node.clone());
        let written = Box::new(Node { incarnation: Some(incarnation), ..desired.node.clone() });
        self.in_flight = Some(Effect::Register { node, instances: instances.clone(), checks: checks.clone() });
        // From the moment it is sent it may be there, whatever becomes of the answer.
        if let Some(acknowledged) = &mut self.acknowledged {
            let before = acknowledged.instances.len() + acknowledged.checks.len();
            for instance in &instances {
                acknowledged.instances.insert(instance.key.clone(), None);
            }
            for check in &checks {
                acknowledged.checks.insert(check.key.clone(), None);
            }
            let is_more = acknowledged.instances.len() + acknowledged.checks.len() > before;
            self.version += u64::from(is_more);
        }
        Some(AgentWrite::Register { node: written, instances, checks, incarnation })
    }

    fn update(&mut self, incarnation: Incarnation, now: Duration) -> Option<AgentWrite> {
        let (Some(desired), Some(acknowledged)) = (&self.desired, &self.acknowledged) else { return None };
        let changed = |check: &&Check| {
            let there = acknowledged.checks.get(&check.key).and_then(Option::as_ref);
            there.is_some_and(|there| same_definition(there, check) && there.status != check.status)
        };
        let shown = |key: &CheckKey| acknowledged.checks.get(key).and_then(Option::as_ref).map(|check| check.status);
        let held_until = |check: &Check| self.damping.dwell(&check.key, shown(&check.key)?, now);
        let held = desired.checks.values().filter(changed).filter_map(held_until).min();
        let mut room = BATCH_BYTES_MAX;
        let updates: Vec<CheckUpdate> = desired
            .checks
            .values()
            .filter(changed)
            .filter(|check| held_until(check).is_none())
            .map(|check| CheckUpdate { key: check.key.clone(), status: check.status, output: check.output.clone() })
            .take(UPDATES_MAX)
            .take_while(|update| fits(update, &mut room))
            .collect();
        let pause = self.damping.pause(now);
        if updates.is_empty() || pause.is_some() {
            self.due = if updates.is_empty() { held } else { pause };
            return None;
        }
        self.damping.said(now);
        self.in_flight = Some(Effect::Update(updates.clone()));
        Some(AgentWrite::UpdateChecks { updates, incarnation })
    }

    fn forget_unwanted(&mut self, name: &NodeName, incarnation: Incarnation) -> Option<AgentWrite> {
        let (Some(desired), Some(acknowledged)) = (&self.desired, &self.acknowledged) else { return None };
        let refused = &self.refused_removals;
        let unwanted = |key: &&InstanceKey| {
            !desired.instances.contains_key(key) && !refused.contains(&Removal::Instance(InstanceKey::clone(key)))
        };
        if let Some(key) = acknowledged.instances.keys().find(unwanted).cloned() {
            let target = DeregisterTarget::Instance { namespace: key.namespace.clone(), id: key.id.clone() };
            self.in_flight = Some(Effect::Remove(Removal::Instance(key)));
            return Some(AgentWrite::Deregister { node: name.clone(), target, incarnation });
        }
        let unwanted = |key: &&CheckKey| {
            !desired.checks.contains_key(key) && !refused.contains(&Removal::Check(CheckKey::clone(key)))
        };
        let key = acknowledged.checks.keys().find(unwanted).cloned()?;
        let target = DeregisterTarget::Check { namespace: key.namespace.clone(), id: key.id.clone() };
        self.in_flight = Some(Effect::Remove(Removal::Check(key)));
        Some(AgentWrite::Deregister { node: name.clone(), target, incarnation })
    }

    fn apply(&mut self, effect: Effect) {
        if let Effect::Remove(removal) = &effect {
            if self.removed.len() >= REMOVED_MAX {
                self.removed.pop_first();
            }
            self.removed.insert(removal.clone());
        }
        let acknowledged = self.acknowledged.get_or_insert_default();
        match effect {
            Effect::Register { node, instances, checks } => {
                acknowledged.node = Some(*node);
                acknowledged.instances.extend(instances.into_iter().map(|it| (it.key.clone(), Some(it))));
                acknowledged.checks.extend(checks.into_iter().map(|it| (it.key.clone(), Some(it))));
            }
            Effect::Update(updates) => {
                for update in updates {
                    if let Some(Some(check)) = acknowledged.checks.get_mut(&update.key) {
                        check.status = update.status;
                        check.output = update.output;
                    }
                }
            }
            Effect::Drain => self.has_drained = true,
            Effect::Remove(Removal::Node) => *acknowledged = Acknowledged::default(),
            Effect::Remove(Removal::Instance(key)) => {
                acknowledged.instances.remove(&key);
                // The catalog removes an instance's checks with it; one that is wanted still is written again.
                acknowledged.checks.retain(|_, content| {
                    content.as_ref().is_none_or(|check| check.instance_key().as_ref() != Some(&key))
                });
            }
            Effect::Remove(Removal::Check(key)) => {
                acknowledged.checks.remove(&key);
            }
        }
    }

    /// What a write was about is not there: a removal is as good as done, anything else starts over from the node.
    fn missing(&mut self, effect: Effect, refusal: &Refusal) -> Settled {
        match effect {
            Effect::Remove(_) | Effect::Drain => {
                self.apply(effect);
                Settled::Done
            }
            Effect::Update(updates) => {
                self.write_again(updates);
                let acknowledged = self.acknowledged.get_or_insert_default();
                acknowledged.instances.values_mut().for_each(|content| *content = None);
                Settled::Done
            }
            Effect::Register { .. } => self.refuse(effect, refusal.to_string()),
        }
    }

    /// Forgets what is known of checks, so that they are registered again.
    fn write_again(&mut self, updates: Vec<CheckUpdate>) {
        let acknowledged = self.acknowledged.get_or_insert_default();
        acknowledged.checks.extend(updates.into_iter().map(|update| (update.key, None)));
    }

    fn refuse(&mut self, effect: Effect, error: String) -> Settled {
        let (node, instances, checks) = match effect {
            Effect::Register { node, instances, checks } => (node, instances, checks),
            // Registered again, one by one if need be, it comes out which of the checks the refusal is about.
            Effect::Update(updates) => {
                self.write_again(updates);
                return Settled::Refused(error);
            }
            Effect::Remove(removal) => {
                self.refused_removals.insert(removal);
                return Settled::Refused(error);
            }
            // Servers of an earlier release do not know it; the node is removed all the same.
            Effect::Drain => {
                self.has_drained = true;
                return Settled::Done;
            }
        };
        let is_node_alone = instances.is_empty() && checks.is_empty();
        if !self.one_by_one && !is_node_alone {
            self.one_by_one = true;
            return Settled::Done;
        }
        if is_node_alone {
            self.refused_node = Some(*node);
        }
        self.refused_instances.extend(instances.into_iter().map(|it| (it.key.clone(), it)));
        self.refused_checks.extend(checks.into_iter().map(|it| (it.key.clone(), it)));
        Settled::Refused(error)
    }
}

/// Whether an item still goes into a write that has `room` bytes left; the first one always does.
fn fits(item: &impl Serialize, room: &mut usize) -> bool {
    // What cannot be encoded fails where it is sent, with the reason.
    let length = serde_json::to_vec(item).map_or(0, |encoded| encoded.len());
    let is_first = *room == BATCH_BYTES_MAX;
    *room = room.saturating_sub(length);
    is_first || *room > 0
}

/// Whether two checks differ in nothing but what they say.
fn same_definition(left: &Check, right: &Check) -> bool {
    left.name == right.name && left.notes == right.notes && left.instance == right.instance && left.kind == right.kind
}
