use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use catalog::{Action, CheckStatus, Instance};
use serde_json::json;
use wire::agent_protocol::Subject;
use wire::join_token::JoinSecret;

use super::*;
use crate::sync::model::intend;
use crate::testing::TestMesh;
use crate::testing::agent::{admin, config, eventually, get, joined, put};
use crate::testing::server::{ModelServer, Shared};

/// Returns the instances that the catalog shows on the agent's node.
fn advertised(shared: &Shared) -> Vec<Instance> {
    shared.cluster().leader().instances_on(&"vm-1".parse().unwrap()).cloned().collect()
}

async fn with_web(server: &ModelServer, data_dir: Option<&std::path::Path>) -> Agent {
    let agent = joined(server, &["web"], data_dir).await;
    let answer = put(&agent, "/v1/agent/service/register", r#"{"Name": "web", "Port": 8080}"#).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    eventually(async || agent.missing().is_empty() && !advertised(server.shared()).is_empty()).await;
    agent
}

#[tokio::test]
async fn a_fresh_agent_joins_and_is_advertised_once_it_can_answer() {
    let server = ModelServer::start(Shared::new(&["web"])).await;
    let dir = tempfile::tempdir().unwrap();
    let agent = with_web(&server, Some(dir.path())).await;
    let instances = advertised(server.shared());
    assert_eq!(instances[0].mesh_port, Some(agent.mesh_address().port()));
    assert_eq!(admin(&agent, "/ready").await.status, 200);
    assert_eq!(admin(&agent, "/live").await.status, 200);
    assert!(admin(&agent, "/metrics").await.text.contains("weft_proxy"));
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
    }
}

#[tokio::test]
async fn p5_an_agent_without_any_server_serves_again_at_once() {
    let server = ModelServer::start(Shared::new(&["web"])).await;
    let dir = tempfile::tempdir().unwrap();
    let agent = with_web(&server, Some(dir.path())).await;
    let (address, mesh) = (server.address, agent.mesh_address());
    drop(server);
    drop(agent);
    let restarted = restart(address, dir.path()).await;
    let started = Instant::now();
    eventually(async || restarted.missing().is_empty()).await;
    assert!(started.elapsed() < Duration::from_secs(10), "it took {:?}", started.elapsed());
    assert_eq!(restarted.mesh_address(), mesh, "others still dial the old port");
    assert_eq!(admin(&restarted, "/ready").await.status, 200);
}

#[tokio::test]
async fn p5_a_state_that_cannot_be_saved_is_shown_and_an_older_one_does_not_come_back() {
    let server = ModelServer::start(Shared::new(&["web"])).await;
    let dir = tempfile::tempdir().unwrap();
    let agent = with_web(&server, Some(dir.path())).await;
    let state = dir.path().join("state.json");
    eventually(async || state.exists()).await;
    // Nothing can be written there, as on a full disk.
    std::fs::create_dir(dir.path().join("state.new")).unwrap();
    server.shared().cluster().commit(intend("shop", "web", Action::Allow));
    drop(server.shared().cluster());
    eventually(async || !state.exists()).await;
    eventually(async || admin(&agent, "/metrics").await.text.contains("weft_agent_state_unsaved 1")).await;
    let ready = admin(&agent, "/ready").await;
    assert_eq!(ready.status, 503);
    assert!(ready.text.contains("the last good state cannot be saved: cannot write"), "{}", ready.text);

    std::fs::remove_dir(dir.path().join("state.new")).unwrap();
    eventually(async || state.exists() && admin(&agent, "/ready").await.status == 200).await;
    assert!(admin(&agent, "/metrics").await.text.contains("weft_agent_state_unsaved 0"));
}

#[tokio::test]
async fn listeners_listen_before_a_registration_is_answered_and_when_an_agent_has_started() {
    let server = ModelServer::start(Shared::new(&["web"])).await;
    let dir = tempfile::tempdir().unwrap();
    let agent = with_web(&server, Some(dir.path())).await;
    // At an address of its own, whose ports nobody takes meanwhile.
    let address = "127.77.0.2";
    let port = std::net::TcpListener::bind((address, 0)).unwrap().local_addr().unwrap().port();
    let upstream = json!({ "DestinationName": "db", "LocalBindAddress": address, "LocalBindPort": port });
    let body = json!({ "Name": "web", "Port": 8080, "Proxy": { "Upstreams": [upstream] } }).to_string();
    assert_eq!(put(&agent, "/v1/agent/service/register", &body).await.status, 200);
    assert!(agent.upstreams()[0].2.is_ok(), "{:?}", agent.upstreams());
    eventually(async || agent.missing().is_empty()).await;
    let address = server.address;
    drop((server, agent));
    let again = restart(address, dir.path()).await;
    assert!(again.upstreams()[0].2.is_ok(), "{:?}", again.upstreams());
}

