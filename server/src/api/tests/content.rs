//! What routes answer once a request is let in.

use super::*;
use crate::tests::harness::soon;

#[tokio::test]
async fn answers_carry_the_headers_that_clients_look_at() {
    let api = Api::start().await;
    for (query, want) in [("", "consistent"), ("?consistent", "consistent"), ("?stale", "stale")] {
        let answer = api.get(&format!("/v1/catalog/services{query}")).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.header("x-consul-effective-consistency"), Some(want));
        assert_eq!(answer.header("x-consul-knownleader"), Some("true"));
        assert_eq!(answer.header("x-consul-query-backend"), Some("blocking-query"));
        assert_eq!(answer.header("x-consul-default-acl-policy"), Some("deny"));
        assert!(answer.index() >= 1);
        answer.header("x-consul-lastcontact").unwrap().parse::<u64>().unwrap();
    }
}

async fn register(api: &Api, node: &str, service: &str, status: &str) {
    let instance = format!("{service}-1");
    let body = json!({
        "Node": node, "Address": "10.0.0.1",
        "Service": {"ID": instance, "Service": service, "Port": 80, "Tags": ["v1"]},
        "Check": {"CheckID": format!("{service}-check"), "Name": "up", "ServiceID": instance, "Status": status},
    });
    let answer = api.put("/v1/catalog/register", body).await;
    assert_eq!((answer.status, answer.text.as_str()), (StatusCode::OK, "true"));
}

#[tokio::test]
async fn a_registered_service_is_found_by_catalog_and_health() {
    let api = Api::start().await;
    register(&api, "node-1", "api", "passing").await;
    register(&api, "node-2", "api", "critical").await;

    assert_eq!(api.get("/v1/catalog/services").await.json(), json!({"api": ["v1"]}));
    let nodes = api.get("/v1/catalog/nodes").await.json();
    assert_eq!(nodes.as_array().unwrap().len(), 2);
    assert_eq!(nodes[0]["Node"], "node-1");
    let instances = api.get("/v1/catalog/service/api").await.json();
    assert_eq!(instances[1]["Node"], "node-2");
    assert_eq!(instances[1]["ServicePort"], 80);
    assert_eq!(api.get("/v1/catalog/service/api?tag=v2").await.json(), json!([]));
    assert_eq!(api.get("/v1/catalog/connect/api").await.json(), json!([]));
    let addresses = json!({
        "Service": "api", "Namespace": "default", "Number": 1,
        "VirtualIPv4": "240.0.0.1", "VirtualIPv6": "fd77:6566:7400::1", "Loopback": "127.64.0.1",
    });
    assert_eq!(api.get("/v1/catalog/addresses/api").await.json(), addresses);
    assert_eq!(api.get("/v1/catalog/addresses/none").await.status, StatusCode::NOT_FOUND);

    let entries = api.get("/v1/health/service/api").await.json();
    assert_eq!(entries.as_array().unwrap().len(), 2);
    let passing = api.get("/v1/health/service/api?passing").await.json();
    assert_eq!(passing.as_array().unwrap().len(), 1);
    assert_eq!(passing[0]["Node"]["Node"], "node-1");
    assert_eq!(passing[0]["Checks"][0]["Status"], "passing");
    let critical = api.get("/v1/health/state/critical").await.json();
    assert_eq!(critical[0]["Node"], "node-2");
    assert_eq!(api.get("/v1/health/state/any").await.json().as_array().unwrap().len(), 2);
    assert_eq!(api.get("/v1/health/node/node-1").await.json().as_array().unwrap().len(), 1);
    assert_eq!(api.get("/v1/health/checks/api").await.json().as_array().unwrap().len(), 2);
    assert_eq!(api.get("/v1/health/state/bad").await.status, StatusCode::BAD_REQUEST);

    let answer = api.put("/v1/catalog/deregister", json!({"Node": "node-2"})).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    assert_eq!(api.get("/v1/health/service/api").await.json().as_array().unwrap().len(), 1);
    assert_eq!(api.get("/v1/catalog/node/node-2").await.json(), Value::Null);
    assert_eq!(api.get("/v1/catalog/node/node-1").await.json()["Services"]["api-1"]["Port"], 80);
}

