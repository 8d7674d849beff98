//! One process runs a connector at a time, and it writes what is its own.

use proptest::prelude::*;

use crate::catalog::tests::{Log, check, instance, join_token, node, open, register};
use crate::{
    Authority, Check, CheckStatus, Command, ConnectorChange, ConnectorName, ConnectorNode, ConnectorProblem,
    ConnectorStatus, ConnectorWrite, DeregisterTarget, Incarnation, Node, Outcome, Owner, Platform, ProblemKind,
    Refusal, WatchKey,
};

fn name(text: &str) -> ConnectorName {
    text.parse().unwrap()
}

fn command(change: ConnectorChange) -> Command {
    Command::Connector { change }
}

fn acquire(connector: &str, holder: &str) -> Command {
    let (kind, holder) = ("aws".to_owned(), holder.to_owned());
    command(ConnectorChange::Acquire { name: name(connector), kind, holder, lasts_ms: 10_000 })
}

fn renew(connector: &str, term: u64, status: Option<ConnectorStatus>) -> Command {
    let (term, status) = (Incarnation(term), status.map(Box::new));
    command(ConnectorChange::Renew { name: name(connector), term, lasts_ms: 10_000, status })
}

fn release(connector: &str, term: u64) -> Command {
    command(ConnectorChange::Release { name: name(connector), term: Incarnation(term) })
}

fn write(connector: &str, term: u64, shares: &[&str], writes: Vec<ConnectorWrite>) -> Command {
    let shares = shares.iter().map(|text| text.parse().unwrap()).collect();
    command(ConnectorChange::Write { name: name(connector), term: Incarnation(term), shares, writes })
}

fn put(connector: &str, on: &str, services: &[&str], checks: Vec<Check>) -> ConnectorWrite {
    let node = Node { platform: Platform::Ecs, ..node(on, name(connector).owner()) };
    let instances = services.iter().map(|service| instance(on, service, &format!("{on}-{service}"))).collect();
    ConnectorWrite::Put { node: Box::new(ConnectorNode { node, instances, checks }) }
}

fn remove(on: &str) -> ConnectorWrite {
    ConnectorWrite::Remove { node: on.parse().unwrap() }
}

fn checks(on: &str, checks: Vec<Check>) -> ConnectorWrite {
    ConnectorWrite::Checks { node: on.parse().unwrap(), checks }
}

/// One of each kind, in an order in which they take effect from the index that follows `reached`.
pub(in crate::catalog) fn every_change(reached: u64) -> Vec<Command> {
    let term = reached + 1;
    let problem =
        ConnectorProblem { kind: ProblemKind::Held, subject: "12 nodes".to_owned(), reason: "too many".to_owned() };
    let status = ConnectorStatus { nodes: 1, problems: vec![problem], ..ConnectorStatus::default() };
    let seen = check("task-1", "health", Some("task-1-orders"), CheckStatus::Passing);
    let writes = vec![put("ecs", "task-1", &["orders"], vec![seen]), remove("task-9"), checks("nowhere", vec![])];
    vec![
        acquire("ecs", "p1"),
        renew("ecs", term, Some(status)),
        write("ecs", term, &["shop/*"], writes),
        command(ConnectorChange::Confirm { name: name("ecs"), removals: 12 }),
        release("ecs", term),
        acquire("other", "p1"),
        release("other", term + 5),
        command(ConnectorChange::Forget { name: name("other") }),
    ]
}

/// Random changes of two connectors by two processes, so that they meet.
pub(in crate::catalog) fn any_change() -> impl Strategy<Value = Command> {
    let connector = || prop_oneof![Just("ecs"), Just("k8s")];
    let on = || (0u8..3).prop_map(|number| format!("n{number}"));
    prop_oneof![
        (connector(), 0u8..2).prop_map(|(connector, holder)| acquire(connector, &format!("p{holder}"))),
        (connector(), 1u64..40).prop_map(|(connector, term)| renew(connector, term, None)),
        (connector(), 1u64..40).prop_map(|(connector, term)| release(connector, term)),
        connector().prop_map(|connector| command(ConnectorChange::Forget { name: name(connector) })),
        (connector(), 1u64..40, on(), 0u8..4, 0u8..3).prop_map(|(connector, term, on, what, service)| {
            let service = format!("s{service}");
            let own = check(&on, "seen", None, CheckStatus::Critical);
            let on_other = check(&on, &format!("connector:{connector}:seen"), None, CheckStatus::Warning);
            let one = match what {
                0 => put(connector, &on, &[&service], vec![own]),
                1 => put(connector, &on, &[], vec![]),
                2 => checks(&on, vec![on_other]),
                _ => remove(&on),
            };
            write(connector, term, &["*/*"], vec![one])
        }),
    ]
}

