//! The node as a whole: its machine, maintenance, definitions read again, leaving; and waiting by hash.

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::start;
use crate::testing::agent::config;

#[tokio::test]
async fn the_agent_tells_its_version_and_its_machine() {
    let (_server, agent) = agent().await;
    assert_eq!(get(&agent, "/v1/agent/version").await.json()["HumanVersion"], env!("CARGO_PKG_VERSION"));
    let host = get(&agent, "/v1/agent/host?pretty").await;
    assert!(host.json()["Memory"]["total"].as_u64().unwrap() > 0);
    assert!(host.text.starts_with("{\n  \"Memory\""), "{}", host.text);
}

#[tokio::test]
async fn a_node_in_maintenance_makes_all_its_services_critical() {
    let (_server, agent) = agent().await;
    register(&agent, json!({ "Name": "web" })).await;
    assert_eq!(put(&agent, "/v1/agent/maintenance?enable=true&reason=kernel", "").await.status, 200);
    assert_eq!(get(&agent, "/v1/agent/health/service/id/web").await.status, 503);
    let check = &get(&agent, "/v1/agent/checks").await.json()["_node_maintenance"];
    assert_eq!((check["Status"].as_str(), check["Notes"].as_str()), (Some("critical"), Some("kernel")));
    assert_eq!(put(&agent, "/v1/agent/maintenance?enable=false", "").await.status, 200);
    assert_eq!(get(&agent, "/v1/agent/health/service/id/web").await.status, 200);
    assert_eq!(put(&agent, "/v1/agent/maintenance", "").await.status, 400);
}

#[tokio::test]
async fn an_answer_is_waited_for_by_its_hash() {
    let (_server, agent) = agent().await;
    register(&agent, json!({ "Name": "web", "Port": 1 })).await;
    let first = get(&agent, "/v1/agent/service/web").await;
    let hash = first.headers["x-consul-contenthash"].to_str().unwrap().to_owned();
    let same = get(&agent, &format!("/v1/agent/service/web?hash={hash}&wait=20ms")).await;
    assert_eq!(same.headers["x-consul-contenthash"], hash.as_str());
    let path = format!("/v1/agent/service/web?hash={hash}&wait=60s");
    let (news, ()) =
        tokio::join!(get(&agent, &path), async { register(&agent, json!({ "Name": "web", "Port": 2 })).await });
    assert_eq!(news.json()["Port"], 2);
    assert_ne!(news.headers["x-consul-contenthash"], hash.as_str());
    assert_eq!(get(&agent, "/v1/agent/service/web?hash=0&wait=soon").await.status, 400);
}

#[tokio::test]
async fn a12_lists_are_filtered_by_a_bounded_language() {
    let (_server, agent) = agent().await;
    register(&agent, json!({ "Name": "web", "Port": 1, "Tags": ["v1"] })).await;
    register(&agent, json!({ "Name": "api", "Port": 2 })).await;
    let found = get(&agent, "/v1/agent/services?filter=%22v1%22%20in%20Tags").await.json();
    assert_eq!(found.as_object().unwrap().keys().collect::<Vec<_>>(), ["web"]);
    for filter in ["Tags", "Port%20matches%20%22(%22", &"a".repeat(5000)] {
        let answer = get(&agent, &format!("/v1/agent/services?filter={filter}")).await;
        assert_eq!(answer.status, 400, "{filter}: {}", answer.text);
    }
}

/// Starts an agent with a file that defines `web`, and a right to `api` besides.
async fn agent_with_file() -> (ModelServer, Agent, tempfile::TempDir, PathBuf) {
    let server = ModelServer::start(Shared::new(&["web"])).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("web.hcl");
    fs::write(&file, "service { name = \"web\"\n port = 1 }").unwrap();
    let token = server.shared().join_token(&["api", "web"]);
    let mut config = config(&[server.address], Some(token), None);
    config.services = vec![file.clone().into()];
    let agent = start(config).await.unwrap();
    eventually(async || agent.core.status().server.is_some()).await;
    (server, agent, folder, file)
}

#[tokio::test]
async fn f1_files_are_read_again_and_a_bad_one_changes_nothing() {
    let (_server, agent, _folder, file) = agent_with_file().await;
    register(&agent, json!({ "ID": "api-1", "Name": "api" })).await;

    fs::write(&file, "service { name = \"web\"\n port = 2 }").unwrap();
    assert_eq!(put(&agent, "/v1/agent/reload", "").await.status, 200);
    assert_eq!(get(&agent, "/v1/agent/service/web").await.json()["Port"], 2);
    assert_eq!(get(&agent, "/v1/agent/service/api-1").await.status, 200, "what the API registered stays");

    for (text, says) in [
        ("service { name = \"db\" }", "not entitled"),
        ("service { name = \"web\"\n nam = 1 }", "unknown field `service.nam`"),
        ("service {", "line 1"),
    ] {
        fs::write(&file, text).unwrap();
        let answer = put(&agent, "/v1/agent/reload", "").await;
        assert!(answer.status.is_client_error(), "{text}: {}", answer.text);
        assert!(answer.text.contains(says) && answer.text.contains("web.hcl"), "{}", answer.text);
        assert_eq!(get(&agent, "/v1/agent/service/web").await.json()["Port"], 2);
    }
    fs::write(&file, "").unwrap();
    agent.reload().await.unwrap();
    assert_eq!(get(&agent, "/v1/agent/service/web").await.status, 404);
}

#[tokio::test]
async fn an_agent_that_is_asked_to_leave_says_so_to_whoever_runs_it() {
    let (_server, agent) = agent().await;
    let asked = tokio::time::timeout(std::time::Duration::from_millis(20), agent.asked_to_leave()).await;
    assert!(asked.is_err());
    assert_eq!(put(&agent, "/v1/agent/leave", "").await.status, 200);
    agent.asked_to_leave().await;
}

#[tokio::test]
async fn the_agent_goes_on_while_a_change_of_what_is_registered_waits_for_the_disk() {
    let (_server, agent, _folder, file) = agent_with_file().await;
    register(&agent, json!({ "Name": "api", "Port": 1, "Check": { "CheckID": "up", "TTL": "10m" } })).await;

    // A pipe is read once somebody writes to it: when it is told to, or this fails before.
    fs::remove_file(&file).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&file).status().unwrap().success());
    let (writes, told) = std::sync::mpsc::channel::<()>();
    let writing = std::thread::spawn(move || {
        let _ = told.recv();
        fs::write(file, "service { name = \"web\"\n port = 3 }").unwrap();
    });
    let reloading = put(&agent, "/v1/agent/reload", "");
    let behind = put(&agent, "/v1/agent/service/register", "{ \"Name\": \"api\", \"Port\": 2 }");
    let changes = async { tokio::join!(reloading, behind) };
    tokio::pin!(changes);
    tokio::select! {
        (answer, _) = &mut changes => panic!("nobody wrote the file yet: {}", answer.text),
        answer = put(&agent, "/v1/agent/check/pass/up", "") => assert_eq!(answer.status, 200, "{}", answer.text),
    }
    assert_eq!(get(&agent, "/v1/agent/service/web").await.json()["Port"], 1);
    drop(writes);
    let (reloaded, registered) = changes.await;
    writing.join().unwrap();
    assert_eq!((reloaded.status, registered.status), (StatusCode::OK, StatusCode::OK), "{}", reloaded.text);
    assert_eq!(get(&agent, "/v1/agent/service/web").await.json()["Port"], 3);
    assert_eq!(get(&agent, "/v1/agent/service/api").await.json()["Port"], 2);
}
