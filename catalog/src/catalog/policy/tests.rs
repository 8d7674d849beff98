//! What changes of policy promise: ownership by line, lists by destination, and relaxations that end.

use proptest::prelude::*;

use super::super::tests::{Log, envelope};
use super::*;
use crate::{AuditMode, Command, Decision, MeshEntry, Namespace, ServiceKey, Timestamp, authorize};

fn line(rule: &str, owner: Option<&str>) -> Intention {
    let words: Vec<&str> = rule.split(' ').collect();
    let mut intention = Intention::new(words[1].parse().unwrap(), words[2].parse().unwrap(), words[0].parse().unwrap());
    intention.owner = owner.map(|owner| owner.parse().unwrap());
    intention
}

fn write(rule: &str, owner: Option<&str>) -> Command {
    Command::WriteIntention { intention: Box::new(line(rule, owner)), mode: WriteMode::Upsert }
}

fn policy(change: PolicyChange) -> Command {
    Command::Policy { change }
}

fn list(owner: Option<&str>, rules: &[(&str, Option<&str>)], compare: Option<u64>) -> Command {
    policy(PolicyChange::WriteDestination {
        destination: "api".parse().unwrap(),
        owner: owner.map(|owner| owner.parse().unwrap()),
        intentions: rules.iter().map(|(rule, owner)| line(&format!("{rule} api"), *owner)).collect(),
        compare: compare.map(CatalogIndex),
    })
}

fn delete_list(owner: Option<&str>, compare: Option<u64>) -> Command {
    policy(PolicyChange::DeleteDestination {
        destination: "api".parse().unwrap(),
        owner: owner.map(|owner| owner.parse().unwrap()),
        compare: compare.map(CatalogIndex),
    })
}

fn relax(scope: RelaxedScope, minutes: u64) -> Command {
    policy(PolicyChange::Relax { scope, reason: "a broken rollout".to_owned(), lasts_ms: minutes * 60_000 })
}

/// One command of each change, in an order in which all of them take effect.
pub(in crate::catalog) fn every_change() -> Vec<Command> {
    let shop = RelaxedScope::Namespace("shop".parse().unwrap());
    vec![
        relax(shop.clone(), 30),
        relax(RelaxedScope::Mesh, 5),
        policy(PolicyChange::EndRelaxation { scope: shop }),
        write("allow web api", Some("team-web")),
        policy(PolicyChange::TakeOver {
            intention: Box::new(line("deny web api", Some("team-api"))),
            mode: WriteMode::Upsert,
        }),
        policy(PolicyChange::DeleteOwned {
            key: line("deny web api", None).key(),
            compare: None,
            owner: Some("team-api".parse().unwrap()),
            take_over: false,
        }),
        list(Some("team-api"), &[("allow web", None), ("deny db", None)], Some(0)),
        delete_list(Some("team-api"), None),
        Command::WriteMesh {
            entry: MeshEntry {
                audit: AuditMode { mesh: false, namespaces: ["shop".parse().unwrap()].into() },
                ..MeshEntry::default()
            },
            compare: None,
        },
    ]
}

/// Draws changes of policy over few names.
pub(in crate::catalog) fn any_change() -> impl Strategy<Value = Command> {
    let owner = || prop_oneof![Just(None), Just(Some("team-a")), Just(Some("team-b"))];
    let rule =
        || (any::<bool>(), 0..3u8).prop_map(|(allow, n)| format!("{} s{n}", if allow { "allow" } else { "deny" }));
    let scope = || {
        prop_oneof![
            Just(RelaxedScope::Mesh),
            Just(RelaxedScope::Namespace(Namespace::default())),
            Just(RelaxedScope::Namespace("other".parse().unwrap())),
        ]
    };
    let destination = || prop_oneof![Just("s0"), Just("s1"), Just("*"), Just("*/*")];
    let line = move || {
        (rule(), destination(), owner()).prop_map(|(rule, to, owner)| Box::new(line(&format!("{rule} {to}"), owner)))
    };
    let list =
        (destination(), owner(), proptest::collection::vec((rule(), owner()), 1..3)).prop_map(|(to, owner, rules)| {
            PolicyChange::WriteDestination {
                destination: to.parse().unwrap(),
                owner: owner.map(|owner| owner.parse().unwrap()),
                intentions: rules
                    .iter()
                    .enumerate()
                    .map(|(at, (rule, owner))| self::line(&format!("{rule}-{at} {to}"), *owner))
                    .collect(),
                compare: None,
            }
        });
    prop_oneof![
        (scope(), 1..10u64).prop_map(|(scope, minutes)| relax(scope, minutes)),
        scope().prop_map(|scope| policy(PolicyChange::EndRelaxation { scope })),
        line().prop_map(|intention| policy(PolicyChange::TakeOver { intention, mode: WriteMode::Upsert })),
        line().prop_map(|intention| Command::WriteIntention { intention, mode: WriteMode::Upsert }),
        (line(), owner(), any::<bool>()).prop_map(|(line, owner, take_over)| policy(PolicyChange::DeleteOwned {
            key: line.key(),
            compare: None,
            owner: owner.map(|owner| owner.parse().unwrap()),
            take_over
        })),
        list.prop_map(policy),
        (destination(), owner()).prop_map(|(to, owner)| policy(PolicyChange::DeleteDestination {
            destination: to.parse().unwrap(),
            owner: owner.map(|owner| owner.parse().unwrap()),
            compare: None,
        })),
    ]
}

