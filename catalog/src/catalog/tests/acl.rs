//! What becomes of tokens, policies and roles, and what commands need of whoever asks for them.

use proptest::prelude::*;

use super::*;
use crate::{
    Access, AclChange, AclPolicy, AclRole, Authority, Links, NamePattern, NameRule, NamespaceRules, Rules, ServiceRule,
    TemplatedPolicy,
};

pub(super) fn acl(change: AclChange) -> Command {
    Command::Acl { change }
}

fn id(kind: u8, number: u8) -> String {
    format!("00000000-0000-0000-00{kind:02}-0000000000{number:02x}")
}

pub(super) fn policy(number: u8, namespace: &str, rules: Rules) -> AclPolicy {
    AclPolicy {
        id: id(1, number).parse().unwrap(),
        name: format!("policy-{number}").parse().unwrap(),
        description: String::new(),
        namespace: namespace.parse().unwrap(),
        text: "(rules)".to_owned(),
        rules,
        created: CatalogIndex(0),
        modified: CatalogIndex(0),
    }
}

fn role(number: u8, namespace: &str, links: Links) -> AclRole {
    AclRole {
        id: id(2, number).parse().unwrap(),
        name: format!("role-{number}").parse().unwrap(),
        description: String::new(),
        namespace: namespace.parse().unwrap(),
        links,
        created: CatalogIndex(0),
        modified: CatalogIndex(0),
    }
}

fn token(number: u8, namespace: &str, links: Links) -> Token {
    let secret = SecretHash(format!("acl{number}"));
    let token = Token::new(accessor(number), secret, Rights::Rules, Timestamp(1));
    Token { namespace: namespace.parse().unwrap(), ..token }.with_links(links)
}

fn writes(service: &str) -> Rules {
    let rule = ServiceRule {
        name: NamePattern::Exact(service.to_owned()),
        access: Access::Write,
        intentions: Some(Access::Write),
    };
    Rules { services: vec![rule], ..Rules::default() }
}

fn linked_to(policies: &[u8]) -> Links {
    Links { policies: policies.iter().map(|number| id(1, *number).parse().unwrap()).collect(), ..Links::default() }
}

fn create_policy(policy: AclPolicy) -> Command {
    acl(AclChange::CreatePolicy { policy: Box::new(policy) })
}

fn create_role(role: AclRole) -> Command {
    acl(AclChange::CreateRole { role: Box::new(role) })
}

fn create_token(token: Token) -> Command {
    acl(AclChange::CreateToken { token: Box::new(token) })
}

/// One of each kind, as the golden file has them.
pub(super) fn kinds() -> Vec<Command> {
    let all = || NamePattern::Prefix(String::new());
    let rules = Rules {
        acl: Some(Access::Read),
        operator: Some(Access::Read),
        mesh: Some(Access::Deny),
        agents: vec![NameRule { name: all(), access: Access::Read }],
        nodes: vec![NameRule { name: NamePattern::Exact("n1".to_owned()), access: Access::Write }],
        services: writes("web").services,
        namespaces: vec![NamespaceRules {
            namespace: NamePattern::Prefix("team-".to_owned()),
            acl: Some(Access::Write),
            nodes: vec![NameRule { name: all(), access: Access::Read }],
            services: vec![ServiceRule { name: all(), access: Access::Read, intentions: None }],
        }],
    };
    let links = Links {
        roles: vec![id(2, 1).parse().unwrap()],
        service_identities: vec!["web".parse().unwrap()],
        node_identities: vec!["n1".parse().unwrap()],
        templated_policies: vec![
            TemplatedPolicy::Service { name: "api".parse().unwrap() },
            TemplatedPolicy::Node { name: "n2".parse().unwrap() },
            TemplatedPolicy::Dns,
        ],
        ..linked_to(&[1])
    };
    let made = Token {
        description: "for team a".to_owned(),
        expires_at: Some(Timestamp(1_000_000)),
        local: true,
        auth_method: Some("ci".to_owned()),
        ..token(3, "default", links.clone())
    };
    let update = AclPolicy { description: "changed".to_owned(), ..policy(1, "default", rules.clone()) };
    vec![
        create_policy(policy(1, "default", rules)),
        create_policy(policy(2, "team-a", writes("web"))),
        acl(AclChange::UpdatePolicy { policy: Box::new(update) }),
        create_role(role(1, "default", linked_to(&[1]))),
        create_role(role(2, "team-a", linked_to(&[2]))),
        acl(AclChange::UpdateRole { role: Box::new(role(1, "default", Links::default())) }),
        create_token(made),
        create_token(token(4, "team-a", Links::default())),
        acl(AclChange::UpdateToken {
            accessor: accessor(3),
            description: "changed".to_owned(),
            rights: Rights::Rules,
            links,
        }),
        acl(AclChange::DeleteRole { id: id(2, 2).parse().unwrap() }),
        acl(AclChange::DeletePolicy { id: id(1, 2).parse().unwrap() }),
        acl(AclChange::ReapTokens),
    ]
}

