use std::sync::Arc;

use catalog::{
    AuthMethod, BindKind, BindingRule, CaIntermediate, CaRoot, Mesh, NodeName, Platform, SealedSecret, SecretHash,
    ServerMember,
};

use super::settle::settle_all;
use super::*;
use crate::agent_port::tests::rig::Rig;
use crate::login::testing::{Issuer, method};
use crate::metrics::Metrics;

fn status(role: Role, leader: bool, ago: Option<u64>) -> RaftStatus {
    let member = member("s1", 1);
    RaftStatus {
        role,
        leader: leader.then(|| member.clone()),
        term: 1,
        members: Arc::from(vec![member]),
        last_contact: ago.map(Duration::from_secs),
        applied: CatalogIndex(1),
    }
}

fn member(name: &str, raft_id: u64) -> ServerMember {
    let member = serde_json::json!({"id": name, "raft_id": raft_id, "disk_id": name, "raft_address": "127.0.0.1:1"});
    serde_json::from_value(member).unwrap()
}

/// Returns somebody who is held under a number.
pub(super) fn held(number: u64) -> Held {
    let catalog = mesh();
    let (key, server) = (format!("key-{number}"), "s1".parse().unwrap());
    let outage = Outage::default();
    let record = outage.admit(&catalog, &server, applicant(&catalog, &key, &key, &key)).unwrap();
    let held = outage.state().held.get(&record.key).cloned().unwrap();
    let enrolled = CatalogIndex(number);
    let record = AgentRecord { id: AgentId::enrolled_at(enrolled), enrolled, modified: enrolled, ..record };
    Held { record, ticket: 0, ..held }
}

#[test]
fn a_server_stands_in_only_after_it_heard_a_leader_and_for_an_hour() {
    for (role, leader, ago, want) in [
        (Role::Follower, false, Some(10), true),
        (Role::Candidate, false, Some(3599), true),
        (Role::Follower, false, Some(1), false),
        (Role::Candidate, false, Some(3600), false),
        (Role::Follower, false, None, false),
        (Role::Follower, true, Some(10), false),
        (Role::Leader, true, Some(0), false),
        (Role::Joining, false, Some(10), false),
    ] {
        assert_eq!(stands_in(&status(role, leader, ago)), want, "{role:?} {leader} {ago:?}");
    }
}

fn apply(catalog: &mut Catalog, command: Command) -> Outcome {
    let envelope = Envelope {
        version: ENVELOPE_VERSION,
        request_id: fresh_request_id(),
        actor: Actor::ClusterKey,
        source_address: None,
        proposed_at: crypto::now(),
        command,
    };
    let index = CatalogIndex(catalog.index().0 + 1);
    catalog.apply(index, &envelope, crypto::sha256).outcome
}

/// Returns a mesh of two servers with a method, and a rule by which everybody is `web`.
fn mesh() -> Catalog {
    let mut catalog = Catalog::default();
    let mesh = Mesh {
        cluster_id: "c1".to_owned(),
        datacenter: "dc1".to_owned(),
        trust_domain: "mesh.example".parse().unwrap(),
        template: Default::default(),
        servers: vec![member("s1", 1), member("s2", 2)],
    };
    assert_eq!(apply(&mut catalog, Command::Bootstrap { mesh }), Outcome::Done);
    let sealed_key = SealedSecret { key_id: "k".to_owned(), nonce: String::new(), ciphertext: String::new() };
    let root = serde_json::json!({"id": "r", "certificate_pem": "", "sealed_key": sealed_key, "active": true,
        "not_before": 0, "not_after": 1, "created": 0, "modified": 0});
    let mut intermediate = root.clone();
    intermediate["root_id"] = "r".into();
    let root: CaRoot = serde_json::from_value(root).unwrap();
    let intermediate: CaIntermediate = serde_json::from_value(intermediate).unwrap();
    apply(&mut catalog, Command::InstallCa { root: Box::new(root), intermediate: Box::new(intermediate) });
    let method: AuthMethod = method(&Issuer::new());
    let change = LoginChange::WriteMethod { method: Box::new(method), replace: false };
    assert_eq!(apply(&mut catalog, Command::Login { change }), Outcome::Done);
    let rule = BindingRule {
        id: "00000000-0000-0000-0000-000000000001".parse().unwrap(),
        description: String::new(),
        method: "jwt".parse().unwrap(),
        selector: String::new(),
        bind: BindKind::Service,
        name: "web".parse().unwrap(),
        created: CatalogIndex::default(),
        modified: CatalogIndex::default(),
    };
    let change = LoginChange::WriteRule { rule: Box::new(rule), replace: false };
    assert_eq!(apply(&mut catalog, Command::Login { change }), Outcome::Done);
    // Some history, so that there are indexes without records.
    for _ in 0..300 {
        apply(&mut catalog, Command::DeleteMesh { compare: None });
    }
    catalog
}

