//! What is carried, and how it looks where it arrives.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use catalog::Protocol;
use http::header::{HeaderMap, HeaderValue};
use http::{Method, StatusCode, Version};
use http_body_util::BodyExt;
use tokio::net::TcpStream;

use super::{Asked, Heard, HttpPair, asking, get, hear, over_http1, over_http2};
use crate::proxy::http::tunnel_io::TunnelIo;
use crate::proxy::tests::agents::{Agent, Pair, endpoint, eventually, say};
use crate::proxy::tests::certificates::service_key;

/// Checks what the application was told of its caller.
#[track_caller]
fn check_introduced(asked: &Asked) {
    let certificate = "By=spiffe://mesh.test/ns/default/sa/api;URI=spiffe://mesh.test/ns/default/sa/web";
    assert_eq!(asked.header("x-forwarded-client-cert"), certificate);
    assert_eq!(asked.header("x-forwarded-for"), "127.0.0.1");
    assert_eq!(asked.header("x-request-id").len(), 36);
    assert!(asked.headers.keys().all(|name| !name.as_str().starts_with("x-weft-")), "{:?}", asked.headers);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_arrives_as_it_was_spoken_with_its_callers_name() {
    let pair = HttpPair::start(&["allow web api"]).await;
    let forged = [
        ("x-forwarded-client-cert", "URI=spiffe://mesh.test/ns/default/sa/admin"),
        ("x-forwarded-for", "10.9.9.9"),
        ("x-weft-port", "1"),
        ("x-mine", "kept"),
    ];
    let mut http1 = pair.http1().await;
    let mut lines = forged.to_vec();
    lines.push(("host", "api.example:80"));
    let heard = hear(http1.send_request(get("/one?x=1", &lines)).await.unwrap()).await;
    assert_eq!((heard.status, &heard.headers["x-from"]), (StatusCode::OK, &HeaderValue::from_static("application")));
    let mut http2 = pair.http2().await;
    let heard = hear(http2.send_request(get("http://api.example:80/two", &forged)).await.unwrap()).await;
    assert_eq!(heard.status, StatusCode::OK);

    let asked = pair.application.asked();
    asked.iter().for_each(check_introduced);
    assert_eq!((asked[0].version, asked[0].target.as_str()), (Version::HTTP_11, "/one?x=1"));
    assert_eq!((asked[0].header("host"), asked[0].header("x-mine")), ("api.example:80", "kept"));
    assert_eq!((asked[1].version, asked[1].target.as_str()), (Version::HTTP_2, "http://api.example:80/two"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_requests_cost_one_handshake_and_one_connection_to_the_application() {
    let pair = HttpPair::start(&["allow web api"]).await;
    let mut requests = pair.http1().await;
    for index in 0..1000 {
        requests.ready().await.unwrap();
        let heard = hear(requests.send_request(get(&format!("/{index}"), &[("host", "api")])).await.unwrap()).await;
        assert_eq!(heard.status, StatusCode::OK);
    }
    assert_eq!(pair.application.asked().len(), 1000);
    assert_eq!(pair.application.accepted(), 1);
    assert_eq!(pair.web.metric("weft_proxy_handshakes_total{direction=\"outbound\"}"), 1);
    eventually("nothing is left open", || pair.web.proxy.open_streams() == 0 && pair.api.proxy.open_streams() == 0)
        .await;
    assert_eq!(pair.api.closed("inbound", "done"), 1000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_stream_both_ways_before_either_has_ended_and_trailers_arrive() {
    let pair = HttpPair::start_with(&["allow web api"], Protocol::Grpc).await;
    let mut requests = pair.http2().await;
    let (request, body) = asking(Method::POST, "http://api/x.Y/Z", &[("te", "trailers")]);
    body.say("first").await;
    let response = requests.send_request(request).await.unwrap();
    let (_, mut answer) = response.into_parts();
    // Each word comes back before the next one is said.
    for word in ["first", "second", "third"] {
        let mut heard = Vec::new();
        while heard.len() < word.len() {
            heard.extend_from_slice(&answer.frame().await.unwrap().unwrap().into_data().unwrap());
        }
        assert_eq!(heard, word.as_bytes());
        match word {
            "first" => body.say("second").await,
            "second" => body.say("third").await,
            _ => {
                let trailers = HeaderMap::from_iter([(
                    http::HeaderName::from_static("x-asked"),
                    HeaderValue::from_static("whole"),
                )]);
                body.say_trailers(trailers).await;
            }
        }
    }
    let trailers = loop {
        let frame = answer.frame().await.unwrap().unwrap();
        if let Ok(trailers) = frame.into_trailers() {
            break trailers;
        }
    };
    assert_eq!(
        (&trailers["x-asked"], &trailers["x-echo"]),
        (&HeaderValue::from_static("whole"), &HeaderValue::from_static("whole"))
    );
    assert_eq!(pair.application.asked()[0].header("te"), "trailers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_arrive_whole_over_either_version() {
    let pair = HttpPair::start(&["allow web api"]).await;
    let sent: Bytes = (0..3_000_000_u32).map(|index| (index % 251) as u8).collect::<Vec<u8>>().into();
    for over_http2 in [false, true] {
        let (request, body) = asking(Method::POST, "http://api/", &[("host", "api")]);
        let whole = sent.clone();
        let saying = tokio::spawn(async move {
            for piece in whole.chunks(50_000) {
                body.say(Bytes::copy_from_slice(piece)).await;
            }
        });
        let response = if over_http2 {
            pair.http2().await.send_request(request).await.unwrap()
        } else {
            pair.http1().await.send_request(request).await.unwrap()
        };
        let heard = hear(response).await;
        saying.await.unwrap();
        assert!(heard.body == sent, "{} bytes of {}", heard.body.len(), sent.len());
    }
    let bytes = u64::try_from(sent.len()).unwrap();
    for way in ["sent", "received"] {
        for (agent, direction) in [(&pair.web, "outbound"), (&pair.api, "inbound")] {
            let metric = format!("weft_proxy_{way}_bytes_total{{direction=\"{direction}\"}}");
            assert_eq!(agent.metric(&metric), 2 * bytes, "{metric}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_carrier_ends_in_the_same_engine() {
    let pair = HttpPair::start(&["allow web api"]).await;
    // A request stream of a neighbour that is not weft.
    let mut tunnel = over_http2(pair.dial("web", Some(b"h2")).await).await;
    check_answered(hear(tunnel.send_request(get("http://api/stream", &[])).await.unwrap()).await);
    // A connection of its own, be it over HTTP/1.1 or, unannounced, HTTP/2.
    let mut plain = over_http1(pair.dial("web", Some(b"http/1.1")).await).await;
    check_answered(hear(plain.send_request(get("/plain", &[("host", "api")])).await.unwrap()).await);
    let mut plain = over_http2(pair.dial("web", None).await).await;
    check_answered(hear(plain.send_request(get("http://api/plain2", &[])).await.unwrap()).await);
    // A CONNECT stream, as of a ztunnel, whose bytes are requests.
    let stream = connect(&pair, "web", &pair.application.address.to_string()).await.unwrap();
    let mut inside = over_http1(stream).await;
    check_answered(hear(inside.send_request(get("/inside", &[("host", "api")])).await.unwrap()).await);

    let asked = pair.application.asked();
    asked.iter().for_each(check_introduced);
    let spoken: Vec<(&str, Version)> = asked.iter().map(|asked| (asked.target.as_str(), asked.version)).collect();
    assert_eq!(
        spoken,
        [
            ("http://api/stream", Version::HTTP_2),
            ("/plain", Version::HTTP_11),
            ("http://api/plain2", Version::HTTP_2),
            ("/inside", Version::HTTP_11),
        ]
    );
}

#[track_caller]
fn check_answered(heard: Heard) {
    assert_eq!((heard.status, heard.headers.get("x-from").is_some()), (StatusCode::OK, true), "{heard:?}");
}

/// Asks for a CONNECT stream; returns the status where it is refused.
pub(super) async fn connect(pair: &HttpPair, caller: &str, authority: &str) -> Result<TunnelIo, StatusCode> {
    let mesh = pair.api.proxy.mesh_address();
    let mut requests = pair.authority.tunnel(caller, "api", mesh).await;
    let mut request = http::Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = authority.parse().unwrap();
    let (answer, send) = requests.send_request(request, false).unwrap();
    let (head, receive) = answer.await.unwrap().into_parts();
    match head.status {
        StatusCode::OK => Ok(TunnelIo::new(crate::proxy::copy::TunnelStream { send, receive })),
        status => Err(status),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_speaks_only_http2_is_spoken_to_in_http2() {
    let pair = HttpPair::start_with(&["allow web api"], Protocol::Http2).await;
    let heard = hear(pair.http1().await.send_request(get("/", &[("host", "api")])).await.unwrap()).await;
    assert_eq!(heard.status, StatusCode::OK);
    let asked = pair.application.asked();
    assert_eq!((asked[0].version, asked[0].target.as_str()), (Version::HTTP_2, "http://api/"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_services_ports_are_told_apart_by_name() {
    let mut pair = HttpPair::start(&["allow web api"]).await;
    let admin = super::Application::start().await;
    let local = &mut pair.api.snapshot.locals.get_mut(&service_key("api")).unwrap()[0];
    local.ports.insert("admin".to_owned(), admin.address.port());
    pair.api.publish().await;
    let mut tunnel = over_http2(pair.dial("web", Some(b"h2")).await).await;
    let number = admin.address.port().to_string();
    for (port, status) in [("admin", 200), (number.as_str(), 200), ("http", 200), ("nothing", 400), ("1", 400)] {
        let heard = hear(tunnel.send_request(get("http://api/", &[("x-weft-port", port)])).await.unwrap()).await;
        assert_eq!(heard.status.as_u16(), status, "{port}");
    }
    assert_eq!((admin.asked().len(), pair.application.asked().len()), (2, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_of_a_tcp_service_stay_bytes_beside_requests() {
    // The same proxies, where one service is HTTP and the other is not.
    let mut pair = Pair::start(&["allow web api"]).await;
    let application = super::Application::start().await;
    pair.api.serve(&pair.authority, "shop", application.address);
    pair.api.rule("shop", catalog::Action::Deny, &["allow web shop"]);
    pair.api.snapshot.protocols.insert(service_key("shop"), Protocol::Http);
    pair.api.publish().await;
    let mut caller = Agent::start(&pair.authority);
    let mesh = pair.api.proxy.mesh_address();
    caller.call(&pair.authority, "web", "api", &[endpoint("api", mesh, pair.echo.address)]);
    caller.call(&pair.authority, "web", "shop", &[endpoint("shop", mesh, application.address)]);
    caller.snapshot.upstreams[1].address.set_ip([127, 0, 0, 2].into());
    caller.snapshot.protocols.insert(service_key("shop"), Protocol::Http);
    caller.publish().await;
    let mut stream = caller.connect().await;
    say(&mut stream, "GET / HTTP/1.1\r\n\r\n").await;
    let shop = *caller.proxy.status().upstreams[1].outcome.as_ref().unwrap();
    let mut requests = over_http1(TcpStream::connect(shop).await.unwrap()).await;
    check_answered(hear(requests.send_request(get("/", &[("host", "shop")])).await.unwrap()).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p6_no_request_fails_while_the_called_agent_takes_one_leaf_after_the_other() {
    const LEAVES: u64 = 40;
    let mut pair = HttpPair::start(&["allow web api"]).await;
    let (over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut callers = Vec::new();
    for number in 0..4 {
        let (mut sender, over, answered) = (pair.http1().await, Arc::clone(&over), Arc::clone(&answered));
        // Half of them have something to say, and are told it back.
        let said = vec![b'x'; number % 2 * 1024];
        callers.push(tokio::spawn(async move {
            while !over.load(Ordering::Relaxed) {
                sender.ready().await.unwrap();
                let (request, speaker) = asking(Method::POST, "/", &[("host", "api")]);
                let request = if said.is_empty() { get("/", &[("host", "api")]) } else { request };
                let (answer, ()) = tokio::join!(sender.send_request(request), async {
                    if !said.is_empty() {
                        speaker.say(said.clone()).await;
                    }
                    drop(speaker);
                });
                let heard = hear(answer.unwrap()).await;
                assert_eq!((heard.status, heard.body.len()), (StatusCode::OK, said.len()), "{:?}", heard.headers);
                answered.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    let handshakes = || pair.web.metric("weft_proxy_handshakes_total{direction=\"outbound\"}");
    for number in 1..=LEAVES {
        // All call under each before the next one comes.
        eventually("a tunnel under this leaf", || handshakes() >= number).await;
        let before = answered.load(Ordering::Relaxed);
        eventually("all to be answered", || answered.load(Ordering::Relaxed) >= before + 20).await;
        pair.api.snapshot.identities.insert(service_key("api"), pair.authority.leaf("api"));
        pair.api.publish().await;
    }
    over.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
}
