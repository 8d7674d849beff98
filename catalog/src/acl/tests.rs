//! What rules mean, as tables, and against a reference that tries every rule on every name.

use proptest::prelude::*;

use super::*;
use crate::{ServiceKey, ServicePattern, SourcePattern};

fn exact(name: &str) -> NamePattern {
    NamePattern::Exact(name.to_owned())
}

fn prefix(name: &str) -> NamePattern {
    NamePattern::Prefix(name.to_owned())
}

fn on(name: NamePattern, access: Access) -> ServiceRule {
    ServiceRule { name, access, intentions: None }
}

fn services(services: Vec<ServiceRule>) -> Rules {
    Rules { services, ..Rules::default() }
}

fn within(namespace: NamePattern, services: Vec<ServiceRule>) -> Rules {
    let block = NamespaceRules { namespace, acl: None, nodes: Vec::new(), services };
    Rules { namespaces: vec![block], ..Rules::default() }
}

/// Merges policies, each of its own namespace.
fn authority(policies: &[(&str, Rules)]) -> Authority {
    let mut authority = Authority::default();
    for (namespace, rules) in policies {
        authority.add(rules, &namespace.parse().unwrap());
    }
    authority
}

#[track_caller]
fn check(authority: &Authority, service: &str, want: Option<Access>) {
    let service: ServiceKey = service.parse().unwrap();
    let found = (authority.service_read(&service), authority.service_write(&service));
    assert_eq!(found, (want.is_some_and(Access::reads), want.is_some_and(Access::writes)), "{service}");
}

#[test]
fn a4_an_exact_name_and_a_prefix_are_two_things() {
    let named = authority(&[("default", services(vec![on(exact("a"), Access::Write)]))]);
    check(&named, "a", Some(Access::Write));
    check(&named, "ab", None);
    let beginning = authority(&[("default", services(vec![on(prefix("a"), Access::Read)]))]);
    check(&beginning, "a", Some(Access::Read));
    check(&beginning, "ab", Some(Access::Read));
    check(&beginning, "b", None);
}

#[test]
fn the_most_specific_rule_decides() {
    let rules = services(vec![
        on(prefix(""), Access::Write),
        on(prefix("pay"), Access::Read),
        on(prefix("payments"), Access::Deny),
        on(exact("payments-api"), Access::Write),
    ]);
    let authority = authority(&[("default", rules)]);
    check(&authority, "web", Some(Access::Write));
    check(&authority, "payroll", Some(Access::Read));
    check(&authority, "payments", None);
    check(&authority, "payments-db", None);
    check(&authority, "payments-api", Some(Access::Write));
}

#[test]
fn of_equally_specific_rules_a_deny_wins_whatever_policy_it_is_of() {
    let granted = services(vec![on(exact("web"), Access::Write), on(exact("api"), Access::Read)]);
    let denied = services(vec![on(exact("web"), Access::Deny), on(exact("api"), Access::Write)]);
    for order in [[&granted, &denied], [&denied, &granted]] {
        let authority = authority(&order.map(|rules| ("default", rules.clone())));
        check(&authority, "web", None);
        check(&authority, "api", Some(Access::Write));
    }
}

#[test]
fn what_stands_outside_of_a_block_is_of_the_policys_own_namespace() {
    let rules = services(vec![on(prefix(""), Access::Write)]);
    check(&authority(&[("default", rules.clone())]), "web", Some(Access::Write));
    check(&authority(&[("default", rules.clone())]), "team-a/web", None);
    check(&authority(&[("team-a", rules.clone())]), "team-a/web", Some(Access::Write));
    check(&authority(&[("team-a", rules)]), "team-b/web", None);
}