/// Random changes over few names, so that they meet.
pub(super) fn any_change() -> impl Strategy<Value = Command> {
    let namespace = prop_oneof![Just("default"), Just("team-a")];
    let links = (0u8..3, 0u8..3)
        .prop_map(|(policy, role)| Links { roles: vec![id(2, role).parse().unwrap()], ..linked_to(&[policy]) });
    prop_oneof![
        (0u8..3, namespace.clone()).prop_map(|(number, of)| create_policy(policy(number, of, writes("s0")))),
        (0u8..3).prop_map(|number| acl(AclChange::DeletePolicy { id: id(1, number).parse().unwrap() })),
        (0u8..3, namespace.clone(), 0u8..3).prop_map(|(number, of, to)| create_role(role(
            number,
            of,
            linked_to(&[to])
        ))),
        (0u8..3).prop_map(|number| acl(AclChange::DeleteRole { id: id(2, number).parse().unwrap() })),
        (0u8..4, namespace, links.clone(), proptest::option::of(0u64..60)).prop_map(|(number, of, links, end)| {
            create_token(Token { expires_at: end.map(Timestamp), ..token(number, of, links) })
        }),
        (0u8..4, links).prop_map(|(number, links)| acl(AclChange::UpdateToken {
            accessor: accessor(number),
            description: String::new(),
            rights: Rights::Rules,
            links,
        })),
        Just(acl(AclChange::ReapTokens)),
    ]
}

fn authority(log: &Log, number: u8) -> Authority {
    log.catalog.authority(log.catalog.token(&accessor(number)).unwrap())
}

#[test]
fn c14_a_token_that_came_of_a_login_makes_no_join_tokens() {
    let mut log = Log::default();
    let token = |number: u8, auth_method: Option<&str>| Token {
        auth_method: auth_method.map(str::to_owned),
        service_identities: vec!["web".parse().unwrap()],
        templated_policies: vec![TemplatedPolicy::Node { name: "n1".parse().unwrap() }],
        ..token(number, "default", Links::default())
    };
    log.done(acl(AclChange::CreateToken { token: Box::new(token(1, None)) }));
    log.done(acl(AclChange::CreateToken { token: Box::new(token(2, Some("platform"))) }));
    let join =
        Command::CreateJoinToken { token: JoinToken { node: Some("n1".parse().unwrap()), ..join_token(1, &["web"]) } };
    assert_eq!(log.catalog.permits(&authority(&log, 1), &join), Ok(()));
    let lack = log.catalog.permits(&authority(&log, 2), &join).unwrap_err();
    assert!(lack.to_string().contains("one that came of a login makes no join tokens"), "{lack}");
}

/// Applies a command in the name of a token.
fn by(log: &mut Log, number: u8, command: Command) -> Outcome {
    let next = log.catalog.index.0 + 1;
    let envelope = Envelope { actor: Actor::Token(accessor(number)), ..envelope(next, command) };
    log.catalog.apply(CatalogIndex(next), &envelope, digest).outcome
}

