//! Repeats of requests, and the clock by which their answers are forgotten.

use super::*;
use crate::catalog::answers::{ANSWERS_MAX, ANSWERS_MIN};

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
