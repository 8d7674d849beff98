//! The API as a client sees it, over a real consensus of one server in memory.

mod acl;
mod audit;
mod ca;
mod config;
mod connectors;
mod content;
mod harness;
mod login;
mod members;
mod openapi;
mod policy;
mod repeats;
mod shaping;
mod snapshot;

use std::collections::BTreeSet;
use std::time::Duration;

use ::catalog::WatchKey;
use axum::body::Body;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};

use super::auth::Right;
use harness::{Answer, Api};

/// The routes that answer without a token, and why each may.
const PUBLIC: [(Method, &str); 4] = [
    // Liveness: whether there is a leader, and where.
    (Method::GET, "/v1/status/leader"),
    // The first token is made by proof of the cluster key: a challenge is worth nothing without it.
    (Method::GET, "/v1/acl/bootstrap"),
    (Method::PUT, "/v1/acl/bootstrap"),
    // Logging in is how a token is got: the request carries what the platform gave.
    (Method::POST, "/v1/acl/login"),
];

/// Fills a route's path with names that every parameter accepts.
fn example(path: &str) -> String {
    let names = [
        ("{service}", "api"),
        ("{gateway}", "edge"),
        ("{node}", "node-1"),
        ("{agent}", "node-1"),
        ("{method}", "login"),
        ("{state}", "any"),
        ("{kind}", "mesh"),
        ("{root}", "none"),
        ("{name}", "mesh"),
        ("{*name}", "builtin/service"),
        ("{id}", "00000000-0000-4000-8000-000000000000"),
        ("{accessor}", "00000000-0000-4000-8000-000000000000"),
    ];
    let path = names.iter().fold(path.to_owned(), |path, (name, value)| path.replace(name, value));
    assert!(!path.contains('{'), "no example for {path}");
    path
}

#[tokio::test]
async fn a3_every_route_but_the_written_list_refuses_a_request_without_a_token() {
    let api = Api::start().await;
    let mut public = BTreeSet::new();
    for (method, path, right) in super::routes() {
        if right == Right::Public {
            public.insert((method.to_string(), path));
            continue;
        }
        for token in [None, Some("")] {
            let answer = api.send(method.clone(), &example(path), token, Value::Null).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{method} {path}: {}", answer.text);
            assert!(answer.text.starts_with("Permission denied"), "{method} {path}: {}", answer.text);
        }
        let answer = api.send(method.clone(), &example(path), Some("no-such-token"), Value::Null).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{method} {path}: {}", answer.text);
        assert!(answer.text.starts_with("ACL not found"), "{method} {path}: {}", answer.text);
    }
    let want: BTreeSet<(String, &str)> = PUBLIC.iter().map(|(method, path)| (method.to_string(), *path)).collect();
    assert_eq!(public, want, "a route became public: write down why in PUBLIC, or give it a right");
}

#[tokio::test]
async fn a3_no_route_lets_its_parameters_be_judged_before_its_right() {
    let api = Api::start().await;
    for (method, path, right) in super::routes() {
        if right != Right::Public {
            let answer = api
                .send(
                    method.clone(),
                    &format!("{}?index=x&index=y&dc=other&filter=x", example(path)),
                    None,
                    Value::Null,
                )
                .await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{method} {path}: {}", answer.text);
        }
    }
}

#[tokio::test]
async fn a1_every_route_with_a_body_refuses_a_large_one() {
    let api = Api::start().await;
    for route in super::table() {
        let (method, path, _) = route.describe();
        if method != Method::PUT && method != Method::POST {
            continue;
        }
        let limit = route.body_bytes_max();
        let announced = api
            .request(method.clone(), &example(path), Some(&api.token))
            .header("content-length", "10000000000")
            .body(Body::empty())
            .unwrap();
        let chunks = futures_util::stream::repeat_with(|| Ok::<_, std::convert::Infallible>(vec![b' '; 64 * 1024]));
        let endless =
            api.request(method.clone(), &example(path), Some(&api.token)).body(Body::from_stream(chunks)).unwrap();
        // Where much may be sent, it is too much to send here: what is announced is judged by the same limit.
        let requests = if limit > 1 << 20 { vec![announced] } else { vec![announced, endless] };
        for request in requests {
            let answer = api.call(request).await;
            assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE, "{path}: {}", answer.text);
            assert!(answer.text.contains(&limit.to_string()), "{}", answer.text);
            assert_eq!(answer.header("connection"), Some("close"));
        }
    }
}

