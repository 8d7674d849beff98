//! What the state machine promises, told by commands and by laws over random logs.

mod acl;
mod first_release;
mod mesh_entry;
mod takeover;
mod watch_keys;

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{
    Action, Actor, BackupStep, CheckUpdate, Command, DeregisterTarget, Incarnation, Owner, Platform, RefusalKind,
    Rights, ServerId, Timestamp, Weights, WriteMode,
};

pub(crate) fn envelope(number: u64, command: Command) -> Envelope {
    Envelope {
        version: command.reads_from(),
        request_id: format!("r{number}").parse().unwrap(),
        actor: Actor::Server("s1".parse().unwrap()),
        source_address: None,
        proposed_at: Timestamp(number),
        command,
    }
}

/// Stands for a hash: four of FNV-1a, each with a start of its own.
pub(crate) fn digest(bytes: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    for (start, part) in (1u64..).zip(digest.chunks_mut(8)) {
        let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        part.copy_from_slice(&bytes.iter().fold(0xcbf2_9ce4_8422_2325 ^ start, fold).to_be_bytes());
    }
    digest
}

/// Returns what was touched besides the audit trail, which refused commands touch too.
fn but_the_trail(mut touched: BTreeSet<WatchKey>) -> BTreeSet<WatchKey> {
    touched.remove(&WatchKey::Audit);
    touched
}

pub(super) fn node(name: &str, owner: Owner) -> Node {
    Node {
        name: name.parse().unwrap(),
        id: None,
        address: "10.0.0.1".to_owned(),
        platform: Platform::Vm,
        zone: None,
        network: String::new(),
        gateway_port: None,
        owner,
        incarnation: None,
        meta: BTreeMap::new(),
        tagged_addresses: BTreeMap::new(),
        created: CatalogIndex(0),
        modified: CatalogIndex(0),
    }
}

pub(super) fn instance(on: &str, service: &str, id: &str) -> Instance {
    let service: ServiceKey = service.parse().unwrap();
    Instance {
        key: InstanceKey { node: on.parse().unwrap(), namespace: service.namespace, id: id.parse().unwrap() },
        service: service.name,
        address: None,
        port: 80,
        ports: BTreeMap::new(),
        mesh_port: Some(20000),
        tags: Vec::new(),
        meta: BTreeMap::new(),
        tagged_addresses: BTreeMap::new(),
        weights: Weights::default(),
        enable_tag_override: false,
        upstreams: Vec::new(),
        bypassable: None,
        created: CatalogIndex(0),
        modified: CatalogIndex(0),
    }
}

pub(super) fn check(on: &str, id: &str, of: Option<&str>, status: CheckStatus) -> Check {
    Check {
        key: CheckKey { node: on.parse().unwrap(), namespace: Namespace::default(), id: id.parse().unwrap() },
        name: id.to_owned(),
        status,
        notes: String::new(),
        output: String::new(),
        instance: of.map(|of| of.parse().unwrap()),
        kind: String::new(),
        created: CatalogIndex(0),
        modified: CatalogIndex(0),
    }
}

pub(super) fn register(node: Node, instances: Vec<Instance>, checks: Vec<Check>, incarnation: Option<u64>) -> Command {
    let incarnation = incarnation.map(Incarnation);
    Command::Register { node: Box::new(node), instances, checks, skip_node_update: false, incarnation }
}

pub(super) fn intention(source: &str, destination: &str, action: Action) -> Command {
    let intention = Intention::new(source.parse().unwrap(), destination.parse().unwrap(), action);
    Command::WriteIntention { intention: Box::new(intention), mode: WriteMode::Upsert }
}

pub(super) fn accessor(number: u8) -> AccessorId {
    format!("00000000-0000-0000-0000-0000000000{number:02x}").parse().unwrap()
}

pub(crate) fn join_token(number: u8, services: &[&str]) -> JoinToken {
    let services = services.iter().map(|service| service.parse().unwrap()).collect();
    JoinToken::new(accessor(number), SecretHash(format!("join{number}")), services, Timestamp(1_000))
}

/// Applies commands one after the other, each as a request of its own.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) catalog: Catalog,
}

impl Log {
    pub(crate) fn apply(&mut self, command: Command) -> Applied {
        let next = self.catalog.index.0 + 1;
        self.catalog.apply(CatalogIndex(next), &envelope(next, command), digest)
    }