#[test]
fn c14_a_token_that_came_of_a_login_makes_none_that_outlives_it() {
    let mut log = Log::default();
    log.done(create_policy(policy(1, "team-a", Rules { acl: Some(Access::Write), ..writes("s0") })));
    let of_login = |number: u8, subject: &str, ends: u64| Token {
        auth_method: Some("okta".to_owned()),
        login_subject: Some(subject.to_owned()),
        expires_at: Some(Timestamp(ends)),
        ..token(number, "team-a", linked_to(&[1]))
    };
    log.done(create_token(of_login(1, "mallory", 5_000)));
    log.done(create_token(of_login(2, "alice", 5_000)));
    log.done(create_token(token(3, "team-a", Links::default())));

    // Without an end, with a later one, with an earlier one.
    for (number, asked, ends) in [(4, None, 5_000), (5, Some(9_000), 5_000), (6, Some(4_000), 4_000)] {
        let made = Token { expires_at: asked.map(Timestamp), ..token(number, "team-a", linked_to(&[1])) };
        assert_eq!(by(&mut log, 1, create_token(made)), Outcome::Done);
        let made = log.catalog.token(&accessor(number)).unwrap();
        assert_eq!((made.auth_method.as_deref(), made.login_subject.as_deref()), (Some("okta"), Some("mallory")));
        assert_eq!(made.expires_at, Some(Timestamp(ends)));
        assert!(authority(&log, number).is_by_login(), "nor does it make join tokens");
    }
    // What it made makes no more than it.
    assert_eq!(by(&mut log, 4, create_token(token(7, "team-a", Links::default()))), Outcome::Done);
    let update = |number| {
        let links = linked_to(&[1]);
        let (description, rights) = (String::new(), Rights::Rules);
        acl(AclChange::UpdateToken { accessor: accessor(number), description, rights, links })
    };
    assert_eq!(by(&mut log, 1, update(7)), Outcome::Done, "its own it changes");
    for other in [2, 3] {
        let refused = by(&mut log, 1, update(other));
        assert_eq!(refused, Outcome::Refused(Refusal::NotOfLogin { accessor: accessor(other) }));
    }
    // As many as somebody may have by logging in, however they come by them.
    let refused =
        (10..40).find_map(|number| match by(&mut log, 1, create_token(token(number, "team-a", Links::default()))) {
            Outcome::Refused(refusal) => Some(refusal),
            _ => None,
        });
    assert!(matches!(refused, Some(Refusal::TooManyLogins { .. })), "{refused:?}");

    let revoke =
        crate::RevocationChange::Login { method: "okta".parse().unwrap(), subject: Some("mallory".to_owned()) };
    log.done(Command::Revoke { change: revoke });
    let left: Vec<_> = log.catalog.tokens().map(|token| token.accessor.clone()).collect();
    assert_eq!(left, [accessor(2), accessor(3)]);
}

fn may_write(log: &Log, number: u8, service: &str) -> bool {
    authority(log, number).service_write(&service.parse().unwrap())
}

#[test]
fn a_token_may_do_what_its_policies_roles_and_identities_grant_together() {
    let mut log = Log::default();
    assert_eq!(log.done(create_policy(policy(1, "default", writes("web")))), [WatchKey::AclPolicies].into());
    log.done(create_policy(policy(2, "default", writes("api"))));
    let of_role = Links { service_identities: vec!["db".parse().unwrap()], ..linked_to(&[2]) };
    assert_eq!(log.done(create_role(role(1, "default", of_role))), [WatchKey::AclRoles].into());
    let links = Links {
        roles: vec![id(2, 1).parse().unwrap()],
        service_identities: vec!["cache".parse().unwrap()],
        node_identities: vec!["n1".parse().unwrap()],
        templated_policies: vec![TemplatedPolicy::Service { name: "mail".parse().unwrap() }],
        ..linked_to(&[1])
    };
    assert_eq!(log.done(create_token(token(1, "default", links))), [WatchKey::Tokens].into());
    for service in ["web", "api", "db", "cache", "mail"] {
        assert!(may_write(&log, 1, service), "{service}");
    }
    assert!(!may_write(&log, 1, "other"));
    assert!(authority(&log, 1).node_write(&"n1".parse().unwrap()));
    assert!(!authority(&log, 1).node_write(&"n2".parse().unwrap()));
    assert!(authority(&log, 1).instance_read(&"n2".parse().unwrap(), &"other".parse().unwrap()));
}

