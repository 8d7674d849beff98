//! Callers and applications that mean no good, or behave as if they did.

use catalog::Protocol;
use http::{Request, StatusCode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{HttpPair, get, hear, over_http1, over_http2};
use crate::proxy::Limits;
use crate::proxy::tests::agents::{DEADLINE, eventually};
use crate::proxy::tests::certificates::service_key;

/// How much may be given up at once here.
const BORNE: u32 = 20;

/// Asks over a connection and gives up as soon as the answer has begun, until it is closed; returns how often.
async fn give_up<I>(io: I) -> usize
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut requests, connection) = h2::client::handshake(io).await.unwrap();
    tokio::spawn(connection);
    for count in 0..200 {
        let Ok(ready) = requests.ready().await else { return count };
        requests = ready;
        let request = Request::post("http://api/").body(()).unwrap();
        let Ok((answer, mut body)) = requests.send_request(request, false) else { return count };
        let Ok(answer) = tokio::time::timeout(DEADLINE, answer).await.expect("answered in time") else { return count };
        // The agent at the other end of a tunnel may lose its patience first.
        let why = answer.headers().get("x-weft-refused").map(http::HeaderValue::as_bytes);
        assert!(answer.status() == StatusCode::OK || why == Some(b"tunnel_lost"), "{why:?}");
        body.send_reset(h2::Reason::CANCEL);
    }
    panic!("two hundred requests were given up, and nobody minded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h8_requests_that_are_given_up_once_they_were_taken_up_cost_their_sender_the_connection() {
    let limits = Limits { given_up_max: BORNE, ..Limits::default() };
    let pair = HttpPair::start_within(limits, &["allow web api"], Protocol::Http, Default::default()).await;
    let mut other = over_http2(pair.dial("web", Some(b"h2")).await).await;
    for protocol in [Some(b"h2".as_slice()), None] {
        let count = give_up(pair.dial("web", protocol).await).await;
        assert!(count >= BORNE as usize, "{count} are borne");
    }
    eventually("both are counted", || pair.api.refused("inbound", "read", "given_up_too_often") == 2).await;
    let count = give_up(pair.web.connect().await).await;
    assert!(count >= BORNE as usize, "{count} are borne");
    eventually("it is counted", || pair.web.refused("outbound", "read", "given_up_too_often") == 1).await;
    let heard = hear(other.send_request(get("http://api/", &[])).await.unwrap()).await;
    assert_eq!(heard.status, StatusCode::OK, "others go on");
    eventually("nothing is left open", || pair.api.proxy.open_streams() == 0 && pair.web.proxy.open_streams() == 0)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2_an_application_changes_to_nothing_that_it_was_not_asked_for() {
    let mut pair = HttpPair::start(&["allow web api"]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    pair.api.snapshot.locals.get_mut(&service_key("api")).unwrap()[0].port = listener.local_addr().unwrap().port();
    pair.api.publish().await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.read_exact(&mut [0; 10]).await.unwrap();
            let answer =
                b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\nPRI * HTTP/2.0";
            stream.write_all(answer).await.unwrap();
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    });
    let asked = [("host", "api"), ("connection", "Upgrade"), ("upgrade", "websocket, h2c")];
    for lines in [&asked[..], &asked[..1]] {
        let mut requests = over_http1(pair.dial("web", None).await).await;
        let heard = hear(requests.send_request(get("/", lines)).await.unwrap()).await;
        let why = heard.headers.get("x-weft-refused").map(http::HeaderValue::as_bytes);
        assert_eq!((heard.status, why), (StatusCode::BAD_GATEWAY, Some(&b"unasked_upgrade"[..])), "{lines:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_vouches_for_a_connection_vouches_for_nobody_else() {
    let pair = HttpPair::start(&["allow web api"]).await;
    let mut requests = pair.http1().await;
    let mut connections = 0;
    for lines in [
        &[("host", "api"), ("authorization", "Negotiate YII=")][..],
        &[("host", "api"), ("x-challenge", "Basic realm=\"x\", NTLM")],
    ] {
        for lines in [&[("host", "api")][..], lines] {
            requests.ready().await.unwrap();
            hear(requests.send_request(get("/", lines)).await.unwrap()).await;
        }
        connections += 1;
        eventually("its connection is let go of", || pair.api.proxy.open_streams() == 0).await;
        assert_eq!(pair.application.accepted(), connections, "it was asked over the connection that was kept");
    }
    requests.ready().await.unwrap();
    hear(requests.send_request(get("/", &[("host", "api"), ("authorization", "Bearer x")])).await.unwrap()).await;
    requests.ready().await.unwrap();
    hear(requests.send_request(get("/", &[("host", "api")])).await.unwrap()).await;
    assert_eq!(pair.application.accepted(), 3, "what vouches for a request only is no reason to close");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_who_may_ask_for_nothing_is_told_so_once() {
    let pair = HttpPair::start(&["allow web api"]).await;
    let mut stream = pair.dial("db", None).await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: api\r\n\r\nGET /more HTTP/1.1\r\nhost: api\r\n\r\n").await.unwrap();
    let mut heard = String::new();
    tokio::time::timeout(DEADLINE, stream.read_to_string(&mut heard)).await.expect("closed in time").unwrap();
    assert_eq!(heard.matches("HTTP/1.1 403").count(), 1, "{heard}");
    assert!(heard.contains("x-weft-refused: default_deny"), "{heard}");
    assert_eq!(pair.api.refused("inbound", "decide", "default_deny"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h9_cookies_in_pieces_arrive_in_one_line() {
    let pair = HttpPair::start(&["allow web api"]).await;
    let mut tunnel = over_http2(pair.dial("web", Some(b"h2")).await).await;
    let lines = [("cookie", "a=1"), ("cookie", "b=2"), ("x-weft-version", "1.1")];
    assert_eq!(hear(tunnel.send_request(get("http://api/", &lines)).await.unwrap()).await.status, StatusCode::OK);
    let asked = pair.application.asked();
    let cookies: Vec<&http::HeaderValue> = asked[0].headers.get_all("cookie").iter().collect();
    assert_eq!(cookies, ["a=1; b=2"]);
    assert_eq!(asked[0].version, http::Version::HTTP_11);
}
