//! What closes what is open.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use catalog::CatalogIndex;
use http::{Method, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::carrying::connect;
use super::{HttpPair, Speaker, asking, get, hear, over_http1, over_http2};
use crate::proxy::Limits;
use crate::proxy::tests::agents::{Agent, DEADLINE, eventually, in_time, until_stalled};
use crate::proxy::tests::certificates::service_key;

/// An exchange in which both sides have spoken and neither has finished.
struct Open {
    answer: Response<Incoming>,
    body: Speaker,
}

impl Open {
    /// Waits until the answer is cut short.
    async fn expect_cut(self) {
        let Self { answer, body: _body } = self;
        let rest = tokio::time::timeout(DEADLINE, answer.into_body().collect()).await.expect("closed in time");
        assert!(rest.is_err(), "the answer passes for whole");
    }
}

macro_rules! open {
    ($requests:expr) => {{
        let (request, body) = asking(Method::POST, "http://api/", &[("host", "api")]);
        body.say("x").await;
        let mut answer = $requests.send_request(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.body_mut().frame().await.unwrap().unwrap().into_data().unwrap(), "x");
        Open { answer, body }
    }};
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_a_deny_closes_every_open_request_over_every_carrier() {
    let mut pair = HttpPair::start(&["allow web api"]).await;
    let (mut http1, mut http2) = (pair.http1().await, pair.http2().await);
    let mut plain = over_http1(pair.dial("web", None).await).await;
    let mut tunnel = over_http2(pair.dial("web", Some(b"h2")).await).await;
    let stream = connect(&pair, "web", &pair.application.address.to_string()).await.unwrap();
    let mut inside = over_http1(stream).await;
    let open = [open!(http1), open!(http2), open!(plain), open!(tunnel), open!(inside)];
    pair.rule(&["deny web api"]).await;
    for exchange in open {
        exchange.expect_cut().await;
    }
    eventually("all are counted as closed by the intention", || {
        pair.api.closed("inbound", "intention") == 5 && pair.api.proxy.open_streams() == 0
    })
    .await;
    // What still stands asks in vain.
    let heard = hear(tunnel.send_request(get("http://api/", &[])).await.unwrap()).await;
    assert_eq!(heard.status, StatusCode::FORBIDDEN);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_still_allows_a_request_leaves_it_alone() {
    let mut pair = HttpPair::start(&["allow web api"]).await;
    let mut http2 = pair.http2().await;
    let mut open = open!(http2);
    pair.rule(&["allow * api", "deny db api"]).await;
    pair.web.publish().await;
    open.body.say("still").await;
    assert_eq!(open.answer.body_mut().frame().await.unwrap().unwrap().into_data().unwrap(), "still");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c14_a_revoked_caller_loses_its_connection() {
    let mut pair = HttpPair::start(&["allow web api"]).await;
    let mut plain = over_http1(pair.dial("web", None).await).await;
    let open = open!(plain);
    let mut idle = over_http1(pair.dial("web", None).await).await;
    assert_eq!(hear(idle.send_request(get("/", &[("host", "api")])).await.unwrap()).await.status, StatusCode::OK);
    pair.api.snapshot.revocations.records.insert(CatalogIndex(7));
    pair.api.publish().await;
    open.expect_cut().await;
    eventually("the idle connection is closed too", || idle.is_closed()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_is_gone_ends_its_request_at_the_application() {
    let pair = HttpPair::start(&["allow web api"]).await;
    let mut http2 = pair.http2().await;
    let open = open!(http2);
    drop(open);
    eventually("both sides have let go", || pair.web.proxy.open_streams() == 0 && pair.api.proxy.open_streams() == 0)
        .await;
    let mut http1 = pair.http1().await;
    let open = open!(http1);
    drop((open, http1));
    eventually("both sides have let go", || pair.web.proxy.open_streams() == 0 && pair.api.proxy.open_streams() == 0)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_agent_finishes_what_is_open_and_takes_no_more() {
    let pair = HttpPair::start(&["allow web api"]).await;
    let mut plain = over_http1(pair.dial("web", None).await).await;
    let open = open!(plain);
    let Open { answer, body } = open;
    let draining = pair.api.proxy.drain(Duration::from_secs(20));
    let finishing = async {
        // Its end comes only after the drain has begun: the new connection is refused by then.
        let mesh = pair.api.proxy.mesh_address();
        let refused = async {
            while tokio::net::TcpStream::connect(mesh).await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        in_time("nobody is let in", refused).await;
        drop(body);
        let rest = answer.into_body().collect().await.unwrap();
        assert!(rest.trailers().is_none_or(|trailers| trailers["x-echo"] == "whole"));
    };
    let (is_whole, ()) = tokio::join!(draining, finishing);
    assert!(is_whole, "nothing had to be cut");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h8_answers_that_nobody_reads_take_nothing_from_the_others() {
    let pair = HttpPair::start(&["allow web api"]).await;
    let (mut stalled, written) = (Vec::new(), Arc::new(AtomicUsize::new(0)));
    for _ in 0..63 {
        // Each says without end, is told the same, and never reads it.
        let mut stream = tokio::net::TcpStream::connect(pair.web.upstream()).await.unwrap();
        stream.write_all(b"POST /flood HTTP/1.1\r\nhost: api\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
        let written = Arc::clone(&written);
        let flooding = tokio::spawn(async move {
            let mut chunk = b"8000\r\n".to_vec();
            chunk.extend_from_slice(&[b'x'; 0x8000]);
            chunk.extend_from_slice(b"\r\n");
            while stream.write_all(&chunk).await.is_ok() {
                written.fetch_add(1, Ordering::SeqCst);
            }
        });
        stalled.push(flooding);
    }
    let mut last = pair.http1().await;
    let mut ask = async || {
        last.ready().await.unwrap();
        let answer = last.send_request(get("/", &[("host", "api")])).await.unwrap();
        assert_eq!(hear(answer).await.status, StatusCode::OK);
    };
    until_stalled(&written, &mut ask).await;
    eventually("only the stalled ones are open", || pair.web.proxy.open_streams() == 63).await;
    // What one agent has taken of the answers and the other has not passed on: each has its window and a piece more.
    let taken = pair.api.metric("weft_proxy_received_bytes_total{direction=\"inbound\"}");
    let passed_on = pair.web.metric("weft_proxy_received_bytes_total{direction=\"outbound\"}");
    let held = taken.saturating_sub(passed_on);
    assert!(held <= 63 * 512 * 1024, "{held} bytes are held for readers that do not read");
    last.ready().await.unwrap();
    let (request, body) = asking(Method::POST, "/last", &[("host", "api")]);
    let saying = tokio::spawn(async move {
        for _ in 0..10 {
            body.say(vec![7; 50_000]).await;
        }
    });
    let heard = tokio::time::timeout(DEADLINE, async { hear(last.send_request(request).await.unwrap()).await });
    assert_eq!(heard.await.expect("in time").body.len(), 500_000);
    saying.await.unwrap();
    assert_eq!(pair.web.metric("weft_proxy_handshakes_total{direction=\"outbound\"}"), 1);
    stalled.into_iter().for_each(|flooding| flooding.abort());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_streams_of_bytes_end_when_their_service_becomes_one_of_requests() {
    let mut pair = HttpPair::start_with(&["allow web api"], catalog::Protocol::Tcp).await;
    let ask = b"GET / HTTP/1.1\r\nhost: api\r\n\r\n";
    let mut through_tunnel = pair.web.connect().await;
    let mut plain = pair.dial("web", None).await;
    let mut first = [0; 12];
    through_tunnel.write_all(ask).await.unwrap();
    through_tunnel.read_exact(&mut first).await.unwrap();
    plain.write_all(ask).await.unwrap();
    plain.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    pair.api.snapshot.protocols.insert(service_key("api"), catalog::Protocol::Http);
    pair.api.publish().await;
    for stream in [&mut through_tunnel as &mut (dyn tokio::io::AsyncRead + Unpin), &mut plain] {
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut rest)).await.expect("closed in time");
        assert!(ended.is_err(), "a reset, not an end of stream");
    }
    eventually("both are counted", || pair.api.closed("inbound", "protocol_changed") == 2).await;
    // The caller's side ends its own, if it hears of the change first.
    pair.api.snapshot.protocols.insert(service_key("api"), catalog::Protocol::Tcp);
    pair.api.publish().await;
    let mut stream = pair.web.connect().await;
    stream.write_all(ask).await.unwrap();
    stream.read_exact(&mut first).await.unwrap();
    pair.web.snapshot.protocols.insert(service_key("api"), catalog::Protocol::Http);
    pair.web.publish().await;
    eventually("it is counted", || pair.web.closed("outbound", "protocol_changed") == 1).await;
}

/// An application that answers at once and takes what it is told; returns when that ends.
async fn listening(listener: tokio::net::TcpListener) -> usize {
    let (mut stream, _) = listener.accept().await.unwrap();
    // Not before it is asked.
    stream.read_exact(&mut [0; 10]).await.unwrap();
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nbegun").await.unwrap();
    let mut told = Vec::new();
    let _ = stream.read_to_end(&mut told).await;
    told.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_a_deny_ends_the_upload_of_a_caller_that_does_not_read() {
    for protocol in [Some(b"h2".as_slice()), None] {
        let mut pair = HttpPair::start(&["allow web api"]).await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        pair.api.snapshot.locals.get_mut(&service_key("api")).unwrap()[0].port = port;
        pair.api.publish().await;
        let application = tokio::spawn(listening(listener));
        let stream = pair.dial("web", protocol).await;
        let (requests, connection) =
            h2::client::Builder::new().initial_window_size(0).handshake::<_, bytes::Bytes>(stream).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::post("http://api/").header("x-weft-version", "1.1").body(()).unwrap();
        let (answer, mut send) = requests.ready().await.unwrap().send_request(request, false).unwrap();
        send.send_data("x".into(), false).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        pair.rule(&["deny web api"]).await;
        tokio::time::timeout(DEADLINE, application).await.expect("closed in time").unwrap();
        drop((answer, send));
        eventually("it is counted as closed", || pair.api.closed("inbound", "intention") == 1).await;
    }
}

/// An application that gives a whole answer at once, and reads on for as long as it is told something.
async fn hasty(listener: tokio::net::TcpListener) {
    let (mut stream, _) = listener.accept().await.unwrap();
    stream.read_exact(&mut [0; 10]).await.unwrap();
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
    let _ = stream.read_to_end(&mut Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_l6_a_request_that_is_answered_whole_feeds_its_application_no_more() {
    let mut pair = HttpPair::start(&["allow web api"]).await;
    for is_http2 in [true, false] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        pair.api.snapshot.locals.get_mut(&service_key("api")).unwrap()[0].port = port;
        pair.api.publish().await;
        let application = tokio::spawn(hasty(listener));
        let saying = if is_http2 {
            let stream = pair.dial("web", Some(b"h2")).await;
            let (requests, connection) = h2::client::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            let request = http::Request::post("http://api/").header("x-weft-version", "1.1").body(()).unwrap();
            let (answer, mut send) = requests.ready().await.unwrap().send_request(request, false).unwrap();
            send.send_data("x".into(), false).unwrap();
            let mut body = answer.await.unwrap().into_body();
            assert_eq!(body.data().await.unwrap().unwrap(), "ok");
            assert!(body.data().await.is_none(), "the answer is whole");
            // A caller that minds nothing, as no agent is.
            tokio::spawn(async move {
                while send.send_data("x".into(), false).is_ok() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            })
        } else {
            let mut stream = pair.dial("web", None).await;
            stream
                .write_all(b"POST / HTTP/1.1\r\nhost: api\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n")
                .await
                .unwrap();
            let mut heard = Vec::new();
            while !heard.ends_with(b"\r\n\r\nok") {
                heard.push(stream.read_u8().await.unwrap());
            }
            tokio::spawn(async move {
                while stream.write_all(b"1\r\nx\r\n").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            })
        };
        tokio::time::timeout(DEADLINE, application).await.expect("the application is told no more").unwrap();
        if is_http2 {
            eventually("the stream is reset", || saying.is_finished()).await;
        }
        saying.abort();
        eventually("nothing is left open", || pair.api.proxy.open_streams() == 0).await;
    }
    eventually("both are counted", || pair.api.closed("inbound", "done") == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l2_a_connection_over_which_nothing_is_asked_ends_in_time() {
    let mut pair = HttpPair::start(&["allow web api"]).await;
    let limits = Limits { request_timeout: Duration::from_secs(2), ..Limits::default() };
    pair.api = Agent::start_with(&pair.authority, limits);
    pair.api.serve(&pair.authority, "api", pair.application.address);
    pair.api.snapshot.protocols.insert(service_key("api"), catalog::Protocol::Http);
    pair.rule(&["allow web api"]).await;
    let mut busy = over_http2(pair.dial("web", None).await).await;
    let mut open = open!(busy);
    let mut once = over_http2(pair.dial("web", None).await).await;
    assert_eq!(hear(once.send_request(get("http://api/", &[])).await.unwrap()).await.status, StatusCode::OK);
    let never = over_http2(pair.dial("web", None).await).await;
    let inside = over_http1(connect(&pair, "web", &pair.application.address.to_string()).await.unwrap()).await;
    for said in ["", "PRI * HTTP/2.0"] {
        let mut stream = pair.dial("web", None).await;
        stream.write_all(said.as_bytes()).await.unwrap();
        let ended = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut Vec::new())).await;
        assert!(ended.is_ok(), "closed in time: {said}");
    }
    eventually("they are closed", || once.is_closed() && never.is_closed() && inside.is_closed()).await;
    open.body.say("still").await;
    assert_eq!(open.answer.body_mut().frame().await.unwrap().unwrap().into_data().unwrap(), "still");
}
