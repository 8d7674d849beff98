//! Connections that change to another protocol.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use catalog::Action;
use http::StatusCode;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::carrying::connect;
use super::{HttpPair, get, hear, over_http1};
use crate::proxy::Limits;
use crate::proxy::tests::agents::{DEADLINE, eventually};
use crate::proxy::tests::certificates::service_key;

pub(super) const WEBSOCKET: [(&str, &str); 4] =
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
async fn l6_a_half_closed_websocket_may_not_be_silent_for_ever() {
    let limits = Limits { half_closed_silence_max: Duration::from_millis(100), ..Limits::default() };
    let told = Default::default();
    let mut pair = HttpPair::start_within(limits, &["allow web api"], catalog::Protocol::Http, told).await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    pair.api.snapshot.locals.get_mut(&service_key("api")).unwrap()[0].port = listener.local_addr().unwrap().port();
    pair.api.publish().await;
    let mut stream = pair.dial("web", None).await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: api\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
        .await
        .unwrap();
    // It grants the change, hears the end of what it is told, and says nothing more for ever.
    let (mut application, _) = listener.accept().await.unwrap();
    application.read_exact(&mut [0; 10]).await.unwrap();
    let granted = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    application.write_all(granted).await.unwrap();
    let mut heard = [0; 12];
    stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"HTTP/1.1 101");
    stream.shutdown().await.unwrap();
    eventually("it is closed, and counted", || {
        pair.api.closed("inbound", "half_closed_silent") == 1 && pair.api.proxy.open_streams() == 0
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_carries_no_requests_passes_and_what_does_is_never_asked_for() {
    let mut pair = HttpPair::start(&["allow web api"]).await;
    let asking = |to: &'static str| get("/attach", &[("host", "api"), ("connection", "Upgrade"), ("upgrade", to)]);
    let mut upgraded = Vec::new();
    for (to, asked) in [("tcp", "tcp"), ("TLS/1.3, h2c, Own-Bytes/1.0, websocket", "own-bytes/1.0")] {
        for requests in [&mut pair.http1().await, &mut over_http1(pair.dial("web", None).await).await] {
            let mut response = requests.send_request(asking(to)).await.unwrap();
            assert_eq!(
                (response.status(), &response.headers()["upgrade"]),
                (StatusCode::SWITCHING_PROTOCOLS, &asked.parse().unwrap()),
                "{to}"
            );
            let mut stream = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
            let mut heard = [0; 4];
            stream.write_all(b"\0\xff\r\n").await.unwrap();
            stream.read_exact(&mut heard).await.unwrap();
            assert_eq!(&heard, b"\0\xff\r\n");
            assert_eq!(pair.application.asked().last().unwrap().header("upgrade"), asked);
            upgraded.push(stream);
        }
    }
    let connections: std::collections::BTreeSet<usize> =
        pair.application.asked().into_iter().map(|asked| asked.connection).collect();
    assert_eq!(connections.len(), 4, "each has a connection of its own to the application");
    for to in ["TLS/1.0", "HTTP/2.0, h2c", "connect-udp"] {
        let heard = hear(pair.http1().await.send_request(asking(to)).await.unwrap()).await;
        assert_eq!(heard.status, StatusCode::OK, "{to}");
        let asked = pair.application.asked();
        assert!(asked.last().is_some_and(|asked| !asked.headers.contains_key("upgrade")), "{to}: {asked:?}");
    }
    pair.rule(&["deny web api"]).await;
    for mut stream in upgraded {
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut rest)).await.expect("closed in time");
        assert_eq!(rest, b"");
    }
    let heard = hear(pair.http1().await.send_request(asking("tcp")).await.unwrap()).await;
    assert_eq!(heard.status, StatusCode::FORBIDDEN);
}

/// What asks for another protocol, with more behind it than its sender may say yet.
const AND_MORE: &str = "GET /chat HTTP/1.1\r\nhost: api\r\nconnection: upgrade\r\nupgrade: tcp\r\n\r\n";

/// Answers requests one at a time and grants nothing; notes what it took over each connection.
async fn never_granting(stream: TcpStream, number: usize, taken: Arc<Mutex<Vec<(usize, String)>>>) {
    let mut stream = tokio::io::BufReader::new(stream);
    let mut head = Vec::new();
    while let Ok(read) = tokio::io::AsyncBufReadExt::read_until(&mut stream, b'\n', &mut head).await {
        if read == 0 {
            return;
        }
        if head.ends_with(b"\r\n\r\n") {
            let line = String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned();
            taken.lock().unwrap().push((number, line));
            head.clear();
            if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.is_err() {
                return;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2_bytes_behind_an_upgrade_wait_for_it_or_are_requests_of_their_own() {
    let mut pair = HttpPair::start(&[]).await;
    let rules = json!([
        {"action": "deny", "http": {"path": {"prefix": "/admin"}}},
        {"action": "allow", "http": {"path": {"prefix": "/"}}},
    ]);
    pair.permit(Action::Deny, rules).await;
    // Granted, they arrive once it is, and in order.
    let mut stream = pair.dial("web", None).await;
    stream.write_all(format!("{AND_MORE}said too early").as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    while !heard.ends_with(b"said too early") {
        let read = tokio::time::timeout(DEADLINE, stream.read_buf(&mut heard)).await.expect("in time").unwrap();
        assert!(read > 0, "{}", heard.escape_ascii());
    }
    assert!(heard.starts_with(b"HTTP/1.1 101 "), "{}", heard.escape_ascii());

    // Not granted, they are requests like any other: each is decided, and what may not pass passes nobody.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let taken = Arc::<Mutex<Vec<(usize, String)>>>::default();
    let noted = Arc::clone(&taken);
    tokio::spawn(async move {
        let mut accepted = 0..;
        while let (Ok((stream, _)), Some(number)) = (listener.accept().await, accepted.next()) {
            tokio::spawn(never_granting(stream, number, Arc::clone(&noted)));
        }
    });
    pair.api.snapshot.locals.get_mut(&service_key("api")).unwrap()[0].port = port;
    pair.api.publish().await;
    let mut stream = pair.dial("web", None).await;
    let behind = "GET /admin HTTP/1.1\r\nhost: api\r\n\r\nGET /next HTTP/1.1\r\nhost: api\r\nconnection: close\r\n\r\n";
    stream.write_all(format!("{AND_MORE}{behind}").as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut heard)).await.expect("closed in time");
    let text = String::from_utf8_lossy(&heard);
    let statuses: Vec<&str> = text.match_indices("HTTP/1.1 ").map(|(at, _)| &text[at + 9..at + 12]).collect();
    assert_eq!(statuses, ["200", "403", "200"], "{text}");
    let taken = taken.lock().unwrap().clone();
    let lines: Vec<&str> = taken.iter().map(|(_, line)| line.as_str()).collect();
    assert_eq!(lines, ["GET /chat HTTP/1.1", "GET /next HTTP/1.1"]);
    assert_ne!(taken[0].0, taken[1].0, "nobody is served over a connection that was to change");
}
