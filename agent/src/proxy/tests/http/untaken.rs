//! Requests that nobody took up, because their connection was just ending: they are asked again, and nobody notices.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use catalog::Protocol;
use http::{Method, StatusCode};
use hyper::client::conn::http2;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use wire::tls::mesh_server_config;

use super::{Asking, Heard, HttpPair, asking, get, hear, over_http1, over_http2};
use crate::proxy::tests::agents::{Agent, DEADLINE, endpoint, say};
use crate::proxy::tests::certificates::{Authority, service_key};
use crate::proxy::tests::frames::{
    ACK, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, frame, read,
};

/// How much of a body is kept.
const KEPT: usize = crate::proxy::http::send::KEPT_BYTES_MAX;

/// Says what becomes of a request that is not taken up.
#[derive(Debug, Clone, Copy)]
enum Manner {
    /// The connection takes no more, and says which was the last.
    Leaves,
    /// This one is refused, and the connection goes on.
    Refuses,
}

/// Serves connections over HTTP/2 that take up so many streams each, and not one more; what is said on one is said back.
struct Reluctant {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
}

impl Reluctant {
    /// Starts one; `takes` says of each connection, by its number, how many streams it takes up.
    async fn start(tls: Option<TlsAcceptor>, manner: Manner, takes: fn(usize) -> usize) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let takes = takes(count.fetch_add(1, Ordering::SeqCst));
                match tls.clone() {
                    Some(tls) => {
                        tokio::spawn(async move { serve(tls.accept(stream).await.ok()?, manner, takes).await })
                    }
                    None => tokio::spawn(serve(stream, manner, takes)),
                };
            }
        });
        Self { address, accepted }
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, manner: Manner, takes: usize) -> Option<()> {
    stream.read_exact(&mut [0; 24]).await.ok()?;
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.ok()?;
    let (mut taken, mut last) = (0, 0_u32);
    loop {
        let Frame { kind, flags, stream: id, payload } = read(&mut stream).await?;
        let answer = match kind {
            SETTINGS if flags & ACK == 0 => frame(SETTINGS, ACK, 0, &[]),
            PING if flags & ACK == 0 => frame(PING, ACK, 0, &payload),
            HEADERS if taken < takes => {
                (taken, last) = (taken + 1, id);
                // `:status 200` in the static table.
                frame(HEADERS, END_HEADERS | flags & END_STREAM, id, &[0x88])
            }
            HEADERS => match manner {
                Manner::Leaves => frame(GOAWAY, 0, 0, &[last.to_be_bytes(), [0; 4]].concat()),
                Manner::Refuses => {
                    taken = 0;
                    frame(RST_STREAM, 0, id, &7_u32.to_be_bytes())
                }
            },
            DATA if id <= last => frame(DATA, flags & END_STREAM, id, &payload),
            _ => continue,
        };
        stream.write_all(&answer).await.ok()?;
    }
}

/// Starts `web`, which calls `api` at something that stands there as its agent.
async fn caller_of(protocol: Protocol, takes: fn(usize) -> usize) -> (Agent, Reluctant) {
    let authority = Authority::new("mesh.test");
    let config = mesh_server_config(authority.anchors(), authority.leaf("api").resolver());
    let agent = Reluctant::start(Some(TlsAcceptor::from(Arc::new(config))), Manner::Leaves, takes).await;
    let mut web = Agent::start(&authority);
    web.call(&authority, "web", "api", &[endpoint("api", agent.address, "127.0.0.1:8080".parse().unwrap())]);
    web.snapshot.protocols.insert(service_key("api"), protocol);
    web.publish().await;
    (web, agent)
}

/// Asks with a body that comes in pieces, or without one.
async fn ask(requests: &mut http2::SendRequest<Asking>, headers: &[(&str, &str)], pieces: &[usize]) -> Heard {
    if pieces.is_empty() {
        return hear(requests.send_request(get("http://api/x.Y/Z", headers)).await.unwrap()).await;
    }
    let (request, speaker) = asking(Method::POST, "http://api/x.Y/Z", headers);
    let pieces: Vec<Bytes> = pieces.iter().zip(b'a'..).map(|(length, letter)| vec![letter; *length].into()).collect();
    let whole = pieces.concat();
    let saying = async move {
        for piece in pieces {
            // Who is answered already may hear no more of it.
            let _ = speaker.0.send(hyper::body::Frame::data(piece)).await;
        }
    };
    let (answer, ()) = tokio::join!(requests.send_request(request), saying);
    let heard = hear(answer.unwrap()).await;
    assert!(heard.status != StatusCode::OK || heard.body == whole, "{} of {}", heard.body.len(), whole.len());
    heard
}