fn applicant(catalog: &Catalog, key: &str, node: &str, bearer: &str) -> Applicant {
    let claims = LoginClaims { subject: "web-7".to_owned(), ..LoginClaims::default() };
    let bound = catalog.bind(&"jwt".parse().unwrap(), &claims).unwrap();
    let now = crypto::now();
    let admission = Admission {
        method: "jwt".parse().unwrap(),
        subject: claims.subject.clone(),
        judged_at: bound.judged_at,
        services: bound.services.into_iter().collect(),
        gateway: None,
        nodes: Vec::<NodeName>::new(),
        bearer: SecretHash(bearer.to_owned()),
        provisional: None,
        bearer_ends: now.saturating_add(Duration::from_secs(600)),
        is_of_one_key: false,
        key: KeyFingerprint(key.to_owned()),
        node: node.parse().unwrap(),
        platform: Platform::Kubernetes,
    };
    Applicant { admission, claims, now, source: "127.0.0.1:9".to_owned() }
}

#[test]
fn who_is_admitted_alone_is_judged_as_the_mesh_would_and_has_a_number_of_their_own() {
    let catalog = mesh();
    let server: ServerId = "s1".parse().unwrap();
    let outage = Outage::default();
    let admit =
        |key: &str, node: &str, bearer: &str| outage.admit(&catalog, &server, applicant(&catalog, key, node, bearer));
    let first = admit("key-1", "n1", "b1").unwrap();
    assert_eq!(admit("key-1", "n1", "b1").as_ref(), Ok(&first), "a repeat is answered as before");
    assert_eq!(admit("key-1", "n1", "b9").as_ref(), Ok(&first), "with a new credential, too");
    assert_eq!(admit("key-2", "n2", "b1"), Err(Refusal::BearerUsed), "a stolen credential is refused");
    assert!(matches!(admit("key-2", "n1", "b2"), Err(Refusal::NodeTaken { .. })), "and a name that is held");
    let second = admit("key-2", "n2", "b2").unwrap();
    assert_ne!(first.enrolled, second.enrolled);
    assert_eq!(outage.len(), 2);
    assert_eq!(outage.record(&first.key), Some(first.clone()));
    let intermediate = catalog.active_intermediate().unwrap().created;
    for record in [&first, &second] {
        assert!(record.enrolled <= catalog.index(), "no record will ever be enrolled at it");
        assert!(record.enrolled != intermediate && catalog.agent_record(&record.id).is_none());
        assert!(is_platform_attested(record));
    }
    // Another server that stands in at the same time gives other numbers.
    let other: ServerId = "s2".parse().unwrap();
    let elsewhere = Outage::default();
    for number in 0..5 {
        let applicant = applicant(&catalog, &format!("k{number}"), &format!("m{number}"), &format!("c{number}"));
        let record = elsewhere.admit(&catalog, &other, applicant).unwrap();
        assert!(record.enrolled != first.enrolled && record.enrolled != second.enrolled);
    }
}

#[test]
fn c14_servers_that_stand_in_at_different_indexes_give_no_number_twice() {
    let behind = mesh();
    for gap in 1..40 {
        let mut ahead = behind.clone();
        ahead.apply_empty(CatalogIndex(behind.index().0 + gap));
        let mut numbers = std::collections::BTreeSet::new();
        for (server, catalog) in [("s1", &behind), ("s2", &ahead)] {
            let (outage, server) = (Outage::default(), server.parse().unwrap());
            for number in 0..4 {
                let key = format!("{server}-{number}");
                let record = outage.admit(catalog, &server, applicant(catalog, &key, &key, &key)).unwrap();
                assert!(record.enrolled <= catalog.index());
                assert!(numbers.insert(record.enrolled), "{} is of two agents, {gap} apart", record.enrolled);
            }
        }
    }
}

