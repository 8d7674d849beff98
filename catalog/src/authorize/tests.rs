use proptest::prelude::*;

use super::*;
use crate::{HttpMatch, PathMatch, Permission, RelaxedScope};

fn intention(rule: &str) -> Intention {
    let words: Vec<&str> = rule.split(' ').collect();
    Intention::new(words[1].parse().unwrap(), words[2].parse().unwrap(), words[0].parse().unwrap())
}

fn service(name: &str) -> Caller {
    Caller::Service(name.parse().unwrap())
}

#[track_caller]
fn check(rules: &[&str], source: &str, destination: &str, want: Decision) {
    let policy = Policy::new(Action::Deny, Vec::new(), rules.iter().map(|rule| intention(rule)).collect());
    let verdict = authorize(&policy, &service(source), &destination.parse().unwrap(), Timestamp(0));
    assert_eq!(verdict.decision, want, "{rules:?} {source} -> {destination}: {}", verdict.reason);
}

#[test]
fn h11_the_most_specific_intention_decides() {
    use Decision::{Allow, Deny};
    check(&[], "web", "api", Deny);
    check(&["allow web api"], "web", "api", Allow);
    check(&["allow web api"], "api", "web", Deny);
    check(&["allow * api", "deny web api"], "web", "api", Deny);
    check(&["deny * api", "allow web api"], "web", "api", Allow);
    check(&["deny web *", "allow * api"], "web", "api", Allow);
    check(&["allow web *", "deny * api"], "web", "api", Deny);
    check(&["allow * *"], "web", "api", Allow);
    check(&["allow * *"], "shop/web", "api", Deny);
    check(&["allow */* */*"], "shop/web", "api", Allow);
    check(&["allow */* */*", "deny shop/* */*"], "shop/web", "api", Deny);
    check(&["deny */* default/*", "allow shop/web */*"], "shop/web", "api", Deny);
    check(&["allow shop/* api", "deny */* api"], "shop/web", "api", Allow);
}

#[test]
fn a_guardrail_outranks_every_allow() {
    let guardrail =
        Guardrail { name: "no-prod".to_owned(), source: "*/*".parse().unwrap(), destination: "api".parse().unwrap() };
    let policy = Policy::new(Action::Allow, vec![guardrail], vec![intention("allow web api")]);
    let verdict = authorize(&policy, &service("web"), &"api".parse().unwrap(), Timestamp(0));
    assert_eq!(verdict.decision, Decision::Deny);
    assert_eq!(verdict.reason.to_string(), "guardrail `no-prod`");
}

#[test]
fn h11_a_caller_of_whom_nothing_is_known_is_refused_by_what_cannot_rule_it_out() {
    let guardrail = |source: &str, destination: &str| Guardrail {
        name: "g".to_owned(),
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
    };
    let intention = |rule: &str| intention(rule);
    let policy = |guardrails: &[Guardrail], rules: &[&str]| {
        Policy::new(Action::Deny, guardrails.to_vec(), rules.iter().map(|rule| intention(rule)).collect())
    };
    let refused = |policy: &Policy| policy.refuses_unknown(&"api".parse().unwrap()).map(|reason| reason.to_string());
    let deny = Some("intention */* => default/api, precedence");
    let rows = [
        (policy(&[], &[]), None),
        // It may be any of those that a guardrail is about.
        (policy(&[guardrail("shop/web", "api")], &[]), Some("guardrail `g`")),
        (policy(&[guardrail("*/*", "db")], &[]), None),
        (policy(&[], &["deny */* api"]), deny),
        (policy(&[], &["deny */* db"]), None),
        // Of this namespace alone, or of one service: it may be of another.
        (policy(&[], &["deny * api"]), None),
        (policy(&[], &["deny web api"]), None),
        // Where permissive mode is set, an allow is nothing more than that.
        (policy(&[], &["allow */* api"]), None),
        (policy(&[], &["deny */* api", "allow web api"]), deny),
        (policy(&[guardrail("*/*", "api")], &["deny */* api"]), Some("guardrail `g`")),
    ];
    for (number, (policy, want)) in rows.iter().enumerate() {
        let found = refused(policy);
        let as_wanted = match (&found, want) {
            (Some(found), Some(want)) => found.starts_with(want),
            (found, want) => found.is_none() && want.is_none(),
        };
        assert!(as_wanted, "row {number}: {found:?}, wanted {want:?}");
        // What was told and is not in force yet restrains.
        let restrained =
            Policy { restraint: Some(Box::new(policy.clone())), ..Policy::new(Action::Allow, vec![], vec![]) };
        assert_eq!(refused(&restrained), found, "row {number}");
    }
}

