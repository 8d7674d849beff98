use wire::pki::LeafKey;

use super::*;
use crate::leaf::HeldLeaf;
use crate::state::Identity;
use crate::testing::{HOUR, TestMesh};

fn web() -> Subject {
    Subject::Service("web".parse().unwrap())
}

fn needed(subjects: &[Subject]) -> BTreeSet<Subject> {
    subjects.iter().cloned().collect()
}

fn at(start: Timestamp, offset: Duration) -> Timestamp {
    start.saturating_add(offset)
}

/// Leaves of an agent and its service `web`, both obtained at the returned time and valid for ten hours.
fn held() -> (TestMesh, Identity, Leaves<HeldLeaf>, Timestamp) {
    let mesh = TestMesh::new();
    let identity = mesh.identity(&LeafKey::generate(), &["web"]);
    let start = wire::crypto::now();
    let leaves = [Subject::Agent, web()].map(|subject| {
        let leaf = mesh.leaf(&subject, &identity, start, HOUR * 10);
        (subject, leaf)
    });
    let mut leaves = Leaves::new(BTreeMap::from(leaves), 1);
    leaves.need(&needed(&[Subject::Agent, web()]));
    (mesh, identity, leaves, start)
}

#[test]
fn p5_a_leaf_is_renewed_when_half_its_life_is_left_at_the_latest() {
    let (_, _, mut leaves, start) = held();
    assert_eq!(leaves.ask(at(start, HOUR * 3), Duration::ZERO), None);
    let wait = leaves.next_in(at(start, HOUR * 3), Duration::ZERO).unwrap();
    assert!(wait >= HOUR && wait <= HOUR * 2, "{wait:?}");
    assert!(leaves.ask(at(start, HOUR * 5 + HOUR / 60), Duration::ZERO).is_some());
}

#[test]
fn what_has_no_leaf_is_asked_for_at_once_and_one_at_a_time() {
    let mut leaves = Leaves::<HeldLeaf>::new(BTreeMap::new(), 1);
    leaves.need(&needed(&[Subject::Agent, web()]));
    let now = wire::crypto::now();
    assert_eq!(leaves.ask(now, Duration::ZERO), Some(Subject::Agent));
    assert_eq!(leaves.ask(now, Duration::ZERO), None);
    assert_eq!(leaves.next_in(now, Duration::ZERO), None);
    leaves.failed(&Subject::Agent, None, Duration::ZERO);
    assert_eq!(leaves.ask(now, Duration::ZERO), Some(web()));
}

#[test]
fn c13_a_failed_request_waits_longer_each_time_and_as_long_as_the_server_asks() {
    let mut leaves = Leaves::<HeldLeaf>::new(BTreeMap::new(), 1);
    leaves.need(&needed(&[web()]));
    let wall = wire::crypto::now();
    let mut now = Duration::ZERO;
    for _ in 0..50 {
        let wait = leaves.next_in(wall, now).unwrap();
        assert!(wait <= BACKOFF_MAX);
        now += wait;
        assert_eq!(leaves.ask(wall, now), Some(web()));
        leaves.failed(&web(), None, now);
    }
    assert!(now > Duration::from_secs(300), "fifty failures took only {now:?}");
    assert_eq!(leaves.ask(wall, now + BACKOFF_MAX), Some(web()));
    leaves.failed(&web(), Some(Duration::from_secs(120)), now);
    assert!(leaves.next_in(wall, now) >= Some(Duration::from_secs(120)));
    leaves.retry_now(now);
    assert!(leaves.next_in(wall, now) <= Some(BACKOFF_BASE));
}

#[test]
fn a_failed_renewal_keeps_the_leaf_also_beyond_its_end() {
    let (_, _, mut leaves, start) = held();
    let end = at(start, HOUR * 20);
    assert_eq!(leaves.ask(end, Duration::ZERO), Some(Subject::Agent), "an expired agent renews itself first");
    leaves.failed(&Subject::Agent, None, Duration::ZERO);
    assert!(leaves.held().contains_key(&Subject::Agent));
    assert!(leaves.ask(end, Duration::ZERO).is_some());
}

#[test]
fn a_renewed_leaf_replaces_the_old_one() {
    let (mesh, identity, mut leaves, start) = held();
    let later = at(start, HOUR * 7);
    leaves.ask(later, Duration::ZERO);
    leaves.ask(later, Duration::ZERO);
    let renewed = mesh.leaf(&web(), &identity, start, HOUR * 30);
    let serial = renewed.tls().serial();
    leaves.signed(&web(), renewed, start);
    assert_eq!(leaves.held()[&web()].tls().serial(), serial);
}

