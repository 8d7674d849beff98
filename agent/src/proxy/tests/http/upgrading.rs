//! Connections that change to another protocol.

use http::StatusCode;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::carrying::connect;
use super::{HttpPair, get, hear, over_http1};
use crate::proxy::tests::agents::{DEADLINE, eventually};

const WEBSOCKET: [(&str, &str); 4] =
    [("host", "api"), ("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-key", "x")];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_passes_through_and_a_deny_cuts_it() {
    let mut pair = HttpPair::start(&["allow web api"]).await;
    let mut plain = over_http1(pair.dial("web", None).await).await;
    let stream = connect(&pair, "web", &pair.application.address.to_string()).await.unwrap();
    let mut inside = over_http1(stream).await;
    let mut upgraded = Vec::new();
    for requests in [&mut pair.http1().await, &mut plain, &mut inside] {
        let mut response = requests.send_request(get("/chat", &WEBSOCKET)).await.unwrap();
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(
            (&response.headers()["upgrade"], &response.headers()["x-from"]),
            (&"websocket".parse().unwrap(), &"application".parse().unwrap())
        );
        let mut stream = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
        let mut heard = [0; 5];
        stream.write_all(b"hello").await.unwrap();
        stream.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"hello");
        upgraded.push(stream);
    }
    assert_eq!(pair.api.metric("weft_proxy_sent_bytes_total{direction=\"inbound\"}"), 15);
    pair.rule(&["deny web api"]).await;
    for mut stream in upgraded {
        let mut rest = Vec::new();
        // A reset or an end: what matters is that nobody carries it any more.
        let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut rest)).await.expect("closed in time");
        assert_eq!(rest, b"");
    }
    eventually("all are counted", || {
        pair.api.closed("inbound", "intention") == 3 && pair.web.proxy.open_streams() == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_that_is_denied_or_not_granted_is_an_answer() {
    let pair = HttpPair::start(&[]).await;
    let heard = hear(pair.http1().await.send_request(get("/chat", &WEBSOCKET)).await.unwrap()).await;
    assert_eq!((heard.status, &heard.headers["x-weft-refused"]), (StatusCode::FORBIDDEN, &"denied".parse().unwrap()));
    assert_eq!(pair.application.accepted(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2_nobody_changes_to_http2_behind_the_engines_back() {
    let pair = HttpPair::start(&["allow web api"]).await;
    let lines = [
        ("host", "api"),
        ("connection", "Upgrade, HTTP2-Settings"),
        ("upgrade", "h2c"),
        ("http2-settings", "AAMAAABk"),
    ];
    for requests in [&mut pair.http1().await, &mut over_http1(pair.dial("web", None).await).await] {
        let heard = hear(requests.send_request(get("/", &lines)).await.unwrap()).await;
        assert_eq!(heard.status, StatusCode::OK);
    }
    for asked in pair.application.asked() {
        assert!(
            ["upgrade", "http2-settings", "connection"].iter().all(|name| !asked.headers.contains_key(*name)),
            "{asked:?}"
        );
    }
}
