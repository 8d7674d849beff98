use super::*;
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
fn held() -> (TestMesh, Identity, Leaves, Timestamp) {
    let mesh = TestMesh::new();
    let identity = mesh.identity(&LeafKey::generate(), &["web"]);
    let start = wire::crypto::now();
    let leaves = [Subject::Agent, web()].map(|subject| {
        let leaf = mesh.leaf(&subject, &identity, start, HOUR * 10);
        (subject, leaf)
    });
    let mut leaves = Leaves::new(BTreeMap::from(leaves), Jitter::new(1));
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
    let mut leaves = Leaves::new(BTreeMap::new(), Jitter::new(1));
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
    let mut leaves = Leaves::new(BTreeMap::new(), Jitter::new(1));
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
    leaves.signed(&web(), renewed);
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
fn c6_a_leaf_of_somebody_else_is_not_taken() {
    let (mesh, identity, _, start) = held();
    let key = LeafKey::generate();
    let other = named(&Subject::Agent, &identity);
    let leaf = mesh.sign(&key.csr_der(Some(&other)), &other, start, HOUR);
    let wanted = named(&web(), &identity);
    assert!(matches!(HeldLeaf::new(&key, &leaf, &wanted, start), Err(LeafError::Other { .. })));
    let another = LeafKey::generate();
    assert!(matches!(HeldLeaf::new(&another, &leaf, &other, start), Err(LeafError::Identity(_))));
}

#[test]
fn the_agent_keeps_its_key_and_a_service_gets_a_new_one() {
    let key = LeafKey::generate();
    assert_eq!(key_for(&Subject::Agent, &key).fingerprint(), key.fingerprint());
    assert_ne!(key_for(&web(), &key).fingerprint(), key.fingerprint());
}

#[test]
fn a_kept_leaf_does_not_show_its_key() {
    let (_, _, leaves, _) = held();
    let shown = format!("{:?}", leaves.held()[&web()].stored());
    assert!(shown.contains("[redacted]") && !shown.contains("PRIVATE"), "{shown}");
}
