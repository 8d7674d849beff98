use std::collections::BTreeMap;

use catalog::{CaChange, Command, KeyFingerprint, Outcome, Platform, RootsAck};
use wire::cluster_key::{ClusterKey, ClusterKeys};

use super::*;
use crate::ca::tests::{founded, outcome_at, outcome_of, write};
use crate::ca::{renewed_intermediate, rotation};

const DAY: Duration = Duration::from_secs(24 * 3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// A mesh with its leader's clock, and agents that have sessions.
struct Mesh {
    keys: ClusterKeys,
    catalog: Catalog,
    now: Timestamp,
}

impl Mesh {
    fn new(agents: usize) -> Self {
        let (keys, now) = (ClusterKeys::single(ClusterKey::generate()), wire::crypto::now());
        let mut mesh = Self { catalog: founded(&keys, now), keys, now };
        for number in 0..agents {
            mesh.join(number);
        }
        mesh
    }

    fn join(&mut self, number: usize) {
        let secret = catalog::SecretHash(format!("secret-{number}"));
        let token = catalog::JoinToken::new(
            wire::crypto::uuid_v4().parse().unwrap(),
            secret.clone(),
            vec!["web".parse().unwrap()],
            Timestamp(u64::MAX),
        );
        write(&mut self.catalog, Command::CreateJoinToken { token });
        let enrol = Command::Enrol {
            secret,
            key: KeyFingerprint(format!("key-{number}")),
            node: format!("vm-{number}").parse().unwrap(),
            platform: Platform::Vm,
        };
        let Outcome::Enrolled { record } = outcome_of(&mut self.catalog, enrol) else { panic!("not enrolled") };
        let open = Command::OpenSession { agent: record.id, server: "s1".parse().unwrap() };
        assert!(matches!(outcome_of(&mut self.catalog, open), Outcome::SessionOpened { .. }));
    }

    fn duty(&self) -> Duty {
        // Whoever leads next has the state from a snapshot, and comes to the same.
        let elsewhere = Catalog::restore(&self.catalog.snapshot()).unwrap();
        let duty = next_duty(&self.catalog, DAY, self.now);
        assert_eq!(next_duty(&elsewhere, DAY, self.now), duty);
        duty
    }

    fn change(&mut self, change: CaChange) {
        write(&mut self.catalog, Command::Ca { change, not_before: None });
    }

    fn rotate(&mut self, distrust: bool) -> String {
        let change = rotation(&self.keys, &self.catalog, distrust, self.now).unwrap();
        self.change(change);
        self.catalog.ca_rotation().unwrap().root_id.clone()
    }

    /// Has so many agents say that they have in force what there is now.
    fn acknowledge(&mut self, agents: usize, renewed: bool) {
        let ack = RootsAck { roots: self.catalog.index(), renewed };
        let acks: BTreeMap<_, _> = self.catalog.agent_records().take(agents).map(|it| (it.id.clone(), ack)).collect();
        self.change(CaChange::Acknowledge { acks });
    }

    /// Gives up the session of an agent, whose node is not registered.
    fn lose(&mut self, number: usize) {
        let gone = lost(&self.record(number));
        write(&mut self.catalog, gone);
    }

    fn record(&self, number: usize) -> AgentRecord {
        self.catalog.agent_records().nth(number).unwrap().clone()
    }

    fn active(&self) -> &str {
        &self.catalog.active_root().unwrap().id
    }
}

/// Says that nobody holds an agent's session.
fn lost(record: &AgentRecord) -> Command {
    let session = catalog::SessionRef { agent: record.id.clone(), incarnation: record.incarnation.unwrap() };
    Command::Sessions { change: catalog::SessionChange::Lost { sessions: vec![session] } }
}

#[test]
fn p6_nobody_waits_for_an_agent_that_is_gone() {
    let mut mesh = Mesh::new(2);
    let new = mesh.rotate(false);
    mesh.acknowledge(1, false);
    assert!(matches!(mesh.duty(), Duty::Wait { .. }));
    mesh.lose(1);
    assert_eq!(mesh.duty(), Duty::Activate { root: new, not_before: None });
}

#[test]
fn p6_an_agent_that_is_away_is_waited_for_while_it_calls_where_the_old_root_does_not_certify_the_new_one() {
    let mut mesh = Mesh::new(2);
    mesh.lose(1);
    let lost_at = mesh.record(1).presence.lost_at.unwrap();
    let begin = |mesh: &mut Mesh, after: Duration| {
        let change = rotation(&mesh.keys, &mesh.catalog, false, mesh.now).unwrap();
        let CaChange::StartRotation { root, intermediate, replaces, .. } = change else { panic!("it begins none") };
        // As where an operator keeps the key of the old root.
        let root = Box::new(CaRoot { cross: None, ..*root });
        let change = CaChange::StartRotation { root, intermediate, replaces, distrust_replaced: false };
        let command = Command::Ca { change, not_before: None };
        let outcome = outcome_at(&mut mesh.catalog, lost_at.saturating_add(after), command);
        assert!(matches!(outcome, Outcome::RotationBegun { .. }), "{outcome:?}");
        mesh.acknowledge(1, false);
        mesh.catalog.ca_rotation().unwrap().clone()
    };
    let first = begin(&mut mesh, DAY - Duration::from_secs(60));
    let deadline = first.started_at.saturating_add(DAY);
    assert_eq!(mesh.duty(), Duty::Wait { until: Some(deadline) });
    mesh.now = deadline;
    assert_eq!(mesh.duty(), Duty::Activate { root: first.root_id.clone(), not_before: Some(deadline) });

    // Its last leaf has expired before this one begins.
    mesh.change(CaChange::CancelRotation { root: first.root_id });
    let second = begin(&mut mesh, DAY);
    assert_eq!(mesh.duty(), Duty::Activate { root: second.root_id, not_before: None });
}

#[test]
fn p6_an_agent_that_went_before_the_last_rotation_is_waited_for_in_the_next_while_it_calls() {
    let mut mesh = Mesh::new(2);
    mesh.lose(1);
    let rotate = |mesh: &mut Mesh| {
        let root = mesh.rotate(false);
        mesh.acknowledge(1, false);
        root
    };
    let config = catalog::CaConfig { leaf_ttl_ms: Some(3_600_000), ..catalog::CaConfig::default() };
    mesh.change(CaChange::Configure { config, compare: None });
    // It knows the root that certifies this one, and is not waited for.
    let second = rotate(&mut mesh);
    assert_eq!(mesh.duty(), Duty::Activate { root: second.clone(), not_before: None });
    mesh.change(CaChange::Activate { root: second.clone() });
    mesh.acknowledge(1, true);
    mesh.change(CaChange::Finish { root: second.clone() });

    // It has never heard of the one that certifies the next, and its leaf may live for as long as this waits, whatever leaves
    // live for by now.
    let third = rotate(&mut mesh);
    let deadline = mesh.catalog.ca_rotation().unwrap().started_at.saturating_add(DAY);
    assert_eq!(mesh.duty(), Duty::Wait { until: Some(deadline) });
    mesh.change(CaChange::CancelRotation { root: third });

    // Who is back has heard of it, and who goes only now has, too.
    let (back, gone) = (mesh.record(1), mesh.record(0));
    let later = mesh.catalog.clock().saturating_add(Duration::from_secs(60));
    let open = Command::OpenSession { agent: back.id, server: "s1".parse().unwrap() };
    assert!(matches!(outcome_at(&mut mesh.catalog, later, open), Outcome::SessionOpened { .. }));
    assert_eq!(outcome_at(&mut mesh.catalog, later, lost(&gone)), Outcome::Done);
    let third = mesh.rotate(false);
    let ack = RootsAck { roots: mesh.catalog.index(), renewed: false };
    mesh.change(CaChange::Acknowledge { acks: [(mesh.record(1).id, ack)].into() });
    assert_eq!(mesh.duty(), Duty::Activate { root: third, not_before: None });
}

#[test]
fn p6_an_agent_that_will_know_nobody_anyway_is_not_waited_for() {
    let mut mesh = Mesh::new(2);
    mesh.lose(1);
    let change = rotation(&mesh.keys, &mesh.catalog, true, mesh.now).unwrap();
    let CaChange::StartRotation { root, intermediate, replaces, distrust_replaced } = change else {
        panic!("it begins none")
    };
    let root = Box::new(CaRoot { cross: None, ..*root });
    let root_id = root.id.clone();
    mesh.change(CaChange::StartRotation { root, intermediate, replaces, distrust_replaced });
    mesh.acknowledge(1, false);
    assert_eq!(mesh.duty(), Duty::Activate { root: root_id, not_before: None });
}

#[test]
fn p6_fault_23_each_step_waits_for_every_live_agent_and_any_leader_goes_on_from_there() {
    let mut mesh = Mesh::new(2);
    let old = mesh.active().to_owned();
    assert!(matches!(mesh.duty(), Duty::Wait { until: Some(_) }));
    let new = mesh.rotate(false);
    let silent = mesh.catalog.ca_rotation().unwrap().started_at.saturating_add(DAY);
    assert_eq!(mesh.duty(), Duty::Wait { until: Some(silent) });
    mesh.acknowledge(1, false);
    assert_eq!(mesh.duty(), Duty::Wait { until: Some(silent) });
    mesh.acknowledge(2, false);
    assert_eq!(mesh.duty(), Duty::Activate { root: new.clone(), not_before: None });
    mesh.change(CaChange::Activate { root: new.clone() });
    assert_eq!(mesh.active(), new);

    assert!(matches!(mesh.duty(), Duty::Wait { .. }), "nobody has a leaf of the new root yet");
    mesh.acknowledge(2, false);
    assert!(matches!(mesh.duty(), Duty::Wait { .. }));
    mesh.acknowledge(2, true);
    assert_eq!(mesh.duty(), Duty::Finish { root: new.clone(), not_before: None });
    mesh.change(CaChange::Finish { root: new });

    let replaced_at = mesh.catalog.root(&old).unwrap().replaced_at.unwrap();
    let retires = replaced_at.saturating_add(DAY + Duration::from_secs(3600));
    assert_eq!(mesh.duty(), Duty::Wait { until: Some(retires) });
    mesh.now = retires;
    assert_eq!(mesh.duty(), Duty::Retire { root: old.clone(), not_before: retires });
    mesh.change(CaChange::Retire { root: old });
    assert!(matches!(mesh.duty(), Duty::Wait { .. }));
}

#[test]
fn p6_an_agent_that_stays_silent_is_waited_for_no_longer_than_its_leaf_lives() {
    let mut mesh = Mesh::new(2);
    let new = mesh.rotate(false);
    mesh.acknowledge(1, false);
    let rotation = mesh.catalog.ca_rotation().unwrap().clone();
    let deadline = rotation.started_at.saturating_add(DAY);
    mesh.now = deadline;
    assert_eq!(mesh.duty(), Duty::Activate { root: new, not_before: Some(deadline) });
    let waited: Vec<String> =
        agents_waited_for(&mesh.catalog, &rotation, DAY).map(|record| record.node.to_string()).collect();
    assert_eq!(waited, ["vm-1"]);
}

#[test]
fn a_root_that_is_to_be_distrusted_waits_for_leaves_a_quarter_of_an_hour_at_most() {
    let mut mesh = Mesh::new(2);
    let old = mesh.active().to_owned();
    let new = mesh.rotate(true);
    mesh.acknowledge(2, false);
    mesh.change(CaChange::Activate { root: new });
    mesh.acknowledge(1, true);
    let activated_at = mesh.catalog.ca_rotation().unwrap().activated_at.unwrap();
    let deadline = activated_at.saturating_add(DISTRUST_PATIENCE);
    assert_eq!(mesh.duty(), Duty::Wait { until: Some(deadline) });
    mesh.now = deadline;
    assert_eq!(mesh.duty(), Duty::Distrust { root: old.clone(), not_before: Some(deadline) });
    // The servers' common clock has the last word: a leader whose own is ahead hurries nothing.
    let distrust = |root: &str| CaChange::Distrust { root: root.to_owned() };
    let early = Command::Ca { change: distrust(&old), not_before: Some(deadline) };
    let outcome = outcome_of(&mut mesh.catalog, early);
    assert!(matches!(outcome, Outcome::Refused(catalog::Refusal::TooEarly { .. })), "{outcome:?}");
    mesh.change(CaChange::Distrust { root: old });
    assert!(matches!(mesh.duty(), Duty::Wait { .. }));
}

#[test]
fn p9_what_has_half_of_its_life_behind_it_is_replaced() {
    let mut mesh = Mesh::new(0);
    let first = mesh.catalog.active_intermediate().unwrap().clone();
    mesh.now = Timestamp(first.not_before.0 + (first.not_after.0 - first.not_before.0) / 2);
    assert_eq!(mesh.duty(), Duty::RenewIntermediate { not_before: mesh.now });
    let change = renewed_intermediate(&mesh.keys, &mesh.catalog, mesh.now).unwrap();
    mesh.change(change);
    let second = mesh.catalog.active_intermediate().unwrap();
    assert!(second.id != first.id && second.not_after > first.not_after);
    assert!(matches!(mesh.duty(), Duty::Wait { until: Some(_) }));

    mesh.now = mesh.now.saturating_add(5 * YEAR);
    // The intermediate is due as well, and comes first: it is what signs.
    assert!(matches!(mesh.duty(), Duty::RenewIntermediate { .. }));
    let change = renewed_intermediate(&mesh.keys, &mesh.catalog, mesh.now).unwrap();
    mesh.change(change);
    assert!(matches!(mesh.duty(), Duty::StartRotation { .. }));
    mesh.rotate(false);
    assert!(matches!(mesh.duty(), Duty::Activate { .. }), "there is nobody to wait for");
}

#[test]
fn fault_24_p9_a_root_that_expired_while_the_servers_were_away_is_replaced_at_once() {
    let mut mesh = Mesh::new(2);
    let authority = crate::ca::CertificateAuthority::new(mesh.keys.clone(), DAY);
    mesh.now = mesh.now.saturating_add(11 * YEAR);
    let refused = authority.server_identity(&mesh.catalog, &"s1".parse().unwrap(), mesh.now).unwrap_err();
    assert!(wire::one_line(&refused).contains("expired"), "{}", wire::one_line(&refused));
    assert!(matches!(mesh.duty(), Duty::StartRotation { .. }), "nothing can be signed under it any more");
    // An expired root certifies nobody; that is no reason not to go on.
    let new = mesh.rotate(false);
    assert!(mesh.catalog.root(&new).unwrap().cross.is_none());
    assert!(matches!(mesh.duty(), Duty::Activate { not_before: Some(_), .. }), "nobody's leaf is valid any more");
    mesh.change(CaChange::Activate { root: new.clone() });
    assert!(authority.server_identity(&mesh.catalog, &"s1".parse().unwrap(), mesh.now).is_ok());
    assert!(matches!(mesh.duty(), Duty::Finish { root, not_before: Some(_) } if root == new));
}

#[test]
fn p6_a_shorter_leaf_life_does_not_retire_a_root_that_longer_leaves_are_under() {
    let mut mesh = Mesh::new(0);
    let old = mesh.active().to_owned();
    let set = |mesh: &mut Mesh, hours: u64| {
        let config = catalog::CaConfig { leaf_ttl_ms: Some(hours * 3_600_000), ..Default::default() };
        mesh.change(CaChange::Configure { config, compare: None });
    };
    // What no operator had set, a day, was in force before.
    set(&mut mesh, 1);
    let new = mesh.rotate(false);
    mesh.change(CaChange::Activate { root: new.clone() });
    mesh.change(CaChange::Finish { root: new.clone() });
    let replaced_at = mesh.catalog.root(&old).unwrap().replaced_at.unwrap();
    let at = replaced_at.saturating_add(DAY + UNSEEN_SIGNING_MAX);
    assert_eq!(mesh.duty(), Duty::Wait { until: Some(at) });
    mesh.now = at;
    assert_eq!(mesh.duty(), Duty::Retire { root: old.clone(), not_before: at });
    // The root that came later has had shorter ones only.
    set(&mut mesh, 2);
    assert_eq!(mesh.catalog.longest_leaf_ttl(&old, DAY), DAY);
    mesh.change(CaChange::Retire { root: old.clone() });
    assert_eq!(mesh.catalog.longest_leaf_ttl(&old, DAY), Duration::from_secs(2 * 3600), "it is forgotten");
    assert_eq!(mesh.catalog.longest_leaf_ttl(&new, DAY), Duration::from_secs(2 * 3600));
}
