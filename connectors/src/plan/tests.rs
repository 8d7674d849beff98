//! What a plan promises.

use catalog::{CheckKey, CheckStatus, InstanceKey, Namespace, Platform, Weights};
use proptest::prelude::*;

use super::*;

fn name() -> ConnectorName {
    "ecs".parse().unwrap()
}

pub(crate) fn own(node: &str, port: u16, scope: &str) -> ConnectorNode {
    let key = InstanceKey { node: node.parse().unwrap(), namespace: Namespace::default(), id: "i".parse().unwrap() };
    let instance = Instance {
        key,
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
        created: CatalogIndex::default(),
        modified: CatalogIndex::default(),
    };
    let meta = BTreeMap::from([(SCOPE.to_owned(), scope.to_owned())]);
    let node = Node { owner: name().owner(), platform: Platform::Ecs, meta, ..foreign(&node.parse().unwrap()) };
    ConnectorNode { node, instances: vec![instance], checks: Vec::new() }
}

pub(crate) fn check(node: &str, status: CheckStatus) -> Check {
    Check {
        key: CheckKey {
            node: node.parse().unwrap(),
            namespace: Namespace::default(),
            id: "connector:ecs:ready".parse().unwrap(),
        },
        name: "ready".to_owned(),
        status,
        notes: String::new(),
        output: String::new(),
        instance: None,
        kind: String::new(),
        created: CatalogIndex::default(),
        modified: CatalogIndex::default(),
    }
}

fn seen(nodes: impl IntoIterator<Item = ConnectorNode>) -> Sight {
    let nodes = nodes.into_iter().map(|node| (node.node.name.clone(), Wanted::Node(Box::new(node)))).collect();
    Sight { nodes, is_complete: true, ..Sight::default() }
}

fn kept(nodes: impl IntoIterator<Item = ConnectorNode>) -> BTreeMap<NodeName, ConnectorNode> {
    nodes.into_iter().map(|node| (node.node.name.clone(), node)).collect()
}

fn many(range: std::ops::Range<u16>, scope: &str) -> Vec<ConnectorNode> {
    range.map(|number| own(&format!("n{number}"), 80, scope)).collect()
}

fn removals(plan: &Plan) -> usize {
    plan.writes.iter().filter(|write| matches!(write, ConnectorWrite::Remove { .. })).count()
}

#[test]
fn more_than_a_third_at_once_is_held_until_somebody_says_that_it_is_meant() {
    let actual = kept(many(0..100, "a"));
    #[track_caller]
    fn check(actual: &BTreeMap<NodeName, ConnectorNode>, left: u16, confirmed: Option<u64>, want: (usize, usize)) {
        let caution = Caution { confirmed, ..Caution::default() };
        let plan = plan(&name(), &seen(many(0..left, "a")), actual, caution);
        assert_eq!((removals(&plan), plan.held), want);
        assert_eq!(plan.problems(&name()).len(), usize::from(want.1 > 0));
    }
    check(&actual, 70, None, (30, 0));
    check(&actual, 69, None, (0, 31));
    check(&actual, 0, None, (0, 100));
    check(&actual, 0, Some(99), (0, 100));
    check(&actual, 0, Some(100), (100, 0));
    // Of a few, the last may go: that is how a small service is deployed.
    check(&kept(many(0..3, "a")), 0, None, (3, 0));
    check(&kept(many(0..4, "a")), 0, None, (0, 4));
    // What comes and changes goes on meanwhile.
    let plan = plan(&name(), &seen(many(200..210, "a")), &actual, Caution::default());
    assert_eq!((plan.writes.len(), plan.held), (10, 100));
}

#[test]
fn m3_nothing_goes_by_a_listing_that_is_not_whole() {
    let actual = kept(many(0..4, "a").into_iter().chain(many(10..12, "b")));
    let none = Sight { is_complete: false, ..seen([]) };
    let partial = plan(&name(), &none, &actual, Caution::default());
    assert_eq!((partial.writes.len(), partial.unseen, partial.held), (0, 6, 0));
    let blind = Sight { unseen: BTreeSet::from(["a".to_owned()]), ..seen([]) };
    let partial = plan(&name(), &blind, &actual, Caution::default());
    assert_eq!((removals(&partial), partial.unseen), (2, 4), "what is in another part may go");
    let fresh = Sight { is_complete: false, ..seen([own("new", 80, "a")]) };
    assert_eq!(plan(&name(), &fresh, &actual, Caution::default()).writes.len(), 1, "and what is seen comes");
}

#[test]
fn k2_what_the_platform_says_itself_goes_at_once_however_much_it_is() {
    let actual = kept(many(0..10, "a"));
    let ended = many(2..10, "a").into_iter().map(|node| node.node.name).collect();
    let told = Sight { ended, is_complete: false, ..seen(many(0..2, "a")) };
    let plan = plan(&name(), &told, &actual, Caution::default());
    assert_eq!((removals(&plan), plan.held, plan.unseen), (8, 0, 0));
}

#[test]
fn checks_on_the_nodes_of_others_are_set_once_and_removed_with_their_reason() {
    let node: NodeName = "pod-1".parse().unwrap();
    let wants = |status| Sight {
        nodes: BTreeMap::from([(node.clone(), Wanted::Checks(vec![check("pod-1", status)]))]),
        is_complete: true,
        ..Sight::default()
    };
    let mut actual = BTreeMap::new();
    for (sight, want) in [
        (wants(CheckStatus::Critical), 1),
        (wants(CheckStatus::Critical), 0),
        (wants(CheckStatus::Passing), 1),
        (seen([]), 1),
        (seen([]), 0),
    ] {
        let plan = plan(&name(), &sight, &actual, Caution::default());
        assert_eq!(plan.writes.len(), want, "{plan:?}");
        plan.writes.iter().for_each(|write| settle(&mut actual, write));
    }
}

fn nodes() -> impl Strategy<Value = BTreeMap<NodeName, ConnectorNode>> {
    proptest::collection::vec((0u8..9, 1u16..3, 0u64..9, proptest::bool::ANY), 0..10).prop_map(|rows| {
        kept(rows.into_iter().map(|(id, port, modified, scope)| {
            let mut node = own(&format!("n{id}"), port, if scope { "a" } else { "b" });
            node.node.modified = CatalogIndex(modified);
            node.instances[0].created = CatalogIndex(modified);
            node
        }))
    })
}

proptest! {
    #[test]
    fn a_plan_converges_then_rests(desired in nodes(), actual in nodes()) {
        let sight = seen(desired.values().cloned());
        let caution = Caution { share_max: 1.0, ..Caution::default() };
        let first = plan(&name(), &sight, &actual, caution);
        let first_removal = first.writes.iter().position(|write| matches!(write, ConnectorWrite::Remove { .. }));
        let mut state = actual.clone();
        for (at, write) in first.writes.iter().enumerate() {
            if matches!(write, ConnectorWrite::Put { .. }) {
                prop_assert!(first_removal.is_none_or(|first| at < first), "what comes comes first");
            }
            settle(&mut state, write);
        }
        prop_assert_eq!(state.keys().collect::<Vec<_>>(), desired.keys().collect::<Vec<_>>());
        prop_assert!(plan(&name(), &sight, &state, caution).writes.is_empty());
    }
}