#[test]
fn a_leaf_that_is_needed_no_longer_is_dropped() {
    let (_, _, mut leaves, _) = held();
    assert!(leaves.need(&needed(&[Subject::Agent])));
    assert!(!leaves.held().contains_key(&web()));
    assert!(!leaves.need(&needed(&[Subject::Agent])));
}

#[test]
fn a_kept_leaf_does_not_show_its_key() {
    let (_, _, leaves, _) = held();
    let shown = format!("{:?}", leaves.held()[&web()].stored());
    assert!(shown.contains("[redacted]") && !shown.contains("PRIVATE"), "{shown}");
}

/// Returns the id of the intermediate that signed the leaves of `held`.
fn signer_of(leaves: &Leaves<HeldLeaf>) -> String {
    leaves.held()[&web()].signer().to_owned()
}

#[test]
fn p6_leaves_of_another_signer_are_renewed_early_each_at_its_own_time() {
    let (_, _, mut leaves, start) = held();
    leaves.follow(&signer_of(&leaves), start, false);
    assert!(leaves.are_renewed());
    assert_eq!(leaves.ask(at(start, HOUR), Duration::ZERO), None, "nothing has changed");
    leaves.follow("another", start, false);
    assert!(!leaves.are_renewed());
    let mut draws = BTreeSet::new();
    for seed in 0..20 {
        let (_, _, mut leaves, start) = held();
        leaves.jitter = Seeded::new(seed);
        leaves.follow("another", start, false);
        draws.insert(leaves.next_in(start, Duration::ZERO).unwrap());
    }
    assert!(draws.len() > 15 && draws.iter().all(|wait| *wait <= REISSUE_SPREAD), "{draws:?}");
    // Hearing the same again draws no other time.
    let before = leaves.next_in(start, Duration::ZERO);
    leaves.follow("another", start, false);
    assert_eq!(leaves.next_in(start, Duration::ZERO), before);
}

#[test]
fn p6_a_leaf_that_the_old_signer_signed_after_the_change_is_asked_for_again() {
    let (mesh, identity, mut leaves, start) = held();
    leaves.follow("another", start, false);
    let asked = leaves.ask(at(start, REISSUE_SPREAD), Duration::ZERO).unwrap();
    // The server that signed had not heard of the new intermediate.
    leaves.signed(&asked, mesh.leaf(&asked, &identity, wire::crypto::now(), HOUR * 10), wire::crypto::now());
    assert!(!leaves.are_renewed());
    let wait = leaves.next_in(wire::crypto::now(), Duration::ZERO).unwrap();
    assert!(wait <= REISSUE_SPREAD, "{wait:?}");
}

#[test]
fn a_leaf_under_a_distrusted_root_is_renewed_within_seconds() {
    let (_, _, mut leaves, start) = held();
    leaves.follow("another", start, false);
    leaves.follow("another", start, true);
    for _ in 0..2 {
        assert!(leaves.ask(at(start, URGENT_SPREAD), Duration::ZERO).is_some());
        leaves.under_way = None;
        let subject = web();
        leaves.plans.get_mut(&subject).unwrap().not_before = HOUR;
    }
}

#[test]
fn what_waits_for_its_root_is_asked_for_when_that_has_come_and_nothing_else_is() {
    let mut leaves = Leaves::<HeldLeaf>::new(BTreeMap::new(), 1);
    let api = Subject::Service("api".parse().unwrap());
    leaves.need(&needed(&[web(), api.clone()]));
    let wall = wire::crypto::now();
    // The one is put off by a server for minutes, the other waits longer each time.
    let mut now = Duration::ZERO;
    for _ in 0..20 {
        now += BACKOFF_MAX;
        leaves.unvouched(&web(), now);
    }
    leaves.failed(&api, Some(RETRY_AFTER_MAX), now);
    leaves.roots_came(now);
    assert!(leaves.next_in(wall, now).is_some_and(|wait| wait <= BACKOFF_BASE));
    now += BACKOFF_BASE;
    assert_eq!(leaves.ask(wall, now), Some(web()));
    // It is refused once more for another reason, and no further root has anything to do with that.
    leaves.failed(&web(), Some(RETRY_AFTER_MAX), now);
    leaves.roots_came(now);
    assert!(leaves.next_in(wall, now).is_some_and(|wait| wait >= RETRY_AFTER_MAX - BACKOFF_BASE));
}
