//! What a connector asks of the API.

use super::*;

fn acquire(holder: &str) -> Value {
    json!({"change": "acquire", "name": "ecs", "platform": "aws", "holder": holder, "lasts_ms": 60_000})
}

#[tokio::test]
async fn a_connector_is_run_by_one_process_writes_whole_nodes_and_is_removed_with_them() {
    let api = Api::start().await;
    assert_eq!(api.get("/v1/connectors").await.json(), json!([]));
    let term = api.put("/v1/connector", acquire("p1")).await.json()["Term"].as_u64().unwrap();
    let other = api.put("/v1/connector", acquire("p2")).await;
    assert_eq!(other.status, StatusCode::CONFLICT);
    assert!(other.text.contains("connector `ecs` runs as `p1`"), "{}", other.text);

    let outside = json!({"Node": "outside", "Address": "10.0.0.9"});
    assert_eq!(api.put("/v1/catalog/register", outside).await.text, "true");
    let node = |name: &str| {
        let node = json!({"name": name, "address": "10.0.0.1", "platform": "ecs", "owner": "connector:ecs"});
        let key = json!({"node": name, "namespace": "default", "id": "api-1"});
        json!({"write": "put", "node": {"node": node, "instances": [{"key": key, "service": "api", "port": 80}]}})
    };
    let write =
        |term: u64| json!({"change": "write", "name": "ecs", "term": term, "writes": [node("t1"), node("outside")]});
    let written = api.put("/v1/connector", write(term)).await.json();
    assert_eq!(written["Refused"][0]["node"], "outside", "{written}");
    assert_eq!(written["Refused"][0]["conflict"], true, "{written}");
    assert_eq!(api.put("/v1/connector", write(term + 1)).await.status, StatusCode::CONFLICT);

    let kept = api.get("/v1/connector/ecs/nodes").await.json();
    assert_eq!((kept.as_array().unwrap().len(), &kept[0]["instances"][0]["service"]), (1, &json!("api")));
    let seen = api.get("/v1/health/service/api").await.json();
    assert_eq!(seen[0]["Node"]["Node"], "t1");
    let status = json!({"nodes": 1, "problems": [{"kind": "held", "subject": "3 nodes", "reason": "too many"}]});
    let renew = json!({"change": "renew", "name": "ecs", "term": term, "lasts_ms": 60_000, "status": status});
    assert_eq!(api.put("/v1/connector", renew).await.json()["Term"], term);
    let listed = api.get("/v1/connectors").await.json();
    assert_eq!((&listed[0]["Holder"], &listed[0]["Problems"][0]["Kind"]), (&json!("p1"), &json!("held")), "{listed}");

    let removals = |count: &str| format!("/v1/connector/ecs/confirm?removals={count}");
    assert_eq!(api.put(&removals("3"), Value::Null).await.text, "true");
    assert_eq!(api.put(&removals("many"), Value::Null).await.status, StatusCode::BAD_REQUEST);
    let remove = |path: &'static str| api.send(Method::DELETE, path, Some(&api.token), Value::Null);
    assert_eq!(remove("/v1/connector/ecs").await.status, StatusCode::CONFLICT, "not while somebody runs it");
    let release = json!({"change": "release", "name": "ecs", "term": term});
    assert_eq!(api.put("/v1/connector", release).await.status, StatusCode::OK);
    assert_eq!(remove("/v1/connector/ecs").await.text, "true");
    assert_eq!(api.get("/v1/catalog/nodes").await.json().as_array().unwrap().len(), 1);
    assert_eq!(remove("/v1/connector/ecs").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_no_connector_says_is_refused_with_its_reason() {
    let api = Api::start().await;
    for (body, want) in [
        (json!({"change": "acquire"}), "name"),
        (json!({"change": "acquire", "name": "A B", "platform": "aws", "holder": "p", "lasts_ms": 60_000}), "A B"),
        (json!({"change": "acquire", "name": "ecs", "platform": "aws", "holder": "p", "lasts_ms": 1}), "lasts"),
        (json!({"change": "forget", "name": "ecs"}), "operator"),
        (json!({"change": "dance", "name": "ecs"}), "dance"),
    ] {
        let answer = api.put("/v1/connector", body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.text);
        assert!(answer.text.contains(want), "{}", answer.text);
    }
}