#[test]
fn a_namespaces_own_rule_comes_before_one_of_a_prefix_of_namespaces() {
    let everywhere = within(prefix(""), vec![on(prefix(""), Access::Read)]);
    let own = within(exact("team-a"), vec![on(exact("web"), Access::Write), on(prefix("secret"), Access::Deny)]);
    let teams = within(prefix("team-"), vec![on(exact("web"), Access::Deny)]);
    let authority = authority(&[("default", everywhere), ("default", own), ("default", teams)]);
    check(&authority, "team-a/web", Some(Access::Write));
    check(&authority, "team-a/secret-1", None);
    check(&authority, "team-a/other", Some(Access::Read));
    check(&authority, "team-b/web", None);
    check(&authority, "team-b/other", Some(Access::Read));
    check(&authority, "default/web", Some(Access::Read));
}

#[test]
fn a4_a_policy_of_a_namespace_reaches_nothing_beyond_it() {
    let all = || prefix("");
    let names = vec![NameRule { name: all(), access: Access::Write }];
    let greedy = Rules {
        acl: Some(Access::Write),
        operator: Some(Access::Write),
        mesh: Some(Access::Write),
        agents: names.clone(),
        nodes: names,
        services: vec![on(all(), Access::Write)],
        namespaces: vec![NamespaceRules {
            namespace: all(),
            acl: Some(Access::Write),
            nodes: Vec::new(),
            services: vec![on(all(), Access::Write)],
        }],
    };
    assert!(!greedy.is_within(&"team-a".parse().unwrap()));
    let authority = authority(&[("team-a", greedy)]);
    let node: NodeName = "n1".parse().unwrap();
    assert!(!authority.operator_read() && !authority.mesh_read() && !authority.agent_read(&node));
    assert!(!authority.node_read(&node) && !authority.node_write(&node));
    assert!(authority.acl_write(&"team-a".parse().unwrap()));
    for other in ["default", "team-b"] {
        assert!(!authority.acl_read(&other.parse().unwrap()), "{other}");
        assert!(!authority.service_read(&format!("{other}/web").parse().unwrap()), "{other}");
    }
    assert!(authority.instance_read(&node, &"team-a/web".parse().unwrap()), "its own services may be seen on any node");
    assert!(!authority.instance_read(&node, &"team-b/web".parse().unwrap()));
}

#[test]
fn acl_of_the_mesh_reaches_every_namespace_and_that_of_a_block_only_its_own() {
    let default = Namespace::default_namespace();
    let (ours, theirs): (Namespace, Namespace) = ("team-a".parse().unwrap(), "team-b".parse().unwrap());
    let mesh = authority(&[("default", Rules { acl: Some(Access::Write), ..Rules::default() })]);
    assert!([&default, &ours, &theirs].iter().all(|namespace| mesh.acl_write(namespace)));
    let block =
        NamespaceRules { namespace: exact("team-a"), acl: Some(Access::Write), nodes: vec![], services: vec![] };
    let rules = Rules { namespaces: vec![block.clone()], ..Rules::default() };
    let team = authority(&[("default", rules)]);
    assert!(team.acl_write(&ours) && !team.acl_read(&theirs) && !team.acl_read(&default));
    let every = NamespaceRules { namespace: prefix(""), ..block };
    let all = authority(&[("default", Rules { namespaces: vec![every], ..Rules::default() })]);
    assert!(all.acl_write(&theirs));
    assert!(!all.acl_read(&default), "what is in `default` is the whole mesh's, and no block grants it");
}

#[test]
fn intentions_are_readable_with_the_service_and_written_only_where_it_says_so() {
    let rule = |access, intentions| ServiceRule { name: exact("api"), access, intentions };
    let rows = [
        (rule(Access::Read, None), true, false),
        (rule(Access::Write, None), true, false),
        (rule(Access::Deny, None), false, false),
        (rule(Access::Read, Some(Access::Write)), true, true),
        (rule(Access::Deny, Some(Access::Read)), true, false),
        (rule(Access::Write, Some(Access::Deny)), false, false),
    ];
    let (web, api): (SourcePattern, ServicePattern) = ("web".parse().unwrap(), "api".parse().unwrap());
    for (rule, reads, writes) in rows {
        let authority = authority(&[("default", services(vec![rule.clone()]))]);
        assert_eq!(authority.intention_read(&web, &api), reads, "{rule:?}");
        assert_eq!(authority.intention_write(&api), writes, "{rule:?}");
        // Who may see a service's intentions sees those from it too, and writes none of them.
        let (from, to): (SourcePattern, ServicePattern) = ("api".parse().unwrap(), "other".parse().unwrap());
        assert_eq!(authority.intention_read(&from, &to), reads, "{rule:?}");
        assert!(!authority.intention_write(&to));
    }
}

