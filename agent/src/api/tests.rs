mod kubelet;
mod native;
mod node;

use http::{Method, StatusCode};
use serde_json::json;

use super::*;
use crate::Agent;
use crate::testing::agent::{Answer, admin, eventually, get, joined, manage, put, send};
use crate::testing::server::{ModelServer, Shared};

async fn agent() -> (ModelServer, Agent) {
    let server = ModelServer::start(Shared::new(&["web"])).await;
    let agent = joined(&server, &["api", "web"], None).await;
    eventually(async || agent.core.status().server.is_some()).await;
    (server, agent)
}

async fn bare(agent: &Agent, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
    send(agent.http_address(), method, path, headers, "").await
}

/// Registers a service and waits until it is shown.
async fn register(agent: &Agent, body: serde_json::Value) {
    let answer = put(agent, "/v1/agent/service/register", &body.to_string()).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
}

#[tokio::test]
async fn a3_no_route_of_the_agent_answers_without_a_token() {
    let (_server, agent) = agent().await;
    let routes: Vec<_> = table().iter().map(Route::describe).collect();
    assert!(routes.len() >= 16);
    for (method, path, _) in routes {
        let path = path.replace("{id}", "web").replace("{name}", "web").replace("{service}", "web");
        for token in [None, Some(""), Some("wrong")] {
            let mut headers = vec![("host", "localhost")];
            headers.extend(token.map(|token| ("x-consul-token", token)));
            let answer = bare(&agent, method.clone(), &path, &headers).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{method} {path} with {token:?}: {}", answer.text);
            let says = if token == Some("wrong") { "ACL not found" } else { "Permission denied" };
            assert!(answer.text.starts_with(says), "{}", answer.text);
        }
    }
}