#[test]
fn c14_what_a_token_was_linked_to_grants_nothing_once_it_is_gone() {
    let mut log = Log::default();
    log.done(create_policy(policy(1, "default", writes("web"))));
    log.done(create_role(role(1, "default", linked_to(&[1]))));
    log.done(create_token(token(1, "default", linked_to(&[1]))));
    let by_role = Links { roles: vec![id(2, 1).parse().unwrap()], ..Links::default() };
    log.done(create_token(token(2, "default", by_role)));
    let changed = AclPolicy { rules: writes("api"), ..policy(1, "default", Rules::default()) };
    log.done(acl(AclChange::UpdatePolicy { policy: Box::new(changed) }));
    assert!([1, 2].iter().all(|number| may_write(&log, *number, "api") && !may_write(&log, *number, "web")));
    log.done(acl(AclChange::DeleteRole { id: id(2, 1).parse().unwrap() }));
    assert!(may_write(&log, 1, "api") && !may_write(&log, 2, "api"));
    log.done(acl(AclChange::DeletePolicy { id: id(1, 1).parse().unwrap() }));
    assert_eq!(authority(&log, 1), Authority::default());
}

#[test]
fn a4_rights_do_not_cross_from_one_namespace_into_another() {
    let mut log = Log::default();
    log.done(create_policy(policy(1, "default", writes("web"))));
    log.done(create_policy(policy(2, "team-a", writes("web"))));
    log.done(create_role(role(2, "team-a", linked_to(&[2]))));
    let management = Links { policies: vec![AclPolicy::builtin()[0].id.clone()], ..Links::default() };
    let team_role = Links { roles: vec![id(2, 2).parse().unwrap()], ..Links::default() };
    let node = Links { node_identities: vec!["n1".parse().unwrap()], ..Links::default() };
    let rows = [
        ("team-a", linked_to(&[1])),
        ("team-a", management),
        ("team-a", node.clone()),
        ("default", linked_to(&[2])),
        ("default", team_role.clone()),
        ("team-b", team_role.clone()),
    ];
    for (namespace, links) in rows {
        let kind = log.refused(create_token(token(9, namespace, links.clone()))).kind();
        assert_eq!(kind, RefusalKind::Invalid, "{namespace}: {links:?}");
        assert_eq!(log.refused(create_role(role(9, namespace, links))).kind(), RefusalKind::Invalid);
    }
    log.done(create_token(token(1, "team-a", team_role)));
    assert!(may_write(&log, 1, "team-a/web") && !may_write(&log, 1, "web"));
    let update = |links| {
        acl(AclChange::UpdateToken { accessor: accessor(1), description: String::new(), rights: Rights::Rules, links })
    };
    for links in [linked_to(&[1]), node] {
        assert_eq!(log.refused(update(links)).kind(), RefusalKind::Invalid);
    }
    let everything = acl(AclChange::UpdateToken {
        accessor: accessor(1),
        description: String::new(),
        rights: Rights::Management,
        links: Links::default(),
    });
    assert_eq!(log.refused(everything).kind(), RefusalKind::Invalid);
    let beyond = Rules { operator: Some(Access::Read), ..Rules::default() };
    assert_eq!(log.refused(create_policy(policy(3, "team-a", beyond.clone()))).kind(), RefusalKind::Invalid);
    let beyond = AclPolicy { namespace: Namespace::default(), ..policy(2, "team-a", beyond) };
    let refusal = log.refused(acl(AclChange::UpdatePolicy { policy: Box::new(beyond) }));
    assert_eq!(refusal.kind(), RefusalKind::Invalid, "a policy stays in its namespace: {refusal}");
}

