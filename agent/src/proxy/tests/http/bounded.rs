//! What a caller allows itself: connections, calls that wait, and the time until an answer begins.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use catalog::{CallLimits, RetryOn, RetryRule, RouteDestination, UpstreamSettings};
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;

use super::traffic::{route, serve_too, settle, status_of};
use super::upgrading::WEBSOCKET;
use super::{Application, Heard, HttpPair, get, hear};
use crate::proxy::tests::agents::{DEADLINE, Pair, endpoint, eventually, say};
use crate::proxy::tests::certificates::service_key;

/// How long an attempt takes at least, and how long all of them may.
const EACH: Duration = Duration::from_millis(400);
const ALL: Duration = Duration::from_millis(1_000);

fn limited(limits: CallLimits) -> UpstreamSettings {
    // So long that nothing fails for the time it takes.
    UpstreamSettings { limits: Some(limits), passive: None, connect_timeout_ms: Some(120_000) }
}

#[track_caller]
fn check_refused(heard: &Heard, status: StatusCode, label: &str) {
    let said = heard.headers.get("x-weft-refused").map(|value| value.to_str().unwrap());
    assert_eq!((heard.status, said), (status, Some(label)));
}

/// An application that takes its time, and then fails.
async fn slow_to_fail() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(async |_request| {
                tokio::time::sleep(EACH).await;
                Ok::<_, Infallible>(Response::builder().status(503).body(Full::<Bytes>::default()).unwrap())
            });
            tokio::spawn(async move {
                let server = auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_time_until_an_answer_begins_is_that_of_all_attempts_together() {
    let mut pair = HttpPair::start(&["allow web api"]).await;
    let mut agents = Vec::new();
    for _ in 0..4 {
        let application = slow_to_fail().await;
        agents.push(serve_too(&mut pair, "api", application).await);
    }
    pair.web.snapshot.endpoints.get_mut(&service_key("api")).unwrap().remove(0);
    let retry = RetryRule { attempts: 3, on: [RetryOn::ServerError].into(), on_status: [].into() };
    let timeout = Some(u64::try_from(ALL.as_millis()).unwrap());
    // Each of the four would be answered in time.
    route(
        &mut pair,
        RouteDestination { request_timeout_ms: timeout, retry: Some(retry), ..RouteDestination::default() },
    )
    .await;
    let before = Instant::now();
    let heard = hear(pair.http1().await.send_request(get("/", &[("host", "api")])).await.unwrap()).await;
    check_refused(&heard, StatusCode::GATEWAY_TIMEOUT, "request_timeout");
    assert!(before.elapsed() >= ALL, "{:?}", before.elapsed());
    let grpc = get("http://api/x.Y/Z", &[("content-type", "application/grpc")]);
    let heard = hear(pair.http2().await.send_request(grpc).await.unwrap()).await;
    check_refused(&heard, StatusCode::OK, "request_timeout");
    assert_eq!(heard.headers["grpc-status"], "4");
    assert_eq!(pair.web.refused("outbound", "open", "request_timeout"), 2);

    // Without it the last of them says how it went.
    route(&mut pair, RouteDestination::default()).await;
    assert_eq!(status_of(&pair).await, StatusCode::SERVICE_UNAVAILABLE);
}

/// Has `web` know of an instance of `api` whose connections are taken and where nobody ever says a word, and give requests so
/// long.
async fn with_a_silent_instance(pair: &mut HttpPair, request_timeout: Duration) -> TcpListener {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let instance = endpoint("api", address, address);
    pair.web.snapshot.endpoints.get_mut(&service_key("api")).unwrap().push(instance);
    let request_timeout_ms = Some(u64::try_from(request_timeout.as_millis()).unwrap());
    route(pair, RouteDestination { request_timeout_ms, ..RouteDestination::default() }).await;
    silent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_is_not_reached_is_put_aside_however_short_the_time_of_a_request() {
    // There is time for another one.
    let mut pair = HttpPair::start(&["allow web api"]).await;
    let _silent = with_a_silent_instance(&mut pair, Duration::from_secs(10)).await;
    let deadline = Instant::now() + 2 * DEADLINE;
    while pair.web.ejected("unreachable") == 0 {
        assert!(Instant::now() < deadline, "the silent one is never put aside");
        assert_eq!(status_of(&pair).await, StatusCode::OK);
    }
    // There is none, and yet it is seen.
    let mut pair = HttpPair::start(&["allow web api"]).await;
    let _silent = with_a_silent_instance(&mut pair, Duration::from_millis(500)).await;
    let deadline = Instant::now() + DEADLINE;
    while pair.web.ejected("unreachable") == 0 {
        assert!(Instant::now() < deadline, "what was not reached is asked again and again");
        status_of(&pair).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_connections_as_the_caller_allows_itself_are_open_at_once() {
    let mut pair = Pair::start(&["allow web api"]).await;
    let one = limited(CallLimits { connections_max: Some(1), ..CallLimits::default() });
    pair.web.snapshot.settings.insert((service_key("web"), service_key("api")), one.clone());
    pair.web.publish().await;
    let mut held = pair.connected().await;
    pair.web.expect_refusal().await;
    assert_eq!(pair.web.refused("outbound", "choose", "too_many_connections"), 1);
    say(&mut held, "still here").await;
    drop(held);
    eventually("the place to be free", || pair.web.proxy.open_streams() == 0).await;
    pair.connected().await;

    // A request that changes the protocol is a connection from then on; others are none.
    let mut pair = HttpPair::start(&["allow web api"]).await;
    settle(&mut pair, one).await;
    let mut requests = pair.http1().await;
    let mut answer = requests.send_request(get("/chat", &WEBSOCKET)).await.unwrap();
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    let changed = hyper::upgrade::on(&mut answer).await.unwrap();
    let heard = hear(pair.http1().await.send_request(get("/chat", &WEBSOCKET)).await.unwrap()).await;
    check_refused(&heard, StatusCode::SERVICE_UNAVAILABLE, "too_many_connections");
    assert_eq!(status_of(&pair).await, StatusCode::OK);
    drop(changed);
    let deadline = Instant::now() + DEADLINE;
    while pair.http1().await.send_request(get("/chat", &WEBSOCKET)).await.unwrap().status() != 101 {
        assert!(Instant::now() < deadline, "the place is not free again");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_calls_as_the_caller_allows_itself_wait_for_a_tunnel() {
    let mut pair = HttpPair::start(&["allow web api"]).await;
    // An agent that takes connections and says nothing.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = silent.local_addr().unwrap().port();
    pair.web.snapshot.endpoints.get_mut(&service_key("api")).unwrap()[0].mesh_port = Some(port);
    let one = limited(CallLimits { pending_max: Some(1), ..CallLimits::default() });
    settle(&mut pair, one.clone()).await;
    let mut first = pair.http1().await;
    let waiting = tokio::spawn(async move { first.send_request(get("/", &[("host", "api")])).await });
    let (silence, _) = silent.accept().await.unwrap();
    let second = hear(pair.http1().await.send_request(get("/", &[("host", "api")])).await.unwrap()).await;
    check_refused(&second, StatusCode::SERVICE_UNAVAILABLE, "too_many_pending");
    assert_eq!(pair.web.refused("outbound", "choose", "too_many_pending"), 1);

    // Its place is free once it waits no longer, and whoever finds a tunnel takes none.
    drop((silent, silence));
    let first = hear(waiting.await.unwrap().unwrap()).await;
    assert_eq!(first.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_ne!(first.headers["x-weft-refused"], "too_many_pending");
    let application = Application::start().await;
    pair.web.snapshot.endpoints.clear();
    let _other = serve_too(&mut pair, "api", application.address).await;
    settle(&mut pair, one).await;
    assert_eq!(status_of(&pair).await, StatusCode::OK);
    let none = CallLimits { pending_max: Some(0), ..CallLimits::default() };
    settle(&mut pair, limited(none)).await;
    assert_eq!(status_of(&pair).await, StatusCode::OK);
}
