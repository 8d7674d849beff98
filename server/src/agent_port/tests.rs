mod login;
mod paces;
pub(crate) mod rig;

use std::time::Duration;

use catalog::{
    CatalogIndex, CheckUpdate, Command, DeregisterTarget, Event, Incarnation, Instance, Node, Outcome, Owner, Platform,
    Refusal, Timestamp, Topic,
};
use http::{Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wire::agent_protocol::{
    AgentWrite, Capabilities, ClientFrame, JoinResponse, ServerFrame, SignRequest, SignResponse, Subject, WriteRequest,
    WriteResponse,
};
use wire::crypto::{self, Secret};
use wire::frame::encode_frame;
use wire::pki::LeafKey;
use wire::tls::TlsIdentity;

use super::Bounds;
use super::route::{self, Right};
use crate::ca::CertificateAuthority;
use crate::pace::Pace;
use rig::{Enrolled, Rig};

fn soon() -> Timestamp {
    Timestamp(crypto::now().0 + 60_000)
}

fn error(answer: &(StatusCode, serde_json::Value)) -> &str {
    let text = answer.1["error"].as_str().unwrap_or_else(|| panic!("no error: {answer:?}"));
    assert!(!text.contains('\n'), "{text:?}");
    text
}

fn node(name: &str) -> Node {
    Node {
        name: name.parse().unwrap(),
        id: None,
        address: "192.0.2.7".to_owned(),
        platform: Platform::Kubernetes,
        zone: None,
        network: String::new(),
        gateway_port: None,
        owner: Owner::External,
        incarnation: None,
        meta: Default::default(),
        tagged_addresses: Default::default(),
        created: CatalogIndex(0),
        modified: CatalogIndex(0),
    }
}

fn instance(node: &str, service: &str) -> Instance {
    let instance = serde_json::json!({
        "key": {"node": node, "namespace": "default", "id": service},
        "service": service,
        "port": 80,
    });
    serde_json::from_value(instance).unwrap()
}

fn register(name: &str, services: &[&str], incarnation: Incarnation) -> WriteRequest {
    WriteRequest {
        request_id: crypto::uuid_v4().parse().unwrap(),
        command: AgentWrite::Register {
            node: Box::new(node(name)),
            instances: services.iter().map(|service| instance(name, service)).collect(),
            checks: Vec::new(),
            incarnation,
        },
    }
}

fn sign_request(key: &LeafKey, subject: Subject) -> SignRequest {
    SignRequest { csr: key.csr_der(None), subject }
}

#[tokio::test]
async fn a3_every_route_but_join_refuses_whoever_shows_no_certificate() {
    let rig = Rig::start().await;
    let peer = rig.connect_to_join().await;
    let routes = route::routes();
    assert_eq!(routes.iter().filter(|(_, _, right)| *right == Right::Join).count(), 2);
    for (method, path, right) in routes {
        let methods = method.map_or_else(|| vec![Method::GET, Method::PUT, Method::POST, Method::DELETE], |m| vec![m]);
        let path = if path.ends_with("/api") { format!("{path}/status/leader") } else { path.to_owned() };
        for method in methods {
            let answer = peer.exchange(method, &path, &[], b"{}".to_vec()).await;
            let want = match right {
                Right::Public => StatusCode::OK,
                Right::Join => StatusCode::BAD_REQUEST,
                Right::AgentOwn | Right::AgentRenewal => StatusCode::FORBIDDEN,
            };
            assert_eq!(answer.0, want, "{path}: {answer:?}");
            if right == Right::Public {
                assert_eq!(answer.1.as_object().unwrap().keys().collect::<Vec<_>>(), ["cluster_id"], "{answer:?}");
                continue;
            }
            let says = if right == Right::Join { "cannot read the" } else { "certificate" };
            assert!(error(&answer).contains(says), "{path}: {answer:?}");
        }
    }
    assert_eq!(peer.post("/v1/nothing", &()).await.0, StatusCode::NOT_FOUND);
    assert!(rig.metrics().contains("weft_agent_port_refused_total{reason=\"no_certificate\"}"));
}

#[tokio::test]
async fn an_agent_joins_once_and_a_retry_with_its_key_gets_the_same_record() {
    let rig = Rig::start().await;
    let secret = rig.join_token(&["web"], soon()).await;
    let (key, peer) = (LeafKey::generate(), rig.connect_to_join().await);
    let first: JoinResponse = serde_json::from_value(peer.join(&secret, &key, "vm-1").await.1).unwrap();
    let again: JoinResponse = serde_json::from_value(peer.join(&secret, &key, "vm-1").await.1).unwrap();
    assert_eq!(first.record, again.record);
    assert_eq!(first.record.key, key.fingerprint());
    let identity = TlsIdentity::new(&first.leaf.chain_pem, &key).unwrap();
    assert_eq!(*identity.id(), first.mesh.scheme().agent(Platform::Vm, &"vm-1".parse().unwrap()));
    assert_eq!(identity.serial()[..8], first.record.enrolled.0.to_be_bytes());
    assert_eq!(first.servers, [rig.address().to_string()]);
    assert_eq!(first.roots_pem.len(), 1);
}

#[tokio::test]
async fn c9_a_join_token_that_is_unknown_expired_used_or_for_a_taken_name_is_refused_in_one_line() {
    let rig = Rig::start().await;
    let peer = rig.connect_to_join().await;
    let before = rig.catalog().index();
    let guessed = peer.join(&Secret::new("guessed"), &LeafKey::generate(), "vm-1").await;
    assert_eq!(guessed.0, StatusCode::FORBIDDEN);
    assert!(error(&guessed).contains("unknown"), "{guessed:?}");
    assert_eq!(rig.catalog().index(), before, "a guess reached the log");

    let expired = rig.join_token(&["web"], Timestamp(crypto::now().0 - 1)).await;
    let answer = peer.join(&expired, &LeafKey::generate(), "vm-1").await;
    assert_eq!((answer.0, error(&answer).contains("expired")), (StatusCode::FORBIDDEN, true), "{answer:?}");

    let used = rig.join_token(&["web"], soon()).await;
    assert_eq!(peer.join(&used, &LeafKey::generate(), "vm-1").await.0, StatusCode::OK);
    let answer = peer.join(&used, &LeafKey::generate(), "vm-2").await;
    assert_eq!((answer.0, error(&answer).contains("used already")), (StatusCode::FORBIDDEN, true), "{answer:?}");

    let other = rig.join_token(&["web"], soon()).await;
    let answer = peer.join(&other, &LeafKey::generate(), "vm-1").await;
    assert_eq!((answer.0, error(&answer).contains("--replace-node")), (StatusCode::FORBIDDEN, true), "{answer:?}");

    let metrics = rig.metrics();
    for reason in ["join_token_unknown", "join_token_expired", "join_token_used", "node_taken"] {
        assert!(metrics.contains(&format!("weft_agent_port_refused_total{{reason=\"{reason}\"}} 1")), "{reason}");
    }
}

#[tokio::test]
async fn c13_whoever_joins_takes_no_turn_at_signing_and_without_a_token_none_at_all() {
    let bounds = Bounds { signing: Pace::new(1, 1), joining: Pace::new(2, 1), ..Bounds::default() };
    let rig = Rig::start_within(bounds).await;
    let (peer, guess, key) = (rig.connect_to_join().await, Secret::new("guessed"), LeafKey::generate());
    for _ in 0..20 {
        let answer = peer.join(&guess, &key, "vm-1").await;
        assert_eq!(answer.0, StatusCode::FORBIDDEN, "{answer:?}");
    }
    let agent = rig.enrol("vm-1", &["web"]).await;
    let secret = rig.join_token(&["web"], soon()).await;
    let key = LeafKey::generate();
    let tries = (0..20).map(|_| peer.join(&secret, &key, "vm-2"));
    let answers = futures_util::future::join_all(tries).await;
    assert!(answers.iter().any(|(status, _)| *status == StatusCode::SERVICE_UNAVAILABLE), "{answers:?}");
    let _: SignResponse =
        rig.connect_as(&agent.identity).await.call("/v1/sign", &sign_request(&agent.key, Subject::Agent)).await;
}

#[tokio::test]
async fn a5_agents_behind_one_address_do_not_take_the_places_of_each_other() {
    let bounds = Bounds { connections_per_address_max: 8, connections_per_agent_max: 6, ..Bounds::default() };
    let rig = Rig::start_within(bounds).await;
    let mut held = Vec::new();
    let mut last = None;
    for node in ["vm-1", "vm-2"] {
        let agent = rig.enrol(node, &["web"]).await;
        for _ in 0..6 {
            let peer = rig.connect_as(&agent.identity).await;
            let _: SignResponse = peer.call("/v1/sign", &sign_request(&agent.key, Subject::Agent)).await;
            held.push(peer);
        }
        last = Some(agent);
    }
    let refused = "weft_agent_port_refused_total{reason=\"too_many_connections\"} 1";
    assert!(!rig.metrics().contains(refused), "{}", rig.metrics());
    // It stands in for a broken agent, whose certificate must not open the port as often as it likes.
    let identity = last.unwrap().identity;
    let trust_domain = rig.catalog().mesh().unwrap().trust_domain.clone();
    let config = wire::tls::agent_port_client_config(rig.anchors(), trust_domain, &identity);
    let tcp = TcpStream::connect(rig.address()).await.unwrap();
    let name = rustls_pki_types::ServerName::from(rig.address().ip());
    let _seventh = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config)).connect(name, tcp).await;
    rig.counts(refused).await;
}