/// Reports whether the only instance of `api` is put aside.
fn is_aside(web: &Agent) -> bool {
    web.proxy.endpoints_of(&service_key("api")).endpoints[0].aside_ms.is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p6_a_request_that_a_tunnel_takes_no_more_goes_over_another_with_all_that_was_said() {
    for pieces in [&[][..], &[1], &[700, 324], &[KEPT - 1, 1]] {
        // As new as they are, the first three take nothing up.
        let (web, agent) = caller_of(Protocol::Grpc, |number| if number < 3 { 0 } else { 2 }).await;
        let mut requests = over_http2(web.connect().await).await;
        let grpc = [("content-type", "application/grpc"), ("te", "trailers")];
        assert_eq!(ask(&mut requests, &grpc, pieces).await.status, StatusCode::OK, "{pieces:?}");
        assert_eq!((agent.accepted(), is_aside(&web)), (4, false), "{pieces:?}");
        // One that stood and was used is no other.
        for _ in 0..3 {
            assert_eq!(ask(&mut requests, &[], pieces).await.status, StatusCode::OK, "{pieces:?}");
        }
        assert_eq!((agent.accepted(), is_aside(&web)), (5, false), "{pieces:?}");
        assert_eq!(
            web.metric("weft_proxy_sent_bytes_total{direction=\"outbound\"}"),
            4 * pieces.iter().sum::<usize>() as u64
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_asked_again_fails_and_speaks_against_no_instance() {
    let (web, agent) = caller_of(Protocol::Http, |number| usize::from(number == 1)).await;
    let mut requests = over_http2(web.connect().await).await;
    let length = (KEPT + 1).to_string();
    let heard = ask(&mut requests, &[("content-length", &length)], &[KEPT, 1]).await;
    assert_eq!(
        (heard.status, heard.headers["x-weft-refused"].to_str().unwrap()),
        (StatusCode::BAD_GATEWAY, "tunnel_lost")
    );
    assert_eq!((agent.accepted(), is_aside(&web)), (1, false));
    assert_eq!(ask(&mut requests, &[], &[]).await.status, StatusCode::OK);
    // Where no tunnel takes anything up, that is found out four times.
    assert_eq!(ask(&mut requests, &[], &[3]).await.status, StatusCode::BAD_GATEWAY);
    assert_eq!(agent.accepted(), 2 + 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_is_carried_although_the_tunnel_that_was_opened_for_it_takes_it_no_more() {
    let (web, agent) = caller_of(Protocol::Tcp, |number| usize::from(number == 3)).await;
    let mut stream = web.connect().await;
    say(&mut stream, "hello").await;
    assert_eq!((agent.accepted(), is_aside(&web)), (4, false));
    let (web, agent) = caller_of(Protocol::Tcp, |_| 0).await;
    web.expect_refusal().await;
    assert_eq!((agent.accepted(), web.refused("outbound", "open", "tunnel_lost")), (4, 1));
}

/// Starts `api`, whose application is reluctant.
async fn called_with(manner: Manner, takes: fn(usize) -> usize) -> (HttpPair, Reluctant) {
    let mut pair = HttpPair::start_with(&["allow web api"], Protocol::Http2).await;
    let application = Reluctant::start(None, manner, takes).await;
    let (api, port) = (service_key("api"), application.address.port());
    pair.api.snapshot.locals.get_mut(&api).unwrap()[0].port = port;
    pair.api.publish().await;
    pair.web.snapshot.endpoints.get_mut(&api).unwrap()[0].port = port;
    pair.web.publish().await;
    (pair, application)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_ends_its_connections_in_good_order_costs_nobody_a_request() {
    for manner in [Manner::Leaves, Manner::Refuses] {
        let (pair, application) = called_with(manner, |_| 10).await;
        let mut requests = pair.http2().await;
        for number in 0..100 {
            let pieces: &[usize] = if number % 2 == 0 { &[] } else { &[500, 24] };
            assert_eq!(ask(&mut requests, &[], pieces).await.status, StatusCode::OK, "{manner:?} {number}");
        }
        // One that nobody used for seconds is let go of, too.
        let (connections, leaves) = (application.accepted(), matches!(manner, Manner::Leaves));
        assert!(if leaves { connections >= 10 } else { connections < 10 }, "{manner:?} {connections}");
    }
    let (pair, application) = called_with(Manner::Leaves, |_| 0).await;
    let heard = ask(&mut pair.http2().await, &[], &[]).await;
    assert_eq!(heard.status, StatusCode::BAD_GATEWAY);
    assert_eq!((application.accepted(), pair.api.refused("inbound", "application", "no_http2_answer")), (4, 1));
}

/// Answers one request over each connection and closes it soon after, a little later each time; returns its port.
async fn start_curt() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        for number in 0_u64.. {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            tokio::spawn(async move {
                let mut heard = Vec::new();
                while !heard.ends_with(b"\r\n\r\n") {
                    heard.push(stream.read_u8().await?);
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await?;
                // No timer is as fine as that.
                let closes = Instant::now() + Duration::from_micros(number * 7 % 1000);
                while Instant::now() < closes {
                    tokio::task::yield_now().await;
                }
                std::io::Result::Ok(())
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_meets_the_end_of_a_kept_connection_is_answered_and_a_harmless_one_by_the_application() {
    let mut pair = HttpPair::start(&["allow web api"]).await;
    pair.api.snapshot.locals.get_mut(&service_key("api")).unwrap()[0].port = start_curt().await;
    pair.api.publish().await;
    let mut requests = over_http1(pair.dial("web", None).await).await;
    for method in [Method::GET, Method::POST] {
        for number in 0..1500 {
            requests.ready().await.unwrap();
            let mut request = get("/", &[("host", "api")]);
            *request.method_mut() = method.clone();
            let asked = requests.send_request(request);
            let answer = tokio::time::timeout(DEADLINE, asked).await;
            let heard = hear(answer.unwrap_or_else(|_| panic!("{method} {number} is not answered")).unwrap()).await;
            let why = heard.headers.get("x-weft-refused").map(http::HeaderValue::as_bytes);
            match heard.status {
                StatusCode::OK => {}
                status => assert_eq!(
                    (&method, status, why),
                    (&Method::POST, StatusCode::BAD_GATEWAY, Some(&b"no_http1_answer"[..])),
                    "{number}"
                ),
            }
        }
    }
}
