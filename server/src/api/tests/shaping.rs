//! What queries ask to be left out of an answer, and what to come first.

use super::*;

/// Registers a node with one instance of `service` on it.
async fn register(api: &Api, node: &str, service: &str, zone: &str, namespace: &str) {
    let body = json!({
        "Node": node, "Address": "10.0.0.1", "Zone": zone, "NodeMeta": {"rack": node},
        "Service": {"ID": format!("{service}-{node}"), "Service": service, "Namespace": namespace, "Port": 80,
                    "Tags": ["v1"], "Meta": {"env": if node == "node-1" { "prod" } else { "test" }}},
        "Check": {"CheckID": format!("{service}-check"), "Name": "up", "ServiceID": format!("{service}-{node}"),
                  "Namespace": namespace, "Status": if node == "node-1" { "passing" } else { "critical" }},
    });
    let answer = api.put("/v1/catalog/register", body).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
}

async fn three_nodes() -> Api {
    let api = Api::start().await;
    register(&api, "node-1", "api", "zone-a", "default").await;
    register(&api, "node-2", "api", "zone-b", "default").await;
    register(&api, "node-3", "api", "zone-b", "default").await;
    api
}

/// Returns the names of the nodes that the entries of an answer are on.
fn nodes(answer: &Value) -> Vec<&str> {
    let entries = answer.as_array().unwrap().iter();
    entries.map(|entry| entry["Node"]["Node"].as_str().or(entry["Node"].as_str()).unwrap()).collect()
}

#[tokio::test]
async fn a_filter_keeps_the_entries_that_it_selects() {
    let api = three_nodes().await;
    for (path, filter, want) in [
        ("/v1/catalog/nodes", r#"Meta.rack == "node-2""#, vec!["node-2"]),
        ("/v1/catalog/service/api", r#"ServiceMeta.env == "prod" and "v1" in ServiceTags"#, vec!["node-1"]),
        ("/v1/health/service/api", r#"Service.Meta.env != "prod""#, vec!["node-2", "node-3"]),
        ("/v1/health/service/api", r#"Node.Node matches "^node-[13]$""#, vec!["node-1", "node-3"]),
        ("/v1/health/checks/api", r#"Status == "critical""#, vec!["node-2", "node-3"]),
        ("/v1/health/state/any", r#"Node == "node-1""#, vec!["node-1"]),
        ("/v1/health/connect/api", r#"Service.Port == 80"#, vec![]),
    ] {
        let query = filter.replace(' ', "%20").replace('"', "%22").replace('^', "%5E");
        let answer = api.get(&format!("{path}?filter={query}")).await;
        assert_eq!(answer.status, StatusCode::OK, "{path} {filter}: {}", answer.text);
        assert_eq!(nodes(&answer.json()), want, "{path} {filter}");
        assert!(answer.index() >= 1);
    }
    let names = api.get("/v1/catalog/services?filter=ServiceName%20==%20other").await;
    assert_eq!(names.json(), json!({}));
    let node = api.get("/v1/catalog/node/node-1?filter=Port%20==%2081").await.json();
    assert_eq!(node["Services"], json!({}), "{node}");
    let list = api.get("/v1/catalog/node-services/node-1?filter=Port%20==%2080").await.json();
    assert_eq!(list["Services"].as_array().unwrap().len(), 1, "{list}");
}

#[tokio::test]
async fn a12_a_filter_that_compares_what_cannot_be_compared_is_refused() {
    let api = three_nodes().await;
    let answer = api.get("/v1/health/service/api?filter=Service.Meta%20matches%20%22x%22").await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.text);
    assert!(answer.text.contains("`filter`") && answer.text.contains("Service.Meta"), "{}", answer.text);
}

#[tokio::test]
async fn the_nearest_come_first_and_nodes_are_chosen_by_their_facts() {
    let api = three_nodes().await;
    let order = api.get("/v1/health/service/api?near=node-3").await.json();
    assert_eq!(nodes(&order), ["node-3", "node-2", "node-1"]);
    let order = api.get("/v1/catalog/service/api?near=_agent").await.json();
    assert_eq!(nodes(&order), ["node-1", "node-2", "node-3"]);
    let chosen = api.get("/v1/health/service/api?node-meta=rack:node-2&node-meta=rack:node-2").await.json();
    assert_eq!(nodes(&chosen), ["node-2"]);
    assert_eq!(api.get("/v1/catalog/nodes?node-meta=rack:none").await.json(), json!([]));
}

#[tokio::test]
async fn checks_are_those_of_all_namespaces_or_of_the_one_that_is_named() {
    let api = three_nodes().await;
    register(&api, "node-1", "web", "zone-a", "shop").await;
    let count =
        async |query: &str| api.get(&format!("/v1/health/node/node-1{query}")).await.json().as_array().unwrap().len();
    assert_eq!(count("").await, 2);
    assert_eq!(count("?ns=*").await, 2);
    assert_eq!(count("?ns=shop").await, 1);
    assert_eq!(count("?ns=none").await, 0);
}
