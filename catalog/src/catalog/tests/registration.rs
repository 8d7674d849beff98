//! What is registered: checks, health, and who wakes for them.

use super::*;

#[test]
fn a_check_of_an_instance_that_is_not_there_is_refused() {
    let mut log = Log::default();
    let checks = vec![check("n1", "c", Some("web-1"), CheckStatus::Passing)];
    let refusal = log.refused(register(node("n1", Owner::External), vec![], checks.clone(), None));
    assert_eq!(refusal.kind(), RefusalKind::NotFound);
    log.done(register(node("n1", Owner::External), vec![instance("n1", "web", "web-1")], checks, None));
}

#[test]
fn a_watcher_wakes_only_for_what_it_read() {
    let mut log = Log::default();
    log.done(register(node("n1", Owner::External), vec![instance("n1", "web", "web-1")], vec![], None));
    let touched = log.done(register(node("n2", Owner::External), vec![instance("n2", "api", "api-1")], vec![], None));
    assert!(touched.contains(&WatchKey::Service("api".parse().unwrap())));
    assert!(!touched.contains(&WatchKey::Service("web".parse().unwrap())));
    assert_eq!(log.catalog.index_of(&[WatchKey::Service("web".parse().unwrap())]), CatalogIndex(1));
    let same = register(node("n2", Owner::External), vec![instance("n2", "api", "api-1")], vec![], None);
    assert!(log.done(same).is_empty(), "what changes nothing wakes nobody");
}

#[test]
fn the_worst_check_of_instance_and_node_is_its_health() {
    let mut log = Log::default();
    let checks = vec![
        check("n1", "own", Some("web-1"), CheckStatus::Passing),
        check("n1", "other", Some("web-2"), CheckStatus::Critical),
        check("n1", "node", None, CheckStatus::Warning),
    ];
    let instances = vec![instance("n1", "web", "web-1"), instance("n1", "web", "web-2")];
    log.done(register(node("n1", Owner::External), instances, checks, None));
    let health = |log: &Log, id: &str| log.catalog.health(&instance("n1", "web", id).key);
    assert_eq!((health(&log, "web-1"), health(&log, "web-2")), (CheckStatus::Warning, CheckStatus::Critical));
    let update = CheckUpdate {
        key: check("n1", "node", None, CheckStatus::Passing).key,
        status: CheckStatus::Passing,
        output: "ok".to_owned(),
    };
    let touched = log.done(Command::UpdateChecks { updates: vec![update], incarnation: None });
    assert!(touched.contains(&WatchKey::Service("web".parse().unwrap())));
    assert_eq!(health(&log, "web-1"), CheckStatus::Passing);
    let target = DeregisterTarget::Instance { namespace: Namespace::default(), id: "web-2".parse().unwrap() };
    log.done(Command::Deregister { node: "n1".parse().unwrap(), target, incarnation: None });
    assert_eq!(log.catalog.checks().count(), 2, "an instance takes its checks with it");
}

#[test]
fn a_registration_that_keeps_the_node_needs_no_address_of_it() {
    let mut log = Log::default();
    let keeping = || Command::Register {
        node: Box::new(Node { address: String::new(), ..node("n1", Owner::External) }),
        instances: vec![instance("n1", "web", "w")],
        checks: vec![],
        skip_node_update: true,
        incarnation: None,
    };
    assert_eq!(log.refused(keeping()).kind(), RefusalKind::NotFound);
    log.done(register(node("n1", Owner::External), vec![], vec![], None));
    log.done(keeping());
    assert_eq!(log.catalog.node(&"n1".parse().unwrap()).unwrap().address, "10.0.0.1");
}