#[tokio::test]
async fn p5_the_advertised_address_of_the_last_run_holds_where_none_is_found() {
    let mesh = TestMesh::new();
    let identity = mesh.identity(&LeafKey::generate(), &["web"]);
    let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let mut config = Config::in_memory("vm-1".parse().unwrap(), vec!["no-port".to_owned()]);
    let kept: IpAddr = "10.0.0.7".parse().unwrap();
    let saved = Saved {
        servers: Vec::new(),
        group: None,
        view: Default::default(),
        restraint: Default::default(),
        known: None,
        statuses: Default::default(),
        mesh_port: 0,
        advertised: Some(kept),
        outbound: Default::default(),
    };
    assert_eq!(super::advertised(&config, any, &identity, Some(&saved)).await.unwrap(), kept);
    assert!(matches!(super::advertised(&config, any, &identity, None).await, Err(StartError::Advertise)));
    config.servers.push("127.0.0.1:8300".to_owned());
    assert_eq!(
        super::advertised(&config, any, &identity, Some(&saved)).await.unwrap(),
        kept,
        "nobody else reaches loopback"
    );
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    assert_eq!(super::advertised(&config, any, &identity, None).await.unwrap(), loopback);
    assert_eq!(super::advertised(&config, loopback, &identity, Some(&saved)).await.unwrap(), loopback);
}

#[tokio::test]
async fn a_new_join_token_holds_an_agent_up_once_and_not_for_every_server() {
    let token = Shared::new(&["web"]).join_token(&["web"]);
    let mut silent = Vec::new();
    for _ in 0..12 {
        silent.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
    }
    let silent_at: Vec<SocketAddr> = silent.iter().map(|listener| listener.local_addr().unwrap()).collect();
    let key = LeafKey::generate();
    let started = Instant::now();
    let error =
        enrol::once(&config(&silent_at, None, None), crate::enrol::Proof::Token(&token), &key).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(9), "it took {:?}", started.elapsed());
    assert!(error.contains("no server answered"), "{error}");
}

#[tokio::test]
async fn what_no_agent_would_serve_keeps_it_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("web.hcl");
    std::fs::write(&file, "service {\n name = \"web\"\n address = \"0.0.0.0\"\n}").unwrap();
    let mut config = config(&["127.0.0.1:1".parse().unwrap()], None, None);
    config.services = vec![file.into()];
    let error = start(config).await.unwrap_err();
    assert!(matches!(error, StartError::Services(_)), "{error:?}");
}

/// Starts an agent again on what it kept.
async fn restart(server: SocketAddr, dir: &std::path::Path) -> Agent {
    restart_with(server, None, dir).await
}

