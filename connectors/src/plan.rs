//! The plan that every connector carries out: what to write so that the catalog tells the truth, and what to leave for now.

use std::collections::{BTreeMap, BTreeSet};

use catalog::{
    CatalogIndex, Check, ConnectorName, ConnectorNode, ConnectorProblem, ConnectorWrite, Instance, Node, NodeName,
    Owner, ProblemKind,
};

/// The key of a node's meta that says which part of the platform it was seen in; what is in a part that cannot be seen just
/// now is not removed.
pub const SCOPE: &str = "weft-scope";

/// Is what a connector wants of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// A node of its own, with everything on it.
    Node(Box<ConnectorNode>),
    /// Its checks on a node that somebody else holds.
    Checks(Vec<Check>),
}

/// Is what a connector sees of its platform at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sight {
    /// What there should be, by node.
    pub nodes: BTreeMap<NodeName, Wanted>,
    /// Whether that is all there is. Where a listing failed or ended early it is not, and nothing is removed.
    pub is_complete: bool,
    /// The parts of the platform that could not be seen, by the value of [`SCOPE`]; nothing in them is removed.
    pub unseen: BTreeSet<String>,
    /// The nodes whose end the platform told of by itself: they go whatever else is unseen, and however many they are.
    pub ended: BTreeSet<NodeName>,
    /// What keeps the connector from seeing or writing something, besides what the plan itself finds.
    pub problems: Vec<ConnectorProblem>,
}

/// Says when so much would be removed at once that it is rather a mistake.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Caution {
    /// The share of a connector's nodes that may go at once.
    pub share_max: f64,
    /// As many may always go.
    pub least: usize,
    /// How many an operator lets go at once; none while nobody said so.
    pub confirmed: Option<u64>,
}

impl Default for Caution {
    fn default() -> Self {
        Self { share_max: 0.3, least: 3, confirmed: None }
    }
}

/// Is what to do, in order, and what is left for now.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// What to write: first what comes or changes, then what goes, so that a service that moves is never without instances.
    pub writes: Vec<ConnectorWrite>,
    /// How many nodes would go, and stay until somebody says that it is meant.
    pub held: usize,
    /// How many nodes would go, and stay because the place where they were cannot be seen.
    pub unseen: usize,
}

impl Plan {
    /// Tells what is left for now, for people.
    #[must_use]
    pub fn problems(&self, name: &ConnectorName) -> Vec<ConnectorProblem> {
        let held = (self.held > 0).then(|| ConnectorProblem {
            kind: ProblemKind::Held,
            subject: format!("{} nodes", self.held),
            reason: format!(
                "the platform has them no more, and so many at once may be a mistake: \
                 `weft connector confirm {name} --removals {}` lets them go",
                self.held
            ),
        });
        held.into_iter().collect()
    }
}

/// Returns what turns `actual` into what is seen. Acting twice is harmless; a plan for equal sides is empty.
///
/// `actual` holds what carries the connector's own mark, as the catalog has it.
#[must_use]
pub fn plan(name: &ConnectorName, sight: &Sight, actual: &BTreeMap<NodeName, ConnectorNode>, caution: Caution) -> Plan {
    let owner = name.owner();
    let mut writes: Vec<ConnectorWrite> =
        sight.nodes.iter().filter_map(|(node, wanted)| change(node, wanted, actual.get(node), &owner)).collect();
    let gone = actual.iter().filter(|(node, _)| !sight.nodes.contains_key(*node));
    let is_visible = |held: &ConnectorNode| {
        sight.is_complete && held.node.meta.get(SCOPE).is_none_or(|part| !sight.unseen.contains(part))
    };
    let (ended, gone): (Vec<_>, Vec<_>) =
        gone.partition(|(node, held)| held.node.owner == owner && sight.ended.contains(*node));
    let (seen, unseen): (Vec<_>, Vec<_>) = gone.into_iter().partition(|(_, held)| is_visible(held));
    let (own, checks): (Vec<_>, Vec<_>) = seen.into_iter().partition(|(_, held)| held.node.owner == owner);
    // Nobody is cut off by a check that goes.
    writes.extend(checks.into_iter().map(|(node, _)| ConnectorWrite::Checks { node: node.clone(), checks: vec![] }));
    writes.extend(ended.into_iter().map(|(node, _)| ConnectorWrite::Remove { node: node.clone() }));
    let kept = actual.values().filter(|held| held.node.owner == owner).count();
    let mut plan = Plan { writes, held: 0, unseen: unseen.len() };
    if is_rash(own.len(), kept, caution) {
        plan.held = own.len();
    } else {
        plan.writes.extend(own.into_iter().map(|(node, _)| ConnectorWrite::Remove { node: node.clone() }));
    }
    plan
}

