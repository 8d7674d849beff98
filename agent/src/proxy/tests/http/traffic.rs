//! What becomes of requests between their caller and an instance: limits, ejections, rates, copies, faults, time.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use catalog::{
    AbortFault, Action, Balance, CallLimits, ConfigContent, ConfigEntries, ConfigEntry, DelayFault, Effect, Fault,
    Mirror, PassiveHealthCheck, Permission, Policy, Protocol, Rate, RateLimit, RateLimits, RouteDestination,
    RouteMatch, RouteRule, ServiceDefaults, ServiceResolver, ServiceRouter, UpstreamSettings,
};
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;

use super::{Application, HttpPair, asking, get, hear};
use crate::proxy::tests::agents::{Agent, DEADLINE, endpoint, eventually, intention};
use crate::proxy::tests::certificates::{Authority, service_key};

/// An application that answers with a status of choice.
struct Moody {
    address: SocketAddr,
    status: Arc<AtomicU16>,
    asked: Arc<AtomicUsize>,
}

impl Moody {
    async fn start(status: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (status, asked) = (Arc::new(AtomicU16::new(status)), Arc::new(AtomicUsize::new(0)));
        let (mood, count) = (Arc::clone(&status), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (mood, count) = (Arc::clone(&mood), Arc::clone(&count));
                let service = service_fn(move |_request| {
                    count.fetch_add(1, Ordering::SeqCst);
                    let status = mood.load(Ordering::SeqCst);
                    async move {
                        Ok::<_, Infallible>(Response::builder().status(status).body(Full::<Bytes>::default()).unwrap())
                    }
                });
                tokio::spawn(async move {
                    let server = auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, status, asked }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// Starts an agent with an instance of a service that everybody may call over HTTP; `web` knows of it.
pub(super) async fn serve_too(pair: &mut HttpPair, service: &str, application: SocketAddr) -> Agent {
    let agent = serve(&pair.authority, service, application).await;
    let endpoint = endpoint(service, agent.proxy.mesh_address(), application);
    pair.web.snapshot.endpoints.entry(service_key(service)).or_default().push(endpoint);
    pair.web.snapshot.protocols.insert(service_key(service), Protocol::Http);
    agent
}

async fn serve(authority: &Authority, service: &str, application: SocketAddr) -> Agent {
    let mut agent = Agent::start(authority);
    agent.serve(authority, service, application);
    agent.rule(service, Action::Deny, &[&format!("allow web {service}")]);
    agent.snapshot.protocols.insert(service_key(service), Protocol::Http);
    agent.publish().await;
    agent
}

/// Has every request to `api` take this route, and its instances be asked in turn.
pub(super) async fn route(pair: &mut HttpPair, to: RouteDestination) {
    let router =
        ServiceRouter { service: service_key("api"), routes: vec![RouteRule { matches: RouteMatch::default(), to }] };
    let http = |name: &str| {
        let defaults = ServiceDefaults::new(service_key(name));
        ConfigContent::ServiceDefaults(ServiceDefaults { protocol: Some(Protocol::Http), ..defaults })
    };
    let balance = Some(Balance::RoundRobin);
    let resolver = ServiceResolver { balance, ..ServiceResolver::new(service_key("api")) };
    let entries =
        [http("api"), http("shadow"), ConfigContent::ServiceRouter(router), ConfigContent::ServiceResolver(resolver)];
    let entries: ConfigEntries = entries.into_iter().map(|content| Arc::new(ConfigEntry::new(content))).collect();
    let routes = entries.routes_of(&service_key("api")).unwrap();
    pair.web.snapshot.routes.insert(service_key("api"), Arc::new(routes));
    pair.web.publish().await;
}

/// Has `web` call `api` so.
pub(super) async fn settle(pair: &mut HttpPair, settings: UpstreamSettings) {
    pair.web.snapshot.settings.insert((service_key("web"), service_key("api")), settings);
    pair.web.publish().await;
}

/// Asks `api` for `/`.
pub(super) async fn status_of(pair: &HttpPair) -> StatusCode {
    hear(pair.http1().await.send_request(get("/", &[("host", "api")])).await.unwrap()).await.status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_fails_is_ejected_and_comes_back() {
    let mut pair = HttpPair::start(&["allow web api"]).await;
    let moody = Moody::start(500).await;
    let _second = serve_too(&mut pair, "api", moody.address).await;
    let passive = PassiveHealthCheck {
        max_failures: Some(3),
        base_ejection_ms: Some(3_000),
        max_ejection_percent: Some(50),
        ..PassiveHealthCheck::default()
    };
    route(&mut pair, RouteDestination::default()).await;
    settle(&mut pair, UpstreamSettings { limits: None, passive: Some(passive), connect_timeout_ms: None }).await;
    let before = Instant::now();
    let mut failures = 0;
    for _ in 0..60 {
        failures += usize::from(status_of(&pair).await.is_server_error());
    }
    if before.elapsed() < Duration::from_secs(3) {
        assert_eq!((failures, moody.asked()), (3, 3), "three in a row, and then no more");
    }
    assert!(pair.web.ejected("failures") >= 1);
    moody.status.store(200, Ordering::SeqCst);
    let asked = moody.asked();
    let deadline = Instant::now() + 2 * DEADLINE;
    while moody.asked() == asked {
        assert!(Instant::now() < deadline, "it did not come back");
        assert_eq!(status_of(&pair).await, StatusCode::OK);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_instance_is_never_ejected() {
    let mut pair = HttpPair::start(&["allow web api"]).await;
    let moody = Moody::start(503).await;
    let _second = serve_too(&mut pair, "api", moody.address).await;
    pair.web.snapshot.endpoints.get_mut(&service_key("api")).unwrap().remove(0);
    let passive = PassiveHealthCheck { max_failures: Some(1), ..PassiveHealthCheck::default() };
    settle(&mut pair, UpstreamSettings { limits: None, passive: Some(passive), connect_timeout_ms: None }).await;
    for _ in 0..5 {
        assert_eq!(status_of(&pair).await, StatusCode::SERVICE_UNAVAILABLE);
    }
    assert_eq!((moody.asked(), pair.web.ejected("failures")), (5, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_requests_as_the_caller_allows_itself_are_open_at_once() {
    let mut pair = HttpPair::start(&["allow web api"]).await;
    let limits = CallLimits { requests_max: Some(1), ..CallLimits::default() };
    settle(&mut pair, UpstreamSettings { limits: Some(limits), passive: None, connect_timeout_ms: None }).await;
    let (request, speaker) = asking(Method::POST, "/", &[("host", "api")]);
    let mut requests = pair.http1().await;
    let (answer, ()) = tokio::join!(requests.send_request(request), speaker.say("held"));
    let held = answer.unwrap();
    let refused = hear(pair.http1().await.send_request(get("/", &[("host", "api")])).await.unwrap()).await;
    assert_eq!(
        (refused.status, refused.headers["x-weft-refused"].to_str().unwrap()),
        (StatusCode::SERVICE_UNAVAILABLE, "too_many_requests")
    );
    assert_eq!(pair.web.refused("outbound", "choose", "too_many_requests"), 1);
    drop(speaker);
    assert_eq!(held.into_body().collect().await.unwrap().to_bytes(), "held");
    let deadline = Instant::now() + DEADLINE;
    while status_of(&pair).await != StatusCode::OK {
        assert!(Instant::now() < deadline, "the place is not free again");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_asks_too_much_is_told_when_to_ask_again() {
    let mut pair = HttpPair::start(&["allow web api"]).await;
    let rate = Rate { per_second: 1, burst: Some(2) };
    let source = Some(RateLimit { general: Some(rate), routes: vec![] });
    pair.api.snapshot.rate_limits.insert(service_key("api"), RateLimits { instance: None, source });
    pair.api.publish().await;
    let mut statuses = Vec::new();
    let mut requests = pair.http2().await;
    for _ in 0..6 {
        let heard = hear(requests.send_request(get("http://api/", &[])).await.unwrap()).await;
        if heard.status == StatusCode::TOO_MANY_REQUESTS {
            assert_eq!(heard.headers["x-weft-refused"], "rate_limited");
            assert_eq!(heard.headers["retry-after"], "1");
        }
        statuses.push(heard.status.as_u16());
    }
    assert_eq!((&statuses[..2], statuses.contains(&429)), (&[200, 200][..], true), "{statuses:?}");
    // A publication of something else leaves the buckets as they are.
    pair.api.publish().await;
    let grpc = get("http://api/", &[("content-type", "application/grpc")]);
    let heard = hear(requests.send_request(grpc).await.unwrap()).await;
    if heard.headers.contains_key("x-weft-refused") {
        assert_eq!(heard.headers["grpc-status"], "8");
    }
    let denied = pair.api.refused("inbound", "decide", "rate_limited");
    pair.rule(&["deny web api"]).await;
    let heard = hear(requests.send_request(get("http://api/", &[])).await.unwrap()).await;
    assert_eq!((heard.status, pair.api.refused("inbound", "decide", "rate_limited")), (StatusCode::FORBIDDEN, denied));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_go_elsewhere_marked_and_nobody_waits_for_their_answers() {
    let mut pair = HttpPair::start(&["allow web api"]).await;
    let shadow = Application::start().await;
    let mut other = serve_too(&mut pair, "shadow", shadow.address).await;
    let mirror = |share| Some(Mirror { service: Some(service_key("shadow")), subset: None, share });
    route(&mut pair, RouteDestination { mirror: mirror(10_000), ..RouteDestination::default() }).await;
    let forged = [("host", "api"), ("x-weft-mirrored", "1")];
    let (request, speaker) = asking(Method::POST, "/paid?x=1", &forged);
    let mut requests = pair.http1().await;
    let (answer, ()) = tokio::join!(requests.send_request(request), async move {
        speaker.say("some").await;
        speaker.say("thing").await;
    });
    let heard = hear(answer.unwrap()).await;
    assert_eq!((heard.status, heard.body.as_ref()), (StatusCode::OK, &b"something"[..]));
    let answered = |outcome: &str| format!("weft_proxy_requests_mirrored_total{{outcome=\"{outcome}\"}}");
    eventually("the copy to be answered", || pair.web.metric(&answered("answered")) == 1).await;
    let copy = &shadow.asked()[0];
    assert_eq!((copy.target.as_str(), copy.header("x-weft-mirrored")), ("/paid?x=1", "1"));
    let own = &pair.application.asked()[0];
    assert_eq!(own.header("x-weft-mirrored"), "", "nobody else says so");
    assert_eq!(own.header("x-request-id"), copy.header("x-request-id"), "both are the same request");

    // One that is refused, or too large, holds nothing up and harms nobody.
    other.rule("shadow", Action::Deny, &[]);
    other.publish().await;
    assert_eq!(status_of(&pair).await, StatusCode::OK);
    eventually("the refused copy to be over", || pair.web.metric(&answered("answered")) == 2).await;
    assert_eq!(shadow.asked().len(), 1);
    other.rule("shadow", Action::Deny, &["allow web shadow"]);
    other.publish().await;
    let (request, speaker) = asking(Method::POST, "/large", &[("host", "api")]);
    let mut requests = pair.http1().await;
    let (answer, ()) = tokio::join!(requests.send_request(request), async move {
        for _ in 0..10 {
            speaker.say(vec![b'x'; 64 * 1024]).await;
        }
    });
    assert_eq!(hear(answer.unwrap()).await.body.len(), 640 * 1024);
    eventually("the copy to be cut short", || pair.web.metric(&answered("failed")) == 1).await;
    route(&mut pair, RouteDestination { mirror: mirror(1), ..RouteDestination::default() }).await;
    assert_eq!(status_of(&pair).await, StatusCode::OK);
    assert!(shadow.asked().len() <= 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_fail_and_wait_on_purpose_where_a_route_says_so() {
    let mut pair = HttpPair::start(&["allow web api"]).await;
    let delay = Some(DelayFault { delay_ms: 200, share: 10_000 });
    let to = |fault| RouteDestination { fault: Some(fault), ..RouteDestination::default() };
    route(&mut pair, to(Fault { delay, abort: None })).await;
    let before = Instant::now();
    assert_eq!(status_of(&pair).await, StatusCode::OK);
    assert!(before.elapsed() >= Duration::from_millis(200));
    let abort = Some(AbortFault { status: 451, share: 5_000 });
    route(&mut pair, to(Fault { delay: None, abort })).await;
    let (mut aborted, asked) = (0, pair.application.asked().len());
    for _ in 0..100 {
        aborted += usize::from(status_of(&pair).await.as_u16() == 451);
    }
    assert!((20..80).contains(&aborted), "{aborted} of a hundred");
    assert_eq!(pair.application.asked().len() - asked, 100 - aborted, "what fails on purpose goes nowhere");
    assert_eq!(pair.web.refused("outbound", "choose", "fault"), aborted as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_request_ends_with_the_time_that_its_permission_counts_in() {
    let mut pair = HttpPair::start(&[]).await;
    let minute = wire::crypto::now().0 / 60_000 % (24 * 60);
    let clock = |minute: u64| format!("{:02}:{:02}", minute / 60 % 24, minute % 60);
    let window = serde_json::json!({"from": clock(minute), "until": clock(minute + 5)});
    let permissions = serde_json::json!([{"action": "allow", "http": {}, "times": window}]);
    let permissions: Vec<Permission> = serde_json::from_value(permissions).unwrap();
    let rule = catalog::Intention { effect: Effect::Permissions(permissions), ..intention("allow web api") };
    pair.api.snapshot.policies.insert(service_key("api"), Policy::new(Action::Deny, Vec::new(), vec![rule]));
    pair.api.publish().await;
    let (request, speaker) = asking(Method::POST, "http://api/", &[]);
    speaker.say("x").await;
    let mut requests = pair.http2().await;
    let mut answer = requests.send_request(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.body_mut().frame().await.unwrap().unwrap().into_data().unwrap(), "x");
    pair.api.put_clock_forward(Duration::from_secs(10 * 60));
    let rest = tokio::time::timeout(DEADLINE, answer.into_body().collect()).await.expect("closed in time");
    assert!(rest.is_err(), "the answer passes for whole");
    drop(speaker);
    let heard = hear(requests.send_request(get("http://api/", &[])).await.unwrap()).await;
    assert_eq!(heard.status, StatusCode::FORBIDDEN);
}