#[test]
fn a4_an_intention_on_many_services_needs_the_right_on_all_of_them() {
    let write = |name| ServiceRule { name, access: Access::Write, intentions: Some(Access::Write) };
    let team = authority(&[("team-a", services(vec![write(prefix(""))]))]);
    assert!(team.intention_write(&"team-a/*".parse().unwrap()));
    assert!(!team.intention_write(&"*/*".parse().unwrap()));
    assert!(!team.intention_write(&"default/*".parse().unwrap()));
    let but_one = services(vec![write(prefix("")), on(exact("db"), Access::Write)]);
    let but_one = authority(&[("team-a", but_one)]);
    assert!(!but_one.intention_write(&"team-a/*".parse().unwrap()), "the intentions of one may only be read");
    assert!(but_one.intention_write(&"team-a/web".parse().unwrap()));
    let one = authority(&[("team-a", services(vec![write(exact("web"))]))]);
    assert!(!one.intention_write(&"team-a/*".parse().unwrap()));
    let any: SourcePattern = "*/*".parse().unwrap();
    assert!(one.intention_read(&any, &"team-a/*".parse().unwrap()), "the rule concerns a service that it may see");
    assert!(one.intention_read(&any, &"*/*".parse().unwrap()));
    assert!(!one.intention_read(&"other/*".parse().unwrap(), &"other/*".parse().unwrap()));
}

#[test]
fn settings_of_the_mesh_are_the_operators_unless_a_rule_says_otherwise() {
    let of = |operator, mesh| authority(&[("default", Rules { operator, mesh, ..Rules::default() })]);
    assert!(of(Some(Access::Write), None).mesh_write());
    assert!(!of(Some(Access::Write), Some(Access::Read)).mesh_write());
    assert!(of(None, Some(Access::Write)).mesh_write());
    assert!(!of(None, Some(Access::Write)).operator_read());
}

#[test]
fn the_built_in_policies_grant_what_they_say() {
    let [management, read_only] = AclPolicy::builtin();
    assert!(AclPolicy::is_global_management(&management.id) && !AclPolicy::is_global_management(&read_only.id));
    let all = authority(&[("default", management.rules)]);
    let seen = authority(&[("default", read_only.rules)]);
    let (service, node) = ("team-a/web".parse().unwrap(), "n1".parse().unwrap());
    for (authority, writes) in [(&all, true), (&seen, false)] {
        assert!(authority.service_read(&service) && authority.node_read(&node) && authority.agent_read(&node));
        assert!(authority.operator_read() && authority.mesh_read() && authority.acl_read(&service.namespace));
        assert!(authority.instance_read(&node, &service) && authority.intentions_of_read(&service));
        assert_eq!(authority.service_write(&service), writes);
        assert_eq!(authority.node_write(&node) && authority.every_node_write(), writes);
        assert_eq!(authority.intention_write(&"*/*".parse().unwrap()), writes);
        assert_eq!(authority.acl_write(&Namespace::default_namespace()), writes);
        assert_eq!(authority.operator_write() || authority.mesh_write() || authority.agent_write(&node), writes);
    }
}

/// Tries every rule: of those that speak of the name, the most specific decide, and of these the strictest.
fn reference(policies: &[(&str, Rules)], namespace: &str, name: &str, intentions: bool) -> Option<Access> {
    let weigh = |pattern: &NamePattern, text: &str| match pattern {
        NamePattern::Exact(exact) => (exact == text).then_some(usize::MAX),
        NamePattern::Prefix(prefix) => text.starts_with(prefix.as_str()).then_some(prefix.len()),
    };
    let mut found = Vec::new();
    for (own, rules) in policies {
        let outside = (exact(own), &rules.services);
        let blocks = rules.namespaces.iter().filter(|_| *own == "default");
        let scopes = std::iter::once(outside).chain(blocks.map(|block| (block.namespace.clone(), &block.services)));
        for (scope, rules) in scopes {
            for rule in rules {
                let access = if intentions { rule.on_intentions() } else { rule.access };
                if let (Some(outer), Some(inner)) = (weigh(&scope, namespace), weigh(&rule.name, name)) {
                    found.push((outer, inner, access));
                }
            }
        }
    }
    found.into_iter().max().map(|(_, _, access)| access)
}