    #[track_caller]
    pub(crate) fn done(&mut self, command: Command) -> BTreeSet<WatchKey> {
        let applied = self.apply(command);
        assert!(!matches!(applied.outcome, Outcome::Refused(_)), "{:?}", applied.outcome);
        but_the_trail(applied.touched)
    }

    #[track_caller]
    pub(crate) fn refused(&mut self, command: Command) -> Refusal {
        let before = self.catalog.clone();
        let applied = self.apply(command);
        let touched = but_the_trail(applied.touched);
        assert!(touched.is_empty(), "a refused command touched {touched:?}");
        let changed = before.changes.diff(&self.catalog.changes).count();
        assert_eq!(changed, usize::from(before.audit != self.catalog.audit));
        match applied.outcome {
            Outcome::Refused(refusal) => refusal,
            outcome => panic!("not refused: {outcome:?}"),
        }
    }

    #[track_caller]
    pub(super) fn enrol(&mut self, token: u8, key: &str, node: &str) -> AgentRecord {
        match self.apply(enrol(token, key, node)).outcome {
            Outcome::Enrolled { record } => *record,
            outcome => panic!("not enrolled: {outcome:?}"),
        }
    }
}

pub(crate) fn enrol(token: u8, key: &str, node: &str) -> Command {
    Command::Enrol {
        secret: SecretHash(format!("join{token}")),
        key: KeyFingerprint(key.to_owned()),
        node: node.parse().unwrap(),
        platform: Platform::Vm,
    }
}

pub(super) fn open(agent: &AgentId) -> Command {
    Command::OpenSession { agent: agent.clone(), server: "s1".parse::<ServerId>().unwrap() }
}

#[test]
fn a13_a_repeated_request_is_answered_as_the_first_time_and_changes_nothing() {
    let mut catalog = Catalog::default();
    let first = catalog.apply(CatalogIndex(1), &envelope(7, intention("web", "api", Action::Allow)), digest);
    assert!(!first.repeated && !first.touched.is_empty());
    let deletion = Command::DeleteIntention {
        key: IntentionKey { destination: "api".parse().unwrap(), source: "web".parse().unwrap() },
        compare: None,
    };
    catalog.apply(CatalogIndex(2), &envelope(8, deletion), digest);
    let retry = Envelope { proposed_at: Timestamp(99), ..envelope(7, intention("web", "api", Action::Allow)) };
    let again = catalog.apply(CatalogIndex(3), &retry, digest);
    assert!(again.repeated && again.touched.is_empty());
    assert_eq!(again.outcome, first.outcome);
    assert!(catalog.policy_for(&"api".parse().unwrap()).intentions.is_empty(), "it is not carried out twice");
}

#[test]
fn a13_a_request_id_that_marks_something_else_swallows_nothing() {
    let mut log = Log::default();
    log.done(intention("web", "api", Action::Allow));
    let reused = |envelope: Envelope| Envelope { request_id: "r1".parse().unwrap(), ..envelope };
    let other_command = reused(envelope(2, intention("web", "api", Action::Deny)));
    let other_actor =
        reused(Envelope { actor: Actor::ClusterKey, ..envelope(3, intention("web", "api", Action::Allow)) });
    for (index, envelope) in [(2, other_command), (3, other_actor)] {
        let applied = log.catalog.apply(CatalogIndex(index), &envelope, digest);
        assert!(matches!(applied.outcome, Outcome::Refused(Refusal::RequestIdReused { .. })), "{:?}", applied.outcome);
        assert!(!applied.repeated);
    }
}

#[test]
fn answers_are_forgotten_by_age_and_by_number() {
    let mut log = Log::default();
    let at = |number: u64, proposed_at: u64| Envelope {
        proposed_at: Timestamp(proposed_at),
        ..envelope(number, intention("a", "b", Action::Allow))
    };
    let max = ANSWERS_MAX as u64;
    for number in 1..=max + 10 {
        log.catalog.apply(CatalogIndex(number), &at(number, 0), digest);
    }
    assert_eq!(log.catalog.answers.len(), ANSWERS_MAX, "those beyond the bound are forgotten");
    // Eleven commands move the clock by eleven minutes at most.
    for number in max + 11..=max + 21 {
        log.catalog.apply(CatalogIndex(number), &at(number, u64::MAX), digest);
    }
    assert_eq!(log.catalog.answers.len(), ANSWERS_MIN, "of those of more than ten minutes ago the newest stay");
    assert_eq!(log.catalog.answer_order.len(), ANSWERS_MIN);
}

