//! What becomes of nodes whose agents are away or shutting down, and of what is revoked.

use proptest::prelude::*;

use super::tests::{Log, accessor, check, enrol, instance, join_token, node, open, register};
use crate::{
    AGENT_CHECK, AgentId, AgentRecord, Banned, CatalogIndex, CheckStatus, CheckUpdate, Command, DeregisterTarget,
    Incarnation, InstanceKey, Item, JoinToken, KeyFingerprint, Namespace, Node, Outcome, Owner, Presence, Refusal,
    RevocationChange, RevokedService, SessionChange, SessionRef, Timestamp, Topic, WatchKey,
};

fn session(agent: &AgentId, incarnation: u64) -> SessionRef {
    SessionRef { agent: agent.clone(), incarnation: Incarnation(incarnation) }
}

fn lost(agent: &AgentId, incarnation: u64) -> Command {
    Command::Sessions { change: SessionChange::Lost { sessions: vec![session(agent, incarnation)] } }
}

fn reaped(agent: &AgentId, incarnation: u64) -> Command {
    Command::Sessions { change: SessionChange::Reaped { sessions: vec![session(agent, incarnation)] } }
}

fn drain(agent: &AgentId, incarnation: u64) -> Command {
    Command::Sessions { change: SessionChange::Drain { session: session(agent, incarnation) } }
}

fn revoke(change: RevocationChange) -> Command {
    Command::Revoke { change }
}

/// One of each, of things that are not there: the forms alone matter.
pub(super) fn every_change() -> Vec<Command> {
    let agent = AgentId::enrolled_at(CatalogIndex(7));
    let service =
        RevokedService { service: "shop/api".parse().unwrap(), below: CatalogIndex(9), revoked_at: Timestamp(9) };
    vec![
        drain(&agent, 8),
        lost(&agent, 8),
        reaped(&agent, 8),
        Command::Sessions { change: SessionChange::Ended { sessions: vec![session(&agent, 8)] } },
        Command::Sessions { change: SessionChange::Unused { agents: vec![agent.clone()] } },
        register(Node { gateway_port: Some(443), ..node("g1", Owner::External) }, vec![], vec![], None),
        Command::CreateJoinToken { token: JoinToken { gateway: Some("aws".to_owned()), ..join_token(9, &[]) } },
        revoke(RevocationChange::Service { service: "shop/api".parse().unwrap() }),
        revoke(RevocationChange::JoinToken { accessor: accessor(9) }),
        revoke(RevocationChange::Login { method: "ci".parse().unwrap(), subject: Some("repo:shop".to_owned()) }),
        revoke(RevocationChange::Lift { banned: Banned::Key { key: KeyFingerprint("key-9".to_owned()) } }),
        revoke(RevocationChange::LiftAgent { named: "node-9".to_owned() }),
        Command::Time,
        revoke(RevocationChange::Forget { agents: vec![agent], services: vec![service] }),
    ]
}

/// Random changes over few agents, so that they meet.
pub(super) fn any_change() -> impl Strategy<Value = Command> {
    let agent = (1u64..40).prop_map(|index| AgentId::enrolled_at(CatalogIndex(index)));
    prop_oneof![
        (agent.clone(), 1u64..40).prop_map(|(agent, incarnation)| lost(&agent, incarnation)),
        (agent.clone(), 1u64..40).prop_map(|(agent, incarnation)| reaped(&agent, incarnation)),
        (agent.clone(), 1u64..40).prop_map(|(agent, incarnation)| drain(&agent, incarnation)),
        agent.clone().prop_map(|agent| Command::Sessions { change: SessionChange::Unused { agents: vec![agent] } }),
        (0u8..3)
            .prop_map(|number| revoke(RevocationChange::Service { service: format!("s{number}").parse().unwrap() })),
        (1u8..5).prop_map(|number| revoke(RevocationChange::JoinToken { accessor: accessor(number) })),
        agent.prop_map(|agent| revoke(RevocationChange::Forget { agents: vec![agent], services: vec![] })),
    ]
}

/// A node with an instance of `web` and one of `api`, registered by the agent of the first join token.
fn registered() -> (Log, AgentRecord, u64) {
    let mut log = Log::default();
    log.done(Command::CreateJoinToken { token: join_token(1, &["api", "web"]) });
    let record = log.enrol(1, "key", "n1");
    log.done(open(&record.id));
    let incarnation = log.catalog.index().0;
    log.done(registration(&record, incarnation));
    (log, record, incarnation)
}