#[test]
fn a_name_is_taken_once_in_a_namespace_and_links_need_what_is_there() {
    let mut log = Log::default();
    log.done(create_policy(policy(1, "default", writes("web"))));
    let renamed = AclPolicy { id: id(1, 7).parse().unwrap(), ..policy(1, "default", writes("web")) };
    assert_eq!(log.refused(create_policy(renamed.clone())).kind(), RefusalKind::Conflict);
    log.done(create_policy(AclPolicy { namespace: "team-a".parse().unwrap(), ..renamed }));
    assert_eq!(log.refused(create_policy(policy(1, "default", writes("web")))).kind(), RefusalKind::Conflict);
    assert_eq!(log.refused(create_token(token(1, "default", linked_to(&[5])))).kind(), RefusalKind::NotFound);
    assert_eq!(log.refused(create_role(role(1, "default", linked_to(&[5])))).kind(), RefusalKind::NotFound);
    let gone = acl(AclChange::UpdatePolicy { policy: Box::new(policy(5, "default", writes("web"))) });
    assert_eq!(log.refused(gone).kind(), RefusalKind::NotFound, "changing is not making");
    log.done(create_token(token(1, "default", linked_to(&[1]))));
    let again = Token { secret: SecretHash("another".to_owned()), ..token(1, "default", Links::default()) };
    assert_eq!(log.refused(create_token(again)).kind(), RefusalKind::Conflict, "nobody takes another's accessor");
    let [management, _] = AclPolicy::builtin();
    for change in [
        AclChange::UpdatePolicy { policy: Box::new(AclPolicy { rules: Rules::default(), ..management.clone() }) },
        AclChange::DeletePolicy { id: management.id.clone() },
    ] {
        assert_eq!(log.refused(acl(change)).kind(), RefusalKind::Invalid);
    }
}

#[test]
fn a_token_ends_with_its_time_and_is_then_forgotten() {
    let mut log = Log::default();
    let ending = Token { expires_at: Some(Timestamp(3)), ..token(1, "default", Links::default()) };
    log.done(create_token(ending));
    log.done(create_token(token(2, "default", Links::default())));
    assert_eq!(log.catalog.next_token_end(), Some(Timestamp(3)));
    assert_eq!(log.done(acl(AclChange::ReapTokens)), [WatchKey::Tokens].into());
    assert!(log.catalog.token(&accessor(1)).is_none());
    assert!(log.catalog.token_by_secret(&SecretHash("acl1".to_owned())).is_none());
    assert!(log.catalog.token(&accessor(2)).is_some());
    assert!(log.done(acl(AclChange::ReapTokens)).is_empty());
    assert_eq!(log.catalog.next_token_end(), None);
}

#[test]
fn the_last_management_token_keeps_its_rights() {
    let mut log = Log::default();
    let secret = SecretHash("first".to_owned());
    let first = Token::new(accessor(1), secret, Rights::Management, Timestamp(0));
    log.done(Command::BootstrapAcl { token: first });
    let demote = acl(AclChange::UpdateToken {
        accessor: accessor(1),
        description: String::new(),
        rights: Rights::Rules,
        links: Links::default(),
    });
    assert_eq!(log.refused(demote.clone()).kind(), RefusalKind::Invalid);
    let second = Token { rights: Rights::Management, ..token(2, "default", Links::default()) };
    log.done(create_token(second));
    log.done(demote);
    assert_eq!(log.refused(Command::DeleteToken { accessor: accessor(2) }).kind(), RefusalKind::Invalid);
}

#[track_caller]
fn permits(log: &Log, rules: &Rules, namespace: &str, command: &Command, want: bool) {
    let mut authority = Authority::default();
    authority.add(rules, &namespace.parse().unwrap());
    let judged = log.catalog.permits(&authority, command);
    assert_eq!(judged.is_ok(), want, "{command:?}: {judged:?}");
    assert_eq!(log.catalog.permits(&Authority::management(), command), Ok(()));
}

