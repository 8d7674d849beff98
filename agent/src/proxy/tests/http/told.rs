//! What is told of requests: metrics, the access log, and the names under which they go on.

use catalog::Protocol;
use http::StatusCode;
use serde_json::Value;

use super::{HttpPair, get, hear};
use crate::proxy::tests::agents::eventually;

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
    let mut pair = HttpPair::start_logging(&["allow web api"], Protocol::Http, logs.clone().map(Some)).await;
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
    assert_eq!((&web[2]["status"], &web[2]["reason"]), (&403.into(), &"done".into()));
    assert_eq!(pair.application.asked()[0].header("traceparent"), trace);
}
