//! Rules on requests, at the proxy: what is decided on is what the application gets.

use catalog::{Action, AuditMode, Effect, Intention, Permission, Policy, Protocol, Timestamp};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wire::report::Link;

use super::carrying::connect;
use super::{Asking, HttpPair, asking, get, hear, over_http1, over_http2};
use crate::proxy::tests::agents::{DEADLINE, eventually, intention};
use crate::proxy::tests::certificates::service_key;

/// An intention of `web` toward `api` that says something about requests.
fn permitting(permissions: serde_json::Value) -> Intention {
    let permissions: Vec<Permission> = serde_json::from_value(permissions).unwrap();
    Intention { effect: Effect::Permissions(permissions), ..intention("allow web api") }
}

impl HttpPair {
    /// Puts these permissions in the place of the rules of `api`.
    pub(super) async fn permit(&mut self, default_action: Action, permissions: serde_json::Value) {
        let policy = Policy::new(default_action, Vec::new(), vec![permitting(permissions)]);
        self.api.snapshot.policies.insert(service_key("api"), policy);
        self.api.publish().await;
    }
}

/// Asks as `web` over each carrier: by its agent, over TLS alone, inside a CONNECT stream and as a stream of its own.
/// Expects one status of all of them.
async fn check(
    pair: &HttpPair,
    request: impl Fn(&str) -> http::Request<Asking>,
    want: StatusCode,
    refused: Option<&str>,
) {
    let mut plain = over_http1(pair.dial("web", None).await).await;
    let mut inside = over_http1(connect(pair, "web", &pair.application.address.to_string()).await.unwrap()).await;
    let mut tunnel = over_http2(pair.dial("web", Some(b"h2")).await).await;
    let answers = [
        hear(pair.http1().await.send_request(request("")).await.unwrap()).await,
        hear(plain.send_request(request("")).await.unwrap()).await,
        hear(inside.send_request(request("")).await.unwrap()).await,
        hear(tunnel.send_request(request("http://api")).await.unwrap()).await,
    ];
    for heard in answers {
        let said = heard.headers.get("x-weft-refused").map(|value| value.to_str().unwrap());
        assert_eq!((heard.status, said), (want, refused));
    }
}