#[tokio::test]
async fn a_blocking_query_wakes_only_for_what_it_read() {
    let api = Api::start().await;
    register(&api, "node-1", "api", "passing").await;
    let index = api.get("/v1/health/service/api").await.index();
    let path = format!("/v1/health/service/api?index={index}&wait=60s");
    let waiting = api.spawn_get(&path);
    let is_waiting = "weft_api_blocking_queries 1";
    until_one_waits(&api).await;

    register(&api, "node-2", "other", "passing").await;
    assert_eq!(api.get("/v1/health/service/api?stale").await.index(), index);
    assert!(api.get("/v1/agent/metrics?format=prometheus").await.text.contains(is_waiting));

    register(&api, "node-3", "api", "passing").await;
    let answer = tokio::time::timeout(Duration::from_secs(50), waiting).await.unwrap().unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.index() > index);
    assert_eq!(answer.json().as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_blocking_query_answers_at_once_when_its_index_is_zero_or_from_the_future() {
    let api = Api::start().await;
    register(&api, "node-1", "api", "passing").await;
    for index in ["0", "999999999"] {
        let path = format!("/v1/health/service/api?index={index}&wait=60s");
        let answer = tokio::time::timeout(Duration::from_secs(50), api.get(&path)).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK);
        assert!(answer.index() < 999_999_999);
    }
}

#[tokio::test]
async fn a_blocking_query_ends_when_its_time_is_over() {
    let api = Api::start().await;
    register(&api, "node-1", "api", "passing").await;
    let index = api.get("/v1/health/service/api").await.index();
    let answer = api.get(&format!("/v1/health/service/api?index={index}&wait=20ms")).await;
    assert_eq!((answer.status, answer.index()), (StatusCode::OK, index));
}

