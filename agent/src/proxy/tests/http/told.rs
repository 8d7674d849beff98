//! What is told of requests: metrics, the access log, and the names under which they go on.

use catalog::Protocol;
use http::StatusCode;
use serde_json::Value;

use super::{HttpPair, get, hear};
use crate::proxy::tests::agents::{Told, eventually};
use crate::spans::tests::{Collector, attribute, settings};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_counted_by_who_asks_whom_on_both_sides() {
    let pair = HttpPair::start(&["allow web api"]).await;
    let mut requests = pair.http2().await;
    for _ in 0..3 {
        assert_eq!(hear(requests.send_request(get("http://api/", &[])).await.unwrap()).await.status, StatusCode::OK);
    }
    let mut db = super::over_http1(pair.dial("db", None).await).await;
    let heard = hear(db.send_request(get("/", &[("host", "api")])).await.unwrap()).await;
    assert_eq!(heard.status, StatusCode::FORBIDDEN);
    let counted = |agent: &super::Agent, direction: &str, source: &str, class: &str| {
        let source = crate::proxy::tests::certificates::service_key(source);
        let destination = crate::proxy::tests::certificates::service_key("api");
        agent.metric(&format!(
            "weft_proxy_requests_total{{direction=\"{direction}\",source=\"{source}\",destination=\"{destination}\",\
             response=\"{class}\"}}"
        ))
    };
    eventually("all are counted", || {
        counted(&pair.web, "outbound", "web", "2xx") == 3
            && counted(&pair.api, "inbound", "web", "2xx") == 3
            && counted(&pair.api, "inbound", "db", "4xx") == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_access_log_has_a_line_for_each_request_under_one_trace() {
    let directory = tempfile::tempdir().unwrap();
    let logs = [directory.path().join("web.log"), directory.path().join("api.log")];
    let told = logs.clone().map(|path| Told { access_log: Some(path.into()), ..Told::default() });
    let mut pair = HttpPair::start_telling(&["allow web api"], Protocol::Http, told).await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let mut requests = pair.http2().await;
    hear(requests.send_request(get("http://api/a/../secret?token=x", &[("traceparent", trace)])).await.unwrap()).await;
    hear(requests.send_request(get("http://api/unnamed", &[])).await.unwrap()).await;
    pair.rule(&[]).await;
    hear(requests.send_request(get("http://api/", &[])).await.unwrap()).await;
    let read = |path: &std::path::Path| -> Vec<Value> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    eventually("all lines are written", || logs.iter().all(|path| read(path).len() == 3)).await;
    let [web, api] = [read(&logs[0]), read(&logs[1])];
    assert_eq!(
        (&web[0]["direction"], &web[0]["status"], &web[0]["reason"]),
        (&"outbound".into(), &200.into(), &"done".into())
    );
    assert_eq!((&api[0]["direction"], &api[0]["path"]), (&"inbound".into(), &"/secret".into()));
    assert!(!web[0].to_string().contains("token"), "the query is nobody's business");
    assert_eq!(web[0]["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    for index in 0..3 {
        assert_eq!(web[index]["trace_id"], api[index]["trace_id"]);
        assert_eq!(web[index]["request_id"], api[index]["request_id"]);
        assert_eq!(web[index]["request_id"].as_str().unwrap().len(), 36);
    }
    assert_eq!((&api[2]["status"], &api[2]["reason"]), (&403.into(), &"default_deny".into()));
    assert_eq!((&api[0]["decision"], &api[2]["decision"]), (&"allow".into(), &"deny".into()));
    assert_eq!(api[0]["rule"], "intention default/web => default/api, precedence 9");
    assert_eq!((&web[2]["status"], &web[2]["reason"]), (&403.into(), &"done".into()));
    assert_eq!(pair.application.asked()[0].header("traceparent"), trace);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_access_log_tells_what_was_chosen_and_always_of_what_was_denied() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.log");
    let fields = "path,status,authority,user_agent".parse().unwrap();
    let log = crate::AccessLogSettings { path: path.clone(), fields, sample: 0.0 };
    let told = [Told::default(), Told { access_log: Some(log), ..Told::default() }];
    let mut pair = HttpPair::start_telling(&["allow web api"], Protocol::Http, told).await;
    let mut requests = pair.http2().await;
    hear(requests.send_request(get("http://api/fine", &[])).await.unwrap()).await;
    pair.rule(&[]).await;
    hear(requests.send_request(get("http://api/denied", &[("user-agent", "curl")])).await.unwrap()).await;
    let read = || std::fs::read_to_string(&path).unwrap();
    eventually("the denial is told of", || read().lines().count() == 1).await;
    assert_eq!(read(), "{\"authority\":\"api\",\"path\":\"/denied\",\"user_agent\":\"curl\",\"status\":403}\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_gets_a_span_of_each_side_and_the_application_is_their_child() {
    let (collector, address) = Collector::start().await;
    let told = Told { tracing: Some(settings(&format!("http://{address}"), 1.0)), ..Told::default() };
    let mut pair = HttpPair::start_telling(&["allow web api"], Protocol::Http, [told.clone(), told]).await;
    let mut requests = pair.http2().await;
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    hear(requests.send_request(get("http://api/a?token=x", &[("traceparent", parent)])).await.unwrap()).await;
    eventually("both spans are there", || collector.spans().len() == 2).await;
    let mut spans = collector.spans();
    spans.sort_by_key(|(_, span)| std::cmp::Reverse(span.kind));
    let [(web, client), (api, server)] = &spans[..] else { panic!("{spans:?}") };
    assert!(web.contains("\"web\"") && api.contains("\"api\""), "{web} {api}");
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!((client.kind, server.kind, client.name.as_str()), (3, 2, "GET"));
    assert_eq!(hex(&client.parent_span_id), "00f067aa0ba902b7");
    assert_eq!((&server.parent_span_id, &server.trace_id), (&client.span_id, &client.trace_id));
    assert_eq!(hex(&server.trace_id), "4bf92f3577b34da6a3ce929d0e0e4736");
    let asked = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{}-01", hex(&server.span_id));
    assert_eq!(pair.application.asked()[0].header("traceparent"), asked);
    assert!(attribute(server, "http.response.status_code").contains("200"));
    assert!(attribute(server, "weft.rule").contains("default/web => default/api"), "{server:?}");
    assert!(attribute(server, "url.path").contains("\"/a\"") && !format!("{server:?}").contains("token"));

    // What is denied is told of too, and what nobody asked for is not recorded.
    pair.rule(&[]).await;
    let unrecorded = "00-4bf92f3577b34da6a3ce929d0e0e4737-00f067aa0ba902b7-00";
    hear(requests.send_request(get("http://api/b", &[("traceparent", unrecorded)])).await.unwrap()).await;
    hear(requests.send_request(get("http://api/c", &[("traceparent", parent)])).await.unwrap()).await;
    eventually("the denial is there", || collector.spans().len() == 4).await;
    let spans = collector.spans();
    assert!(spans.iter().all(|(_, span)| !attribute(span, "url.path").contains("/b")), "{spans:?}");
    let denied = spans.iter().find(|(_, span)| span.kind == 2 && attribute(span, "url.path").contains("/c")).unwrap();
    assert!(attribute(&denied.1, "weft.decision").contains("deny"), "{denied:?}");
}