fn asks(
    method: Method,
    path: &'static str,
    headers: &'static [(&str, &str)],
) -> impl Fn(&str) -> http::Request<Asking> {
    move |origin| {
        let mut lines = headers.to_vec();
        lines.extend(origin.is_empty().then_some(("host", "api")));
        let mut request = get(&format!("{origin}{path}"), &lines);
        *request.method_mut() = method.clone();
        request
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h5_h6_permissions_decide_each_request_by_what_the_application_gets() {
    let mut pair = HttpPair::start(&[]).await;
    let rules = json!([
        {"action": "deny", "http": {"path": {"prefix": "/public/admin"}}},
        {"action": "allow", "http": {"path": {"prefix": "/public/"}, "methods": ["GET"]}},
        {"action": "allow", "http": {"headers": [{"name": "x-env", "test": {"exact": "prod"}}]}},
    ]);
    pair.permit(Action::Deny, rules).await;
    let (ok, no) = (StatusCode::OK, StatusCode::FORBIDDEN);
    check(&pair, asks(Method::GET, "/public/x?y", &[]), ok, None).await;
    check(&pair, asks(Method::POST, "/public/x", &[]), no, Some("no_permission")).await;
    check(&pair, asks(Method::GET, "/public/admin", &[]), no, Some("permission")).await;
    check(&pair, asks(Method::GET, "/public/x/../%61dmin//y", &[]), no, Some("permission")).await;
    check(&pair, asks(Method::GET, "/public/../secret", &[]), no, Some("no_permission")).await;
    check(&pair, asks(Method::GET, "/public/x;y", &[]), no, Some("undecidable")).await;
    check(&pair, asks(Method::GET, "/public/..%2fadmin", &[]), StatusCode::BAD_REQUEST, Some("ambiguous-escape")).await;
    check(&pair, asks(Method::POST, "/any", &[("x-env", "prod")]), ok, None).await;
    check(&pair, asks(Method::POST, "/any", &[("x-env", "prod"), ("x-env", "test")]), no, Some("no_permission")).await;
    check(&pair, asks(Method::GET, "/a/./public//../public//x", &[("x-env", "prod")]), ok, None).await;
    let targets: Vec<String> = pair.application.asked().into_iter().map(|asked| asked.target).collect();
    let (first, last) = (&targets[0], &targets[targets.len() - 1]);
    assert_eq!((targets.len(), first.as_str(), last.as_str()), (12, "/public/x?y", "http://api/a/public/x"));
    assert_eq!(pair.api.refused("inbound", "decide", "undecidable"), 4);
    let decided = |rule: &str, decision: &str| {
        let labels = format!("destination=\"default/api\",rule=\"{rule}\",decision=\"{decision}\"");
        pair.api.metric(&format!("weft_proxy_decisions_total{{{labels}}}"))
    };
    let intention = "default/web => default/api";
    // What cannot be decided counts with the rule that could not decide it.
    assert_eq!(decided(&format!("{intention} permissions[0]"), "deny"), 12);
    assert_eq!(decided(&format!("{intention} permissions[1]"), "allow"), 4);
    assert_eq!(decided(&format!("{intention} permissions[2]"), "allow"), 8);
    assert_eq!(decided("default", "deny"), 12);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_told_of_rules_and_callers_is_what_was_decided() {
    let mut pair = HttpPair::start(&[]).await;
    pair.permit(Action::Deny, json!([{"action": "allow", "http": {"methods": ["GET"]}}])).await;
    check(&pair, asks(Method::GET, "/", &[]), StatusCode::OK, None).await;
    let tally = pair.api.metrics.proxy.tally();
    let report = tally.report(Timestamp(1), vec![service_key("api")]);
    let [rule] = &report.rules[..] else { panic!("{report:?}") };
    assert_eq!(
        (rule.rule.to_string().as_str(), rule.allowed, rule.denied),
        ("default/web => default/api permissions[0]", 4, 0)
    );
    let [used] = &report.pairs[..] else { panic!("{report:?}") };
    assert_eq!((used.pair.source.to_string().as_str(), used.pair.link, used.opened), ("default/web", Link::Hybrid, 4));
    assert_eq!(tally.report(Timestamp(1), vec![service_key("db")]).rules, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_new_rules_on_requests_close_those_that_they_refuse_and_no_others() {
    let mut pair = HttpPair::start(&[]).await;
    let rule = |path: &str| json!([{"action": "allow", "http": {"path": {"prefix": path}}}]);
    pair.permit(Action::Deny, rule("/")).await;
    let mut http2 = pair.http2().await;
    let mut open = Vec::new();
    for path in ["/old/1", "/new/1"] {
        let (request, body) = asking(Method::POST, &format!("http://api{path}"), &[]);
        body.say("x").await;
        let mut answer = http2.send_request(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.body_mut().frame().await.unwrap().unwrap().into_data().unwrap(), "x");
        open.push((answer.into_body(), body));
    }
    pair.permit(Action::Deny, rule("/new/")).await;
    let (mut new, body) = open.pop().unwrap();
    let (old, _old_body) = open.pop().unwrap();
    let rest = tokio::time::timeout(DEADLINE, old.collect()).await.expect("closed in time");
    assert!(rest.is_err(), "the answer passes for whole");
    body.say("still").await;
    assert_eq!(new.frame().await.unwrap().unwrap().into_data().unwrap(), "still");
    eventually("one is closed", || pair.api.closed("inbound", "no_permission") == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h11_what_cannot_be_decided_is_refused_and_a_trial_lets_only_denials_through() {
    let mut pair = HttpPair::start(&[]).await;
    let token = json!([{"action": "allow", "http": {"path": {"prefix": "/"}},
        "jwt": {"providers": [{"name": "okta"}]}}]);
    pair.permit(Action::Deny, token).await;
    check(&pair, asks(Method::GET, "/", &[]), StatusCode::FORBIDDEN, Some("undecidable")).await;
    let audit = AuditMode { mesh: true, ..AuditMode::default() };
    let policy = pair.api.snapshot.policies.get_mut(&service_key("api")).unwrap();
    *policy = policy.clone().with_audit(audit, Vec::new());
    pair.api.publish().await;
    check(&pair, asks(Method::GET, "/", &[]), StatusCode::FORBIDDEN, Some("undecidable")).await;
    assert_eq!(pair.application.accepted(), 0);
    let policy = pair.api.snapshot.policies.get_mut(&service_key("api")).unwrap();
    policy.intentions = vec![permitting(json!([{"action": "allow", "http": {"methods": ["PUT"]}}]))];
    pair.api.publish().await;
    check(&pair, asks(Method::GET, "/", &[]), StatusCode::OK, None).await;
    let counted = pair.api.metric("weft_proxy_audited_total{rule=\"default\",cause=\"mesh\"}");
    assert_eq!(counted, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h5_rules_see_the_very_head_that_goes_on_and_what_weft_writes_into_it() {
    let mut pair = HttpPair::start(&[]).await;
    let not_changing = json!([
        {"action": "deny", "http": {"headers": [{"name": "upgrade", "test": {"exact": "websocket"}}]}},
        {"action": "allow", "http": {"path": {"prefix": "/"}}},
    ]);
    pair.permit(Action::Deny, not_changing).await;
    // However it is written, and among whatever else.
    for to in ["websocket", "WebSocket", "h2c, WEBSOCKET, tcp"] {
        let websocket = [("host", "api"), ("connection", "Upgrade"), ("upgrade", to), ("sec-websocket-key", "x")];
        for requests in [&mut pair.http1().await, &mut over_http1(pair.dial("web", None).await).await] {
            let heard = hear(requests.send_request(get("/chat", &websocket)).await.unwrap()).await;
            assert_eq!(heard.status, StatusCode::FORBIDDEN, "{to}");
        }
    }
    assert_eq!(pair.application.accepted(), 0);
    check(&pair, asks(Method::GET, "/", &[]), StatusCode::OK, None).await;

    let from_here = json!([
        {"action": "allow", "http": {"headers": [{"name": "x-forwarded-for", "test": {"exact": "127.0.0.1"}}]}},
    ]);
    pair.permit(Action::Deny, from_here).await;
    check(&pair, asks(Method::GET, "/", &[("x-forwarded-for", "10.9.9.9")]), StatusCode::OK, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h5_a_denied_path_stays_denied_to_a_caller_that_takes_the_service_for_bytes() {
    let mut pair = HttpPair::start(&[]).await;
    let rules = json!([
        {"action": "deny", "http": {"path": {"prefix": "/admin"}}},
        {"action": "allow", "http": {"path": {"prefix": "/"}}},
    ]);
    pair.permit(Action::Deny, rules).await;
    // Its agent looks into nothing: what the application says goes into a CONNECT stream as it is.
    pair.web.snapshot.protocols.insert(service_key("api"), Protocol::Tcp);
    pair.web.publish().await;
    for (path, want) in [("/a", 200), ("/admin", 403), ("/a/../%61dmin", 403)] {
        let (http1, http2) = (get(path, &[("host", "api")]), get(&format!("http://api{path}"), &[]));
        let heard = hear(pair.http1().await.send_request(http1).await.unwrap()).await;
        assert_eq!(heard.status, want, "{path}");
        let heard = hear(pair.http2().await.send_request(http2).await.unwrap()).await;
        assert_eq!(heard.status, want, "{path}");
    }
    // A CONNECT of the application's own opens nothing, and what stands behind it is no request.
    let address = pair.application.address.to_string();
    let mut stream = pair.web.connect().await;
    let both = format!("CONNECT {address} HTTP/1.1\r\nhost: {address}\r\n\r\nGET /a HTTP/1.1\r\nhost: api\r\n\r\n");
    stream.write_all(both.as_bytes()).await.unwrap();
    // However it ends: nothing of it was carried.
    let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut Vec::new())).await.expect("closed in time");
    eventually("the CONNECT to be refused", || pair.api.refused("inbound", "read", "connect") == 1).await;
    let targets: Vec<String> = pair.application.asked().into_iter().map(|asked| asked.target).collect();
    assert_eq!(targets, ["/a", "http://api/a"]);
}