#[tokio::test]
async fn the_ends_of_the_certificates_are_told() {
    let rig = Rig::start().await;
    let catalog = rig.catalog();
    let (root, intermediate) = (catalog.active_root().unwrap(), catalog.active_intermediate().unwrap());
    for (certificate, end) in [("root", root.not_after), ("intermediate", intermediate.not_after)] {
        let name = format!("weft_ca_certificate_expiry_timestamp_seconds{{certificate=\"{certificate}\"}}");
        rig.counts(&format!("{name} {}", end.0 / 1000)).await;
    }
    assert!(!rig.metrics().contains("weft_server_certificate_expiry_timestamp_seconds 0"), "{}", rig.metrics());
}

#[tokio::test]
async fn c9_of_two_keys_that_race_for_one_token_exactly_one_joins() {
    let rig = Rig::start().await;
    let secret = rig.join_token(&["web"], soon()).await;
    let (first, second) = (rig.connect_to_join().await, rig.connect_to_join().await);
    let (one, other) = (LeafKey::generate(), LeafKey::generate());
    let answers = tokio::join!(first.join(&secret, &one, "vm-1"), second.join(&secret, &other, "vm-2"));
    let mut statuses = [answers.0.0, answers.1.0];
    statuses.sort();
    assert_eq!(statuses, [StatusCode::OK, StatusCode::FORBIDDEN]);
    assert_eq!(rig.catalog().agent_records().count(), 1);
}