fn granted(log: &mut Log, connector: &str, holder: &str) -> u64 {
    match log.apply(acquire(connector, holder)).outcome {
        Outcome::LeaseGranted { term } => term.0,
        other => panic!("{other:?}"),
    }
}

/// Writes, and returns why what was refused.
fn written(log: &mut Log, command: Command) -> Vec<String> {
    match log.apply(command).outcome {
        Outcome::Written { refused } => {
            refused.into_iter().map(|one| format!("{}: {}", one.node, one.reason)).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn settled(log: &mut Log, command: Command) {
    assert_eq!(written(log, command), [""; 0]);
}

/// Lets the time inside the commands, of which each is a millisecond after the one before, go by.
fn later(log: &mut Log, milliseconds: u64) {
    log.catalog.clock = log.catalog.clock.saturating_add(std::time::Duration::from_millis(milliseconds));
}

#[test]
fn one_process_runs_a_connector_and_the_next_waits_until_the_lease_ends_or_is_given_back() {
    let mut log = Log::default();
    let term = granted(&mut log, "ecs", "p1");
    assert!(matches!(log.refused(acquire("ecs", "p2")), Refusal::LeaseHeld { .. }));
    assert!(granted(&mut log, "k8s", "p2") > 0, "another connector is another lease");
    later(&mut log, 9_000);
    assert!(matches!(log.refused(acquire("ecs", "p2")), Refusal::LeaseHeld { .. }));
    log.apply(renew("ecs", term, None));
    later(&mut log, 9_000);
    assert!(matches!(log.refused(acquire("ecs", "p2")), Refusal::LeaseHeld { .. }), "it was renewed");
    later(&mut log, 2_000);
    let next = granted(&mut log, "ecs", "p2");
    assert!(next > term);
    log.done(release("ecs", next));
    assert!(granted(&mut log, "ecs", "p1") > next, "and one that was given back is free at once");
}

#[test]
fn whoever_has_lost_the_lease_writes_nothing_any_more() {
    let mut log = Log::default();
    let old = granted(&mut log, "ecs", "p1");
    later(&mut log, 11_000);
    assert!(
        written(&mut log, write("ecs", old, &[], vec![put("ecs", "t1", &["api"], vec![])])).is_empty(),
        "nobody else has asked: the one that had it last is the only one"
    );
    let new = granted(&mut log, "ecs", "p2");
    for late in [write("ecs", old, &[], vec![remove("t1")]), renew("ecs", old, None), release("ecs", old)] {
        assert!(matches!(log.refused(late), Refusal::LeaseOver { .. }));
    }
    log.done(release("ecs", new));
    assert!(matches!(log.refused(write("ecs", new, &[], vec![])), Refusal::LeaseOver { .. }), "nor who gave it back");
    assert_eq!(log.catalog.nodes_of_connector(&name("ecs")).count(), 1);
}

#[test]
fn m2_a_connector_writes_no_node_and_joins_no_service_of_somebody_else() {
    let mut log = Log::default();
    log.done(register(node("outside", Owner::External), vec![instance("outside", "api", "a")], vec![], None));
    log.done(Command::CreateJoinToken { token: join_token(1, &["web"]) });
    log.enrol(1, "key", "vm-1");
    let term = granted(&mut log, "ecs", "p1");
    let other = granted(&mut log, "k8s", "p1");
    settled(&mut log, write("k8s", other, &[], vec![put("k8s", "pod-1", &["cart"], vec![])]));
    let refused = written(
        &mut log,
        write(
            "ecs",
            term,
            &[],
            vec![
                put("ecs", "outside", &["orders"], vec![]),
                put("ecs", "vm-1", &["orders"], vec![]),
                put("ecs", "pod-1", &["orders"], vec![]),
                put("ecs", "t1", &["api"], vec![]),
                put("ecs", "t2", &["orders"], vec![]),
                remove("pod-2"),
            ],
        ),
    );
    let whose: Vec<&str> = refused.iter().map(String::as_str).collect();
    assert_eq!(whose.len(), 4, "{whose:?}");
    assert!(whose[0].starts_with("outside: node `outside` belongs to external"), "{whose:?}");
    assert!(whose[1].contains("belongs to agent:"), "an agent may hold a node that it has not registered: {whose:?}");
    assert!(whose[2].contains("belongs to connector:k8s"), "{whose:?}");
    assert!(whose[3].contains("service `default/api` is served by external already"), "{whose:?}");
    let kept: Vec<String> =
        log.catalog.nodes_of_connector(&name("ecs")).map(|node| node.node.name.to_string()).collect();
    assert_eq!(kept, ["t2"], "and the rest is done");
    // Where the operator says that both are one service, they are.
    settled(&mut log, write("ecs", term, &["api"], vec![put("ecs", "t1", &["api"], vec![])]));
    assert!(matches!(
        log.refused(register(node("t1", Owner::External), vec![], vec![], None)),
        Refusal::NotOwner { .. }
    ));
}

#[test]
fn a_node_becomes_what_the_connector_says_and_what_is_not_said_goes() {
    let mut log = Log::default();
    let term = granted(&mut log, "ecs", "p1");
    let bad = check("t1", "health", Some("t1-api"), CheckStatus::Critical);
    settled(&mut log, write("ecs", term, &[], vec![put("ecs", "t1", &["api", "web"], vec![bad.clone()])]));
    let api = instance("t1", "api", "t1-api").key;
    assert_eq!(log.catalog.health(&api), CheckStatus::Critical);
    let touched = log.apply(write("ecs", term, &[], vec![put("ecs", "t1", &["api"], vec![])])).touched;
    assert_eq!(log.catalog.instances_on(&"t1".parse().unwrap()).count(), 1);
    assert_eq!(log.catalog.health(&api), CheckStatus::Passing);
    for service in ["api", "web"] {
        assert!(touched.contains(&WatchKey::Service(service.parse().unwrap())), "{service}");
    }
    let again = log.apply(write("ecs", term, &[], vec![put("ecs", "t1", &["api"], vec![])])).touched;
    assert!(again.is_empty(), "saying it twice changes nothing: {again:?}");
}

#[test]
fn a_connectors_checks_on_the_node_of_an_agent_bear_on_its_health_and_nobody_else_writes_them() {
    let mut log = Log::default();
    log.done(Command::CreateJoinToken { token: join_token(1, &["web"]) });
    let record = log.enrol(1, "key", "pod-1");
    let Outcome::SessionOpened { incarnation } = log.apply(open(&record.id)).outcome else { panic!() };
    let by_agent = |checks| {
        let node = node("pod-1", Owner::Agent(record.id.clone()));
        register(node, vec![instance("pod-1", "web", "w")], checks, Some(incarnation.0))
    };
    log.done(by_agent(vec![]));
    let term = granted(&mut log, "k8s", "p1");
    let ready = |status| check("pod-1", "connector:k8s:ready", None, status);
    settled(&mut log, write("k8s", term, &[], vec![checks("pod-1", vec![ready(CheckStatus::Critical)])]));
    let web = instance("pod-1", "web", "w").key;
    assert_eq!(log.catalog.health(&web), CheckStatus::Critical);
    log.done(by_agent(vec![]));
    assert_eq!(log.catalog.health(&web), CheckStatus::Critical, "what the agent registers anew leaves it");
    let forged = by_agent(vec![ready(CheckStatus::Passing)]);
    assert!(forged.validate().is_err(), "{forged:?}");
    let target =
        DeregisterTarget::Check { namespace: crate::Namespace::default(), id: "connector:k8s:ready".parse().unwrap() };
    let removes = Command::Deregister { node: "pod-1".parse().unwrap(), target, incarnation: Some(incarnation) };
    assert!(removes.validate().is_err());
    let foreign = checks("pod-1", vec![check("pod-1", "connector:ecs:ready", None, CheckStatus::Passing)]);
    assert!(write("k8s", term, &[], vec![foreign]).validate().is_err(), "nor another connector");
    assert_eq!(log.catalog.nodes_of_connector(&name("k8s")).count(), 1);
    settled(&mut log, write("k8s", term, &[], vec![checks("pod-1", vec![])]));
    assert_eq!(log.catalog.health(&web), CheckStatus::Passing);
    assert_eq!(written(&mut log, write("k8s", term, &[], vec![checks("gone", vec![])])), [""; 0]);
}

#[test]
fn a_connector_that_is_removed_leaves_nothing_behind() {
    let mut log = Log::default();
    log.done(register(node("outside", Owner::External), vec![], vec![], None));
    let term = granted(&mut log, "ecs", "p1");
    let seen = check("outside", "connector:ecs:seen", None, CheckStatus::Critical);
    let writes = vec![put("ecs", "t1", &["api"], vec![]), checks("outside", vec![seen])];
    settled(&mut log, write("ecs", term, &[], writes));
    let forget = || command(ConnectorChange::Forget { name: name("ecs") });
    assert!(matches!(log.refused(forget()), Refusal::LeaseHeld { .. }), "not while somebody runs it");
    log.done(release("ecs", term));
    log.done(forget());
    assert_eq!(log.catalog.nodes().count(), 1);
    assert_eq!(log.catalog.checks().count(), 0);
    assert_eq!(log.catalog.connectors().count(), 0);
    assert!(matches!(log.refused(forget()), Refusal::NotFound { .. }));
}

#[test]
fn fault_20_a_server_whose_clock_is_far_off_neither_holds_a_lease_for_hours_nor_ends_one_by_its_own_time() {
    let mut log = Log::default();
    // The clock stands somewhere, and moves a minute a command at most.
    log.done(command(ConnectorChange::Acquire {
        name: name("other"),
        kind: "aws".to_owned(),
        holder: "p0".to_owned(),
        lasts_ms: 5_000,
    }));
    let hours = crate::Timestamp(3 * 60 * 60 * 1000);
    let by_wild_clock = |log: &mut Log, command: Command| {
        let next = log.catalog.index.0 + 1;
        let envelope = crate::Envelope { proposed_at: hours, ..crate::catalog::tests::envelope(next, command) };
        log.catalog.apply(crate::CatalogIndex(next), &envelope, crate::catalog::tests::digest).outcome
    };
    let lasting = |holder: &str| {
        let (kind, holder) = ("aws".to_owned(), holder.to_owned());
        command(ConnectorChange::Acquire { name: name("ecs"), kind, holder, lasts_ms: 300_000 })
    };
    let Outcome::LeaseGranted { term } = by_wild_clock(&mut log, lasting("p1")) else { panic!() };
    let ends = |log: &Log| log.catalog.connector(&name("ecs")).unwrap().ends_at.since(log.catalog.clock).as_secs();
    assert_eq!(ends(&log), 300);
    by_wild_clock(&mut log, renew("ecs", term.0, None));
    assert!(ends(&log) <= 300, "{}", ends(&log));
    // The process has died: another takes over when the lease is over, and the connector can be removed.
    let refused = log.refused(lasting("p2"));
    assert!(matches!(refused, Refusal::LeaseHeld { left_s, .. } if left_s <= 300), "{refused}");
    later(&mut log, 301_000);
    log.done(lasting("p2"));
    // Nor does one that is ahead take over what is longer than a minute in force.
    let wild = by_wild_clock(&mut log, lasting("p3"));
    assert!(matches!(wild, Outcome::Refused(Refusal::LeaseHeld { .. })), "{wild:?}");
    assert_eq!(ends(&log), 240);
}

#[test]
fn m2_two_connectors_with_checks_on_one_node_leave_each_others_alone() {
    let mut log = Log::default();
    let (ecs, k8s) = (granted(&mut log, "ecs", "p1"), granted(&mut log, "k8s", "p1"));
    let seen = || check("t1", "health", None, CheckStatus::Passing);
    settled(&mut log, write("ecs", ecs, &[], vec![put("ecs", "t1", &["api"], vec![seen()])]));
    let ready = check("t1", "connector:k8s:ready", None, CheckStatus::Critical);
    settled(&mut log, write("k8s", k8s, &[], vec![checks("t1", vec![ready])]));
    let kept = |log: &Log, connector: &str| -> Vec<String> {
        let connector = name(connector);
        let nodes = log.catalog.nodes_of_connector(&connector);
        nodes.flat_map(|node| node.checks).map(|check| check.key.id.to_string()).collect()
    };
    assert_eq!((kept(&log, "ecs"), kept(&log, "k8s")), (vec!["health".into()], vec!["connector:k8s:ready".into()]));
    // What the first one keeps is what it wants, so that it writes no more; and if it does, the other's check stays.
    settled(&mut log, write("ecs", ecs, &[], vec![put("ecs", "t1", &["api", "web"], vec![])]));
    assert_eq!((kept(&log, "ecs"), kept(&log, "k8s")), (vec![], vec!["connector:k8s:ready".into()]));
    assert_eq!(log.catalog.health(&instance("t1", "api", "t1-api").key), CheckStatus::Critical);
    // Its own check there is its own.
    let own = check("t1", "connector:ecs:seen", None, CheckStatus::Warning);
    settled(&mut log, write("ecs", ecs, &[], vec![checks("t1", vec![own])]));
    assert_eq!(kept(&log, "ecs"), ["connector:ecs:seen"]);
    settled(&mut log, write("ecs", ecs, &[], vec![put("ecs", "t1", &["api"], vec![])]));
    assert_eq!(kept(&log, "ecs"), [""; 0]);
}

#[test]
fn a_node_whose_connector_is_not_there_any_more_can_be_removed() {
    let mut log = Log::default();
    log.done(register(node("outside", Owner::External), vec![], vec![], None));
    let term = granted(&mut log, "ecs", "p1");
    let seen = check("outside", "connector:ecs:seen", None, CheckStatus::Critical);
    settled(&mut log, write("ecs", term, &[], vec![put("ecs", "t1", &["api"], vec![]), checks("outside", vec![seen])]));
    assert_eq!(log.catalog.forsaken_nodes(), 0);
    // As a restored backup leaves it: who ran a connector is known by the running log alone.
    log.catalog.connectors = imbl::OrdMap::new();
    assert_eq!(log.catalog.forsaken_nodes(), 1);
    log.done(command(ConnectorChange::Forget { name: name("ecs") }));
    assert_eq!((log.catalog.nodes().count(), log.catalog.checks().count()), (1, 0));
    assert!(matches!(log.refused(command(ConnectorChange::Forget { name: name("ecs") })), Refusal::NotFound { .. }));
}

#[test]
fn what_is_held_back_goes_when_an_operator_says_so_and_that_counts_once() {
    let mut log = Log::default();
    let term = granted(&mut log, "ecs", "p1");
    let confirm = || command(ConnectorChange::Confirm { name: name("ecs"), removals: 12 });
    log.refused(confirm());
    let holds = |reason: &str| {
        let (kind, subject) = (ProblemKind::Held, "12 nodes".to_owned());
        let problem = ConnectorProblem { kind, subject, reason: reason.to_owned() };
        Some(ConnectorStatus { problems: vec![problem], ..ConnectorStatus::default() })
    };
    let confirmed = |log: &Log| log.catalog.connector(&name("ecs")).unwrap().confirmed;
    log.done(renew("ecs", term, holds("so many")));
    log.done(confirm());
    log.done(renew("ecs", term, holds("more than are confirmed")));
    assert_eq!(confirmed(&log), Some(12));
    log.done(renew("ecs", term, Some(ConnectorStatus::default())));
    assert_eq!(confirmed(&log), None);
}

#[test]
fn a_connectors_token_needs_the_right_on_each_node_and_service() {
    let catalog = crate::Catalog::default();
    let mut authority = Authority::default();
    let commands = [
        (acquire("ecs", "p1"), true),
        (write("ecs", 1, &[], vec![put("ecs", "ecs-t1", &["api"], vec![])]), true),
        (write("ecs", 1, &[], vec![put("ecs", "ecs-t1", &["web"], vec![])]), false),
        (write("ecs", 1, &[], vec![put("ecs", "vm-1", &["api"], vec![])]), false),
        (write("ecs", 1, &[], vec![remove("vm-1")]), false),
        (write("ecs", 1, &[], vec![checks("vm-1", vec![])]), false),
        (command(ConnectorChange::Forget { name: name("ecs") }), false),
    ];
    for (command, _) in &commands {
        assert!(catalog.permits(&authority, command).is_err(), "{command:?}");
    }
    let rules = crate::Rules {
        mesh: Some(crate::Access::Write),
        nodes: vec![crate::NameRule {
            name: crate::NamePattern::Prefix("ecs-".to_owned()),
            access: crate::Access::Write,
        }],
        services: vec![crate::ServiceRule {
            name: crate::NamePattern::Exact("api".to_owned()),
            access: crate::Access::Write,
            intentions: None,
        }],
        ..crate::Rules::default()
    };
    authority.add(&rules, &crate::Namespace::default());
    for (command, want) in &commands {
        assert_eq!(catalog.permits(&authority, command).is_ok(), *want, "{command:?}");
    }
    // A check that is not said again goes, and that makes what it bore on well: it needs the right on that.
    let mut log = Log::default();
    let term = granted(&mut log, "ecs", "p1");
    let services = vec![instance("ecs-vm", "web", "w"), instance("ecs-vm", "api", "a")];
    log.done(register(node("ecs-vm", Owner::External), services, vec![], None));
    let on = |instance: &str| check("ecs-vm", "connector:ecs:ready", Some(instance), CheckStatus::Critical);
    for (bound_to, want) in [("a", true), ("w", false)] {
        settled(&mut log, write("ecs", term, &[], vec![checks("ecs-vm", vec![on(bound_to)])]));
        let empties = write("ecs", term, &[], vec![checks("ecs-vm", vec![])]);
        assert_eq!(log.catalog.permits(&authority, &empties).is_ok(), want, "{bound_to}");
        let rebinds = write("ecs", term, &[], vec![checks("ecs-vm", vec![on("a")])]);
        assert_eq!(log.catalog.permits(&authority, &rebinds).is_ok(), want, "{bound_to}");
    }
}