/// Starts one again with this token; the lock of the one before goes when its last task has.
async fn restart_with(server: SocketAddr, token: Option<JoinSecret>, dir: &std::path::Path) -> Agent {
    let started = async {
        loop {
            match start(config(&[server], token.clone(), Some(dir))).await {
                Ok(agent) => return agent,
                Err(StartError::DataDir(DataDirError::InUse { .. })) => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(error) => panic!("{}", wire::one_line(&error)),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), started).await.expect("the one before lets go of what it kept")
}

#[tokio::test]
async fn c9_a_used_join_token_is_fatal_and_says_what_to_do() {
    let server = ModelServer::start(Shared::new(&["web"])).await;
    let token = server.shared().join_token(&["web"]);
    let first = start(config(&[server.address], Some(token.clone()), None)).await.unwrap();
    drop(first);
    let error = start(config(&[server.address], Some(token), None)).await.unwrap_err();
    let text = wire::one_line(&error);
    assert!(text.contains("used already") && text.contains("make a new one"), "{text}");
}

#[tokio::test]
async fn c9_a_join_that_was_cut_short_is_repeated_with_the_same_key() {
    let server = ModelServer::start(Shared::new(&["web"])).await;
    let token = server.shared().join_token(&["web"]);
    let dir = tempfile::tempdir().unwrap();
    let first = start(config(&[server.address], Some(token.clone()), Some(dir.path()))).await.unwrap();
    let record = first.record();
    drop(first);
    // As if the process had died after the server enrolled it and before it could keep its identity.
    std::fs::remove_file(dir.path().join("identity.json")).unwrap();
    let again = restart_with(server.address, Some(token), dir.path()).await;
    assert_eq!(again.record().id, record.id);
}

#[tokio::test]
async fn c9_a_server_with_another_root_gets_no_secret() {
    let (ours, theirs) =
        (ModelServer::start(Shared::new(&["web"])).await, ModelServer::start(Shared::new(&["web"])).await);
    let token = ours.shared().join_token(&["web"]);
    let agent = start(config(&[theirs.address, ours.address], Some(token), None)).await.unwrap();
    assert_eq!(agent.record().node.as_str(), "vm-1");
    let records = theirs.shared().cluster().leader().agent_records().count();
    assert_eq!(records, 1, "only the one that the model starts with");
}

#[tokio::test]
async fn without_identity_and_token_the_agent_says_how_to_get_one() {
    let error = start(config(&["127.0.0.1:1".parse().unwrap()], None, None)).await.unwrap_err();
    assert!(wire::one_line(&error).contains("weft join-token create"));
}

#[tokio::test]
async fn a_new_join_token_brings_new_entitlements() {
    let server = ModelServer::start(Shared::new(&["web"])).await;
    let dir = tempfile::tempdir().unwrap();
    let first = joined(&server, &["web"], Some(dir.path())).await;
    let old = first.record();
    drop(first);
    let token = server.shared().join_token(&["api", "web"]);
    let again = restart_with(server.address, Some(token), dir.path()).await;
    assert_ne!(again.record().id, old.id);
    assert_eq!(again.record().key, old.key);
    assert_eq!(again.record().services.len(), 2);
    assert_eq!(put(&again, "/v1/agent/service/register", r#"{"Name": "api"}"#).await.status, 200);
    eventually(async || advertised(server.shared()).len() == 1).await;
}

#[tokio::test]
async fn another_server_takes_over_and_everything_is_registered_there() {
    let shared = Shared::new(&["web"]);
    let (first, second) = (ModelServer::start(shared.clone()).await, ModelServer::start(shared.clone()).await);
    let token = shared.join_token(&["web"]);
    let agent = start(config(&[first.address, second.address], Some(token), None)).await.unwrap();
    put(&agent, "/v1/agent/service/register", r#"{"Name": "web", "Port": 8080}"#).await;
    eventually(async || !advertised(&shared).is_empty()).await;
    let incarnation = || shared.cluster().leader().agent_on(&"vm-1".parse().unwrap()).unwrap().incarnation;
    let before = incarnation();
    let dead =
        if agent.core.status().server.as_deref() == Some(first.address.to_string().as_str()) { first } else { second };
    drop(dead);
    eventually(async || incarnation() > before && agent.core.status().server.is_some()).await;
    put(&agent, "/v1/agent/service/register", r#"{"Name": "web", "ID": "web-2", "Port": 8081}"#).await;
    eventually(async || advertised(&shared).len() == 2).await;
}

#[tokio::test]
async fn leaves_are_renewed_also_after_they_have_expired() {
    let shared = Shared::new(&["web"]);
    // Of an address of its own, whose port nobody takes while it is away.
    let server = ModelServer::start_at(shared.clone(), "127.77.0.1:0".parse().unwrap()).await;
    shared.set_leaf_ttl(Duration::from_millis(1500));
    let dir = tempfile::tempdir().unwrap();
    let agent = with_web(&server, Some(dir.path())).await;
    let signed = |subject: &Subject| shared.leaves_signed().iter().filter(|it| *it == subject).count();
    let web = Subject::Service("web".parse().unwrap());
    eventually(async || signed(&web) >= 2 && signed(&Subject::Agent) >= 1).await;
    let address = server.address;
    drop(server);
    eventually(async || agent.missing().iter().any(|line| line.contains("expired"))).await;
    assert_eq!(admin(&agent, "/ready").await.status, 503);
    shared.set_leaf_ttl(Duration::from_secs(3600));
    let _server = ModelServer::start_at(shared.clone(), address).await;
    eventually(async || agent.missing().is_empty() && agent.core.status().server.is_some()).await;
}

#[tokio::test]
async fn a_services_leaf_waits_for_the_root_above_it_and_the_agents_own_does_not() {
    let shared = Shared::new(&["web"]);
    shared.sign_by_successor();
    let server = ModelServer::start(shared.clone()).await;
    // The agent's own leaf is renewed at once; what is signed from then on lives long.
    shared.set_leaf_ttl(Duration::from_millis(1500));
    let agent = joined(&server, &["web"], None).await;
    shared.set_leaf_ttl(Duration::from_secs(3600));
    assert_eq!(put(&agent, "/v1/agent/service/register", r#"{"Name": "web", "Port": 8080}"#).await.status, 200);
    let signed = |subject: &Subject| shared.leaves_signed().iter().filter(|it| *it == subject).count();
    let web = Subject::Service("web".parse().unwrap());
    let metric = async |start: &str| {
        let text = admin(&agent, "/metrics").await.text;
        let line = text.lines().find(|line| line.starts_with(start)).unwrap_or_default().to_owned();
        line.rsplit(' ').next().unwrap_or_default().parse::<f64>().unwrap_or(0.0)
    };
    eventually(async || signed(&web) >= 1 && metric("weft_leaf_signings_failed_total").await >= 1.0).await;
    assert!(!agent.core.status().leaves.contains_key(&"web".parse().unwrap()), "nobody here knows its root");
    // Servers know all roots: the agent's own is held, and shown to them.
    eventually(async || signed(&Subject::Agent) >= 1 && agent.core.status().server.is_some()).await;
    let in_half_an_hour = wire::crypto::now().0 / 1000 + 1800;
    eventually(async || {
        metric("weft_leaf_certificate_expiry_timestamp_seconds{subject=\"agent\"").await > in_half_an_hour as f64
    })
    .await;
    shared.announce_successor();
    eventually(async || agent.missing().is_empty()).await;
    assert!(agent.core.status().leaves.contains_key(&"web".parse().unwrap()));
}

#[tokio::test]
async fn a_draining_agent_leaves_the_catalog_first() {
    let server = ModelServer::start(Shared::new(&["web"])).await;
    let dir = tempfile::tempdir().unwrap();
    let agent = with_web(&server, Some(dir.path())).await;
    agent.drain().await;
    assert!(server.shared().cluster().leader().node(&"vm-1".parse().unwrap()).is_none());
    let again = restart(server.address, dir.path()).await;
    eventually(async || !advertised(server.shared()).is_empty()).await;
    drop(again);
}

#[tokio::test]
async fn a_check_that_changes_is_told_to_the_catalog() {
    let server = ModelServer::start(Shared::new(&["web"])).await;
    let agent = with_web(&server, None).await;
    let body = json!({ "Name": "web", "Port": 8080, "Check": { "CheckID": "alive", "TTL": "10m" } }).to_string();
    put(&agent, "/v1/agent/service/register", &body).await;
    let status = || {
        let node = "vm-1".parse().unwrap();
        let checks: Vec<_> = server.shared().cluster().leader().checks_on(&node).map(|check| check.status).collect();
        checks
    };
    eventually(async || status() == [CheckStatus::Critical]).await;
    assert_eq!(put(&agent, "/v1/agent/check/pass/alive?note=fine", "").await.status, 200);
    eventually(async || status() == [CheckStatus::Passing]).await;
    assert_eq!(get(&agent, "/v1/agent/checks").await.json()["alive"]["Output"], "fine");
}

#[tokio::test]
async fn services_from_files_are_served() {
    let server = ModelServer::start(Shared::new(&["web"])).await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("web.hcl"), "service {\n name = \"web\"\n port = 8080\n}").unwrap();
    std::fs::write(dir.path().join("db.hcl"), "service { name = \"db\" }").unwrap();
    let mut config = config(&[server.address], Some(server.shared().join_token(&["web"])), None);
    config.services = vec![dir.path().to_owned().into()];
    let agent = start(config).await.unwrap();
    eventually(async || advertised(server.shared()).len() == 1).await;
    let ready = admin(&agent, "/ready").await;
    assert_eq!(ready.status, 503);
    assert!(ready.text.contains("db.hcl") && ready.text.contains("not entitled"), "{}", ready.text);
}