#[tokio::test]
async fn c2_an_agent_gets_leaves_of_its_own_services_and_no_others() {
    let rig = Rig::start().await;
    let agent = rig.enrol("vm-1", &["web"]).await;
    let peer = rig.connect_as(&agent.identity).await;
    let key = LeafKey::generate();
    let response: SignResponse =
        peer.call("/v1/sign", &sign_request(&key, Subject::Service("web".parse().unwrap()))).await;
    let leaf = TlsIdentity::new(&response.leaf.chain_pem, &key).unwrap();
    assert_eq!(*leaf.id(), agent.response.mesh.scheme().workload(&"web".parse().unwrap()));
    assert_eq!(leaf.serial()[..8], agent.record.enrolled.0.to_be_bytes());

    let answer = peer.post("/v1/sign", &sign_request(&key, Subject::Service("billing".parse().unwrap()))).await;
    assert_eq!(answer.0, StatusCode::FORBIDDEN);
    assert!(error(&answer).contains("default/billing"), "{answer:?}");
    let foreign_key = peer.post("/v1/sign", &sign_request(&key, Subject::Agent)).await;
    assert_eq!(foreign_key.0, StatusCode::FORBIDDEN);
    let renewed: SignResponse = peer.call("/v1/sign", &sign_request(&agent.key, Subject::Agent)).await;
    assert_eq!(TlsIdentity::new(&renewed.leaf.chain_pem, &agent.key).unwrap().id(), agent.identity.id());
}