/// Decides with everything in audit mode that can be, by each of its three ways.
fn audited(policy: Policy, caller: &Caller) -> Vec<Verdict> {
    let relaxation = |scope| Relaxation {
        scope,
        reason: "a trial".to_owned(),
        by: None,
        since: Timestamp(0),
        ends_at: Timestamp(100),
        modified: crate::CatalogIndex(1),
    };
    let namespace = crate::Namespace::default();
    let ways = [
        (AuditMode { mesh: true, ..AuditMode::default() }, Vec::new()),
        (AuditMode { mesh: false, namespaces: [namespace.clone()].into() }, Vec::new()),
        (AuditMode::default(), vec![relaxation(RelaxedScope::Mesh)]),
        (AuditMode::default(), vec![relaxation(RelaxedScope::Namespace(namespace))]),
    ];
    ways.into_iter()
        .map(|(audit, relaxations)| {
            let policy = policy.clone().with_audit(audit, relaxations);
            authorize(&policy, caller, &"api".parse().unwrap(), Timestamp(50))
        })
        .collect()
}

#[test]
fn audit_mode_names_what_would_have_been_denied_and_its_own_cause() {
    for rules in [vec![], vec![intention("deny web api")]] {
        let verdicts = audited(Policy::new(Action::Deny, Vec::new(), rules), &service("web"));
        assert!(verdicts.iter().all(|verdict| verdict.decision == Decision::Deny), "{verdicts:?}");
        let causes: Vec<&str> = verdicts.iter().map(|one| one.audit.as_ref().unwrap().as_str()).collect();
        assert_eq!(causes, ["mesh", "namespace", "relaxation", "relaxation"]);
    }
    let allowed = audited(Policy::new(Action::Deny, Vec::new(), vec![intention("allow web api")]), &service("web"));
    assert!(allowed.iter().all(|verdict| verdict.decision == Decision::Allow && verdict.audit.is_none()));
    let mut tried = intention("deny web api");
    tried.audit = true;
    let verdicts = audited(Policy::new(Action::Deny, Vec::new(), vec![tried]), &service("web"));
    assert!(verdicts.iter().all(|verdict| verdict.audit == Some(AuditCause::Intention)));
}

#[test]
fn h11_audit_mode_lets_nobody_through_who_is_foreign_or_unknown_or_meets_a_guardrail() {
    let id = "spiffe://other.example/ns/a/sa/b";
    let mut tried = intention(&format!("deny {id} api"));
    tried.audit = true;
    let policy = Policy::new(Action::Deny, Vec::new(), vec![tried]);
    for caller in [Caller::Foreign(id.parse().unwrap()), Caller::Unauthenticated] {
        let verdicts = audited(policy.clone(), &caller);
        assert!(verdicts.iter().all(|one| one.decision == Decision::Deny && one.audit.is_none()), "{caller}");
    }
    let guardrail =
        Guardrail { name: "g".to_owned(), source: "*/*".parse().unwrap(), destination: "api".parse().unwrap() };
    let mut tried = intention("deny web api");
    tried.audit = true;
    let verdicts = audited(Policy::new(Action::Allow, vec![guardrail], vec![tried]), &service("web"));
    assert!(verdicts.iter().all(|one| one.decision == Decision::Deny && one.audit.is_none()), "{verdicts:?}");
}