#[test]
fn a4_a_write_on_several_things_needs_the_right_on_each_of_them() {
    let mut log = Log::default();
    let on_node = vec![instance("n1", "web", "web-1"), instance("n1", "db", "db-1")];
    let checks =
        vec![check("n1", "alive", Some("db-1"), CheckStatus::Passing), check("n1", "disk", None, CheckStatus::Passing)];
    log.done(register(node("n1", Owner::External), on_node.clone(), checks.clone(), None));
    let with_node = |node: &str, rules: Rules| Rules {
        nodes: vec![NameRule { name: NamePattern::Exact(node.to_owned()), access: Access::Write }],
        ..rules
    };
    let every_node = |rules: Rules| Rules {
        nodes: vec![NameRule { name: NamePattern::Prefix(String::new()), access: Access::Write }],
        ..rules
    };
    let replacing = |node: Option<&str>| Command::CreateJoinToken {
        token: JoinToken {
            node: node.map(|name| name.parse().unwrap()),
            replace_node: true,
            ..join_token(1, &["web"])
        },
    };
    let (web, nothing) = (writes("web"), Rules::default());
    let both = Rules { services: [writes("web").services, writes("db").services].concat(), ..Rules::default() };
    let target = |target| Command::Deregister { node: "n1".parse().unwrap(), target, incarnation: None };
    let of = |id: &str| DeregisterTarget::Instance { namespace: Namespace::default(), id: id.parse().unwrap() };
    let same = register(node("n1", Owner::External), on_node[..1].to_vec(), vec![], None);
    let moved = Node { address: "10.9.9.9".to_owned(), ..node("n1", Owner::External) };
    let update = |id: &str| Command::UpdateChecks {
        updates: vec![CheckUpdate {
            key: check("n1", id, None, CheckStatus::Passing).key,
            status: CheckStatus::Critical,
            output: String::new(),
        }],
        incarnation: None,
    };
    let rows = [
        (&web, same, true),
        (&web, register(node("n1", Owner::External), on_node.clone(), vec![], None), false),
        (&both, register(node("n1", Owner::External), on_node.clone(), vec![], None), true),
        (&both, register(moved.clone(), on_node.clone(), vec![], None), false),
        (&with_node("n1", both.clone()), register(moved, on_node.clone(), vec![], None), true),
        (&web, register(node("n2", Owner::External), vec![instance("n2", "web", "web-2")], vec![], None), false),
        // An id that served another service.
        (&web, register(node("n1", Owner::External), vec![instance("n1", "web", "db-1")], vec![], None), false),
        (&web, register(node("n1", Owner::External), vec![], checks[..1].to_vec(), None), false),
        (&both, register(node("n1", Owner::External), vec![], checks[..1].to_vec(), None), true),
        (&both, register(node("n1", Owner::External), vec![], checks[1..].to_vec(), None), false),
        (&web, target(DeregisterTarget::Node), false),
        (&with_node("n1", web.clone()), target(DeregisterTarget::Node), false),
        (&with_node("n1", both.clone()), target(DeregisterTarget::Node), true),
        (&web, target(of("web-1")), true),
        (&web, target(of("db-1")), false),
        (&with_node("n1", nothing.clone()), target(of("db-1")), false),
        (&web, update("alive"), false),
        (&both, update("alive"), true),
        (&both, update("disk"), false),
        (&web, intention("any/one", "web", Action::Allow), true),
        (&web, intention("web", "db", Action::Allow), false),
        (&web, intention("web", "*", Action::Allow), false),
        (&with_node("n1", web.clone()), Command::CreateJoinToken { token: join_token(1, &["web"]) }, false),
        (
            &with_node("n9", web.clone()),
            Command::CreateJoinToken {
                token: JoinToken { node: Some("n9".parse().unwrap()), ..join_token(1, &["web"]) },
            },
            true,
        ),
        (
            &with_node("n9", web.clone()),
            Command::CreateJoinToken {
                token: JoinToken { node: Some("n9".parse().unwrap()), ..join_token(1, &["db", "web"]) },
            },
            false,
        ),
        (&with_node("n1", web.clone()), replacing(Some("n1")), false),
        (&with_node("n1", both.clone()), replacing(Some("n1")), true),
        (&with_node("n9", web.clone()), replacing(Some("n9")), true),
        (&every_node(both.clone()), replacing(None), false),
        (&Rules { operator: Some(Access::Write), ..every_node(both.clone()) }, replacing(None), true),
        (&Rules { mesh: Some(Access::Write), ..Rules::default() }, Command::DeleteMesh { compare: None }, false),
        (&Rules { operator: Some(Access::Write), ..Rules::default() }, Command::DeleteMesh { compare: None }, true),
        (&both, Command::RevokeAgent { agent: AgentId::enrolled_at(CatalogIndex(1)) }, false),
        (&both, enrol(1, "k", "n1"), false),
    ];
    for (rules, command, want) in rows {
        permits(&log, rules, "default", &command, want);
    }
}

