//! Who is kept out, and what goes with whoever is.

use super::*;

fn revoked(method: &str, subject: Option<&str>) -> Command {
    let (method, subject) = (method.parse().unwrap(), subject.map(str::to_owned));
    Command::Revoke { change: RevocationChange::Login { method, subject } }
}

fn lift(banned: Banned) -> Command {
    Command::Revoke { change: RevocationChange::Lift { banned } }
}

#[test]
fn c14_a_revoked_agent_does_not_log_in_again_until_that_is_lifted() {
    let mut log = Log::with_method();
    let first = log.enrolled(admission(9, "bearer", "key", "n1", &["web"]));
    log.done(Command::RevokeAgent { agent: first.id.clone() });
    // Neither with the credential that it used, nor with a new one, nor elsewhere.
    for (bearer, node) in [("bearer", "n1"), ("bearer-2", "n1"), ("bearer-3", "n2")] {
        let refusal = log.refused(1, admit(admission(99, bearer, "key", node, &["web"])));
        assert!(matches!(refusal, Refusal::Banned { .. }), "{refusal}");
    }
    assert_eq!(Catalog::restore(&log.0.snapshot()).unwrap(), log.0);
    let key = Banned::Key { key: first.key.clone() };
    assert_eq!(
        log.0.bans().map(|ban| (&ban.banned, ban.node.as_ref())).collect::<Vec<_>>(),
        [(&key, Some(&first.node))]
    );
    log.done(lift(key.clone()));
    let second = log.enrolled(admission(99, "bearer-2", "key", "n1", &["web"]));
    assert!(second.id != first.id && log.0.is_revoked(first.enrolled));
    assert!(matches!(log.refused(1, lift(key)), Refusal::NotFound { .. }));
}

#[test]
fn c14_the_keys_that_were_on_a_node_are_let_in_again_together() {
    let mut log = Log::with_method();
    for (bearer, key) in [("b1", "k1"), ("b2", "k2")] {
        let record = log.enrolled(admission(9, bearer, key, "n1", &["web"]));
        log.done(Command::RevokeAgent { agent: record.id });
    }
    let elsewhere = log.enrolled(admission(9, "b3", "k3", "n2", &["web"]));
    log.done(Command::RevokeAgent { agent: elsewhere.id });
    let lift = |named: &str| Command::Revoke { change: RevocationChange::LiftAgent { named: named.to_owned() } };
    log.done(lift("n1"));
    assert_eq!(log.0.bans().map(|ban| ban.banned.to_string()).collect::<Vec<_>>(), ["key k3"]);
    assert!(matches!(log.refused(1, lift("n1")), Refusal::NotFound { .. }));
    log.done(lift("k3"));
    assert_eq!(log.0.bans().count(), 0);
}

#[test]
fn c14_whom_a_method_vouches_for_is_out_with_its_tokens_and_stays_out() {
    let subject_of = |subject: &str, admission: Admission| Admission { subject: subject.to_owned(), ..admission };
    let mut log = Log::with_method();
    let token = |number: u8, subject: &str| Token {
        auth_method: Some("jwt".to_owned()),
        login_subject: Some(subject.to_owned()),
        ..Token::new(
            format!("00000000-0000-0000-0000-0000000000{number:02}").parse().unwrap(),
            SecretHash(format!("secret-{number}")),
            Rights::Rules,
            Timestamp(1),
        )
    };
    let grant = |number: u8, subject: &str| {
        let (token, method) = (Box::new(token(number, subject)), "jwt".parse().unwrap());
        login(LoginChange::GrantToken { token, method, judged_at: CatalogIndex(99) })
    };
    log.done(grant(1, "web-7"));
    log.done(grant(2, "other"));
    let first = log.enrolled(admission(99, "b1", "k1", "n1", &["web"]));
    let other = log.enrolled(subject_of("other", admission(99, "b2", "k2", "n2", &["web"])));
    assert_eq!(log.at(1, revoked("jwt", Some("web-7"))), Outcome::Revoked { agents: 1 });
    assert!(log.0.agent_record(&first.id).is_none() && log.0.agent_record(&other.id).is_some());
    let left: Vec<_> = log.0.tokens().filter_map(|token| token.login_subject.clone()).collect();
    assert_eq!(left, ["other"]);
    // Not under another key or on another node either, and no token is made for it.
    for refused in [admit(admission(99, "b3", "k3", "n3", &["web"])), grant(3, "web-7")] {
        assert!(matches!(log.refused(1, refused), Refusal::Banned { .. }));
    }
    log.enrolled(subject_of("third", admission(99, "b4", "k4", "n4", &["web"])));

    // The method as a whole.
    assert_eq!(log.at(1, revoked("jwt", None)), Outcome::Revoked { agents: 2 });
    assert!(log.0.tokens().next().is_none());
    let refusal = log.refused(1, admit(subject_of("fifth", admission(99, "b5", "k5", "n5", &["web"]))));
    assert!(matches!(refusal, Refusal::Banned { .. }), "{refusal}");
    log.done(lift(Banned::Login { method: "jwt".parse().unwrap(), subject: None }));
    log.enrolled(subject_of("fifth", admission(99, "b5", "k5", "n5", &["web"])));
    log.refused(1, admit(admission(99, "b6", "k6", "n6", &["web"])));
}

