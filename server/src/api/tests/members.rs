//! Who takes part, and how the mesh stands.

use super::*;

#[tokio::test]
async fn servers_are_members_and_the_mesh_says_how_it_stands() {
    let api = Api::start().await;
    let members = api.get("/v1/agent/members").await.json();
    assert_eq!(members.as_array().unwrap().len(), 1, "{members}");
    assert_eq!((members[0]["Tags"]["role"].as_str(), members[0]["Status"].as_u64()), (Some("consul"), Some(1)));
    // Whoever leads looks at the others in its own time.
    let told = async {
        loop {
            let status = api.get("/v1/status/mesh").await.json();
            if status["Servers"][0]["Alive"] == true {
                break status;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let status = tokio::time::timeout(std::time::Duration::from_secs(30), told).await.expect("the server to be alive");
    assert_eq!(status["Servers"].as_array().unwrap().len(), 1, "{status}");
    assert_eq!(status["Leader"], status["Server"]);
    assert_eq!(status["QuorumMargin"], 0, "{status}");
    assert_eq!(api.get("/v1/agent/host").await.json()["Host"]["os"], "linux");
}

#[tokio::test]
async fn only_a_node_with_an_agent_is_forced_to_leave_and_only_by_operators() {
    let api = Api::start().await;
    let body = json!({"Node": "legacy", "Address": "10.0.0.9"});
    assert_eq!(api.put("/v1/catalog/register", body).await.status, StatusCode::OK);
    let server = api.get("/v1/agent/members").await.json()[0]["Name"].as_str().unwrap().to_owned();
    for (name, says) in [("legacy", "/v1/catalog/deregister"), (server.as_str(), "weft operator raft remove-peer")] {
        let answer = api.put(&format!("/v1/agent/force-leave/{name}"), Value::Null).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.text);
        assert!(answer.text.contains(says), "{}", answer.text);
    }
    let web = api.put("/v1/acl/token", json!({"NodeIdentities": [{"NodeName": "legacy"}]})).await.json();
    let secret = web["SecretID"].as_str().unwrap();
    let denied = api.send(Method::PUT, "/v1/agent/force-leave/legacy", Some(secret), Value::Null).await;
    assert_eq!(denied.status, StatusCode::FORBIDDEN, "{}", denied.text);
}

#[tokio::test]
async fn usage_and_services_are_counted() {
    let api = Api::start().await;
    for (node, status) in [("node-1", "passing"), ("node-2", "critical")] {
        let body = json!({
            "Node": node, "Address": "10.0.0.1", "Service": {"ID": "api", "Service": "api", "Port": 80},
            "Check": {"CheckID": "up", "Name": "up", "ServiceID": "api", "Status": status},
        });
        assert_eq!(api.put("/v1/catalog/register", body).await.status, StatusCode::OK);
    }
    let usage = &api.get("/v1/operator/usage").await.json()["Usage"]["dc1"];
    assert_eq!((&usage["Nodes"], &usage["Services"], &usage["ServiceInstances"]), (&json!(2), &json!(1), &json!(2)));
    let status = api.get("/v1/status/mesh").await.json();
    assert_eq!(status["Services"], json!({"Passing": 0, "Warning": 1, "Critical": 0}));
    assert_eq!(status["ServicesUnwell"][0]["Service"], "default/api");
}

#[tokio::test]
async fn a_server_judges_callers_by_the_rules_of_the_whole_mesh() {
    let api = Api::start().await;
    let mesh = api.established().await;
    let ask = async |source: &str| {
        let body = json!({
            "Target": "api", "ClientCertURI": format!("spiffe://{mesh}/ns/default/sa/{source}"),
            "ClientCertSerial": "00:00:00:00:00:00:00:63:01:02:03:04:05:06:07:08",
        });
        let answer = api.send(Method::POST, "/v1/agent/connect/authorize", Some(&api.token), body).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        answer.json()
    };
    assert_eq!(ask("web").await["Authorized"], false);
    let allow = json!({"Action": "allow"});
    let written = api.put("/v1/connect/intentions/exact?source=web&destination=api", allow).await;
    assert_eq!(written.status, StatusCode::OK, "{}", written.text);
    let allowed = ask("web").await;
    assert_eq!(allowed["Authorized"], true);
    assert!(allowed["Reason"].as_str().unwrap().contains("web"), "{allowed}");
    assert_eq!(ask("other").await["Authorized"], false);
}

#[tokio::test]
async fn callers_are_judged_for_those_who_may_write_the_service_and_revoked_ones_are_refused() {
    let api = Api::start().await;
    let mesh = api.established().await;
    let web = json!({"ServiceIdentities": [{"ServiceName": "web"}]});
    let answer = api.put("/v1/acl/token", web).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    let secret = answer.json()["SecretID"].as_str().unwrap().to_owned();
    let body = |target: &str| {
        json!({
            "Target": target, "ClientCertURI": format!("spiffe://{mesh}/ns/default/sa/caller"),
            "ClientCertSerial": "00:00:00:00:00:00:00:01:01:02:03:04:05:06:07:08",
        })
    };
    let ask =
        async |target: &str| api.send(Method::POST, "/v1/agent/connect/authorize", Some(&secret), body(target)).await;
    let denied = ask("api").await;
    assert_eq!(denied.status, StatusCode::FORBIDDEN, "{}", denied.text);
    assert!(denied.text.contains("`service:write` on `default/api`"), "{}", denied.text);
    let allow = json!({"Action": "allow"});
    api.put("/v1/connect/intentions/exact?source=caller&destination=web", allow).await;
    assert_eq!(ask("web").await.json()["Authorized"], true);
    let revoked = api.put("/v1/revoke/service/caller", Value::Null).await;
    assert_eq!(revoked.status, StatusCode::OK, "{}", revoked.text);
    let after = ask("web").await.json();
    assert_eq!(after["Authorized"], false, "{after}");
    assert!(after["Reason"].as_str().unwrap().contains("revoked"), "{after}");
}

#[tokio::test]
async fn a_service_without_entries_is_routed_to_its_own_instances() {
    let api = Api::start().await;
    let mesh = api.established().await;
    let chain = &api.get("/v1/discovery-chain/api").await.json()["Chain"];
    assert_eq!(chain["StartNode"], "resolver:api.default.default.dc1");
    assert_eq!(chain["Targets"]["api.default.default.dc1"]["SNI"], format!("api.default.dc1.internal.{mesh}"));
    assert_eq!(api.get("/v1/discovery-chain/UPPER").await.status, StatusCode::BAD_REQUEST);
}