#[tokio::test]
async fn c2_the_certificate_of_a_workload_opens_nothing_on_the_port() {
    let rig = Rig::start().await;
    let agent = rig.enrol("vm-1", &["web"]).await;
    let key = LeafKey::generate();
    let subject = Subject::Service("web".parse().unwrap());
    let response: SignResponse =
        rig.connect_as(&agent.identity).await.call("/v1/sign", &sign_request(&key, subject)).await;
    let workload = rig.connect_as(&TlsIdentity::new(&response.leaf.chain_pem, &key).unwrap()).await;
    for path in ["/v1/sign", "/v1/write", "/v1/stream", "/v1/api/status/leader"] {
        let answer = workload.post(path, &()).await;
        assert_eq!(answer.0, StatusCode::FORBIDDEN, "{path}");
        assert!(error(&answer).contains("not an agent"), "{answer:?}");
    }
}

#[tokio::test]
async fn an_expired_certificate_is_enough_to_renew_it_and_for_nothing_else() {
    let rig = Rig::start().await;
    let agent = rig.enrol("vm-1", &["web"]).await;
    let authority = CertificateAuthority::new(rig.keys.clone(), Duration::from_secs(1));
    let a_minute_ago = Timestamp(crypto::now().0 - 60_000);
    let csr = agent.key.csr_der(None);
    let expired = authority.sign(&rig.catalog(), &agent.record, &Subject::Agent, &csr, a_minute_ago).unwrap();
    let peer = rig.connect_as(&TlsIdentity::new(&expired.chain_pem, &agent.key).unwrap()).await;
    for path in ["/v1/write", "/v1/stream", "/v1/api/status/leader"] {
        let answer = peer.post(path, &()).await;
        assert_eq!(answer.0, StatusCode::FORBIDDEN, "{path}");
        assert!(error(&answer).contains("expired"), "{answer:?}");
    }
    let renewed: SignResponse = peer.call("/v1/sign", &sign_request(&agent.key, Subject::Agent)).await;
    assert!(renewed.leaf.not_after > crypto::now());
}

#[tokio::test]
async fn an_agent_writes_its_own_node_in_its_own_name_once() {
    let rig = Rig::start().await;
    let agent = rig.enrol("vm-1", &["web"]).await;
    let peer = rig.connect_as(&agent.identity).await;
    let (_stream, incarnation) = peer.session().await;
    let request = register("vm-1", &["web"], incarnation);
    let written: WriteResponse = peer.call("/v1/write", &request).await;
    assert_eq!(written.outcome, Outcome::Done);
    let catalog = rig.catalog();
    let held = catalog.node(&"vm-1".parse().unwrap()).unwrap();
    // Owner and platform are the record's, whatever the agent says.
    assert_eq!((&held.owner, held.platform), (&Owner::Agent(agent.record.id.clone()), Platform::Vm));
    assert_eq!(catalog.instances_of(&"web".parse().unwrap()).count(), 1);

    let repeated: WriteResponse = peer.call("/v1/write", &request).await;
    assert_eq!(repeated.outcome, Outcome::Done);
    let deregister = WriteRequest {
        request_id: request.request_id.clone(),
        command: AgentWrite::Deregister { node: "vm-1".parse().unwrap(), target: DeregisterTarget::Node, incarnation },
    };
    let answered: WriteResponse = peer.call("/v1/write", &deregister).await;
    assert!(matches!(answered.outcome, Outcome::Refused(Refusal::RequestIdReused { .. })), "{:?}", answered.outcome);
    assert!(rig.catalog().node(&"vm-1".parse().unwrap()).is_some(), "a13: an id used before was carried out again");
}

#[tokio::test]
async fn an_agent_writes_no_other_node_and_no_service_that_its_record_does_not_name() {
    let rig = Rig::start().await;
    let agent = rig.enrol("vm-1", &["web"]).await;
    let peer = rig.connect_as(&agent.identity).await;
    let (_stream, incarnation) = peer.session().await;
    let answer = peer.post("/v1/write", &register("vm-1", &["web", "billing"], incarnation)).await;
    assert_eq!(answer.0, StatusCode::FORBIDDEN);
    assert!(error(&answer).contains("default/billing"), "{answer:?}");
    assert!(rig.catalog().node(&"vm-1".parse().unwrap()).is_none());

    let update = CheckUpdate {
        key: catalog::CheckKey {
            node: "vm-2".parse().unwrap(),
            namespace: Default::default(),
            id: "ready".parse().unwrap(),
        },
        status: catalog::CheckStatus::Passing,
        output: String::new(),
    };
    let deregister =
        AgentWrite::Deregister { node: "vm-2".parse().unwrap(), target: DeregisterTarget::Node, incarnation };
    for command in [
        register("vm-2", &["web"], incarnation).command,
        deregister,
        AgentWrite::UpdateChecks { updates: vec![update], incarnation },
    ] {
        let request = WriteRequest { request_id: crypto::uuid_v4().parse().unwrap(), command };
        let answer = peer.post("/v1/write", &request).await;
        assert_eq!(answer.0, StatusCode::FORBIDDEN, "{answer:?}");
        assert!(error(&answer).contains("vm-2"), "{answer:?}");
    }
}