#[test]
fn audit_mode_of_another_namespace_and_a_relaxation_that_is_over_change_nothing() {
    let over = Relaxation {
        scope: RelaxedScope::Mesh,
        reason: "a trial".to_owned(),
        by: None,
        since: Timestamp(0),
        ends_at: Timestamp(50),
        modified: crate::CatalogIndex(1),
    };
    let elsewhere =
        Relaxation { scope: RelaxedScope::Namespace("shop".parse().unwrap()), ends_at: Timestamp(100), ..over.clone() };
    let audit = AuditMode { mesh: false, namespaces: ["shop".parse().unwrap()].into() };
    let policy = Policy::new(Action::Deny, Vec::new(), vec![]).with_audit(audit, vec![over, elsewhere]);
    let verdict = authorize(&policy, &service("web"), &"api".parse().unwrap(), Timestamp(50));
    assert_eq!((verdict.decision, verdict.audit), (Decision::Deny, None));
}

#[test]
fn an_unauthenticated_caller_matches_nothing_even_under_a_default_of_allow() {
    let policy = Policy::new(Action::Allow, Vec::new(), vec![intention("allow */* */*")]);
    let verdict = authorize(&policy, &Caller::Unauthenticated, &"api".parse().unwrap(), Timestamp(0));
    assert_eq!(verdict.decision, Decision::Deny);
}

#[test]
fn a_foreign_caller_is_matched_by_its_exact_identity_only() {
    let id = "spiffe://other.example/ns/a/sa/b";
    let policy = |rule: &str| Policy::new(Action::Deny, Vec::new(), vec![intention(rule)]);
    let caller = Caller::Foreign(id.parse().unwrap());
    let decide = |rule: &str| authorize(&policy(rule), &caller, &"api".parse().unwrap(), Timestamp(0)).decision;
    assert_eq!(decide("allow */* */*"), Decision::Deny);
    assert_eq!(decide(&format!("allow {id} api")), Decision::Allow);
    assert_eq!(decide("allow spiffe://other.example/ns/a/sa/c api"), Decision::Deny);
}

#[test]
fn an_allow_ends_by_itself_and_a_deny_does_not() {
    let mut allow = intention("allow web api");
    allow.expires_at = Some(Timestamp(100));
    let mut deny = intention("deny web api");
    deny.expires_at = Some(Timestamp(100));
    let decide = |rule: &Intention, default, now| {
        let policy = Policy::new(default, Vec::new(), vec![rule.clone()]);
        authorize(&policy, &service("web"), &"api".parse().unwrap(), Timestamp(now)).decision
    };
    assert_eq!(decide(&allow, Action::Deny, 99), Decision::Allow);
    assert_eq!(decide(&allow, Action::Deny, 100), Decision::Deny);
    assert_eq!(decide(&deny, Action::Allow, 100), Decision::Deny);
}

#[test]
fn h11_permissions_capture_their_source_and_are_left_to_what_reads_requests() {
    let http = HttpMatch { path: Some(PathMatch::Prefix("/v1".to_owned())), ..HttpMatch::default() };
    let permission = Permission::new(Action::Allow, http);
    let mut exact = intention("allow web api");
    exact.effect = Effect::Permissions(vec![permission]);
    let policy = Policy::new(Action::Deny, Vec::new(), vec![intention("allow * api"), exact]);
    let verdict = authorize(&policy, &service("web"), &"api".parse().unwrap(), Timestamp(0));
    assert_eq!(verdict.decision, Decision::PerRequest);
}

/// The rules in their plainest form, over small numbers instead of names.
///
/// A side is `namespace * 3 + name` for one service of two namespaces with three names each, 6 or 7 for all of a
/// namespace, 8 for all. A source may also be 9 or 10: one of two foreign identities.
#[derive(Debug, Clone)]
struct Rules {
    allow_by_default: bool,
    guardrails: Vec<(usize, usize)>,
    /// Source, destination, and what it does: 0 denies, 1 allows, 2 asks for each request, 3 allows until time 100.
    intentions: Vec<((usize, usize), u8)>,
}

#[derive(Debug, Clone, Copy)]
enum Who {
    Service(usize),
    Foreign(usize),
    Nobody,
}