#[test]
fn a13_a_clock_that_is_wrong_by_years_makes_no_request_forgotten() {
    let mut log = Log::default();
    let create = |number: u64, proposed_at: u64, destination: &str| {
        let Command::WriteIntention { intention, .. } = intention("a", destination, Action::Allow) else { panic!() };
        let command = Command::WriteIntention { intention, mode: WriteMode::Create };
        Envelope { proposed_at: Timestamp(proposed_at), ..envelope(number, command) }
    };
    let first = log.catalog.apply(CatalogIndex(1), &create(1, 1_000, "b"), digest);
    for number in 2..100 {
        log.catalog.apply(CatalogIndex(number), &create(number, u64::MAX, "c"), digest);
    }
    let again = log.catalog.apply(CatalogIndex(100), &create(1, 1_000, "b"), digest);
    assert!(again.repeated, "{again:?}");
    assert_eq!(again.outcome, first.outcome);
}

#[test]
fn fault_20_one_wrong_clock_moves_the_catalogs_by_little() {
    let mut log = Log::default();
    let now = 1_000_000_000;
    let at = |number: u64, time: u64, command| Envelope { proposed_at: Timestamp(time), ..envelope(number, command) };
    let token = |number| JoinToken { expires_at: Timestamp(now + 3_600_000), ..join_token(number, &["web"]) };
    log.catalog.apply(CatalogIndex(1), &at(1, now, Command::CreateJoinToken { token: token(1) }), digest);
    let days_ahead = now + 3 * 24 * 3_600_000;
    log.catalog.apply(CatalogIndex(2), &at(2, days_ahead, intention("web", "api", Action::Allow)), digest);
    log.catalog.apply(CatalogIndex(3), &at(3, now + 1, Command::CreateJoinToken { token: token(2) }), digest);
    assert_eq!(log.catalog.join_tokens().count(), 2, "a live join token is not taken for a spent one");
}

#[test]
fn h11_a_rule_on_a_workload_of_ours_under_its_spiffe_id_is_refused_for_it_would_never_match() {
    let mut log = Log { catalog: log_of(&every_kind()[..1]) };
    let by_id = |id: &str| intention(&format!("spiffe://mesh.example/{id}"), "api", Action::Deny);
    let refusal = log.refused(by_id("ns/default/sa/web"));
    assert!(refusal.to_string().ends_with("write `default/web`"), "{refusal}");
    log.refused(by_id("agent/vm/n1"));
    log.refused(by_id("something/else"));
    let guardrail = crate::Guardrail {
        name: "g".to_owned(),
        source: "spiffe://mesh.example/ns/default/sa/web".parse().unwrap(),
        destination: "*/*".parse().unwrap(),
    };
    let entry = MeshEntry { guardrails: vec![guardrail], ..MeshEntry::default() };
    log.refused(Command::WriteMesh { entry, compare: None });
    log.done(intention("spiffe://other.example/ns/default/sa/web", "api", Action::Deny));
}

#[test]
fn c14_whoever_has_lost_its_rights_changes_nothing_any_more() {
    let mut log = Log::default();
    log.done(Command::CreateJoinToken { token: join_token(1, &["web"]) });
    let old = log.enrol(1, "key-a", "n1");
    log.done(open(&old.id));
    let session = Some(log.catalog.index().0);
    log.done(register(node("n1", Owner::Agent(old.id.clone())), vec![instance("n1", "web", "w")], vec![], session));
    log.done(Command::CreateJoinToken { token: JoinToken { replace_node: true, ..join_token(2, &["web"]) } });
    log.enrol(2, "key-b", "n1");
    // The successor has not registered yet: the node still carries the old agent's mark.
    let leave =
        |incarnation| Command::Deregister { node: "n1".parse().unwrap(), target: DeregisterTarget::Node, incarnation };
    log.refused(leave(session.map(Incarnation)));
    log.refused(leave(None));
    let next = log.catalog.index().0 + 1;
    for actor in [Actor::Agent(old.id), Actor::Token(accessor(9))] {
        let late = Envelope { actor, ..envelope(500 + next, intention("web", "api", Action::Allow)) };
        let outcome = log.catalog.clone().apply(CatalogIndex(next), &late, digest).outcome;
        assert!(matches!(outcome, Outcome::Refused(Refusal::ActorGone { .. })), "{outcome:?}");
    }
}

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
fn c9_a_join_token_works_once_and_a_retry_gets_the_same_record() {
    let mut log = Log::default();
    log.done(Command::CreateJoinToken { token: join_token(1, &["web"]) });
    let record = log.enrol(1, "key-a", "n1");
    let answer = log.enrol(1, "key-a", "n1");
    assert_eq!(answer, record, "a retry with the same key");
    assert_eq!(log.refused(enrol(1, "key-b", "n1")), Refusal::JoinTokenUsed);
    assert_eq!(log.refused(enrol(9, "key-b", "n1")), Refusal::JoinTokenUnknown);
    log.done(Command::CreateJoinToken { token: JoinToken { expires_at: Timestamp(1), ..join_token(2, &["web"]) } });
    assert_eq!(log.refused(enrol(2, "key-c", "n2")), Refusal::JoinTokenExpired);
    let elsewhere = JoinToken { node: Some("n3".parse().unwrap()), ..join_token(3, &["web"]) };
    log.done(Command::CreateJoinToken { token: elsewhere });
    assert_eq!(log.refused(enrol(3, "key-c", "n2")).kind(), RefusalKind::Forbidden);
}