#[tokio::test]
async fn a6_a_token_in_the_query_string_is_refused_and_not_repeated() {
    let api = Api::start().await;
    let answer = api.send(Method::GET, &format!("/v1/catalog/nodes?token={}", api.token), None, Value::Null).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert!(answer.text.contains("`token`") && !answer.text.contains(&api.token), "{}", answer.text);
}

#[tokio::test]
async fn a7_bad_json_is_refused_with_400_on_every_route_with_a_body() {
    let api = Api::start().await;
    let bodies: [Vec<u8>; 8] = [
        [vec![b'['; 30_000], vec![b']'; 30_000]].concat(),
        br#"{"Node":"a","Node":"b","Address":"127.0.0.1"}"#.to_vec(),
        br#"{"Node":"a","Address":"127.0.0.1","Service":{"Service":"api","Port":1e400}}"#.to_vec(),
        br#"{"Node":"\ud800","Address":"127.0.0.1"}"#.to_vec(),
        br#"{"Nod":"a","Address":"127.0.0.1","Unheard-of":1}"#.to_vec(),
        b"\xef\xbb\xbf{}".to_vec(),
        br#"{"Node":"a","Address":"127.0.0.1"} trailing"#.to_vec(),
        b"\xff\xfe".to_vec(),
    ];
    for (method, path, _) in super::routes() {
        if method != Method::PUT && method != Method::POST {
            continue;
        }
        let path = match path {
            "/v1/connect/intentions/exact" => "/v1/connect/intentions/exact?source=web&destination=api".to_owned(),
            path => example(path),
        };
        for body in &bodies {
            let request = api.request(method.clone(), &path, Some(&api.token)).body(Body::from(body.clone())).unwrap();
            let answer = api.call(request).await;
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path}: {}", answer.text);
            assert!(!answer.text.contains('\n') && answer.text.len() < 4096, "{}", answer.text);
        }
    }
    assert!(api.consensus().catalog().nodes().next().is_none(), "nothing was applied");
}

#[tokio::test]
async fn a8_a_foreign_host_or_origin_is_refused_before_the_token_is_looked_at() {
    let api = Api::start().await;
    for (header, value) in [("host", "evil.example"), ("origin", "https://evil.example")] {
        let mut request = Request::get("/v1/status/leader").header("x-consul-token", &api.token);
        if header != "host" {
            request = request.header("host", "localhost");
        }
        let answer = api.call(request.header(header, value).body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{header}");
        assert!(answer.text.contains(value), "{}", answer.text);
    }
}

#[tokio::test]
async fn what_weft_does_not_have_answers_404_and_says_so() {
    let api = Api::start().await;
    let absent = [
        ("/v1/kv/a/b", "no key-value store"),
        ("/v1/session/list", "no sessions"),
        ("/v1/event/list", "no user events"),
        ("/v1/query", "no prepared queries"),
        ("/v1/txn", "no transactions"),
        ("/v1/operator/keyring", "no keyring"),
        ("/v1/coordinate/nodes", "no network coordinates"),
        ("/v1/peerings", "no peering"),
        ("/v1/agent/join/10.0.0.1", "no gossip"),
        ("/other", "no such path"),
    ];
    for (path, part) in absent {
        let answer = api.get(path).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
        assert!(answer.text.contains(part), "{path}: {}", answer.text);
    }
    let answer = api.send(Method::POST, "/v1/catalog/nodes", Some(&api.token), Value::Null).await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(answer.header("allow"), Some("GET,HEAD"));
}

#[tokio::test]
async fn bad_parameters_are_refused_by_name() {
    let api = Api::start().await;
    let rows = [
        ("index=x", StatusCode::BAD_REQUEST, "`index`"),
        ("index=1&wait=soon", StatusCode::BAD_REQUEST, "`wait`"),
        ("ns=UPPER", StatusCode::BAD_REQUEST, "`ns`"),
        ("dc=%00", StatusCode::BAD_REQUEST, "`dc`"),
        ("dc=dc2", StatusCode::INTERNAL_SERVER_ERROR, "No path to datacenter"),
        ("stale&consistent", StatusCode::BAD_REQUEST, "`stale` and `consistent`"),
        ("filter=ServiceName", StatusCode::BAD_REQUEST, "`filter`"),
        ("near=node-1", StatusCode::BAD_REQUEST, "`near`"),
    ];
    for (query, status, part) in rows {
        let answer = api.get(&format!("/v1/catalog/services?{query}")).await;
        assert_eq!(answer.status, status, "{query}: {}", answer.text);
        assert!(answer.text.contains(part), "{query}: {}", answer.text);
    }
}