#[test]
fn a4_who_writes_the_acl_of_a_namespace_writes_nothing_else_of_it() {
    let mut log = Log::default();
    log.done(create_policy(policy(1, "default", writes("web"))));
    log.done(create_policy(policy(2, "team-a", writes("web"))));
    log.done(create_role(role(1, "default", Links::default())));
    log.done(create_token(token(1, "default", Links::default())));
    log.done(create_token(token(2, "team-a", Links::default())));
    let rules = Rules { acl: Some(Access::Write), ..Rules::default() };
    let update = |number| {
        acl(AclChange::UpdateToken {
            accessor: accessor(number),
            description: String::new(),
            rights: Rights::Rules,
            links: Links::default(),
        })
    };
    let relabelled = AclPolicy { namespace: "team-a".parse().unwrap(), ..policy(1, "default", writes("web")) };
    let rows = [
        (create_policy(policy(3, "team-a", writes("web"))), true),
        (create_policy(policy(3, "team-b", writes("web"))), false),
        (create_policy(policy(3, "default", writes("web"))), false),
        (acl(AclChange::UpdatePolicy { policy: Box::new(relabelled) }), false),
        (acl(AclChange::DeletePolicy { id: id(1, 2).parse().unwrap() }), true),
        (acl(AclChange::DeletePolicy { id: id(1, 1).parse().unwrap() }), false),
        (create_role(role(3, "team-a", Links::default())), true),
        (acl(AclChange::DeleteRole { id: id(2, 1).parse().unwrap() }), false),
        (create_token(token(3, "team-a", Links::default())), true),
        (create_token(token(3, "default", Links::default())), false),
        (update(2), true),
        (update(1), false),
        (update(8), false),
        (Command::DeleteToken { accessor: accessor(2) }, true),
        (Command::DeleteToken { accessor: accessor(1) }, false),
        (Command::WriteToken { token: token(1, "default", Links::default()) }, false),
        (Command::WriteToken { token: token(1, "team-a", Links::default()) }, false),
        (acl(AclChange::ReapTokens), false),
        (intention("web", "team-a/web", Action::Allow), false),
    ];
    for (command, want) in rows {
        permits(&log, &rules, "team-a", &command, want);
    }
}

#[test]
fn rules_that_could_never_speak_of_anything_are_refused_by_name() {
    let bad = |rules| create_policy(policy(1, "default", rules)).validate().unwrap_err().to_string();
    let services = |name: NamePattern| Rules {
        services: vec![ServiceRule { name, access: Access::Deny, intentions: None }],
        ..Rules::default()
    };
    let exact = |name: &str| NamePattern::Exact(name.to_owned());
    for name in ["", "*", "Web", "a.b", "a b"] {
        assert!(bad(services(exact(name))).contains(&format!("service \"{name}\"")), "{name}");
    }
    assert!(bad(services(NamePattern::Prefix("-a".to_owned()))).contains("service_prefix \"-a\""));
    for name in ["", "a", "a-", "team-"] {
        create_policy(policy(1, "default", services(NamePattern::Prefix(name.to_owned())))).validate().unwrap();
    }
    let block = |namespace, acl, nodes| Rules {
        namespaces: vec![NamespaceRules { namespace, acl, nodes, services: Vec::new() }],
        ..Rules::default()
    };
    assert!(bad(block(exact("default"), Some(Access::Write), vec![])).contains("outside of the block"));
    let node = NameRule { name: exact("n1"), access: Access::Write };
    assert!(bad(block(exact("team-a"), None, vec![node])).contains("nodes belong to no namespace"));
    let many = Rules { services: vec![writes("web").services[0].clone(); 2000], ..Rules::default() };
    assert!(bad(many).contains("2000"));
}

#[test]
fn a_token_that_says_more_than_the_first_release_reads_is_not_proposed_to_it() {
    let plain = Token::new(accessor(1), SecretHash("s".to_owned()), Rights::Management, Timestamp(1));
    let linked = Token { policies: vec![id(1, 1).parse().unwrap()], ..plain.clone() };
    let elsewhere = Token { namespace: "team-a".parse().unwrap(), ..plain.clone() };
    let of_rules = Token { rights: Rights::Rules, ..plain.clone() };
    let described = Token { description: "x".to_owned(), expires_at: Some(Timestamp(2)), ..plain.clone() };
    for (token, want) in [(plain, 1), (described, 1), (linked, 2), (elsewhere, 2), (of_rules, 2)] {
        assert_eq!(Command::WriteToken { token: token.clone() }.reads_from(), want, "{token:?}");
        assert_eq!(Command::BootstrapAcl { token }.reads_from(), 2, "a trail begins with the first token");
    }
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
