//! Applications that speak mutual TLS by themselves.

use std::time::Duration;

use wire::crypto::Secret;
use wire::tls::TlsIdentity;

use super::*;
use crate::testing::agent::send;
use crate::testing::server::MANAGEMENT;

async fn authorize(agent: &Agent, body: serde_json::Value) -> Answer {
    let headers = [("host", "localhost"), ("x-consul-token", MANAGEMENT)];
    let path = "/v1/agent/connect/authorize";
    send(agent.http_address(), Method::POST, path, &headers, &body.to_string()).await
}

#[tokio::test]
async fn an_application_gets_the_leaf_and_key_of_a_local_service_only() {
    let (server, agent) = agent().await;
    assert_eq!(get(&agent, "/v1/agent/connect/ca/leaf/web").await.status, 404);
    register(&agent, json!({ "Name": "web", "Port": 8080 })).await;
    let answer = get(&agent, "/v1/agent/connect/ca/leaf/web?wait=20s").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.headers["cache-control"], "no-store");
    let leaf = answer.json();
    assert_eq!((leaf["Service"].as_str(), leaf["Namespace"].as_str()), (Some("web"), Some("default")));
    assert_eq!(leaf["ServiceURI"], "spiffe://mesh.test/ns/default/sa/web");
    let chain = [leaf["CertPEM"].as_str().unwrap().to_owned()];
    let identity = TlsIdentity::from_pem(&chain, &Secret::new(leaf["PrivateKeyPEM"].as_str().unwrap())).unwrap();
    assert_eq!(identity.id().to_string(), leaf["ServiceURI"].as_str().unwrap());
    assert_eq!(identity.certified_key().cert.len(), 2);

    let index = answer.headers["x-consul-index"].to_str().unwrap();
    let same = get(&agent, &format!("/v1/agent/connect/ca/leaf/web?index={index}&wait=20ms")).await;
    assert_eq!(same.headers["x-consul-index"], index);
    assert_eq!(get(&agent, "/v1/agent/connect/ca/leaf/web?index=x").await.status, 400);

    drop(server);
    eventually(async || agent.core.status().server.is_none()).await;
    register(&agent, json!({ "Name": "api", "Port": 9090 })).await;
    let none = get(&agent, "/v1/agent/connect/ca/leaf/api?wait=20ms").await;
    assert_eq!(none.status, 503, "{}", none.text);
    assert_eq!(get(&agent, "/v1/agent/connect/ca/leaf/web").await.status, 200);
}

#[tokio::test]
async fn a_leaf_that_is_renewed_wakes_whoever_waits_for_it() {
    let shared = Shared::new(&["web"]);
    shared.set_leaf_ttl(Duration::from_secs(4));
    let server = ModelServer::start(shared).await;
    let agent = joined(&server, &["web"], None).await;
    register(&agent, json!({ "Name": "web" })).await;
    let first = get(&agent, "/v1/agent/connect/ca/leaf/web?wait=20s").await;
    let index = first.headers["x-consul-index"].to_str().unwrap();
    let next = get(&agent, &format!("/v1/agent/connect/ca/leaf/web?index={index}&wait=60s")).await;
    assert_eq!(next.status, 200, "{}", next.text);
    assert_ne!(next.json()["SerialNumber"], first.json()["SerialNumber"]);
    assert_ne!(next.json()["PrivateKeyPEM"], first.json()["PrivateKeyPEM"], "every leaf has a key of its own");
}

#[tokio::test]
async fn the_agent_judges_callers_of_its_own_services_and_passes_on_the_rest() {
    let (_server, agent) = agent().await;
    register(&agent, json!({ "Name": "web" })).await;
    eventually(async || agent.missing().is_empty()).await;
    let ask = |client: &str| {
        let serial = "00:00:00:00:00:00:00:63:01:02:03:04:05:06:07:08";
        json!({ "Target": "web", "ClientCertURI": client, "ClientCertSerial": serial })
    };
    let denied = authorize(&agent, ask("spiffe://mesh.test/ns/default/sa/api")).await.json();
    assert_eq!(denied["Authorized"], false);
    assert!(denied["Reason"].as_str().unwrap().contains("the default is deny"), "{denied}");
    let server = authorize(&agent, ask("spiffe://mesh.test/server/s1")).await.json();
    assert_eq!(server["Authorized"], false, "a server is no workload");
    assert_eq!(authorize(&agent, ask("spiffe://mesh.test/a//b")).await.status, 400);

    let mut other = ask("spiffe://mesh.test/ns/default/sa/api");
    other["Target"] = json!("db");
    assert_eq!(authorize(&agent, other).await.json(), "POST /v1/api/agent/connect/authorize");
}