/// Every text of one to three of the letters; `z` stands for what no rule has.
fn texts() -> Vec<String> {
    let letters = ["a", "b", "z"];
    let mut all: Vec<String> = letters.iter().map(|letter| (*letter).to_owned()).collect();
    for from in [0, 3] {
        let longer: Vec<String> =
            all[from..].iter().flat_map(|text| letters.iter().map(move |letter| format!("{text}{letter}"))).collect();
        all.extend(longer);
    }
    all
}

fn any_pattern() -> impl Strategy<Value = NamePattern> {
    prop_oneof!["[ab]{1,2}".prop_map(NamePattern::Exact), "[ab]{0,2}".prop_map(NamePattern::Prefix)]
}

fn any_access() -> impl Strategy<Value = Access> {
    prop_oneof![Just(Access::Read), Just(Access::Write), Just(Access::Write), Just(Access::Deny)]
}

fn any_services() -> impl Strategy<Value = Vec<ServiceRule>> {
    let rule = (any_pattern(), any_access(), proptest::option::of(any_access()))
        .prop_map(|(name, access, intentions)| ServiceRule { name, access, intentions });
    proptest::collection::vec(rule, 0..4)
}

fn any_policy() -> impl Strategy<Value = (&'static str, Rules)> {
    let block = (any_pattern(), any_services()).prop_map(|(namespace, services)| NamespaceRules {
        namespace,
        acl: None,
        nodes: Vec::new(),
        services,
    });
    let own = prop_oneof![Just("default"), Just("default"), Just("a"), Just("ab")];
    (own, any_services(), proptest::collection::vec(block, 0..4))
        .prop_map(|(own, services, namespaces)| (own, Rules { services, namespaces, ..Rules::default() }))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn a4_rights_are_those_of_the_reference_over_every_name(
        policies in proptest::collection::vec(any_policy(), 0..4),
    ) {
        let authority = authority(&policies);
        let names = texts();
        let mut all_writable = true;
        let namespaces: Vec<String> = names.iter().cloned().chain(["default".to_owned()]).collect();
        for namespace in &namespaces {
            let mut own_writable = true;
            let mut own_readable = false;
            for name in &names {
                let service: ServiceKey = format!("{namespace}/{name}").parse().unwrap();
                let want = reference(&policies, namespace, name, false);
                prop_assert_eq!(authority.service_read(&service), want.is_some_and(Access::reads), "{}", service);
                prop_assert_eq!(authority.service_write(&service), want.is_some_and(Access::writes), "{}", service);
                let want = reference(&policies, namespace, name, true);
                let pattern = ServicePattern::Exact(service.clone());
                prop_assert_eq!(authority.intention_write(&pattern), want.is_some_and(Access::writes), "{}", service);
                prop_assert_eq!(authority.intentions_of_read(&service), want.is_some_and(Access::reads), "{}", service);
                own_writable &= want.is_some_and(Access::writes);
                own_readable |= want.is_some_and(Access::reads);
            }
            let pattern = ServicePattern::Namespace(namespace.parse().unwrap());
            let foreign: SourcePattern = "spiffe://other.example/x".parse().unwrap();
            prop_assert_eq!(authority.intention_write(&pattern), own_writable, "{}/*", namespace);
            prop_assert_eq!(authority.intention_read(&foreign, &pattern), own_readable, "{}/*", namespace);
            all_writable &= own_writable;
        }
        prop_assert_eq!(authority.intention_write(&ServicePattern::Any), all_writable);
    }
}