#[test]
fn c14_of_two_servers_with_one_turn_the_later_one_gives_no_numbers() {
    let mut catalog = mesh();
    let facts = serde_json::json!({"raft_address": "127.0.0.1:9", "agent_address": "", "release": "", "reads": 2});
    // Others came and went, so that the Raft id of this one has the remainder of the first one's.
    for number in 3..=17 {
        let id: ServerId = format!("s{number}").parse().unwrap();
        let facts = serde_json::from_value(facts.clone()).unwrap();
        let change = catalog::MembershipChange::Add { id, disk_id: format!("d{number}"), facts };
        let added = as_server(&mut catalog, change);
        assert_eq!(added, Outcome::MemberAdded { raft_id: number });
        if number < 17 {
            as_server(&mut catalog, catalog::MembershipChange::Remove { raft_id: number });
            as_server(&mut catalog, catalog::MembershipChange::Retire { raft_id: number });
        }
    }
    let admit = |server: &str| {
        Outage::default().admit(&catalog, &server.parse().unwrap(), applicant(&catalog, server, server, server))
    };
    assert!(admit("s1").is_ok());
    assert_eq!(admit("s17"), Err(Refusal::TooManyBearers));
}

fn as_server(catalog: &mut Catalog, change: catalog::MembershipChange) -> Outcome {
    let envelope = Envelope {
        version: ENVELOPE_VERSION,
        request_id: fresh_request_id(),
        actor: Actor::Server("s1".parse().unwrap()),
        source_address: None,
        proposed_at: crypto::now(),
        command: Command::Membership { change },
    };
    let index = CatalogIndex(catalog.index().0 + 1);
    catalog.apply(index, &envelope, crypto::sha256).outcome
}

#[test]
fn c14_whoever_comes_again_as_something_else_leaves_nothing_behind_that_is_not_revoked() {
    let catalog = mesh();
    let server: ServerId = "s1".parse().unwrap();
    let outage = Outage::default();
    let given = |services: &[&str]| {
        let mut applicant = applicant(&catalog, "key-1", "n1", "b1");
        applicant.admission.services = services.iter().map(|service| service.parse().unwrap()).collect();
        outage.admit(&catalog, &server, applicant).unwrap()
    };
    let (first, second, third) = (given(&["api", "web"]), given(&["web"]), given(&["db"]));
    let held = outage.state().held.get(&third.key).cloned().unwrap();
    assert_eq!((held.record, held.superseded), (third, vec![first.enrolled, second.enrolled]));
    // What the record of somebody has noted is given to nobody else.
    let mut later = catalog.clone();
    let mut settled = applicant(&catalog, "key-2", "n2", "b2").admission;
    settled.provisional = Some(later.index());
    let change = LoginChange::Admit { admission: Box::new(settled) };
    assert!(matches!(apply(&mut later, Command::Login { change }), Outcome::Enrolled { .. }));
    let next: ServerId = "s2".parse().unwrap();
    let other = Outage::default().admit(&later, &next, applicant(&later, "key-3", "n3", "b3")).unwrap();
    assert!(later.agent_records().all(|record| record.id != other.id && !record.earlier.contains(&other.enrolled)));
}

#[test]
fn who_has_a_record_keeps_it() {
    let mut catalog = mesh();
    let admitted = applicant(&catalog, "key-1", "n1", "b1").admission;
    let change = LoginChange::Admit { admission: Box::new(admitted) };
    let Outcome::Enrolled { record } = apply(&mut catalog, Command::Login { change }) else { panic!() };
    let outage = Outage::default();
    let again = outage.admit(&catalog, &"s1".parse().unwrap(), applicant(&catalog, "key-1", "n1", "b2"));
    assert_eq!(again, Ok(*record));
    assert_eq!(outage.len(), 0, "the mesh knows them already");
}

#[test]
fn an_admission_by_rules_of_before_is_refused() {
    let catalog = mesh();
    let mut stale = applicant(&catalog, "key-1", "n1", "b1");
    stale.admission.judged_at = CatalogIndex(1);
    let refused = Outage::default().admit(&catalog, &"s1".parse().unwrap(), stale);
    assert!(matches!(refused, Err(Refusal::LoginRulesChanged { .. })), "{refused:?}");
}