fn registration(record: &AgentRecord, incarnation: u64) -> Command {
    let instances = vec![instance("n1", "web", "web-1"), instance("n1", "api", "api-1")];
    let checks = vec![check("n1", "alive", Some("web-1"), CheckStatus::Passing)];
    register(node("n1", Owner::Agent(record.id.clone())), instances, checks, Some(incarnation))
}

fn health(log: &Log, id: &str) -> CheckStatus {
    log.catalog.health(&InstanceKey {
        node: "n1".parse().unwrap(),
        namespace: Namespace::default(),
        id: id.parse().unwrap(),
    })
}

fn pass(incarnation: u64) -> Command {
    let key = check("n1", "alive", None, CheckStatus::Passing).key;
    let update = CheckUpdate { key, status: CheckStatus::Passing, output: "fine".to_owned() };
    Command::UpdateChecks { updates: vec![update], incarnation: Some(Incarnation(incarnation)) }
}

#[test]
fn fault_26_a_lost_session_turns_its_node_critical_until_the_agent_is_back() {
    let (mut log, record, first) = registered();
    let touched = log.done(lost(&record.id, first));
    assert!(touched.contains(&WatchKey::Service("web".parse().unwrap())), "{touched:?}");
    assert_eq!(health(&log, "web-1"), CheckStatus::Critical);
    let check = log.catalog.checks_on(&"n1".parse().unwrap()).find(|check| check.key.id.as_str() == AGENT_CHECK);
    assert_eq!(check.map(|check| check.output.as_str()), Some("no server has a session of the agent"));
    assert!(log.done(lost(&record.id, first)).is_empty(), "once is enough");
    // What the lost session still has on its way is stale, its number being the latest one or not.
    for late in [pass(first), registration(&record, first)] {
        assert!(matches!(log.refused(late), Refusal::StaleIncarnation { .. }));
    }
    log.done(open(&record.id));
    let second = log.catalog.index().0;
    assert_eq!(health(&log, "web-1"), CheckStatus::Passing);
    assert!(log.done(lost(&record.id, first)).is_empty(), "that session was not the latest one any more");
    assert!(matches!(log.refused(pass(first)), Refusal::StaleIncarnation { .. }));
    log.done(pass(second));
}

#[test]
fn a_lost_session_leaves_the_catalog_after_the_second_period_and_its_agent_may_come_back() {
    let (mut log, record, first) = registered();
    let touched = log.done(reaped(&record.id, first));
    assert!(!touched.contains(&WatchKey::Nodes), "it was not lost: {touched:?}");
    log.done(lost(&record.id, first));
    let touched = log.done(reaped(&record.id, first));
    assert!(touched.contains(&WatchKey::Service("web".parse().unwrap())), "{touched:?}");
    assert!(log.catalog.node(&"n1".parse().unwrap()).is_none());
    assert!(log.catalog.agent_record(&record.id).is_some(), "its certificates are as good as before");
    log.done(open(&record.id));
    let second = log.catalog.index().0;
    assert!(log.done(reaped(&record.id, first)).is_empty());
    log.done(registration(&record, second));
    assert_eq!(health(&log, "web-1"), CheckStatus::Passing);
}

#[test]
fn what_an_agent_says_when_it_shuts_down_is_not_taken_back_by_an_older_voice() {
    let (mut log, record, first) = registered();
    log.done(drain(&record.id, first));
    assert_eq!(health(&log, "web-1"), CheckStatus::Critical);
    for late in [pass(first), registration(&record, first)] {
        assert!(matches!(log.refused(late), Refusal::Draining { .. }));
    }
    // The connection broke before the agent was done: its next session is still the one that shuts down.
    log.done(open(&record.id));
    let second = log.catalog.index().0;
    assert_eq!(health(&log, "web-1"), CheckStatus::Critical);
    assert!(matches!(log.refused(drain(&record.id, first)), Refusal::StaleIncarnation { .. }));
    log.done(drain(&record.id, second));
    let (node, incarnation) = ("n1".parse().unwrap(), Some(Incarnation(second)));
    log.done(Command::Deregister { node, target: DeregisterTarget::Node, incarnation });
    assert!(matches!(log.refused(registration(&record, second)), Refusal::Draining { .. }), "gone is gone");
    // A new process.
    log.done(open(&record.id));
    let third = log.catalog.index().0;
    log.done(registration(&record, third));
    assert_eq!(health(&log, "web-1"), CheckStatus::Passing);
    assert_eq!(log.catalog.agent_record(&record.id).unwrap().presence, Presence::default());
}