#[test]
fn a_node_name_with_a_live_record_is_refused_to_another_key_unless_the_token_says_so() {
    let mut log = Log::default();
    log.done(Command::CreateJoinToken { token: join_token(1, &["web"]) });
    log.done(Command::CreateJoinToken { token: join_token(2, &["web"]) });
    log.done(Command::CreateJoinToken { token: JoinToken { replace_node: true, ..join_token(3, &["web"]) } });
    let first = log.enrol(1, "key-a", "n1");
    assert_eq!(log.refused(enrol(2, "key-b", "n1")), Refusal::NodeTaken { node: "n1".parse().unwrap() });
    let second = log.enrol(3, "key-b", "n1");
    assert_ne!(first.id, second.id);
    assert!(log.catalog.is_revoked(first.enrolled), "whoever held the name is out");
    assert!(!log.catalog.is_revoked(second.enrolled));
    assert!(log.catalog.agent_by_key(&KeyFingerprint("key-a".to_owned())).is_none());
}

#[test]
fn a_write_of_an_older_session_is_refused_and_told_the_current_number() {
    let mut log = Log::default();
    log.done(Command::CreateJoinToken { token: join_token(1, &["web"]) });
    let record = log.enrol(1, "key-a", "n1");
    let owner = Owner::Agent(record.id.clone());
    let write =
        |incarnation| register(node("n1", owner.clone()), vec![instance("n1", "web", "w")], vec![], incarnation);
    assert_eq!(log.refused(write(Some(3))).kind(), RefusalKind::Conflict);
    log.done(open(&record.id));
    let first = log.catalog.index().0;
    log.done(write(Some(first)));
    log.done(open(&record.id));
    let second = log.catalog.index().0;
    let refusal = log.refused(write(Some(first)));
    assert!(refusal.to_string().ends_with(&format!("whose current one is {second}")), "{refusal}");
    let target = DeregisterTarget::Node;
    let late = Command::Deregister { node: "n1".parse().unwrap(), target, incarnation: Some(Incarnation(first)) };
    assert_eq!(log.refused(late).kind(), RefusalKind::Conflict);
}

#[test]
fn a_write_without_a_session_touches_external_nodes_only() {
    let mut log = Log::default();
    log.done(Command::CreateJoinToken { token: join_token(1, &["web"]) });
    let record = log.enrol(1, "key-a", "n1");
    let seize = register(node("n1", Owner::External), vec![], vec![], None);
    assert_eq!(log.refused(seize.clone()).kind(), RefusalKind::Forbidden, "even before the agent registered");
    log.done(open(&record.id));
    let incarnation = Some(log.catalog.index().0);
    let own = register(node("n1", Owner::Agent(record.id.clone())), vec![], vec![], incarnation);
    log.done(own);
    assert_eq!(log.refused(seize).kind(), RefusalKind::Forbidden);
    let remove = Command::Deregister { node: "n1".parse().unwrap(), target: DeregisterTarget::Node, incarnation: None };
    assert_eq!(log.refused(remove).kind(), RefusalKind::Forbidden);
}

