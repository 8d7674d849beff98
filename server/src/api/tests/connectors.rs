//! What a connector asks of the API.

use super::*;

fn acquire(holder: &str) -> Value {
    json!({"Change": "acquire", "Name": "ecs", "Platform": "aws", "Holder": holder, "Lasts": "60s"})
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
        let service = json!({"ID": "api-1", "Service": "api", "Port": 80});
        json!({"Write": "put", "Node": name, "Address": "10.0.0.1", "Platform": "ecs", "Services": [service]})
    };
    let write =
        |term: u64| json!({"Change": "write", "Name": "ecs", "Term": term, "Writes": [node("t1"), node("outside")]});
    let written = api.put("/v1/connector", write(term)).await.json();
    assert_eq!(written["Refused"][0]["Node"], "outside", "{written}");
    assert_eq!(written["Refused"][0]["Conflict"], true, "{written}");
    assert_eq!(api.put("/v1/connector", write(term + 1)).await.status, StatusCode::CONFLICT);

    let kept = api.get("/v1/connector/ecs/nodes").await.json();
    assert_eq!((kept.as_array().unwrap().len(), &kept[0]["Services"][0]["Service"]), (1, &json!("api")));
    let seen = api.get("/v1/health/service/api").await.json();
    assert_eq!(seen[0]["Node"]["Node"], "t1");
    let status = json!({"Nodes": 1, "Problems": [{"Kind": "held", "Subject": "3 nodes", "Reason": "too many"}]});
    let renew = json!({"Change": "renew", "Name": "ecs", "Term": term, "Lasts": "60s", "Status": status});
    assert_eq!(api.put("/v1/connector", renew).await.json()["Term"], term);
    let listed = api.get("/v1/connectors").await.json();
    assert_eq!((&listed[0]["Holder"], &listed[0]["Problems"][0]["Kind"]), (&json!("p1"), &json!("held")), "{listed}");

    let removals = |count: &str| format!("/v1/connector/ecs/confirm?removals={count}");
    assert_eq!(api.put(&removals("3"), Value::Null).await.text, "true");
    assert_eq!(api.put(&removals("many"), Value::Null).await.status, StatusCode::BAD_REQUEST);
    let remove = |path: &'static str| api.send(Method::DELETE, path, Some(&api.token), Value::Null);
    assert_eq!(remove("/v1/connector/ecs").await.status, StatusCode::CONFLICT, "not while somebody runs it");
    let release = json!({"Change": "release", "Name": "ecs", "Term": term});
    assert_eq!(api.put("/v1/connector", release).await.status, StatusCode::OK);
    assert_eq!(remove("/v1/connector/ecs").await.text, "true");
    assert_eq!(api.get("/v1/catalog/nodes").await.json().as_array().unwrap().len(), 1);
    assert_eq!(remove("/v1/connector/ecs").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a4_what_a_connector_keeps_is_shown_as_far_as_the_caller_may_see_it() {
    let api = Api::start().await;
    let term = api.put("/v1/connector", acquire("p1")).await.json()["Term"].as_u64().unwrap();
    let put = |name: &str, services: [&str; 2]| {
        let checks = services.map(|service| {
            let id = format!("{service}-up");
            json!({"CheckID": id, "ServiceID": service, "Name": "up", "Status": "passing"})
        });
        let services = services.map(|service| json!({"Service": service, "Port": 80}));
        json!({"Write": "put", "Node": name, "Address": "10.0.0.1", "Platform": "ecs", "Services": services, "Checks": checks})
    };
    let writes = [put("task-1", ["api", "web"]), put("vm-1", ["api", "web"])];
    let write = json!({"Change": "write", "Name": "ecs", "Term": term, "Writes": writes});
    let written = api.put("/v1/connector", write).await;
    assert_eq!(written.json(), json!({}), "{}", written.text);
    let path = "/v1/connector/ecs/nodes";
    let seen = async |rules: &str| {
        let policy = json!({"Name": format!("p{}", rules.len()), "Rules": rules});
        let policy = api.put("/v1/acl/policy", policy).await.json()["ID"].clone();
        let token = api.put("/v1/acl/token", json!({"Policies": [{"ID": policy}]})).await.json();
        api.send(Method::GET, path, token["SecretID"].as_str(), Value::Null).await
    };
    let nothing = seen("mesh = \"read\"").await;
    assert_eq!((nothing.status, nothing.json()), (StatusCode::OK, json!([])));
    let rules = "mesh = \"read\"\nnode_prefix \"task\" { policy = \"read\" }\nservice \"api\" { policy = \"read\" }";
    let some = seen(rules).await.json();
    let named = |field: &str, id: &str| -> Vec<Value> {
        some[0][field].as_array().unwrap().iter().map(|one| one[id].clone()).collect()
    };
    assert_eq!((some.as_array().unwrap().len(), &some[0]["Node"]), (1, &json!("task-1")), "{some}");
    assert_eq!((named("Services", "ID"), named("Checks", "CheckID")), (vec![json!("api")], vec![json!("api-up")]));
    assert_eq!(api.get(path).await.json().as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn what_no_connector_says_is_refused_with_its_reason() {
    let api = Api::start().await;
    for (body, want) in [
        (json!({"Change": "acquire"}), "Name"),
        (json!({"Change": "acquire", "Name": "A B", "Platform": "aws", "Holder": "p", "Lasts": "60s"}), "A B"),
        (json!({"Change": "acquire", "Name": "ecs", "Platform": "aws", "Holder": "p", "Lasts": "1ms"}), "lasts"),
        (json!({"Change": "acquire", "Name": "ecs", "Holder": "p", "Lasts": "60s"}), "platform"),
        (json!({"Change": "forget", "Name": "ecs"}), "use DELETE /v1/connector/ecs"),
        (json!({"Change": "confirm", "Name": "ecs", "Removals": 1}), "use PUT /v1/connector/ecs/confirm"),
        (json!({"Change": "dance", "Name": "ecs"}), "dance"),
    ] {
        let answer = api.put("/v1/connector", body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.text);
        assert!(answer.text.contains(want), "{}", answer.text);
    }
}