#[tokio::test]
async fn a_write_of_an_older_session_is_answered_with_the_current_number() {
    let rig = Rig::start().await;
    let agent = rig.enrol("vm-1", &["web"]).await;
    let first = rig.connect_as(&agent.identity).await;
    let (mut old_stream, old) = first.session().await;
    let (_new_stream, new) = rig.connect_as(&agent.identity).await.session().await;
    assert!(old_stream.goodbye().await.contains("newer session"));
    let late: WriteResponse = first.call("/v1/write", &register("vm-1", &["web"], old)).await;
    let Outcome::Refused(Refusal::StaleIncarnation { found, current, .. }) = late.outcome else {
        panic!("{:?}", late.outcome)
    };
    assert_eq!((found, current), (old, new));
    let written: WriteResponse = first.call("/v1/write", &register("vm-1", &["web"], new)).await;
    assert_eq!(written.outcome, Outcome::Done);
}

#[tokio::test]
async fn a_stream_brings_a_snapshot_then_what_changes() {
    let rig = Rig::start().await;
    let Enrolled { identity, .. } = rig.enrol("vm-1", &["web"]).await;
    let peer = rig.connect_as(&identity).await;
    let (mut stream, incarnation) = peer.session().await;
    let topic = Topic::Endpoints("web".parse().unwrap());
    stream.say(&ClientFrame::Subscribe { topic: topic.clone(), from: None });
    let Some(ServerFrame::Event(Event::Snapshot { index: start, items, .. })) = stream.next().await else {
        panic!("no snapshot")
    };
    assert!(items.is_empty());
    let _: WriteResponse = peer.call("/v1/write", &register("vm-1", &["web"], incarnation)).await;
    let Some(ServerFrame::Event(Event::Delta { from, index, upserts, .. })) = stream.next().await else {
        panic!("no delta")
    };
    assert_eq!((from, &upserts), (start, &rig.catalog().view(&topic)));

    // A new session resumes where the old one was.
    let (mut resumed, _) = rig.connect_as(&identity).await.session().await;
    resumed.say(&ClientFrame::Subscribe { topic: topic.clone(), from: Some(index) });
    assert_eq!(resumed.next().await, Some(ServerFrame::Event(Event::UpToDate { topic, index })));
    assert!(rig.metrics().contains("weft_stream_sessions 1"));
    drop(resumed);
    rig.counts("weft_stream_sessions 0").await;
}

#[tokio::test]
async fn fault_22_an_agent_one_release_behind_and_one_ahead_are_served() {
    let rig = Rig::start().await;
    let agent = rig.enrol("vm-1", &["web"]).await;
    let behind = serde_json::json!({"hello": {}});
    let ahead = serde_json::json!({"hello": {"knows": ["dance"], "steps": 3}});
    for hello in [behind, ahead] {
        let peer = rig.connect_as(&agent.identity).await;
        let mut stream = peer.open(&encode_frame(&hello).unwrap()).await.unwrap();
        let Some(ServerFrame::Welcome { knows, .. }) = stream.next().await else { panic!("no welcome") };
        assert_eq!(knows, Capabilities::ours());
        stream.say_raw(&serde_json::json!({"may-dance": {"steps": 3}}));
        stream.say(&ClientFrame::Subscribe { topic: Topic::Mesh, from: None });
        assert!(matches!(stream.next().await, Some(ServerFrame::Event(Event::Snapshot { topic: Topic::Mesh, .. }))));
        // What is not optional ends the stream: the agent thinks that it was heard.
        stream.say_raw(&serde_json::json!({"dance": {"steps": 3}}));
        assert_eq!(stream.next().await, None);
    }
}

