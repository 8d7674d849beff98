use std::sync::Arc;

use catalog::{
    AuthMethod, BindKind, BindingRule, CaIntermediate, CaRoot, Mesh, NodeName, Platform, SealedSecret, SecretHash,
    ServerMember,
};

use super::*;
use crate::login::testing::{Issuer, method};

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