#[test]
fn c9_c13_no_identity_takes_all_the_places_that_others_need() {
    let catalog = mesh();
    let (server, outage) = ("s1".parse().unwrap(), Outage::default());
    let admit = |number: usize, subject: &str| {
        let key = format!("{subject}-{number}");
        let mut applicant = applicant(&catalog, &key, &key, &key);
        applicant.admission.subject = subject.to_owned();
        outage.admit(&catalog, &server, applicant)
    };
    // There are few numbers in so short a log: the places are taken by hand.
    admit(0, "crowd").unwrap();
    let one = outage.state().in_order().remove(0);
    for number in 1..HELD_OF_ONE_MAX {
        let key = KeyFingerprint(format!("crowd-{number}"));
        let record = AgentRecord { key: key.clone(), node: key.0.parse().unwrap(), ..one.record.clone() };
        outage.state().held.insert(key, Held { record, ..one.clone() });
    }
    let refused = admit(HELD_OF_ONE_MAX, "crowd");
    assert!(matches!(&refused, Err(Refusal::TooManyBearersOf { subject, .. }) if subject == "crowd"), "{refused:?}");
    assert!(admit(0, "other").is_ok());
}

#[test]
fn who_is_newer_than_the_revocation_of_its_service_gets_a_number_that_is() {
    let mut catalog = mesh();
    // The number that is this server's turn comes just before the revocation.
    while catalog.index().0 % TURNS != 1 {
        apply(&mut catalog, Command::DeleteMesh { compare: None });
    }
    let web: ServiceKey = "web".parse().unwrap();
    let change = catalog::RevocationChange::Service { service: web.clone() };
    assert!(matches!(apply(&mut catalog, Command::Revoke { change }), Outcome::Revoked { .. }));
    let server = "s1".parse().unwrap();
    let admit = |catalog: &Catalog| Outage::default().admit(catalog, &server, applicant(catalog, "key-1", "n1", "b1"));
    assert_eq!(admit(&catalog), Err(Refusal::TooManyBearers), "there is no number since");
    for _ in 0..TURNS {
        apply(&mut catalog, Command::DeleteMesh { compare: None });
    }
    let record = admit(&catalog).unwrap();
    assert!(record.enrolled <= catalog.number_at(catalog.index()));
    assert!(!catalog.is_service_revoked(&web, record.enrolled));
}

