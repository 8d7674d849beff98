//! What is remembered of changes: no more than there is to watch, whatever peers call things.

use super::*;

/// Registers the agent's node in a network, with an instance of `web`.
fn on(record: &AgentRecord, network: &str, incarnation: u64) -> Command {
    let owner = Owner::Agent(record.id.clone());
    let node = Node { network: network.to_owned(), ..node("n1", owner) };
    register(node, vec![instance("n1", "web", "web-1")], vec![], Some(incarnation))
}

fn networks(log: &Log) -> Vec<String> {
    let keys = log.catalog.watch_keys();
    keys.filter_map(|key| if let WatchKey::Network(network) = key { Some(network.clone()) } else { None }).collect()
}

#[test]
fn an_agent_that_thinks_of_ever_new_networks_leaves_nothing_of_the_old_ones() {
    let mut log = Log::default();
    log.done(Command::CreateJoinToken { token: join_token(1, &["web"]) });
    let record = log.enrol(1, "key-a", "n1");
    let Outcome::SessionOpened { incarnation } = log.apply(open(&record.id)).outcome else { panic!("no session") };
    log.done(on(&record, "net-0", incarnation.0));
    let known = log.catalog.watch_keys().count();
    for number in 1..200 {
        let touched = log.done(on(&record, &format!("net-{number}"), incarnation.0));
        let before = WatchKey::Network(format!("net-{}", number - 1));
        assert!(touched.contains(&before), "whoever watches the old one is woken");
        assert_eq!(log.catalog.index_of(&[before]), log.catalog.index(), "and sees that it has changed");
    }
    assert_eq!(networks(&log), ["net-199"]);
    assert_eq!(log.catalog.watch_keys().count(), known);
    // Another node in the same network keeps it.
    let beside = Node { network: "net-199".to_owned(), ..node("n2", Owner::External) };
    log.done(register(beside, vec![instance("n2", "web", "web-2")], vec![], None));
    log.done(on(&record, "", incarnation.0));
    assert_eq!(networks(&log), ["", "net-199"]);
    let leaves = |name: &str| Command::Deregister {
        node: name.parse().unwrap(),
        target: DeregisterTarget::Node,
        incarnation: None,
    };
    log.done(leaves("n2"));
    assert_eq!(networks(&log), [""]);
    assert_eq!(Catalog::restore(&log.catalog.snapshot()).unwrap(), log.catalog);
}

#[test]
fn a_namespace_without_services_is_forgotten_and_its_watchers_are_woken() {
    let mut log = Log::default();
    let key = |namespace: &str| WatchKey::Services(namespace.parse().unwrap());
    for number in 0..50 {
        let id = format!("web-{number}");
        let mut one = instance("outside", "web", &id);
        one.key.namespace = format!("team-{number}").parse().unwrap();
        log.done(register(node("outside", Owner::External), vec![one.clone()], vec![], None));
        let target = DeregisterTarget::Instance { namespace: one.key.namespace.clone(), id: one.key.id.clone() };
        let gone = Command::Deregister { node: "outside".parse().unwrap(), target, incarnation: None };
        let touched = log.done(gone);
        assert!(touched.contains(&key(&format!("team-{number}"))));
        assert_eq!(log.catalog.index_of(&[key(&format!("team-{number}"))]), log.catalog.index());
    }
    let kept = log.catalog.watch_keys().filter(|key| matches!(key, WatchKey::Services(_))).count();
    assert_eq!(kept, 0);
    for (id, service) in [("a", "web"), ("b", "api")] {
        log.done(register(node("outside", Owner::External), vec![instance("outside", service, id)], vec![], None));
    }
    let target = DeregisterTarget::Instance { namespace: Namespace::default(), id: "a".parse().unwrap() };
    log.done(Command::Deregister { node: "outside".parse().unwrap(), target, incarnation: None });
    assert!(log.catalog.watch_keys().any(|held| *held == key("default")), "`api` is still there");
}

#[test]
fn a_node_that_changes_its_network_and_what_it_serves_at_once_leaves_nothing_behind() {
    let mut log = Log::default();
    let serves = |network: &str, service: &str| {
        let node = Node { network: network.to_owned(), ..node("outside", Owner::External) };
        register(node, vec![instance("outside", service, "one")], vec![], None)
    };
    log.done(serves("", "web"));
    let touched = log.done(serves("aws", "api"));
    assert!(touched.contains(&WatchKey::Network(String::new())) && touched.contains(&WatchKey::Network("aws".into())));
    assert_eq!(networks(&log), ["aws"]);
}