#[test]
fn nobody_else_writes_the_check_that_says_how_an_agent_stands() {
    let reserved = check("n1", AGENT_CHECK, None, CheckStatus::Passing);
    let update = CheckUpdate { key: reserved.key.clone(), status: CheckStatus::Passing, output: String::new() };
    let target = DeregisterTarget::Check { namespace: Namespace::default(), id: AGENT_CHECK.parse().unwrap() };
    for command in [
        register(node("n1", Owner::External), vec![], vec![reserved], None),
        Command::UpdateChecks { updates: vec![update], incarnation: None },
        Command::Deregister { node: "n1".parse().unwrap(), target, incarnation: None },
    ] {
        assert!(matches!(command.validate(), Err(Refusal::Invalid { .. })), "{command:?}");
    }
    let none = Command::Sessions { change: SessionChange::Lost { sessions: vec![] } };
    assert!(none.validate().is_err());
}

#[test]
fn c14_a_revoked_service_is_refused_to_the_agents_of_then_and_not_to_later_ones() {
    let (mut log, record, first) = registered();
    let web = "web".parse().unwrap();
    let outcome = log.apply(revoke(RevocationChange::Service { service: "web".parse().unwrap() })).outcome;
    assert_eq!(outcome, Outcome::Revoked { agents: 1 });
    let below = log.catalog.index();
    assert!(log.catalog.is_service_revoked(&web, record.enrolled));
    assert_eq!(log.catalog.instances_of(&web).count(), 0);
    assert_eq!(log.catalog.instances_of(&"api".parse().unwrap()).count(), 1, "what else it serves goes on");
    assert!(matches!(log.refused(registration(&record, first)), Refusal::ServiceRevoked { .. }));
    let items = log.catalog.view(&Topic::Revocations);
    let want = Item::RevokedService { service: "web".parse().unwrap(), below };
    assert_eq!(items.values().collect::<Vec<_>>(), [&want]);
    log.done(Command::CreateJoinToken { token: join_token(2, &["web"]) });
    let later = log.enrol(2, "other", "n2");
    assert!(!log.catalog.is_service_revoked(&web, later.enrolled));
    let held: Vec<RevokedService> = log.catalog.revoked_services().cloned().collect();
    log.done(revoke(RevocationChange::Service { service: "web".parse().unwrap() }));
    let forget = revoke(RevocationChange::Forget { agents: vec![], services: held });
    assert!(log.done(forget).is_empty(), "it was revoked again since");
    let held: Vec<RevokedService> = log.catalog.revoked_services().cloned().collect();
    log.done(revoke(RevocationChange::Forget { agents: vec![], services: held }));
    assert!(log.catalog.view(&Topic::Revocations).is_empty());
}

#[test]
fn c14_what_a_join_token_let_in_is_revoked_with_it() {
    let (mut log, record, first) = registered();
    log.done(Command::CreateJoinToken { token: join_token(2, &["db"]) });
    let other = log.enrol(2, "other", "n2");
    let outcome = log.apply(revoke(RevocationChange::JoinToken { accessor: accessor(1) })).outcome;
    assert_eq!(outcome, Outcome::Revoked { agents: 1 });
    assert!(log.catalog.agent_record(&record.id).is_none() && log.catalog.is_revoked(record.enrolled));
    assert!(log.catalog.node(&"n1".parse().unwrap()).is_none());
    assert!(matches!(log.refused(registration(&record, first)), Refusal::AgentUnknown { .. }));
    assert_eq!(log.refused(enrol(1, "key", "n1")), Refusal::JoinTokenUnknown);
    assert!(log.catalog.agent_record(&other.id).is_some());
    assert!(matches!(
        log.refused(revoke(RevocationChange::JoinToken { accessor: accessor(1) })),
        Refusal::NotFound { .. }
    ));
    let at: Vec<_> = log.catalog.revoked_agents().map(|(id, at)| (id.clone(), at.is_some())).collect();
    assert_eq!(at, [(record.id.clone(), true)]);
    log.done(revoke(RevocationChange::Forget { agents: vec![record.id.clone()], services: vec![] }));
    assert!(!log.catalog.is_revoked(record.enrolled));
    // Its key is kept out, until an operator makes a new token for it.
    assert_eq!(log.catalog.bans().count(), 1);
    log.done(Command::CreateJoinToken { token: join_token(3, &["web"]) });
    log.enrol(3, "key", "n1");
    assert!(log.catalog.bans().next().is_none());
}

