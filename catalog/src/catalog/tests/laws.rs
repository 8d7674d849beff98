//! What holds for every log: laws over random commands, and what no log may hold.

use proptest::prelude::*;

use super::*;

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
        crate::catalog::session_tests::any_change(),
        crate::catalog::connector::tests::any_change(),
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
