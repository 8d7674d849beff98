//! A node with what is on it, and what each of its checks bears on: how an instance is must not be asked of all checks that
//! its neighbours have.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use crate::{Check, CheckId, CheckStatus, Instance, InstanceId, Namespace, Node};

/// Names an instance on its node.
type InstanceSlot = (Namespace, InstanceId);
/// Names a check on its node.
type CheckSlot = (Namespace, CheckId);

/// Is a node with what is on it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NodeState {
    pub(crate) node: Arc<Node>,
    pub(crate) instances: OrdMap<InstanceSlot, Arc<Instance>>,
    checks: OrdMap<CheckSlot, Arc<Check>>,
    /// The checks of each instance, and under none those of the node itself, which bear on all.
    bearing: OrdMap<Option<InstanceSlot>, Bearing>,
}

/// Is the checks that bear on the same.
#[derive(Debug, Clone, Default, PartialEq)]
struct Bearing {
    checks: OrdSet<CheckSlot>,
    /// How many of them are passing, warning and critical.
    standing: [usize; 3],
}

impl Bearing {
    fn worst(&self) -> Option<CheckStatus> {
        let standing =
            [CheckStatus::Passing, CheckStatus::Warning, CheckStatus::Critical].into_iter().zip(self.standing);
        standing.filter(|(_, count)| *count > 0).map(|(status, _)| status).max()
    }
}

/// Returns what a check bears on: an instance, or the whole node.
fn borne_by(check: &Check) -> Option<InstanceSlot> {
    check.instance.clone().map(|id| (check.key.namespace.clone(), id))
}

impl NodeState {
    /// Returns a node with nothing on it.
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self { node, instances: OrdMap::new(), checks: OrdMap::new(), bearing: OrdMap::new() }
    }

    /// Returns the checks, by namespace and id.
    pub(crate) fn checks(&self) -> &OrdMap<CheckSlot, Arc<Check>> {
        &self.checks
    }

    /// Puts a check in the place of the one of its name.
    pub(crate) fn put_check(&mut self, check: Arc<Check>) {
        let slot = (check.key.namespace.clone(), check.key.id.clone());
        self.remove_check(&slot);
        let bearing = self.bearing.entry(borne_by(&check)).or_default();
        bearing.checks.insert(slot.clone());
        bearing.standing[check.status as usize] += 1;
        self.checks.insert(slot, check);
    }

    /// Takes a check away.
    pub(crate) fn remove_check(&mut self, slot: &CheckSlot) -> Option<Arc<Check>> {
        let check = self.checks.remove(slot)?;
        let whose = borne_by(&check);
        if let Some(bearing) = self.bearing.get_mut(&whose) {
            bearing.checks.remove(slot);
            bearing.standing[check.status as usize] -= 1;
            if bearing.checks.is_empty() {
                self.bearing.remove(&whose);
            }
        }
        Some(check)
    }

    /// Takes the checks of an instance away, and reports whether there were any.
    pub(crate) fn remove_checks_of(&mut self, instance: &InstanceSlot) -> bool {
        let Some(bearing) = self.bearing.remove(&Some(instance.clone())) else { return false };
        for slot in &bearing.checks {
            self.checks.remove(slot);
        }
        true
    }

    /// Returns the checks that bear on an instance, its own and the node's, by namespace and id.
    pub(crate) fn bearing_on(&self, instance: &InstanceSlot) -> Vec<&Check> {
        let slots = self.groups(instance).flat_map(|bearing| bearing.checks.iter());
        let mut checks: Vec<&Check> = slots.filter_map(|slot| self.checks.get(slot)).map(|check| &**check).collect();
        checks.sort_by(|a, b| (&a.key.namespace, &a.key.id).cmp(&(&b.key.namespace, &b.key.id)));
        checks
    }

    /// Returns the worst status that bears on an instance; passing where it has no checks.
    pub(crate) fn health(&self, instance: &InstanceSlot) -> CheckStatus {
        self.groups(instance).filter_map(Bearing::worst).max().unwrap_or(CheckStatus::Passing)
    }

    fn groups(&self, instance: &InstanceSlot) -> impl Iterator<Item = &Bearing> {
        [self.bearing.get(&None), self.bearing.get(&Some(instance.clone()))].into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Owner;
    use crate::catalog::tests::{check, node};

    proptest! {
        /// What is kept beside the checks says what going through all of them would say.
        #[test]
        fn how_an_instance_is_follows_from_the_checks_that_bear_on_it(
            deeds in prop::collection::vec((0u8..6, prop::option::of(0u8..3), 0usize..3, any::<bool>()), 0..60),
        ) {
            let statuses = [CheckStatus::Passing, CheckStatus::Warning, CheckStatus::Critical];
            let mut state = NodeState::new(Arc::new(node("n1", Owner::External)));
            let slot = |id: u8| -> InstanceSlot { (Namespace::default_namespace(), format!("i{id}").parse().unwrap()) };
            for (id, instance, status, stays) in deeds {
                let instance = instance.map(|id| format!("i{id}"));
                let put = check("n1", &format!("c{id}"), instance.as_deref(), statuses[status]);
                if stays {
                    state.put_check(Arc::new(put));
                } else if status == 0 {
                    state.remove_checks_of(&slot(id % 3));
                } else {
                    state.remove_check(&(put.key.namespace.clone(), put.key.id.clone()));
                }
                for at in 0..3 {
                    let bears = |check: &&Arc<Check>| check.instance.as_ref().is_none_or(|id| *id == slot(at).1);
                    let all: Vec<&Check> = state.checks.values().filter(bears).map(|check| &**check).collect();
                    prop_assert_eq!(state.bearing_on(&slot(at)), all.clone());
                    let worst = all.iter().map(|check| check.status).max().unwrap_or(CheckStatus::Passing);
                    prop_assert_eq!(state.health(&slot(at)), worst);
                }
                let mut again = NodeState::new(Arc::clone(&state.node));
                state.checks.values().for_each(|check| again.put_check(Arc::clone(check)));
                prop_assert_eq!(&again, &state, "it is the same whatever it was before");
            }
        }
    }

    #[test]
    fn a_full_nodes_health_is_told_without_going_through_all_its_checks_for_each_instance() {
        let mut state = NodeState::new(Arc::new(node("n1", Owner::External)));
        for id in 0..crate::catalog::NODE_INSTANCES_MAX {
            let (first, second) = (format!("a{id}"), format!("b{id}"));
            let instance = format!("i{id}");
            state.put_check(Arc::new(check("n1", &first, Some(&instance), CheckStatus::Passing)));
            state.put_check(Arc::new(check("n1", &second, Some(&instance), CheckStatus::Warning)));
        }
        // All of each, 2 * 10^8 checks, would take minutes here.
        for id in 0..crate::catalog::NODE_INSTANCES_MAX {
            let slot = (Namespace::default_namespace(), format!("i{id}").parse().unwrap());
            assert_eq!(state.health(&slot), CheckStatus::Warning);
            assert_eq!(state.bearing_on(&slot).len(), 2);
        }
    }
}