/// Waits until a query blocks.
async fn until_one_waits(api: &Api) {
    soon(async {
        while !api.get("/v1/agent/metrics?format=prometheus").await.text.contains("weft_api_blocking_queries 1") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_can_wait_for_what_does_not_exist_yet() {
    let api = Api::start().await;
    let intention = "/v1/connect/intentions/exact?source=web&destination=api";
    let token = "/v1/acl/token/00000000-0000-4000-8000-000000000000";
    for path in [intention, "/v1/config/mesh/mesh", token] {
        let answer = api.get(path).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
        assert!(answer.index() >= 1, "{path}");
        assert_eq!(answer.header("x-consul-knownleader"), Some("true"), "{path}");
    }
    let index = api.get(intention).await.index();
    let waiting = api.spawn_get(&format!("{intention}&index={index}&wait=60s"));
    until_one_waits(&api).await;
    intend(&api, "web", "api", "allow").await;
    let answer = tokio::time::timeout(Duration::from_secs(50), waiting).await.unwrap().unwrap();
    assert_eq!((answer.status, answer.index() > index), (StatusCode::OK, true), "{}", answer.text);
}

#[tokio::test]
async fn a_token_that_ends_while_its_query_waits_reads_nothing_more() {
    let api = Api::start().await;
    register(&api, "node-1", "api", "passing").await;
    let made = api.put("/v1/acl/token", json!({})).await.json();
    let index = api.get("/v1/health/service/api").await.index();
    let path = format!("/v1/health/service/api?index={index}&wait=60s");
    let waiting = api.spawn_get_as(made["SecretID"].as_str().unwrap(), &path);
    until_one_waits(&api).await;
    let token = format!("/v1/acl/token/{}", made["AccessorID"].as_str().unwrap());
    assert_eq!(api.send(Method::DELETE, &token, Some(&api.token), Value::Null).await.status, StatusCode::OK);
    register(&api, "node-2", "api", "passing").await;
    let answer = tokio::time::timeout(Duration::from_secs(50), waiting).await.unwrap().unwrap();
    assert_eq!(answer.status, StatusCode::FORBIDDEN, "{}", answer.text);
    assert!(answer.text.starts_with("ACL not found"), "{}", answer.text);
}

async fn intend(api: &Api, source: &str, destination: &str, action: &str) {
    let path = format!("/v1/connect/intentions/exact?source={source}&destination={destination}");
    let answer = api.put(&path, json!({"Action": action, "Description": "by a test"})).await;
    assert_eq!((answer.status, answer.text.as_str()), (StatusCode::OK, "true"));
}

#[tokio::test]
async fn an_intention_goes_round_with_consuls_precedence() {
    let api = Api::start().await;
    let rows = [("web", "api", 9), ("*", "api", 8), ("web", "*", 6), ("*", "*", 5)];
    for (source, destination, _) in rows.iter().rev() {
        intend(&api, source, destination, "allow").await;
    }
    let listed = api.get("/v1/connect/intentions").await.json();
    for (position, (source, destination, precedence)) in rows.iter().enumerate() {
        let path = format!("/v1/connect/intentions/exact?source={source}&destination={destination}");
        let intention = api.get(&path).await.json();
        assert_eq!(intention["Precedence"], *precedence);
        assert_eq!(intention["SourceName"], *source);
        assert_eq!(intention["DestinationName"], *destination);
        assert_eq!(intention["SourceNS"], "default");
        assert_eq!(intention["Action"], "allow");
        assert_eq!(intention["SourceType"], "consul");
        assert_eq!(listed[position], intention, "the list is in the order in which they are tried");
    }
    let matched = api.get("/v1/connect/intentions/match?by=destination&name=api").await.json();
    assert_eq!(matched["api"].as_array().unwrap().len(), 4);
    let matched = api.get("/v1/connect/intentions/match?by=source&name=db&name=web").await.json();
    assert_eq!(matched["db"].as_array().unwrap().len(), 2);
    assert_eq!(matched["web"].as_array().unwrap().len(), 4);

    let path = "/v1/connect/intentions/exact?source=web&destination=api";
    let answer = api.send(Method::DELETE, path, Some(&api.token), Value::Null).await;
    assert_eq!((answer.status, answer.text.as_str()), (StatusCode::OK, "true"));
    assert_eq!(api.get(path).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn check_and_explain_say_what_is_decided() {
    let api = Api::start().await;
    let check = "/v1/connect/intentions/check?source=web&destination=api";
    assert_eq!(api.get(check).await.json(), json!({"Allowed": false}));
    intend(&api, "web", "api", "allow").await;
    assert_eq!(api.get(check).await.json(), json!({"Allowed": true}));
    intend(&api, "web", "api", "deny").await;
    assert_eq!(api.get(check).await.json(), json!({"Allowed": false}));
    let explained = api.get("/v1/connect/intentions/explain?source=web&destination=api").await;
    assert_eq!(explained.status, StatusCode::OK);
    assert!(explained.text.contains("default/web => default/api"), "{}", explained.text);
    for query in ["source=*&destination=api", "source=web", "source=we+b&destination=api"] {
        let answer = api.get(&format!("/v1/connect/intentions/check?{query}")).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{query}");
    }
}

#[tokio::test]
async fn an_intention_that_nothing_enforces_is_refused_by_name() {
    let api = Api::start().await;
    let path = "/v1/connect/intentions/exact?source=web&destination=api";
    let permissions = json!({"Permissions": [{"Action": "allow", "HTTP": {"PathPrefix": "/v1"}}]});
    let answer = api.put(path, permissions).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert!(answer.text.contains("need an HTTP protocol"), "{}", answer.text);
    assert_eq!(api.consensus().catalog().intentions().count(), 0);
    let http = json!({"Kind": "service-defaults", "Name": "api", "Protocol": "http"});
    assert_eq!(api.put("/v1/config", http).await.status, StatusCode::OK);
    let unfit = json!({"Permissions": [{"Action": "allow", "HTTP": {"PathPrefix": "/v1/../admin"}}]});
    let answer = api.put(path, unfit).await;
    assert!(answer.text.contains("permissions[0]: the path `/v1/../admin` matches no request"), "{}", answer.text);
    let permissions = json!({"Permissions": [{"Action": "allow", "HTTP": {"PathPrefix": "/v1"}}]});
    assert_eq!(api.put(path, permissions).await.status, StatusCode::OK);
    let read = api.get(path).await.json();
    assert_eq!(read["Permissions"], json!([{"Action": "allow", "HTTP": {"PathPrefix": "/v1"}}]));
    let tcp = json!({"Kind": "service-defaults", "Name": "api", "Protocol": "tcp"});
    let answer = api.put("/v1/config", tcp).await;
    assert!(answer.text.contains("default/web => default/api"), "{}", answer.text);
}

#[tokio::test]
async fn a_write_with_cas_counts_only_against_what_was_read() {
    let api = Api::start().await;
    let path = "/v1/connect/intentions/exact?source=web&destination=api";
    assert_eq!(api.put(&format!("{path}&cas=0"), json!({"Action": "allow"})).await.status, StatusCode::OK);
    let read = api.get(path).await.json()["ModifyIndex"].as_u64().unwrap();
    let answer = api.put(&format!("{path}&cas={}", read + 1), json!({"Action": "deny"})).await;
    assert_eq!(answer.status, StatusCode::CONFLICT, "{}", answer.text);
    assert_eq!(api.put(&format!("{path}&cas={read}"), json!({"Action": "deny"})).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a13_a_repeated_request_id_counts_once() {
    let api = Api::start().await;
    let body = json!({"Node": "node-1", "Address": "10.0.0.1"}).to_string();
    let mut indexes = BTreeSet::new();
    for _ in 0..2 {
        let request = api
            .request(Method::PUT, "/v1/catalog/register", Some(&api.token))
            .header("x-weft-request-id", "one-and-the-same")
            .body(Body::from(body.clone()))
            .unwrap();
        assert_eq!(api.call(request).await.status, StatusCode::OK);
        indexes.insert(api.consensus().catalog().index_of(&[WatchKey::Nodes]));
    }
    assert_eq!(indexes.len(), 1);
    let request = api
        .request(Method::PUT, "/v1/catalog/register", Some(&api.token))
        .header("x-weft-request-id", "with spaces")
        .body(Body::from(body))
        .unwrap();
    assert_eq!(api.call(request).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn the_first_token_is_made_once_and_by_proof_only() {
    let api = Api::start().await;
    let (challenge, proof) = api.challenge_and_proof().await;
    let answer =
        api.send(Method::PUT, "/v1/acl/bootstrap", None, json!({"Challenge": challenge, "Proof": proof})).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN, "the harness has bootstrapped already: {}", answer.text);
    assert!(answer.text.contains("bootstrapped already"), "{}", answer.text);

    let answer =
        api.send(Method::PUT, "/v1/acl/bootstrap", None, json!({"Challenge": challenge, "Proof": proof})).await;
    assert!(answer.text.starts_with("Permission denied: the challenge"), "{}", answer.text);

    let (challenge, _) = api.challenge_and_proof().await;
    let answer =
        api.send(Method::PUT, "/v1/acl/bootstrap", None, json!({"Challenge": challenge, "Proof": proof})).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert!(answer.text.contains("cluster key"), "{}", answer.text);
}

#[tokio::test]
async fn a_token_is_made_used_and_deleted_and_its_secret_is_shown_once() {
    let api = Api::start().await;
    let made = api.put("/v1/acl/token", json!({"Description": "for a test"})).await.json();
    let (accessor, secret) = (made["AccessorID"].as_str().unwrap(), made["SecretID"].as_str().unwrap());
    let own = api.send(Method::GET, "/v1/acl/token/self", Some(secret), Value::Null).await;
    assert_eq!(own.status, StatusCode::OK);
    assert!(!own.text.contains(secret));
    assert!(!api.get("/v1/acl/tokens").await.text.contains(secret));
    let path = format!("/v1/acl/token/{accessor}");
    assert_eq!(api.get(&path).await.json()["Description"], "for a test");
    assert_eq!(api.send(Method::DELETE, &path, Some(&api.token), Value::Null).await.status, StatusCode::OK);
    let answer = api.send(Method::GET, "/v1/acl/token/self", Some(secret), Value::Null).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert!(answer.text.starts_with("ACL not found"), "{}", answer.text);
}

#[tokio::test]
async fn a13_a_repeated_request_never_hands_out_a_secret_that_was_not_stored() {
    let api = Api::start().await;
    for (path, body) in [("/v1/acl/token", json!({})), ("/v1/join-token", json!({"Services": ["api"]}))] {
        let mut statuses = Vec::new();
        for _ in 0..2 {
            let request = api
                .request(Method::PUT, path, Some(&api.token))
                .header("x-weft-request-id", path.rsplit('/').next().unwrap())
                .body(Body::from(body.to_string()))
                .unwrap();
            statuses.push(api.call(request).await.status);
        }
        assert_eq!(statuses, [StatusCode::OK, StatusCode::CONFLICT], "{path}");
    }
    assert_eq!(api.get("/v1/join-tokens").await.json().as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_token_past_its_end_is_unknown() {
    let api = Api::start().await;
    let made = api.put("/v1/acl/token", json!({"ExpirationTTL": "1s"})).await.json();
    let secret = made["SecretID"].as_str().unwrap();
    // The token's end is a wall-clock fact: the test asks until it has passed.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        let answer = api.send(Method::GET, "/v1/acl/token/self", Some(secret), Value::Null).await;
        if answer.status == StatusCode::FORBIDDEN {
            assert!(answer.text.starts_with("ACL not found"), "{}", answer.text);
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "the token still works: {}", answer.text);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn the_mesh_entry_is_written_and_read_and_other_kinds_are_refused_by_name() {
    let api = Api::start().await;
    assert_eq!(api.get("/v1/config/mesh/mesh").await.status, StatusCode::NOT_FOUND);
    let answer = api.put("/v1/config", json!({"Kind": "mesh", "DefaultIntentionPolicy": "allow"})).await;
    assert_eq!((answer.status, answer.text.as_str()), (StatusCode::OK, "true"));
    assert_eq!(api.get("/v1/config/mesh/mesh").await.json()["DefaultIntentionPolicy"], "allow");
    let check = "/v1/connect/intentions/check?source=web&destination=api";
    assert_eq!(api.get(check).await.json(), json!({"Allowed": true}));
    let read = api.get("/v1/config/mesh/mesh").await.json()["ModifyIndex"].as_u64().unwrap();
    let overtaken = format!("/v1/config?cas={}", read + 1);
    let answer = api.put(&overtaken, json!({"Kind": "mesh", "DefaultIntentionPolicy": "deny"})).await;
    assert_eq!((answer.status, answer.text.as_str()), (StatusCode::OK, "false"));
    assert_eq!(api.get(check).await.json(), json!({"Allowed": true}));
    let answer = api.put("/v1/config", json!({"Kind": "ingress-gateway", "Name": "api"})).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert!(answer.text.contains("ingress-gateway"), "{}", answer.text);
    let answer = api.get("/v1/config/ingress-gateway/api").await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.text);
    assert_eq!(api.get("/v1/config/mesh/other").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_deleted_mesh_entry_is_gone_and_cas_guards_it() {
    let api = Api::start().await;
    let delete = async |query: &str| {
        let path = format!("/v1/config/mesh/mesh{query}");
        let answer = api.send(Method::DELETE, &path, Some(&api.token), Value::Null).await;
        (answer.status, answer.text)
    };
    let done = |text: &str| (StatusCode::OK, text.to_owned());
    api.put("/v1/config", json!({"Kind": "mesh", "DefaultIntentionPolicy": "allow"})).await;
    let read = api.get("/v1/config/mesh/mesh").await.json()["ModifyIndex"].as_u64().unwrap();
    assert_eq!(delete(&format!("?cas={}", read - 1)).await, done("false"));
    assert_eq!(api.get("/v1/config/mesh/mesh").await.json()["DefaultIntentionPolicy"], "allow");
    assert_eq!(delete(&format!("?cas={read}")).await, done("true"));
    let gone = api.get("/v1/config/mesh/mesh").await;
    assert_eq!((gone.status, gone.index() > read), (StatusCode::NOT_FOUND, true), "{}", gone.text);
    assert_eq!(api.get("/v1/config/mesh").await.json(), json!([]));
    let check = "/v1/connect/intentions/check?source=web&destination=api";
    assert_eq!(api.get(check).await.json(), json!({"Allowed": false}));
    assert_eq!(delete("").await, done("true"), "what is gone may be deleted again");
}

#[tokio::test]
async fn roots_join_tokens_and_metrics_are_there() {
    let api = Api::start().await;
    let roots = api.get("/v1/connect/ca/roots").await.json();
    assert_eq!(roots["Roots"][0]["Active"], true);
    assert_eq!(roots["Roots"][0]["ID"], roots["ActiveRootID"]);

    let made = api.put("/v1/join-token", json!({"Services": ["api"], "TTL": "1h"})).await;
    assert_eq!(made.status, StatusCode::OK, "{}", made.text);
    let text = made.json()["Token"].as_str().unwrap().to_owned();
    let listed = api.get("/v1/join-tokens").await;
    assert!(!listed.text.contains(&text));
    let accessor = listed.json()[0]["AccessorID"].as_str().unwrap().to_owned();
    let answer = api.send(Method::DELETE, &format!("/v1/join-token/{accessor}"), Some(&api.token), Value::Null).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    assert_eq!(api.get("/v1/join-tokens").await.json(), json!([]));

    let metrics = api.get("/v1/agent/metrics?format=prometheus").await;
    assert!(metrics.text.contains("weft_api_requests_total{class=\"2xx\"}"), "{}", metrics.text);
    let told = api.get("/v1/agent/metrics").await.json();
    let requests = |one: &Value| one["Name"] == "weft_api_requests_total" && one["Labels"]["class"] == "2xx";
    assert!(told["Counters"].as_array().unwrap().iter().any(requests), "as Consul's clients read it: {told}");
    assert_eq!(api.get("/v1/agent/metrics?format=json").await.status, StatusCode::BAD_REQUEST);
    let leader = api.send(Method::GET, "/v1/status/leader", None, Value::Null).await;
    leader.json().as_str().unwrap().parse::<std::net::SocketAddr>().unwrap();
}