fn shown(log: &Log) -> Vec<String> {
    let owner = |one: &Intention| one.owner.as_ref().map_or("-".to_owned(), ToString::to_string);
    let action = |one: &Intention| match &one.effect {
        crate::Effect::Action(action) => action.to_string(),
        crate::Effect::Permissions(_) => "permissions".to_owned(),
    };
    let toward = log.catalog.intentions_toward(&"api".parse().unwrap());
    toward.into_iter().map(|one| format!("{} {} {}", action(one), one.source, owner(one))).collect()
}

#[test]
fn two_teams_own_their_lines_toward_one_destination() {
    let mut log = Log::default();
    log.done(write("allow web api", Some("team-web")));
    log.done(write("allow billing api", Some("team-billing")));
    for owner in [None, Some("team-billing")] {
        let refusal = log.refused(write("deny web api", owner));
        let text = refusal.to_string();
        assert!(text.contains("default/web => default/api belongs to `team-web`"), "{text}");
        assert_eq!(refusal.kind(), crate::RefusalKind::Conflict);
        let key = line("deny web api", None).key();
        let delete = |take_over| {
            let owner = owner.map(|owner| owner.parse().unwrap());
            policy(PolicyChange::DeleteOwned { key: key.clone(), compare: None, owner, take_over })
        };
        assert!(matches!(log.refused(delete(false)), Refusal::IntentionOwned { .. }));
        assert!(matches!(
            log.refused(Command::DeleteIntention { key: key.clone(), compare: None }),
            Refusal::IntentionOwned { .. }
        ));
    }
    log.done(write("deny web api", Some("team-web")));
    let taken = Box::new(line("allow web api", Some("team-billing")));
    log.done(policy(PolicyChange::TakeOver { intention: taken, mode: WriteMode::Upsert }));
    assert_eq!(shown(&log), ["allow default/billing team-billing", "allow default/web team-billing"]);
    let claim = Box::new(line("allow web api", None));
    log.done(policy(PolicyChange::TakeOver { intention: claim, mode: WriteMode::Upsert }));
    log.done(write("deny web api", Some("team-web")));
    assert_eq!(shown(&log), ["allow default/billing team-billing", "deny default/web team-web"]);
}

#[test]
fn the_list_of_a_destination_writes_and_removes_only_its_own_lines() {
    let mut log = Log::default();
    log.done(write("allow web api", Some("team-web")));
    log.done(list(Some("team-api"), &[("allow a", None), ("deny b", None)], None));
    // A list that was read and is sent back has everybody's lines in it, with or without their owners.
    log.done(list(Some("team-api"), &[("allow a", Some("team-api")), ("allow web", Some("team-web"))], None));
    assert_eq!(shown(&log), ["allow default/a team-api", "allow default/web team-web"]);
    log.done(list(Some("team-api"), &[("allow a", None), ("allow web", None)], None));
    assert_eq!(shown(&log), ["allow default/a team-api", "allow default/web team-web"]);

    // What changes another's line is refused by name, and nothing of the list is written.
    for other in [None, Some("team-web"), Some("team-api")] {
        let refusal = log.refused(list(Some("team-api"), &[("deny c", None), ("deny web", other)], None));
        let wanted = line("deny web api", None).key();
        assert!(
            matches!(&refusal, Refusal::IntentionOwned { key, owner } if *key == wanted && owner.as_str() == "team-web")
        );
    }
    let stranger = log.refused(list(Some("team-api"), &[("allow new", Some("team-web"))], None));
    assert!(matches!(stranger, Refusal::IntentionOwned { .. }));

    log.done(delete_list(Some("team-api"), None));
    assert_eq!(shown(&log), ["allow default/web team-web"]);
    assert!(matches!(log.refused(delete_list(Some("team-api"), None)), Refusal::IntentionOwned { .. }));
    log.done(delete_list(Some("team-web"), None));
    assert!(shown(&log).is_empty());
    assert!(log.done(delete_list(Some("team-web"), None)).is_empty());
}

#[test]
fn without_an_owner_the_list_is_consuls_one_entry_of_a_destination() {
    let mut log = Log::default();
    log.done(list(None, &[("allow web", None), ("deny *", None)], Some(0)));
    let index = log.catalog.destination_modified(&"api".parse().unwrap());
    assert_eq!(index, log.catalog.index());
    let stale = log.refused(list(None, &[("allow web", None)], Some(0)));
    assert!(stale.to_string().contains("config entry `service-intentions/default/api`"), "{stale}");
    log.done(list(None, &[("deny *", None)], Some(index.0)));
    assert_eq!(shown(&log), ["deny default/* -"]);
    let touched = log.done(list(None, &[("deny *", None)], None));
    assert!(touched.is_empty(), "what changes nothing wakes nobody: {touched:?}");
}