#[tokio::test]
async fn a4_the_agents_own_routes_follow_the_rules_on_its_services_and_node() {
    use crate::testing::server::{OF_NOTHING, OF_WEB};
    let (_server, agent) = agent().await;
    register(&agent, json!({ "Name": "web", "Port": 8080, "Check": { "CheckID": "web-up", "TTL": "10m" } })).await;
    register(&agent, json!({ "Name": "api", "Port": 9090, "Check": { "CheckID": "api-up", "TTL": "10m" } })).await;
    let as_token = async |token: &str, method: Method, path: &str, body: &str| {
        send(agent.http_address(), method, path, &[("host", "localhost"), ("x-consul-token", token)], body).await
    };
    let rows = [
        (Method::GET, "/v1/agent/service/api", "", 200, 403),
        (Method::GET, "/v1/agent/health/service/name/api?format=text", "", 503, 403),
        (Method::GET, "/v1/agent/self", "", 403, 403),
        (Method::GET, "/v1/agent/metrics", "", 403, 403),
        (Method::GET, "/v1/agent/connect/ca/roots", "", 200, 200),
        (Method::PUT, "/v1/agent/check/pass/web-up", "", 200, 403),
        (Method::PUT, "/v1/agent/check/pass/api-up", "", 403, 403),
        (Method::PUT, "/v1/agent/check/register", r#"{"CheckID": "disk", "TTL": "1m"}"#, 403, 403),
        (Method::PUT, "/v1/agent/service/register", r#"{"Name": "web", "Port": 8081}"#, 200, 403),
        (Method::PUT, "/v1/agent/service/register", r#"{"Name": "api"}"#, 403, 403),
        (Method::PUT, "/v1/agent/service/register", r#"{"Name": "web", "ID": "api"}"#, 403, 403),
        (Method::PUT, "/v1/agent/service/maintenance/api?enable=true", "", 403, 403),
        (Method::PUT, "/v1/agent/service/deregister/api", "", 403, 403),
        (Method::PUT, "/v1/agent/maintenance?enable=true", "", 403, 403),
        (Method::PUT, "/v1/agent/reload", "", 403, 403),
        (Method::PUT, "/v1/agent/leave", "", 403, 403),
        (Method::GET, "/v1/agent/connect/ca/leaf/api", "", 403, 403),
    ];
    for (method, path, body, of_web, of_nothing) in rows {
        for (token, want) in [(OF_NOTHING, of_nothing), (OF_WEB, of_web)] {
            let answer = as_token(token, method.clone(), path, body).await;
            assert_eq!(answer.status.as_u16(), want, "{token}: {method} {path} {body}: {}", answer.text);
        }
    }
    for (token, services) in [(OF_NOTHING, 0), (OF_WEB, 2)] {
        for path in ["/v1/agent/services", "/v1/agent/checks"] {
            let listed = as_token(token, Method::GET, path, "").await.json();
            let count = listed.as_object().unwrap().len();
            assert!(if services == 0 { count == 0 } else { count >= 1 }, "{token}: {path}: {listed}");
        }
    }
}

#[tokio::test]
async fn a3_only_liveness_readiness_connections_and_metrics_are_open_on_the_admin_listener() {
    let (_server, agent) = agent().await;
    eventually(async || agent.missing().is_empty()).await;
    for path in ["/live", "/ready", "/started", "/connections", "/metrics"] {
        assert_eq!(admin(&agent, path).await.status, StatusCode::OK, "{path}");
    }
    for path in ["/", "/v1/agent/self", "/debug", "/live/x"] {
        assert_eq!(admin(&agent, path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn l10_an_agent_that_was_ready_once_has_started_whatever_it_lacks_later() {
    let (_ready, joining) = readiness();
    assert_eq!(joining.missing_at_first(), ["the agent is joining the mesh"]);
    assert_eq!(joining.missing_at_first(), joining.missing(), "nothing makes it so but having been ready");

    let (_server, agent) = agent().await;
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = json!({ "DestinationName": "db", "LocalBindPort": held.local_addr().unwrap().port() });
    let with_upstream = json!({ "Name": "web", "Port": 8080, "Proxy": { "Upstreams": [taken] } });
    let register = async || register(&agent, with_upstream.clone()).await;
    let deregister = async || assert_eq!(put(&agent, "/v1/agent/service/deregister/web", "").await.status, 200);
    let asked = async |path: &str| {
        let answer = admin(&agent, path).await;
        (answer.status.as_u16(), answer.text)
    };
    let lacks = async |line: &str| {
        eventually(async || {
            let (status, text) = asked("/ready").await;
            status == 503 && text.contains(line)
        })
        .await;
    };
    register().await;
    lacks("cannot listen").await;
    let (status, text) = asked("/started").await;
    assert!(status == 503 && text.contains("cannot listen"), "{status}: {text}");

    // Whoever asks this alone is told as soon as it is so.
    deregister().await;
    eventually(async || asked("/started").await == (200, "started\n".to_owned())).await;
    register().await;
    lacks("cannot listen").await;
    assert_eq!(asked("/started").await.0, 200, "a port that is taken later");
    agent.ready.draining(Arc::clone(&agent.proxy));
    lacks("the agent is draining").await;
    assert_eq!(asked("/started").await.0, 200, "an agent that drains");
}

#[tokio::test]
async fn a8_a_request_from_a_browser_page_is_refused_on_both_listeners() {
    let (_server, agent) = agent().await;
    for address in [agent.http_address(), agent.admin_address()] {
        for headers in [vec![("host", "evil.example")], vec![("host", "localhost"), ("origin", "https://evil.example")]]
        {
            let answer = send(address, Method::GET, "/metrics", &headers, "").await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{headers:?}");
        }
    }
}

#[tokio::test]
async fn the_agent_tells_who_it_is_and_how_it_stands() {
    let (_server, agent) = agent().await;
    let answer = get(&agent, "/v1/agent/self").await.json();
    assert_eq!(answer["Config"]["NodeName"], "vm-1");
    assert_eq!(answer["Config"]["Server"], false);
    assert_eq!(answer["Weft"]["Services"], json!(["default/api", "default/web"]));
    assert_eq!(get(&agent, "/v1/agent/metrics?format=prometheus").await.status, 200);
    assert!(
        get(&agent, "/v1/agent/metrics").await.json()["Gauges"].as_array().is_some_and(|gauges| !gauges.is_empty())
    );
    assert_eq!(get(&agent, "/v1/agent/metrics?format=json").await.status, 400);
}

#[tokio::test]
async fn services_are_registered_listed_read_and_deregistered() {
    let (_server, agent) = agent().await;
    register(&agent, json!({ "ID": "web-1", "Name": "web", "Port": 8080, "Meta": { "k": "v" } })).await;
    let all = get(&agent, "/v1/agent/services").await.json();
    assert_eq!(all["web-1"]["Service"], "web");
    let one = get(&agent, "/v1/agent/service/web-1").await.json();
    assert_eq!((one["Port"].as_u64(), one["Meta"]["k"].as_str()), (Some(8080), Some("v")));
    assert_eq!(get(&agent, "/v1/agent/service/other").await.status, 404);
    assert_eq!(put(&agent, "/v1/agent/service/deregister/web-1", "").await.status, 200);
    assert_eq!(get(&agent, "/v1/agent/services").await.json(), json!({}));
    assert_eq!(put(&agent, "/v1/agent/service/deregister/web-1", "").await.status, 404);
}

#[tokio::test]
async fn a_registration_that_is_not_allowed_or_understood_says_why() {
    let (_server, agent) = agent().await;
    for (body, status, says) in [
        (r#"{"Name": "db"}"#, 403, "not entitled to service `default/db`"),
        (r#"{"Name": "web", "Portt": 1}"#, 400, "unknown field `Portt`"),
        (r#"{"Name": "web", "Name": "api"}"#, 400, "Name"),
        ("{", 400, "line 1"),
        ("", 400, "line 1"),
        (r#"{"Name": "web", "Check": {"ScriptArgs": ["x"], "Interval": "1s"}}"#, 400, "ScriptArgs` is not supported"),
    ] {
        let answer = put(&agent, "/v1/agent/service/register", body).await;
        assert_eq!(answer.status.as_u16(), status, "{body}: {}", answer.text);
        assert!(answer.text.contains(says), "{body}: {}", answer.text);
        assert!(!answer.text.contains('\n'), "{}", answer.text);
    }
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(put(&agent, "/v1/agent/service/register", &deep).await.status, 400);
    let huge = "x".repeat(600 * 1024);
    assert_eq!(put(&agent, "/v1/agent/service/register", &huge).await.status, 413);
}

#[tokio::test]
async fn health_is_told_by_the_status_code() {
    let (_server, agent) = agent().await;
    register(&agent, json!({ "Name": "web", "Check": { "CheckID": "alive", "TTL": "10m" } })).await;
    for (verb, status, word) in [("pass", 200, "passing"), ("warn", 429, "warning"), ("fail", 503, "critical")] {
        assert_eq!(put(&agent, &format!("/v1/agent/check/{verb}/alive"), "").await.status, 200);
        eventually(async || get(&agent, "/v1/agent/health/service/id/web").await.status.as_u16() == status).await;
        let by_name = get(&agent, "/v1/agent/health/service/name/web").await;
        assert_eq!(by_name.status.as_u16(), status);
        assert_eq!(by_name.json()[0]["AggregatedStatus"], word);
        assert_eq!(get(&agent, "/v1/agent/health/service/id/web?format=text").await.text, word);
    }
    assert_eq!(get(&agent, "/v1/agent/health/service/id/none").await.status, 404);
    assert_eq!(get(&agent, "/v1/agent/health/service/name/none").await.status, 404);
}

#[tokio::test]
async fn a_ttl_check_is_updated_with_a_body_and_others_are_not() {
    let (_server, agent) = agent().await;
    let check = json!({ "CheckID": "disk", "TTL": "10m", "Notes": "n" }).to_string();
    assert_eq!(put(&agent, "/v1/agent/check/register", &check).await.status, 200);
    let update = r#"{"Status": "warning", "Output": "80 % full"}"#;
    assert_eq!(put(&agent, "/v1/agent/check/update/disk", update).await.status, 200);
    eventually(async || get(&agent, "/v1/agent/checks").await.json()["disk"]["Output"] == "80 % full").await;
    assert_eq!(put(&agent, "/v1/agent/check/update/disk", r#"{"Status": "fine"}"#).await.status, 400);
    assert_eq!(put(&agent, "/v1/agent/check/pass/none", "").await.status, 404);
    let tcp = json!({ "CheckID": "tcp", "TCP": "127.0.0.1:1", "Interval": "1h" }).to_string();
    assert_eq!(put(&agent, "/v1/agent/check/register", &tcp).await.status, 200);
    assert_eq!(put(&agent, "/v1/agent/check/pass/tcp", "").await.status, 400);
    assert_eq!(put(&agent, "/v1/agent/check/deregister/disk", "").await.status, 200);
}

#[tokio::test]
async fn a_service_in_maintenance_is_critical() {
    let (_server, agent) = agent().await;
    register(&agent, json!({ "Name": "web" })).await;
    assert_eq!(put(&agent, "/v1/agent/service/maintenance/web?enable=true&reason=upgrade", "").await.status, 200);
    assert_eq!(get(&agent, "/v1/agent/health/service/id/web").await.status, 503);
    assert_eq!(put(&agent, "/v1/agent/service/maintenance/web?enable=false", "").await.status, 200);
    assert_eq!(get(&agent, "/v1/agent/health/service/id/web").await.status, 200);
    assert_eq!(put(&agent, "/v1/agent/service/maintenance/web", "").await.status, 400);
}

#[tokio::test]
async fn everything_else_is_passed_on_with_the_callers_token() {
    let (_server, agent) = agent().await;
    let answer = get(&agent, "/v1/catalog/service/web?stale&ns=default").await;
    assert_eq!(answer.json(), "GET /v1/api/catalog/service/web?stale&ns=default");
    let answer = manage(&agent, Method::DELETE, "/v1/connect/intentions/exact?source=a&destination=b", "").await;
    assert_eq!(answer.json(), "DELETE /v1/api/connect/intentions/exact?source=a&destination=b");
    let denied = bare(&agent, Method::GET, "/v1/catalog/nodes", &[("host", "localhost")]).await;
    assert_eq!((denied.status.as_u16(), denied.text.as_str()), (403, "ACL not found"));
    assert_eq!(get(&agent, "/v1/agent/members").await.json(), "GET /v1/api/agent/members");
    assert_eq!(get(&agent, "/v1/agent/join/10.0.0.1").await.status, 404);
    assert_eq!(get(&agent, "/ui").await.status, 404);
    assert_eq!(manage(&agent, Method::DELETE, "/v1/agent/services", "").await.status, 405);
}

#[tokio::test]
async fn p5_the_agents_own_routes_work_with_every_server_dead() {
    let (server, agent) = agent().await;
    register(&agent, json!({ "Name": "web", "Port": 8080 })).await;
    eventually(async || agent.missing().is_empty()).await;
    drop(server);
    eventually(async || agent.core.status().server.is_none()).await;
    let roots = get(&agent, "/v1/agent/connect/ca/roots").await;
    assert_eq!(roots.status, 200, "{}", roots.text);
    assert_eq!(roots.json()["TrustDomain"], "mesh.test");
    assert!(roots.json()["Roots"][0]["RootCert"].as_str().unwrap().contains("BEGIN CERTIFICATE"));
    assert!(roots.headers.contains_key("x-consul-index"));
    assert_eq!(get(&agent, "/v1/agent/services").await.status, 200);
    register(&agent, json!({ "Name": "api", "Port": 9090 })).await;
    let passed_on = get(&agent, "/v1/catalog/nodes").await;
    assert_eq!(passed_on.status, 503);
    assert!(passed_on.text.starts_with("no server is reachable"), "{}", passed_on.text);
    let unknown = [("host", "localhost"), ("x-consul-token", "never seen")];
    let answer = bare(&agent, Method::GET, "/v1/agent/services", &unknown).await;
    assert_eq!(answer.status, 503, "{}", answer.text);
}