#[test]
fn a_gateway_is_advertised_while_its_node_is_well() {
    let mut log = Log::default();
    let gateway = || Node { gateway_port: Some(443), network: "aws".to_owned(), ..node("n1", Owner::External) };
    assert!(log.done(register(gateway(), vec![], vec![], None)).contains(&WatchKey::Gateways));
    let items = |log: &Log| log.catalog.view(&Topic::Gateways);
    let Some(Item::Gateway(found)) = items(&log).remove("n1") else { panic!("no gateway") };
    assert_eq!((found.network.as_str(), found.address.as_str(), found.port), ("aws", "10.0.0.1", 443));
    let bad = vec![check("n1", "link", None, CheckStatus::Critical)];
    assert!(log.done(register(gateway(), vec![], bad, None)).contains(&WatchKey::Gateways));
    assert!(items(&log).is_empty());
    log.done(register(gateway(), vec![], vec![check("n1", "link", None, CheckStatus::Warning)], None));
    assert_eq!(items(&log).len(), 1);
    let plain = register(node("n1", Owner::External), vec![], vec![], None);
    assert!(log.done(plain).contains(&WatchKey::Gateways));
    assert!(items(&log).is_empty());
}

#[test]
fn an_agent_is_a_gateway_into_the_network_that_its_record_names_and_into_no_other() {
    let (mut log, plain, incarnation) = registered();
    let gateway = |record: &AgentRecord, session: u64, network: &str| {
        let owner = Owner::Agent(record.id.clone());
        let node = Node { gateway_port: Some(443), network: network.to_owned(), ..node(record.node.as_str(), owner) };
        register(node, vec![], vec![], Some(session))
    };
    let refused = Refusal::NoGateway { node: plain.node.clone(), network: String::new() };
    assert_eq!(log.refused(gateway(&plain, incarnation, "")), refused);

    let token = JoinToken { gateway: Some("aws".to_owned()), ..join_token(2, &[]) };
    log.done(Command::CreateJoinToken { token: token.clone() });
    let record = log.enrol(2, "key-2", "g1");
    assert!(record.entitles_gateway("aws") && record.services.is_empty());
    log.done(open(&record.id));
    let session = log.catalog.index().0;
    assert!(matches!(log.refused(gateway(&record, session, "office")), Refusal::NoGateway { .. }));
    log.done(gateway(&record, session, "aws"));
    assert_eq!(log.catalog.view(&Topic::Gateways).len(), 1);

    // Who takes over the node with a token that says nothing of gateways is none, even before it registers anything.
    let replacing = JoinToken { replace_node: true, ..join_token(3, &["web"]) };
    log.done(Command::CreateJoinToken { token: replacing });
    assert!(log.done(enrol(3, "key-3", "g1")).contains(&WatchKey::Gateways));
    assert!(log.catalog.view(&Topic::Gateways).is_empty());
}

#[test]
fn the_services_of_a_network_are_those_that_have_an_instance_there() {
    let mut log = Log::default();
    let on = |name: &str, network: &str| Node { network: network.to_owned(), ..node(name, Owner::External) };
    let services = |log: &Log, network: &str| -> Vec<String> {
        log.catalog.view(&Topic::Network(network.to_owned())).into_keys().collect()
    };
    log.done(register(on("n1", "aws"), vec![instance("n1", "web", "web-1")], vec![], None));
    log.done(register(on("n2", ""), vec![instance("n2", "api", "api-1")], vec![], None));
    assert_eq!((services(&log, "aws"), services(&log, "")), (vec!["default/web".into()], vec!["default/api".into()]));
    let moved = log.done(register(on("n2", "aws"), vec![], vec![], None));
    assert!(moved.contains(&WatchKey::Network("aws".into())) && moved.contains(&WatchKey::Network(String::new())));
    assert_eq!(services(&log, "aws"), ["default/api", "default/web"]);
    assert!(services(&log, "").is_empty());
    let target = DeregisterTarget::Node;
    log.done(Command::Deregister { node: "n1".parse().unwrap(), target, incarnation: None });
    assert_eq!(services(&log, "aws"), ["default/api"]);
}

#[test]
fn what_is_on_a_node_already_is_written_anew_and_takes_no_more_room() {
    let mut log = Log::default();
    let many = |numbers: std::ops::Range<usize>| {
        let instances = numbers.map(|number| instance("n1", "web", &format!("web-{number}"))).collect();
        register(node("n1", Owner::External), instances, vec![], None)
    };
    log.done(many(0..6_000));
    log.done(many(0..6_000));
    let refusal = log.refused(many(4_000..10_001));
    assert!(refusal.to_string().contains("more than 10000 instances"), "{refusal}");
    log.done(many(4_000..10_000));
    // What is named twice in one write is one thing.
    let twice = vec![check("n1", "alive", None, CheckStatus::Passing); 20_001];
    log.done(register(node("n1", Owner::External), vec![], twice, None));
}