pub(crate) fn is_rash(removals: usize, kept: usize, caution: Caution) -> bool {
    let is_confirmed = caution.confirmed.is_some_and(|confirmed| removals as u64 <= confirmed);
    #[expect(clippy::cast_precision_loss, reason = "a share of a count of nodes, far below 2^52")]
    let share = removals as f64 / kept.max(1) as f64;
    removals > caution.least && share > caution.share_max && !is_confirmed
}

/// Returns what to write of one node; none where it says the same already.
fn change(node: &NodeName, wanted: &Wanted, actual: Option<&ConnectorNode>, owner: &Owner) -> Option<ConnectorWrite> {
    match wanted {
        Wanted::Node(wanted) => {
            let same = actual
                .is_some_and(|held| held.node.owner == *owner && without_indexes(held) == without_indexes(wanted));
            (!same).then(|| ConnectorWrite::Put { node: wanted.clone() })
        }
        Wanted::Checks(wanted) => {
            let held = actual.map(|held| sorted(&held.checks)).unwrap_or_default();
            (held != sorted(wanted)).then(|| ConnectorWrite::Checks { node: node.clone(), checks: wanted.clone() })
        }
    }
}

/// What a platform says of a node; when the catalog wrote it is the catalog's own matter, and so is the order.
fn without_indexes(node: &ConnectorNode) -> ConnectorNode {
    let none = CatalogIndex::default();
    let mut instances: Vec<Instance> =
        node.instances.iter().map(|one| Instance { created: none, modified: none, ..one.clone() }).collect();
    instances.sort_by(|a, b| a.key.cmp(&b.key));
    let checks = sorted(&node.checks).into_values().collect();
    ConnectorNode { node: Node { created: none, modified: none, ..node.node.clone() }, instances, checks }
}

fn sorted(checks: &[Check]) -> BTreeMap<catalog::CheckKey, Check> {
    let none = CatalogIndex::default();
    let bare = |check: &Check| Check { created: none, modified: none, ..check.clone() };
    checks.iter().map(|check| (check.key.clone(), bare(check))).collect()
}

/// Notes what a write has done to what the connector keeps, so that it need not be read again.
pub fn settle(actual: &mut BTreeMap<NodeName, ConnectorNode>, write: &ConnectorWrite) {
    match write {
        ConnectorWrite::Put { node } => {
            actual.insert(node.node.name.clone(), (**node).clone());
        }
        ConnectorWrite::Remove { node } => {
            actual.remove(node);
        }
        ConnectorWrite::Checks { node, checks } if checks.is_empty() => {
            actual.remove(node);
        }
        ConnectorWrite::Checks { node, checks } => {
            // Only its checks bear on the plan; the rest is its owner's.
            let held = actual.entry(node.clone()).or_insert_with(|| ConnectorNode {
                node: foreign(node),
                instances: Vec::new(),
                checks: Vec::new(),
            });
            held.checks.clone_from(checks);
        }
    }
}

fn foreign(name: &NodeName) -> Node {
    Node {
        name: name.clone(),
        id: None,
        address: String::new(),
        platform: catalog::Platform::Vm,
        zone: None,
        network: String::new(),
        gateway_port: None,
        owner: Owner::External,
        incarnation: None,
        meta: BTreeMap::new(),
        tagged_addresses: BTreeMap::new(),
        created: CatalogIndex::default(),
        modified: CatalogIndex::default(),
    }
}

#[cfg(test)]
pub(crate) mod tests;
