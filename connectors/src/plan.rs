//! The plan that every connector carries out: what to register and what to remove so that the catalog tells the truth.

use std::collections::BTreeMap;

use catalog::{Instance, InstanceKey};

/// Is one step of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Registers an instance, or writes it anew.
    Register(Box<Instance>),
    /// Removes an instance.
    Deregister(InstanceKey),
}

/// Lists the actions that turn `actual` into `desired`: registrations first, then removals, so that a service that moves is
/// never without instances. Acting twice is harmless; a plan for equal sides is empty.
///
/// `actual` holds only what carries the connector's own mark. An observation that failed must not come here as an empty
/// one: it would remove everything.
#[must_use]
pub fn plan(desired: &BTreeMap<InstanceKey, Instance>, actual: &BTreeMap<InstanceKey, Instance>) -> Vec<Action> {
    let register = desired
        .iter()
        .filter(|(key, wanted)| actual.get(*key).is_none_or(|found| !says_the_same(wanted, found)))
        .map(|(_, wanted)| Action::Register(Box::new(wanted.clone())));
    let deregister = actual.keys().filter(|key| !desired.contains_key(*key)).cloned().map(Action::Deregister);
    register.chain(deregister).collect()
}

/// Compares what a platform says of an instance; when the catalog wrote it is the catalog's own matter.
fn says_the_same(wanted: &Instance, found: &Instance) -> bool {
    Instance { created: found.created, modified: found.modified, ..wanted.clone() } == *found
}

#[cfg(test)]
mod tests {
    use catalog::{CatalogIndex, Namespace, Weights};
    use proptest::prelude::*;

    use super::*;

    fn instance(id: u8, port: u16, modified: u64) -> (InstanceKey, Instance) {
        let key = InstanceKey {
            node: "n1".parse().unwrap(),
            namespace: Namespace::default(),
            id: format!("i{id}").parse().unwrap(),
        };
        let instance = Instance {
            key: key.clone(),
            service: "web".parse().unwrap(),
            address: None,
            port,
            ports: BTreeMap::new(),
            mesh_port: None,
            tags: Vec::new(),
            meta: BTreeMap::new(),
            tagged_addresses: BTreeMap::new(),
            weights: Weights::default(),
            enable_tag_override: false,
            upstreams: Vec::new(),
            bypassable: None,
            created: CatalogIndex(1),
            modified: CatalogIndex(modified),
        };
        (key, instance)
    }

    fn instances() -> impl Strategy<Value = BTreeMap<InstanceKey, Instance>> {
        proptest::collection::vec((0u8..6, 1u16..3, 0u64..9), 0..8)
            .prop_map(|rows| rows.into_iter().map(|(id, port, modified)| instance(id, port, modified)).collect())
    }

    proptest! {
        #[test]
        fn a_plan_converges_then_rests(desired in instances(), actual in instances()) {
            let mut state = actual.clone();
            let actions = plan(&desired, &actual);
            let first_removal = actions.iter().position(|action| matches!(action, Action::Deregister(_)));
            for (at, action) in actions.into_iter().enumerate() {
                match action {
                    Action::Register(instance) => {
                        prop_assert!(first_removal.is_none_or(|first| at < first), "registrations come first");
                        state.insert(instance.key.clone(), *instance);
                    }
                    Action::Deregister(key) => { state.remove(&key); }
                }
            }
            prop_assert_eq!(state.keys().collect::<Vec<_>>(), desired.keys().collect::<Vec<_>>());
            prop_assert!(plan(&desired, &state).is_empty());
        }
    }
}