#[tokio::test]
async fn a_stream_that_asks_for_foreign_policy_or_makes_no_sense_ends() {
    let rig = Rig::start().await;
    let agent = rig.enrol("vm-1", &["web"]).await;
    let peer = rig.connect_as(&agent.identity).await;
    let (mut stream, _) = peer.session().await;
    stream.say(&ClientFrame::Subscribe { topic: Topic::Intentions("billing".parse().unwrap()), from: None });
    assert!(stream.goodbye().await.contains("billing"));

    let (mut twice, _) = rig.connect_as(&agent.identity).await.session().await;
    twice.say(&ClientFrame::hello());
    assert_eq!(twice.next().await, None);

    let subscribe = encode_frame(&ClientFrame::Subscribe { topic: Topic::Roots, from: None }).unwrap();
    for first in [subscribe.as_ref(), b"\0\0\0\x02{]", &[0xff; 8]] {
        let answer = rig.connect_as(&agent.identity).await.open(first).await.err().unwrap();
        assert_eq!(answer.0, StatusCode::BAD_REQUEST, "{answer:?}");
    }
}

#[tokio::test]
async fn c14_a_revoked_agent_is_cut_off_and_told_to_enrol_again() {
    let rig = Rig::start().await;
    let agent = rig.enrol("vm-1", &["web"]).await;
    let peer = rig.connect_as(&agent.identity).await;
    let (mut stream, incarnation) = peer.session().await;
    let revoked = rig.write(Command::RevokeAgent { agent: agent.record.id.clone() }).await;
    assert!(matches!(revoked, Outcome::AgentRevoked { .. } | Outcome::Done), "{revoked:?}");
    assert!(stream.goodbye().await.contains("enrol again"));
    let sign = peer.post("/v1/sign", &sign_request(&agent.key, Subject::Agent)).await;
    let write = peer.post("/v1/write", &register("vm-1", &["web"], incarnation)).await;
    for answer in [sign, write] {
        assert_eq!(answer.0, StatusCode::FORBIDDEN);
        assert!(error(&answer).contains("enrol again"), "{answer:?}");
    }
}

#[tokio::test]
async fn a_node_that_is_forced_to_leave_loses_its_session_and_with_prune_its_place() {
    let rig = Rig::start().await;
    let token = rig.management_token().await;
    let agent = rig.enrol("vm-1", &["web"]).await;
    let peer = rig.connect_as(&agent.identity).await;
    let other = rig.connect_as(&rig.enrol("vm-2", &["api"]).await.identity).await;
    let force = async |token: &str, path: &str| {
        let path = format!("/v1/api/agent/force-leave/{path}");
        other.exchange(Method::PUT, &path, &[("x-consul-token", token)], Vec::new()).await
    };
    let (mut stream, incarnation) = peer.session().await;
    let _: WriteResponse = peer.call("/v1/write", &register("vm-1", &["web"], incarnation)).await;
    assert_eq!(force("guessed", "vm-1").await.0, StatusCode::FORBIDDEN);
    assert_eq!(force(&token, "vm-1").await.0, StatusCode::OK);
    assert!(stream.goodbye().await.contains("gave the session up"));
    let late: WriteResponse = peer.call("/v1/write", &register("vm-1", &["web"], incarnation)).await;
    assert!(matches!(late.outcome, Outcome::Refused(Refusal::StaleIncarnation { .. })), "{:?}", late.outcome);
    let node: catalog::NodeName = "vm-1".parse().unwrap();
    assert!(rig.catalog().checks_on(&node).any(|check| check.key.id.as_str() == catalog::AGENT_CHECK));

    // It is there after all, and is back with its next session.
    let (mut stream, incarnation) = rig.connect_as(&agent.identity).await.session().await;
    let back: WriteResponse = peer.call("/v1/write", &register("vm-1", &["web"], incarnation)).await;
    assert_eq!(back.outcome, Outcome::Done);
    assert!(!rig.catalog().checks_on(&node).any(|check| check.key.id.as_str() == catalog::AGENT_CHECK));
    assert_eq!(force(&token, "vm-1?prune").await.0, StatusCode::OK);
    assert!(stream.goodbye().await.contains("gave the session up"));
    assert!(rig.catalog().node(&node).is_none() && rig.catalog().agent_on(&node).is_some());

    for (path, status, says) in [
        ("nobody", StatusCode::NOT_FOUND, "does not exist"),
        ("vm-2", StatusCode::BAD_REQUEST, "opened no session"),
        ("vm-1?prune=perhaps", StatusCode::BAD_REQUEST, "prune"),
    ] {
        let answer = force(&token, path).await;
        assert_eq!(answer.0, status, "{path}: {answer:?}");
        assert!(answer.1.to_string().contains(says), "{path}: {answer:?}");
    }
}