#[test]
fn the_index_of_a_list_moves_when_a_line_is_removed() {
    let mut log = Log::default();
    let api: ServicePattern = "api".parse().unwrap();
    log.done(write("allow web api", None));
    log.done(write("allow db api", None));
    let read = log.catalog.destination_modified(&api);
    log.done(Command::DeleteIntention { key: line("allow web api", None).key(), compare: None });
    assert!(log.catalog.destination_modified(&api) > read);
    // Whoever read the line that is gone must not bring it back unawares.
    log.refused(list(None, &[("allow web", None), ("allow db", None)], Some(read.0)));
    log.done(Command::DeleteIntention { key: line("allow db api", None).key(), compare: None });
    assert_eq!(log.catalog.destination_modified(&api), CatalogIndex(0));
}

#[test]
fn a_relaxation_is_in_force_until_its_end_or_until_it_is_ended() {
    let mut log = Log::default();
    let touched = log.done(relax(RelaxedScope::Namespace("shop".parse().unwrap()), 30));
    assert!(touched.contains(&WatchKey::Mesh));
    let since = log.catalog.relaxations.values().next().unwrap().since;
    let at = |minutes: u64| Timestamp(since.0 + minutes * 60_000);
    let decide = |log: &Log, destination: &str, now| {
        let destination: ServiceKey = destination.parse().unwrap();
        let caller = crate::Caller::Service("web".parse().unwrap());
        let verdict = authorize(&log.catalog.policy_for(&destination), &caller, &destination, now);
        assert_eq!(verdict.decision, Decision::Deny);
        verdict.audit.is_some()
    };
    assert!(decide(&log, "shop/api", at(0)) && decide(&log, "shop/api", Timestamp(at(30).0 - 1)));
    assert!(!decide(&log, "shop/api", at(30)) && !decide(&log, "api", at(0)));
    let shop = RelaxedScope::Namespace("shop".parse().unwrap());
    log.done(policy(PolicyChange::EndRelaxation { scope: shop.clone() }));
    assert!(!decide(&log, "shop/api", at(0)));
    assert!(matches!(log.refused(policy(PolicyChange::EndRelaxation { scope: shop })), Refusal::NotFound { .. }));
}

#[test]
fn a_clock_that_is_behind_by_years_takes_no_relaxation_for_one_that_goes_on() {
    let year = 365 * 24 * 3_600_000;
    let relaxation = |since: u64| Relaxation {
        scope: RelaxedScope::Mesh,
        reason: "a broken rollout".to_owned(),
        by: None,
        since: Timestamp(since),
        ends_at: Timestamp(since + 60_000),
        modified: CatalogIndex(1),
    };
    assert!(relaxation(50 * year).is_live(Timestamp(50 * year)));
    assert!(!relaxation(50 * year).is_live(Timestamp(40 * year)));
    assert!(!relaxation(50 * year).is_live(Timestamp(60 * year)));
}

#[test]
fn fault_20_a_relaxation_of_a_clock_that_is_ahead_lasts_no_longer_than_it_was_made_for() {
    let (hour, minute) = (3_600_000, 60_000);
    let ahead = Relaxation {
        scope: RelaxedScope::Mesh,
        reason: "a broken rollout".to_owned(),
        by: None,
        since: Timestamp(20 * hour),
        ends_at: Timestamp(20 * hour + 30 * minute),
        modified: CatalogIndex(1),
    };
    assert!(!ahead.is_live(Timestamp(0)) && !ahead.is_live(Timestamp(20 * hour - 6 * minute)));
    let live = (0..24 * 60).filter(|at| ahead.is_live(Timestamp(at * minute))).count();
    assert_eq!(live, 35, "half an hour, and what clocks differ by");
    // Whoever is behind the one that made it by little goes along from the beginning.
    assert!(ahead.is_live(Timestamp(20 * hour - 5 * minute)));
}

#[test]
fn ended_relaxations_are_forgotten_and_their_number_is_bounded() {
    let mut log = Log::default();
    let scope = |number: usize| RelaxedScope::Namespace(format!("n{number}").parse().unwrap());
    for number in 0..RELAXATIONS_MAX {
        log.done(relax(scope(number), 1));
    }
    assert!(log.refused(relax(scope(RELAXATIONS_MAX), 1)).to_string().contains("64 namespaces"));
    log.done(relax(scope(3), 2));
    let next = CatalogIndex(log.catalog.index.0 + 1);
    let mut later = envelope(next.0, relax(scope(RELAXATIONS_MAX), 1));
    later.proposed_at = Timestamp(90_000);
    log.catalog.apply(next, &later, super::super::tests::digest);
    let left: Vec<String> = log.catalog.relaxations.keys().map(ToString::to_string).collect();
    assert_eq!(left, ["namespace n3", "namespace n64"]);
}