#[test]
fn c2_an_agent_registers_only_services_that_its_record_names() {
    let mut log = Log::default();
    log.done(Command::CreateJoinToken { token: join_token(1, &["web"]) });
    let record = log.enrol(1, "key-a", "n1");
    log.done(open(&record.id));
    let incarnation = Some(log.catalog.index().0);
    let steal = register(node("n1", Owner::Agent(record.id)), vec![instance("n1", "db", "d")], vec![], incarnation);
    assert!(matches!(log.refused(steal), Refusal::NotEntitled { .. }));
}

#[test]
fn a_revoked_agent_takes_its_node_with_it_and_its_serials_are_refused() {
    let mut log = Log::default();
    log.done(Command::CreateJoinToken { token: join_token(1, &["web"]) });
    let record = log.enrol(1, "key-a", "n1");
    log.done(open(&record.id));
    let incarnation = Some(log.catalog.index().0);
    let own =
        register(node("n1", Owner::Agent(record.id.clone())), vec![instance("n1", "web", "w")], vec![], incarnation);
    log.done(own);
    log.done(Command::RevokeAgent { agent: record.id.clone() });
    assert_eq!(log.catalog.nodes().count(), 0);
    let revocations = log.catalog.view(&Topic::Revocations);
    assert_eq!(revocations.get(&record.id.to_string()), Some(&Item::RevokedRecord { enrolled: record.enrolled }));
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

#[test]
fn compare_and_set_counts_only_against_the_index_that_was_read() {
    let mut log = Log::default();
    let write = |expected| {
        let intention = Intention::new("web".parse().unwrap(), "api".parse().unwrap(), Action::Allow);
        let mode = WriteMode::CompareAndSet(CatalogIndex(expected));
        Command::WriteIntention {
            intention: Box::new(Intention { description: expected.to_string(), ..intention }),
            mode,
        }
    };
    assert_eq!(log.refused(write(5)).kind(), RefusalKind::Conflict);
    log.done(write(0));
    let index = log.catalog.index().0;
    assert_eq!(log.refused(write(0)).kind(), RefusalKind::Conflict);
    log.done(write(index));
}

#[test]
fn the_acl_is_bootstrapped_once_and_never_locked_out() {
    let mut log = Log::default();
    let token = |number: u8| {
        let secret = SecretHash(format!("secret{number}"));
        Token::new(accessor(number), secret, Rights::Management, Timestamp(0))
    };
    log.done(Command::BootstrapAcl { token: token(1) });
    assert_eq!(log.refused(Command::BootstrapAcl { token: token(2) }), Refusal::AclBootstrapped);
    assert_eq!(log.refused(Command::DeleteToken { accessor: accessor(1) }).kind(), RefusalKind::Invalid);
    log.done(Command::WriteToken { token: token(2) });
    log.done(Command::DeleteToken { accessor: accessor(1) });
    assert!(log.catalog.token_by_secret(&SecretHash("secret1".to_owned())).is_none());
    assert!(log.catalog.token_by_secret(&SecretHash("secret2".to_owned())).is_some());
}

/// Random commands over few names, so that they meet.
fn any_command() -> impl Strategy<Value = Command> {
    let name = |prefix: &'static str| (0u8..3).prop_map(move |number| format!("{prefix}{number}"));
    let pattern = prop_oneof![name("s"), Just("*".to_owned()), Just("*/*".to_owned()), name("other/s")];
    let action = prop_oneof![Just(Action::Allow), Just(Action::Deny)];
    let status = prop_oneof![Just(CheckStatus::Passing), Just(CheckStatus::Warning), Just(CheckStatus::Critical)];
    prop_oneof![
        (pattern.clone(), pattern.clone(), action).prop_map(|(from, to, action)| intention(&from, &to, action)),
        policy::tests::any_change(),
        (pattern.clone(), pattern).prop_map(|(from, to)| Command::DeleteIntention {
            key: IntentionKey { destination: to.parse().unwrap(), source: from.parse().unwrap() },
            compare: None,
        }),
        (name("n"), name("s"), name("i"), status.clone(), proptest::option::of(1u64..40), proptest::bool::ANY)
            .prop_map(|(on, service, id, status, incarnation, external)| {
                let owner =
                    if external { Owner::External } else { Owner::Agent(AgentId::enrolled_at(CatalogIndex(4))) };
                let checks = vec![check(&on, &format!("c-{id}"), Some(&id), status)];
                let gateway_port = incarnation.filter(|number| number % 3 > 0).map(|_| 443);
                let network = if id == "i0" { "aws".to_owned() } else { String::new() };
                register(
                    Node { gateway_port, network, ..node(&on, owner) },
                    vec![instance(&on, &service, &id)],
                    checks,
                    incarnation.filter(|_| !external),
                )
            }),
        (name("n"), name("i"), proptest::bool::ANY).prop_map(|(on, id, all)| Command::Deregister {
            node: on.parse().unwrap(),
            target: if all {
                DeregisterTarget::Node
            } else {
                DeregisterTarget::Instance { namespace: Namespace::default(), id: id.parse().unwrap() }
            },
            incarnation: None,
        }),
        (name("n"), name("c-i"), status).prop_map(|(on, id, status)| Command::UpdateChecks {
            updates: vec![CheckUpdate { key: check(&on, &id, None, status).key, status, output: String::new() }],
            incarnation: None,
        }),
        (1u8..5).prop_map(|number| {
            let gateway = (number > 1).then(|| if number == 2 { "aws".to_owned() } else { String::new() });
            Command::CreateJoinToken { token: JoinToken { gateway, ..join_token(number, &["s0", "s1"]) } }
        }),
        (1u8..5, name("k"), name("n")).prop_map(|(token, key, on)| enrol(token, &key, &on)),
        acl::any_change(),
        config::tests::any_change(),
        (1u64..40).prop_map(|index| open(&AgentId::enrolled_at(CatalogIndex(index)))),
        (1u64..40).prop_map(|index| Command::RevokeAgent { agent: AgentId::enrolled_at(CatalogIndex(index)) }),
        super::session_tests::any_change(),
        super::connector::tests::any_change(),
    ]
}

fn topics() -> Vec<Topic> {
    let services = ["s0", "s1", "s2", "other/s0"].map(|name| name.parse::<ServiceKey>().unwrap());
    let per_service = services
        .iter()
        .flat_map(|s| [Topic::Intentions(s.clone()), Topic::Endpoints(s.clone()), Topic::Config(s.clone())]);
    let networks = ["", "aws"].map(|network| Topic::Network(network.to_owned()));
    let node = Topic::Node("n0".parse().unwrap());
    per_service.chain([node, Topic::Mesh, Topic::Roots, Topic::Revocations, Topic::Gateways]).chain(networks).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn r6_equal_logs_give_equal_states_and_a_snapshot_restores_to_the_same(
        commands in proptest::collection::vec((any_command(), 0u64..60), 1..60),
        cut in 0usize..60,
    ) {
        let (mut one, mut other) = (Catalog::default(), Catalog::default());
        for (at, (command, request)) in commands.iter().enumerate() {
            let index = CatalogIndex(at as u64 + 1);
            let envelope = envelope(*request, command.clone());
            let envelope = Envelope::decode(&envelope.encode()).unwrap();
            let before = one.clone();
            let applied = one.apply(index, &envelope, digest);
            if at == cut {
                other = Catalog::restore(&other.snapshot()).unwrap();
            }
            prop_assert_eq!(&applied, &other.apply(index, &envelope, digest));
            // What no watcher was woken for must not have changed, and what changed must have a new index.
            for topic in topics() {
                let reads = Catalog::reads(&topic);
                if before.view(&topic) != one.view(&topic) {
                    prop_assert!(reads.iter().any(|key| applied.touched.contains(key)), "{} changed unseen", topic);
                    prop_assert_eq!(one.index_of(&reads), index);
                }
                prop_assert!(one.index_of(&reads) >= before.index_of(&reads), "{} went back", topic);
            }
        }
        // What is remembered of changes is no more than there is to watch.
        for key in one.watch_keys() {
            prop_assert!(one.has_behind(key), "{key:?} is remembered, and there is nothing behind it");
        }
        prop_assert_eq!(&one, &other);
        prop_assert_eq!(one.snapshot(), other.snapshot());
        prop_assert_eq!(Catalog::restore(&one.snapshot()).unwrap(), one);
    }
}

#[test]
fn s1_a_damaged_or_newer_snapshot_is_refused() {
    let mut log = Log::default();
    log.done(intention("web", "api", Action::Allow));
    let bytes = log.catalog.snapshot();
    for length in 0..bytes.len() {
        assert!(Catalog::restore(&bytes[..length]).is_err(), "cut at {length}");
    }
    let newer = String::from_utf8(bytes).unwrap().replacen("\"version\":2", "\"version\":3", 1);
    assert!(matches!(Catalog::restore(newer.as_bytes()), Err(crate::SnapshotError::Newer { found: 3 })));
}

#[test]
fn r5_an_entry_of_an_unknown_kind_or_a_newer_version_is_an_error_not_a_no_op() {
    let known = envelope(1, intention("web", "api", Action::Allow)).encode();
    let text = String::from_utf8(known).unwrap();
    let unknown = text.replace("write-intention", "write-poem");
    assert!(matches!(Envelope::decode(unknown.as_bytes()), Err(crate::DecodeError::Unknown(_))));
    let newer = text.replacen("\"version\":1", "\"version\":7", 1);
    assert!(matches!(Envelope::decode(newer.as_bytes()), Err(crate::DecodeError::Newer { found: 7 })));
    let fields = text.replacen("\"mode\":", "\"only_if_idle\":true,\"mode\":", 1);
    assert!(
        fields != text && Envelope::decode(fields.as_bytes()).is_err(),
        "a field of a later release is not skipped"
    );
    assert!(Envelope::decode(b"").is_err());
}

fn facts() -> crate::MemberFacts {
    crate::MemberFacts {
        raft_address: "10.0.0.2:8301".to_owned(),
        agent_address: "10.0.0.2:8300".to_owned(),
        release: "0.1.0".to_owned(),
        reads: 2,
        keys: Vec::new(),
    }
}

fn member_change(change: crate::MembershipChange) -> Command {
    Command::Membership { change }
}

/// One envelope of each kind of command, in an order in which most of them take effect.
pub(crate) fn every_kind() -> Vec<Envelope> {
    let sealed = crate::SealedSecret { key_id: "k1".to_owned(), nonce: "00".to_owned(), ciphertext: "AA==".to_owned() };
    let root = CaRoot {
        id: "root".to_owned(),
        certificate_pem: "(root)".to_owned(),
        sealed_key: Some(sealed.clone()),
        active: true,
        cross: None,
        replaced_at: None,
        retired: false,
        not_before: Timestamp(1),
        not_after: Timestamp(2),
        created: CatalogIndex(0),
        modified: CatalogIndex(0),
    };
    let intermediate = CaIntermediate {
        id: "intermediate".to_owned(),
        root_id: "root".to_owned(),
        certificate_pem: "(intermediate)".to_owned(),
        sealed_key: Some(sealed.clone()),
        active: true,
        not_before: Timestamp(1),
        not_after: Timestamp(2),
        created: CatalogIndex(0),
        modified: CatalogIndex(0),
    };
    let member = crate::ServerMember {
        id: "s1".parse().unwrap(),
        raft_id: 1,
        disk_id: "d1".to_owned(),
        raft_address: "127.0.0.1:8301".to_owned(),
        reads: 1,
    };
    let mesh = Mesh {
        cluster_id: "c1".to_owned(),
        datacenter: "dc1".to_owned(),
        trust_domain: "mesh.example".parse().unwrap(),
        template: crate::PathTemplate::default(),
        servers: vec![member],
    };
    let token = |number: u8| {
        let secret = SecretHash(format!("secret{number}"));
        Token {
            description: "for the operator".to_owned(),
            expires_at: (number > 1).then_some(Timestamp(9)),
            ..Token::new(accessor(number), secret, Rights::Management, Timestamp(1))
        }
    };
    let guardrail = crate::Guardrail {
        name: "no-prod".to_owned(),
        source: "dev/*".parse().unwrap(),
        destination: "prod/*".parse().unwrap(),
    };
    let agent = AgentId::enrolled_at(CatalogIndex(7));
    let (owner, session) = (Owner::Agent(agent.clone()), Some(8));
    let checks = vec![
        check("n1", "alive", Some("web-1"), CheckStatus::Passing),
        check("n1", "node", None, CheckStatus::Warning),
    ];
    let update = CheckUpdate {
        key: checks[0].key.clone(),
        status: CheckStatus::Critical,
        output: "connection refused".to_owned(),
    };
    let mut commands = vec![
        Command::Bootstrap { mesh },
        Command::InstallCa { root: Box::new(root), intermediate: Box::new(intermediate) },
        Command::BootstrapAcl { token: token(1) },
        Command::WriteToken { token: token(2) },
        Command::CreateJoinToken { token: join_token(1, &["default/web", "shop/api"]) },
        Command::CreateJoinToken { token: join_token(2, &["db"]) },
        enrol(1, "key-a", "n1"),
        open(&agent),
        register(node("n1", owner), vec![instance("n1", "web", "web-1")], checks, session),
        Command::UpdateChecks { updates: vec![update], incarnation: session.map(Incarnation) },
        register(node("n2", Owner::External), vec![instance("n2", "db", "db-1")], vec![], None),
        Command::Deregister {
            node: "n2".parse().unwrap(),
            target: DeregisterTarget::Check { namespace: Namespace::default(), id: "none".parse().unwrap() },
            incarnation: None,
        },
        intention("web", "shop/api", Action::Allow),
        intention("spiffe://other.example/ns/a/sa/b", "*/*", Action::Deny),
        Command::DeleteIntention {
            key: IntentionKey {
                destination: "*/*".parse().unwrap(),
                source: "spiffe://other.example/ns/a/sa/b".parse().unwrap(),
            },
            compare: Some(CatalogIndex(14)),
        },
        Command::WriteMesh {
            entry: MeshEntry { guardrails: vec![guardrail], ..MeshEntry::default() },
            compare: Some(CatalogIndex(0)),
        },
        Command::DeleteMesh { compare: None },
        Command::Backup { step: BackupStep::Saved { index: CatalogIndex(3) } },
        Command::Backup {
            step: BackupStep::Begin {
                upload: "u1".parse().unwrap(),
                bytes: 7,
                sha256: crate::AuditHash(digest(b"{ half }")),
            },
        },
        Command::Backup {
            step: BackupStep::Piece { upload: "u1".parse().unwrap(), offset: 0, text: "{ half".to_owned() },
        },
        Command::Backup { step: BackupStep::Commit { upload: "u2".parse().unwrap(), other_cluster: true, form: None } },
        Command::Backup { step: BackupStep::Abandon { upload: "u2".parse().unwrap() } },
        member_change(crate::MembershipChange::Add {
            id: "s2".parse().unwrap(),
            disk_id: "d2".to_owned(),
            facts: facts(),
        }),
        member_change(crate::MembershipChange::Describe { raft_id: 1, facts: facts() }),
        member_change(crate::MembershipChange::Promote { raft_id: 2 }),
        member_change(crate::MembershipChange::Remove { raft_id: 2 }),
        member_change(crate::MembershipChange::Retire { raft_id: 2 }),
        member_change(crate::MembershipChange::SetAutopilot {
            autopilot: crate::Autopilot::default(),
            compare: Some(CatalogIndex(0)),
        }),
        member_change(crate::MembershipChange::Witness {
            raft_id: 1,
            index: CatalogIndex(16),
            found: crate::StateDigest { release: "0.1.0".to_owned(), digest: "ab".to_owned() },
        }),
        Command::DeleteToken { accessor: accessor(2) },
        Command::DeleteJoinToken { accessor: accessor(2) },
        Command::RevokeAgent { agent: AgentId::enrolled_at(CatalogIndex(99)) },
    ];
    commands.extend(super::login_tests::every_login(token(3)));
    commands.extend(super::ca::tests::every_kind());
    let commit = BackupStep::Commit { upload: "u3".parse().unwrap(), other_cluster: false, form: Some(2) };
    let takeover = JoinToken { replace_node: true, maker: Some(accessor(1)), ..join_token(4, &["web"]) };
    let more = acl::kinds()
        .into_iter()
        .chain(super::session_tests::every_change())
        .chain(policy::tests::every_change())
        .chain(config::tests::every_change())
        .chain([Command::CreateJoinToken { token: takeover }, Command::Backup { step: commit }])
        .chain([Some(2), None].map(|to| member_change(crate::MembershipChange::HandOver { to })))
        .chain([super::login_tests::admitted_alone()]);
    let mut all: Vec<Command> = commands.into_iter().chain(more).collect();
    all.extend(super::connector::tests::every_change(all.len() as u64));
    all.extend(super::login_tests::later_forms());
    all.into_iter().zip(1..).map(|(command, number)| envelope(number, command)).collect()
}

/// Applies envelopes one after the other, in a group that is past the first release from the start.
pub(crate) fn log_of(envelopes: &[Envelope]) -> Catalog {
    let mut catalog = Catalog { speaks: crate::ENVELOPE_VERSION, ..Catalog::default() };
    for (envelope, index) in envelopes.iter().zip(1..) {
        catalog.apply(CatalogIndex(index), envelope, digest);
    }
    catalog
}