#[tokio::test]
async fn what_an_agent_passes_on_is_judged_by_its_own_token() {
    let rig = Rig::start().await;
    let agent = rig.enrol("vm-1", &["web"]).await;
    let token = rig.management_token().await;
    let peer = rig.connect_as(&agent.identity).await;
    let path = "/v1/api/catalog/nodes";
    assert_eq!(peer.exchange(Method::GET, path, &[], Vec::new()).await.0, StatusCode::FORBIDDEN);
    let header = [("x-consul-token", token.as_str())];
    let answer = peer.exchange(Method::GET, path, &header, Vec::new()).await;
    assert_eq!((answer.0, answer.1.is_array()), (StatusCode::OK, true), "{answer:?}");
    let header = [("x-consul-token", "guessed")];
    assert_eq!(peer.exchange(Method::GET, path, &header, Vec::new()).await.0, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a1_a_body_that_is_too_large_is_refused_on_every_route_that_reads_one() {
    let rig = Rig::start().await;
    let agent = rig.enrol("vm-1", &["web"]).await;
    let peer = rig.connect_as(&agent.identity).await;
    for path in ["/v1/join", "/v1/sign", "/v1/write"] {
        let giant = vec![b' '; wire::body::Bounds::default().bytes_max + 1];
        let answer = peer.exchange(Method::POST, path, &[], giant).await;
        assert_eq!(answer.0, StatusCode::PAYLOAD_TOO_LARGE, "{path}: {answer:?}");
    }
}

#[tokio::test]
async fn r3_plaintext_is_refused_and_counted() {
    let rig = Rig::start().await;
    let mut stream = TcpStream::connect(rig.address()).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // A TLS alert, or nothing at all: in no case an answer of HTTP.
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.len() < 16, "{answer:?}");
    rig.counts("weft_agent_port_refused_total{reason=\"tls_handshake\"} 1").await;
}

#[tokio::test]
async fn a_foreign_authoritys_certificate_and_a_foreign_protocol_are_refused_and_counted() {
    let (rig, foreign) = (Rig::start().await, Rig::start().await);
    let stranger = foreign.enrol("vm-1", &["web"]).await;
    let root = wire::pki::fingerprint(&rig.catalog().active_root().unwrap().certificate_pem).unwrap();
    let mut with_certificate = wire::tls::join_client_config(vec![root]);
    with_certificate.client_auth_cert_resolver = stranger.identity.resolver();
    let mut without_protocol = wire::tls::join_client_config(vec![root]);
    without_protocol.alpn_protocols.clear();
    for (config, reason) in [(with_certificate, "foreign_trust_domain"), (without_protocol, "wrong_protocol")] {
        let tcp = TcpStream::connect(rig.address()).await.unwrap();
        let name = rustls_pki_types::ServerName::from(rig.address().ip());
        // The client of TLS 1.3 is done before the server has judged it: reading tells.
        if let Ok(mut tls) = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config)).connect(name, tcp).await {
            let mut answer = Vec::new();
            let _ = tls.read_to_end(&mut answer).await;
            assert!(answer.is_empty());
        }
        rig.counts(&format!("weft_agent_port_refused_total{{reason=\"{reason}\"}} 1")).await;
    }
}

#[test]
fn request_ids_of_two_agents_never_meet() {
    let id = |index: u64, request: &str| {
        let agent = catalog::AgentId::enrolled_at(CatalogIndex(index));
        super::request_id_of(&agent, &request.parse().unwrap()).unwrap()
    };
    assert_eq!(id(1, "x"), id(1, "x"));
    assert_ne!(id(1, "x"), id(2, "x"));
    assert_ne!(id(1, "x"), id(1, "y"));
}