/// A server in memory, whose mesh has a method and rules: everybody is `web`, on the node `n1` where the name says so.
async fn asked() -> Rig {
    let rig = Rig::start().await;
    let change = LoginChange::WriteMethod { method: Box::new(method(&Issuer::new())), replace: false };
    assert_eq!(rig.write(Command::Login { change }).await, Outcome::Done);
    for (number, bind, name) in [(1, BindKind::Service, "web"), (2, BindKind::Node, "n1")] {
        let rule = BindingRule {
            id: format!("00000000-0000-0000-0000-00000000000{number}").parse().unwrap(),
            description: String::new(),
            method: "jwt".parse().unwrap(),
            selector: if bind == BindKind::Node { r#"value.team == "n1""#.to_owned() } else { String::new() },
            bind,
            name: name.parse().unwrap(),
            created: CatalogIndex::default(),
            modified: CatalogIndex::default(),
        };
        let change = LoginChange::WriteRule { rule: Box::new(rule), replace: false };
        assert_eq!(rig.write(Command::Login { change }).await, Outcome::Done);
    }
    // Some history, so that there are indexes without records.
    for _ in 0..100 {
        rig.write(Command::DeleteMesh { compare: None }).await;
    }
    rig
}

/// Somebody of whom the rules say that it is on `n1`.
fn of_n1(catalog: &Catalog, key: &str) -> Applicant {
    let mut applicant = applicant(catalog, key, "n1", key);
    applicant.claims.values.insert("team".to_owned(), "n1".to_owned());
    applicant.admission.nodes = vec!["n1".parse().unwrap()];
    applicant
}

async fn settles(outage: &Outage, rig: &Rig) {
    assert!(settle_all(outage, rig.consensus(), &"s1".parse().unwrap(), &Metrics::new()).await);
}

#[tokio::test]
async fn c14_of_two_that_came_to_one_node_the_later_one_is_there_when_the_mesh_is_asked() {
    for (first, second) in [("key-a", "key-z"), ("key-z", "key-a")] {
        let rig = asked().await;
        let (server, outage, catalog) = ("s1".parse().unwrap(), Outage::default(), rig.catalog());
        let gone = outage.admit(&catalog, &server, of_n1(&catalog, first)).unwrap();
        let there = outage.admit(&catalog, &server, of_n1(&catalog, second)).unwrap();
        assert_eq!((outage.record(&gone.key), outage.record(&there.key)), (None, Some(there.clone())));
        settles(&outage, &rig).await;
        let catalog = rig.catalog();
        let record = catalog.agent_on(&"n1".parse().unwrap()).unwrap();
        assert_eq!((&record.key, &record.earlier[..]), (&there.key, &[there.enrolled][..]));
        assert!(catalog.is_revoked(gone.enrolled) && !catalog.is_revoked(there.enrolled));
    }
}

#[tokio::test]
async fn c14_whoever_the_mesh_admitted_since_is_not_ended_by_an_admission_of_before() {
    let rig = asked().await;
    let (server, outage, catalog) = ("s1".parse().unwrap(), Outage::default(), rig.catalog());
    let gone = outage.admit(&catalog, &server, of_n1(&catalog, "key-1")).unwrap();
    let admission = Box::new(of_n1(&catalog, "key-2").admission);
    let there = rig.write(Command::Login { change: LoginChange::Admit { admission } }).await;
    let Outcome::Enrolled { record } = there else { panic!("{there:?}") };
    settles(&outage, &rig).await;
    let catalog = rig.catalog();
    assert_eq!(catalog.agent_on(&"n1".parse().unwrap()), Some(&*record));
    assert!(catalog.is_revoked(gone.enrolled) && !catalog.is_revoked(record.enrolled));
}

/// Admits agents at a server that writes them down, and returns once that is done.
async fn admitted_in(directory: &std::path::Path, catalog: &Catalog, keys: &[&str]) -> Vec<AgentRecord> {
    let (server, outage) = ("s1".parse().unwrap(), Outage::open(Some(directory.to_owned())));
    let admitting = async {
        let mut records = Vec::new();
        for key in keys {
            let record = outage.admit(catalog, &server, applicant(catalog, key, key, key)).unwrap();
            outage.until_kept(&record.key).await.unwrap();
            assert_eq!(outage.record(&record.key).as_ref(), Some(&record));
            records.push(record);
        }
        records
    };
    tokio::select! {
        records = admitting => records,
        () = keep(&outage) => unreachable!(),
    }
}

#[tokio::test]
async fn c14_a_server_that_crashes_while_it_stands_in_has_the_mesh_asked_about_whom_it_let_in() {
    let (rig, directory) = (asked().await, tempfile::tempdir().unwrap());
    let catalog = rig.catalog();
    let records = admitted_in(directory.path(), &catalog, &["k-1", "k-2", "k-3"]).await;
    let journal = std::fs::read(directory.path().join("admissions")).unwrap();

    // One of them is kept out meanwhile, and one logs in again.
    let key = records[1].key.clone();
    let bearer = Box::new(applicant(&catalog, "k-2", "k-2", "k-2").admission);
    let enrolled = rig.write(Command::Login { change: LoginChange::Admit { admission: bearer } }).await;
    let Outcome::Enrolled { record } = enrolled else { panic!("{enrolled:?}") };
    rig.write(Command::RevokeAgent { agent: record.id.clone() }).await;
    let again = applicant(&catalog, "k-3", "k-3", "c-3");
    rig.write(Command::Login { change: LoginChange::Admit { admission: Box::new(again.admission) } }).await;

    let outage = Outage::open(Some(directory.path().to_owned()));
    assert_eq!(outage.len(), 3);
    for record in &records {
        assert_eq!(outage.record(&record.key), None, "nobody is served by what is only to be settled");
    }
    let other = outage.admit(&catalog, &"s1".parse().unwrap(), applicant(&catalog, "k-4", "k-4", "k-4")).unwrap();
    assert!(records.iter().all(|record| record.enrolled != other.enrolled), "no number is given twice");
    settles(&outage, &rig).await;
    assert_eq!(outage.len(), 0);
    let settled = rig.catalog();
    let earlier = |key: &KeyFingerprint| settled.agent_by_key(key).map(|record| record.earlier.clone());
    assert_eq!(earlier(&records[0].key), Some(vec![records[0].enrolled]));
    assert_eq!((earlier(&key), settled.is_revoked(records[1].enrolled)), (None, true));
    assert_eq!(earlier(&records[2].key), Some(vec![records[2].enrolled]));

    // Crashed before that was noted, it asks once more, and nothing changes by it; not even where an agent was ended since.
    rig.write(Command::RevokeAgent { agent: settled.agent_by_key(&records[2].key).unwrap().id.clone() }).await;
    std::fs::write(directory.path().join("admissions"), journal).unwrap();
    let before = rig.catalog();
    settles(&Outage::open(Some(directory.path().to_owned())), &rig).await;
    let after = rig.catalog();
    assert_eq!(after.agent_records().collect::<Vec<_>>(), before.agent_records().collect::<Vec<_>>());
    assert!(after.is_revoked(records[2].enrolled) && !after.is_revoked(records[0].enrolled));
}

#[tokio::test]
async fn c14_a_server_whose_disk_is_full_when_it_comes_back_has_the_mesh_asked_and_lets_nobody_more_in() {
    let (rig, directory) = (asked().await, tempfile::tempdir().unwrap());
    let catalog = rig.catalog();
    let records = admitted_in(directory.path(), &catalog, &["k-1"]).await;
    std::fs::create_dir(directory.path().join("admissions.new")).unwrap();
    let outage = Outage::open(Some(directory.path().to_owned()));
    assert!(outage.is_closed());
    let late = outage.admit(&catalog, &"s1".parse().unwrap(), applicant(&catalog, "k-2", "k-2", "k-2")).unwrap();
    assert!(outage.until_kept(&late.key).await.is_err() && outage.record(&late.key).is_none());
    settles(&outage, &rig).await;
    let settled = rig.catalog().agent_by_key(&records[0].key).map(|record| record.earlier.clone());
    assert_eq!(settled, Some(vec![records[0].enrolled]));
}

#[tokio::test]
async fn c14_what_an_earlier_process_let_in_comes_again_under_its_number_and_is_forgotten_when_it_is_settled() {
    let (rig, directory) = (asked().await, tempfile::tempdir().unwrap());
    let catalog = rig.catalog();
    let records = admitted_in(directory.path(), &catalog, &["k-1"]).await;
    assert_eq!(admitted_in(directory.path(), &catalog, &["k-1"]).await, records, "its certificates count as before");
    let outage = Outage::open(Some(directory.path().to_owned()));
    assert_eq!(outage.len(), 1);
    let cleared = async {
        settles(&outage, &rig).await;
        while directory.path().join("admissions").exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        done = tokio::time::timeout(Duration::from_secs(60), cleared) => done.unwrap(),
        () = keep(&outage) => unreachable!(),
    }
    assert!(rig.catalog().agent_by_key(&records[0].key).is_some());
}

#[tokio::test]
async fn c14_who_cannot_be_written_down_is_not_let_in() {
    let (catalog, directory) = (mesh(), tempfile::tempdir().unwrap());
    let (server, outage) = ("s1".parse().unwrap(), Outage::open(Some(directory.path().join("gone"))));
    let record = outage.admit(&catalog, &server, applicant(&catalog, "k-1", "n1", "b1")).unwrap();
    assert_eq!(outage.record(&record.key), None, "it is not written down yet");
    tokio::select! {
        kept = outage.until_kept(&record.key) => assert!(kept.is_err()),
        () = keep(&outage) => unreachable!(),
    }
    assert_eq!(outage.record(&record.key), None);
}

#[tokio::test]
async fn what_another_mesh_or_another_day_left_is_dropped() {
    let (rig, directory) = (asked().await, tempfile::tempdir().unwrap());
    // Its mesh is `c1`.
    admitted_in(directory.path(), &mesh(), &["k-1"]).await;
    let outage = Outage::open(Some(directory.path().to_owned()));
    let before = rig.catalog().index();
    settles(&outage, &rig).await;
    assert_eq!((outage.len(), rig.catalog().index()), (0, before));
}
