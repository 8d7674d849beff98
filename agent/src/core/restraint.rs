//! What was told of what decides calls, and is not settled yet: it forbids at once, and allows nothing before it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use catalog::{Item, MeshItem, Policy, Topic};

use super::publish::{intentions, mesh_of};
use crate::sync::{TopicState, View};

/// Returns the rules that a topic holds: those of `view`, restrained by those of `restraint`, unless there is none.
pub(super) fn policy_of(topic: &Topic, mesh: &MeshItem, view: &View, restraint: &View) -> Option<Policy> {
    let (told, rules) = (restraint.get(topic), view.get(topic)?);
    let policy = rules_of(mesh, rules);
    if restraint.is_empty() {
        return Some(policy);
    }
    let told = match mesh_of(restraint) {
        Some(mesh) => rules_of(&mesh, told.unwrap_or(rules)),
        None => rules_of(mesh, told.unwrap_or(rules)),
    };
    Some(if told == policy { policy } else { policy.restrained_by(told) })
}

fn rules_of(mesh: &MeshItem, rules: &TopicState) -> Policy {
    Policy::new(mesh.default_action, mesh.guardrails.clone(), intentions(rules))
        .with_audit(mesh.audit.clone(), mesh.relaxations.clone())
}

/// Returns what both revoke: whatever is revoked by one of them is.
pub(super) fn both_revocations(one: &Arc<TopicState>, other: Option<&Arc<TopicState>>) -> Arc<TopicState> {
    let Some(other) = other.filter(|other| other.items != one.items) else { return Arc::clone(one) };
    let mut items = one.items.clone();
    for (key, item) in &other.items {
        match (items.get_mut(key), item) {
            (Some(Item::RevokedService { below, .. }), Item::RevokedService { below: told, .. }) => {
                *below = (*below).max(*told);
            }
            _ => drop(items.insert(key.clone(), item.clone())),
        }
    }
    Arc::new(TopicState { index: one.index, items })
}

/// Returns the entry of the mesh whose demands on connections are the stricter ones.
pub(super) fn stricter(mut mesh: MeshItem, restraint: &View) -> MeshItem {
    if let Some(told) = mesh_of(restraint) {
        mesh.min_key_exchange = mesh.min_key_exchange.max(told.min_key_exchange);
        mesh.mesh_destinations_only |= told.mesh_destinations_only;
        mesh.allows_permissive &= told.allows_permissive;
    }
    mesh
}

/// Returns the topics that say who may call, with what they say.
pub(super) fn rules(view: &View) -> BTreeMap<&Topic, &BTreeMap<String, Item>> {
    let is_rule = |topic: &Topic| matches!(topic, Topic::Mesh | Topic::Revocations | Topic::Intentions(_));
    view.iter().filter(|(topic, _)| is_rule(topic)).map(|(topic, state)| (topic, &state.items)).collect()
}

#[cfg(test)]
mod tests {
    use catalog::{Action, Caller, CatalogIndex, Decision, Intention, KeyExchange, ServiceKey, Timestamp, authorize};

    use super::*;
    use crate::testing::TestMesh;

    fn topic(index: u64, items: Vec<(String, Item)>) -> Arc<TopicState> {
        Arc::new(TopicState { index: CatalogIndex(index), items: items.into_iter().collect() })
    }

    fn view(default_action: Action, rules: &[&str]) -> (MeshItem, View) {
        let mesh = MeshItem { default_action, ..TestMesh::new().item };
        let rules = rules.iter().map(|rule| {
            let words: Vec<&str> = rule.split(' ').collect();
            let intention =
                Intention::new(words[1].parse().unwrap(), "api".parse().unwrap(), words[0].parse().unwrap());
            (intention.key().to_string(), Item::Intention(Box::new(intention)))
        });
        let rules = topic(7, rules.collect());
        let entry = topic(5, vec![("mesh".to_owned(), Item::Mesh(Box::new(mesh.clone())))]);
        (mesh, View::from([(Topic::Mesh, entry), (Topic::Intentions("api".parse().unwrap()), rules)]))
    }

    #[track_caller]
    fn check(in_force: &(MeshItem, View), restraint: &View, caller: &str, want: Decision) {
        let api: ServiceKey = "api".parse().unwrap();
        let topic = Topic::Intentions(api.clone());
        let policy = policy_of(&topic, &in_force.0, &in_force.1, restraint).unwrap();
        let caller = Caller::Service(caller.parse().unwrap());
        assert_eq!(authorize(&policy, &caller, &api, Timestamp(0)).decision, want, "{caller}");
    }

    #[test]
    fn p5_what_is_not_settled_forbids_and_allows_nothing() {
        let before = view(Action::Deny, &["allow web"]);
        check(&before, &View::new(), "web", Decision::Allow);
        // The new default is here, and the deny that came with it is not: nobody but who was allowed is.
        let half = view(Action::Allow, &["allow web"]).1;
        check(&before, &half, "web", Decision::Allow);
        check(&before, &half, "shop", Decision::Deny);
        // The new rules are here: whom they deny is denied, whom they allow is not allowed yet.
        let other_half = view(Action::Deny, &["deny web", "allow shop"]).1;
        check(&before, &other_half, "web", Decision::Deny);
        check(&before, &other_half, "shop", Decision::Deny);
        // What was told of the entry alone counts beside the rules that are in force.
        let mut only_mesh = view(Action::Deny, &[]).1;
        only_mesh.retain(|topic, _| *topic == Topic::Mesh);
        check(&before, &only_mesh, "web", Decision::Allow);
        check(&view(Action::Allow, &[]), &only_mesh, "web", Decision::Deny);
    }

    #[test]
    fn c14_p5_what_is_revoked_is_refused_before_it_is_settled() {
        let record = |index| (format!("a{index}"), Item::RevokedRecord { enrolled: CatalogIndex(index) });
        let service = |below| {
            let item = Item::RevokedService { service: "web".parse().unwrap(), below: CatalogIndex(below) };
            ("service:default/web".to_owned(), item)
        };
        let one = topic(7, vec![record(1), service(9)]);
        assert!(Arc::ptr_eq(&both_revocations(&one, None), &one));
        let other = topic(8, vec![record(2), service(5)]);
        let both = both_revocations(&one, Some(&other));
        let wanted: BTreeMap<String, Item> = [record(1), record(2), service(9)].into_iter().collect();
        assert_eq!((both.index, &both.items), (one.index, &wanted));
    }

    #[test]
    fn p5_the_stricter_key_exchange_counts() {
        let (mesh, lax) = view(Action::Deny, &[]);
        let mut strict = view(Action::Deny, &[]).0;
        strict.min_key_exchange = KeyExchange::Hybrid;
        assert_eq!(stricter(strict.clone(), &lax).min_key_exchange, KeyExchange::Hybrid);
        let told = View::from([(Topic::Mesh, topic(6, vec![("mesh".to_owned(), Item::Mesh(Box::new(strict)))]))]);
        assert_eq!(stricter(mesh.clone(), &told).min_key_exchange, KeyExchange::Hybrid);
        assert_eq!(stricter(mesh, &View::new()).min_key_exchange, KeyExchange::Classical);
    }
}
