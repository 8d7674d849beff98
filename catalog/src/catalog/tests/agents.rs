//! Agents: how they enrol, what their sessions may write, and what their revocation takes with it.

use super::*;

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