#[test]
fn an_agent_that_its_platform_vouched_for_and_that_stayed_away_is_ended_with_its_certificates() {
    let mut log = Log::with_method();
    let record = log.enrolled(admission(9, "bearer", "key", "n1", &["web"]));
    log.at(1, Command::OpenSession { agent: record.id.clone(), server: "s1".parse().unwrap() });
    let session = SessionRef { agent: record.id.clone(), incarnation: crate::Incarnation(log.0.index().0) };
    let sessions = vec![session];
    let change = |change: SessionChange| Command::Sessions { change };
    let ended = || change(SessionChange::Ended { sessions: sessions.clone() });
    log.done(ended());
    assert!(log.0.agent_record(&record.id).is_some(), "nobody has missed it");
    log.done(change(SessionChange::Lost { sessions: sessions.clone() }));
    log.done(ended());
    assert!(log.0.agent_record(&record.id).is_none() && log.0.is_revoked(record.enrolled));
    // It may come back as what its platform says it is then.
    let again = log.enrolled(admission(99, "bearer-2", "key", "n1", &["web"]));
    assert_ne!(again.id, record.id);
}

#[test]
fn c14_what_a_server_gave_an_agent_alone_and_what_its_earlier_records_gave_it_is_revoked_with_it() {
    let mut log = Log::with_method();
    for _ in 0..20 {
        log.at(1, login(LoginChange::DeleteMethod { name: "none".parse().unwrap() }));
    }
    let alone = |number: u64, bearer: &str, services: &[&str]| Admission {
        provisional: Some(CatalogIndex(number)),
        ..admission(99, bearer, "key", "n1", services)
    };
    let first = log.enrolled(alone(5, "b1", &["web"]));
    assert_eq!(first.earlier, [CatalogIndex(5)]);
    // The same once more, in the next outage.
    let again = log.enrolled(alone(4, "b2", &["web"]));
    assert_eq!((&again.id, again.earlier.as_slice()), (&first.id, [CatalogIndex(5), CatalogIndex(4)].as_slice()));
    let more = log.enrolled(admission(99, "b3", "key", "n1", &["api", "web"]));
    assert!(more.id != first.id && !log.0.is_revoked(first.enrolled));
    assert_eq!(Catalog::restore(&log.0.snapshot()).unwrap(), log.0);
    log.done(Command::RevokeAgent { agent: more.id.clone() });
    for enrolled in [CatalogIndex(5), CatalogIndex(4), first.enrolled, more.enrolled] {
        assert!(log.0.is_revoked(enrolled), "{enrolled}");
        assert!(
            log.0.revoked_agents().any(|(id, at)| id.index() == enrolled && at.is_some()),
            "{enrolled} is kept for good"
        );
    }
    // What a record has, or will have, is nothing that a server gave alone.
    let other = log.enrolled(admission(99, "b4", "key-2", "n2", &["web"]));
    for number in [other.enrolled, CatalogIndex(log.0.index().0 + 2), CatalogIndex(9_999)] {
        let claimed = Admission { provisional: Some(number), ..admission(99, "b5", "key-3", "n3", &["web"]) };
        assert!(matches!(log.refused(1, admit(claimed)), Refusal::Invalid { .. }), "{number}");
    }
}

#[test]
fn c14_an_agent_that_enrolled_again_and_again_with_its_key_is_revoked_with_all_it_had() {
    let mut log = Log::with_method();
    let mut had = Vec::new();
    for number in 1..=20u8 {
        let token = super::tests::join_token(number, &["web"]);
        let secret = token.secret.clone();
        log.done(Command::CreateJoinToken { token });
        let (key, node) = (KeyFingerprint("key".to_owned()), "n1".parse().unwrap());
        match log.at(1, Command::Enrol { secret, key, node, platform: Platform::Kubernetes }) {
            Outcome::Enrolled { record } => had.push(record.enrolled),
            other => panic!("{other:?}"),
        }
    }
    let last = log.0.agent_on(&"n1".parse().unwrap()).unwrap().clone();
    assert_eq!(last.earlier, had[3..19], "the oldest are revoked, for they are too many to hold");
    let is_revoked: Vec<bool> = had.iter().map(|enrolled| log.0.is_revoked(*enrolled)).collect();
    assert_eq!(is_revoked, [vec![true; 3], vec![false; 17]].concat());
    log.done(Command::RevokeAgent { agent: last.id });
    assert!(had.iter().all(|enrolled| log.0.is_revoked(*enrolled)));
}