/// Returns how exactly a side speaks of a service: 2, 1 or 0 parts, or not at all.
fn exactness(side: usize, service: usize) -> Option<usize> {
    match side {
        0..=5 => (side == service).then_some(2),
        6 | 7 => (side - 6 == service / 3).then_some(1),
        _ => (side == 8).then_some(0),
    }
}

fn source_exactness(side: usize, who: Who) -> Option<usize> {
    match who {
        Who::Service(service) if side <= 8 => exactness(side, service),
        Who::Foreign(id) if side == 9 + id => Some(2),
        _ => None,
    }
}

fn reference(rules: &Rules, who: Who, destination: usize, now: u64) -> Decision {
    let bars =
        |(from, to): &(usize, usize)| source_exactness(*from, who).is_some() && exactness(*to, destination).is_some();
    if matches!(who, Who::Nobody) || rules.guardrails.iter().any(bars) {
        return Decision::Deny;
    }
    let mut best = (0, if rules.allow_by_default { Decision::Allow } else { Decision::Deny });
    for ((from, to), effect) in &rules.intentions {
        let (Some(from), Some(to)) = (source_exactness(*from, who), exactness(*to, destination)) else { continue };
        if *effect == 3 && now >= 100 {
            continue;
        }
        let decision = [Decision::Deny, Decision::Allow, Decision::PerRequest, Decision::Allow][usize::from(*effect)];
        let score = to * 3 + from + 1;
        if score > best.0 {
            best = (score, decision);
        }
    }
    best.1
}

fn side_text(side: usize) -> String {
    match side {
        0..=5 => format!("n{}/s{}", side / 3, side % 3),
        6 | 7 => format!("n{}/*", side - 6),
        8 => "*/*".to_owned(),
        foreign => format!("spiffe://other.example/id{}", foreign - 9),
    }
}

fn policy_of(rules: &Rules) -> Policy {
    let guardrails = rules.guardrails.iter().map(|(from, to)| Guardrail {
        name: "g".to_owned(),
        source: side_text(*from).parse().unwrap(),
        destination: side_text(*to).parse().unwrap(),
    });
    let intentions = rules.intentions.iter().map(|((from, to), effect)| {
        let mut rule = intention(&format!("allow {} {}", side_text(*from), side_text(*to)));
        match effect {
            0 => rule.effect = Effect::Action(Action::Deny),
            2 => rule.effect = Effect::Permissions(Vec::new()),
            3 => rule.expires_at = Some(Timestamp(100)),
            _ => {}
        }
        rule
    });
    let default_action = if rules.allow_by_default { Action::Allow } else { Action::Deny };
    Policy::new(default_action, guardrails.collect(), intentions.collect())
}

fn any_rules() -> impl Strategy<Value = Rules> {
    let guardrails = proptest::collection::vec((0usize..11, 0usize..9), 0..2);
    let intentions = proptest::collection::btree_map((0usize..11, 0usize..9), 0u8..4, 0..16);
    (any::<bool>(), guardrails, intentions).prop_map(|(allow_by_default, guardrails, intentions)| Rules {
        allow_by_default,
        guardrails,
        intentions: intentions.into_iter().collect(),
    })
}

fn any_caller() -> impl Strategy<Value = Who> {
    prop_oneof![8 => (0usize..6).prop_map(Who::Service), 2 => (0usize..2).prop_map(Who::Foreign), 1 => Just(Who::Nobody)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]
    #[test]
    fn h11_authorize_agrees_with_a_naive_reference(
        rules in any_rules(), who in any_caller(), destination in 0usize..6, late in any::<bool>(),
    ) {
        let now = if late { 100 } else { 99 };
        let caller = match who {
            Who::Service(number) => service(&side_text(number)),
            Who::Foreign(id) => Caller::Foreign(side_text(9 + id).parse().unwrap()),
            Who::Nobody => Caller::Unauthenticated,
        };
        let verdict =
            authorize(&policy_of(&rules), &caller, &side_text(destination).parse().unwrap(), Timestamp(now));
        prop_assert_eq!(verdict.decision, reference(&rules, who, destination, now));
    }
}
