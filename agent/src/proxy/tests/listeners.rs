//! The loopback listeners of upstreams, and the proxy's own threads.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use catalog::Action;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::agents::{Agent, Pair, endpoint, eventually, expect_reset, say};
use super::certificates::service_key;
use crate::metrics::Metrics;
use crate::proxy::{Limits, Proxy, ProxyConfig, UpstreamListener};

fn listener(destination: &str, address: SocketAddr) -> UpstreamListener {
    UpstreamListener { owner: service_key("web"), destination: service_key(destination), address, user: None }
}

fn failures(web: &Agent) -> Vec<String> {
    web.proxy.status().upstreams.into_iter().filter_map(|upstream| upstream.outcome.err()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l10_a_port_that_is_taken_costs_only_its_own_upstream_and_is_tried_again() {
    let mut pair = Pair::start(&["allow web api"]).await;
    let taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, taken.local_addr().unwrap().port()));
    pair.web.snapshot.upstreams.push(listener("db", address));
    pair.web.publish().await;
    let errors = failures(&pair.web);
    assert_eq!(errors.len(), 1, "{errors:?}");
    let wanted = format!("cannot listen on {address}, where `default/web` calls `default/db`");
    assert!(errors[0].starts_with(&wanted), "{errors:?}");
    assert_eq!(pair.web.metric("weft_proxy_upstreams_failed"), 1);
    pair.connected().await;

    drop(taken);
    pair.web.publish().await;
    assert!(failures(&pair.web).is_empty());
    assert_eq!(pair.web.metric("weft_proxy_upstreams_failed"), 0);
    let connected = TcpStream::connect(address).await;
    assert!(!connected.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused), "somebody listens");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l10_of_two_upstreams_with_one_address_the_second_is_refused_naming_both() {
    let mut pair = Pair::start(&["allow web api"]).await;
    pair.web.snapshot.upstreams.push(listener("db", pair.web.snapshot.upstreams[0].address));
    pair.web.publish().await;
    let errors = failures(&pair.web);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].contains("default/db") && errors[0].contains("default/api"), "{errors:?}");
    pair.connected().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l8_what_the_agent_dials_for_anybody_is_no_call_of_an_upstreams_user() {
    let mut pair = Pair::start(&["allow web api"]).await;
    // The processes here are of the agent's user, and so are its checks.
    pair.web.snapshot.upstreams[0].user = Some(rustix::process::geteuid().as_raw() + 1);
    pair.web.publish().await;
    pair.web.expect_refusal().await;
    assert_eq!(pair.web.refused("outbound", "identify", "other_user"), 1);
    assert_eq!(pair.echo.accepted(), 0);
    assert!(pair.web.proxy.leads_on(pair.web.upstream()), "and no check is made there");
    // The forward proxy has asked whose process it is.
    let (mut stream, place) = pair.web.proxy.forwarded().dial(pair.web.upstream()).await.unwrap();
    say(&mut stream, "hello").await;
    drop((stream, place));
    pair.web.expect_refusal().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_beyond_loopback_is_refused() {
    let mut pair = Pair::start(&[]).await;
    pair.web.snapshot.upstreams.push(listener("db", SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))));
    pair.web.publish().await;
    let errors = failures(&pair.web);
    assert!(errors.len() == 1 && errors[0].ends_with("is not loopback"), "{errors:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_come_and_go_with_snapshots_and_open_connections_stay() {
    let mut pair = Pair::start(&["allow web api"]).await;
    let mut stream = pair.connected().await;
    let first = pair.web.upstream();
    let upstreams = std::mem::take(&mut pair.web.snapshot.upstreams);
    pair.web.publish().await;
    assert!(TcpStream::connect(first).await.is_err());
    say(&mut stream, "still here").await;
    // The very port is free for whoever wants it next.
    pair.web.snapshot.upstreams = vec![UpstreamListener { address: first, ..upstreams[0].clone() }];
    pair.web.publish().await;
    assert_eq!(pair.web.upstream(), first);
    pair.connected().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l6_at_the_limit_of_connections_further_ones_wait_for_their_turn() {
    let limits = Limits { connections_max: 2, ..Limits::default() };
    let pair = Pair::start_with(&["allow web api"], limits).await;
    let (first, mut second) = (pair.connected().await, pair.connected().await);
    let mut third = pair.web.connect().await;
    third.write_all(b"hello").await.unwrap();
    say(&mut second, "the second is served").await;
    assert_eq!(pair.web.proxy.open_streams(), 2);
    drop(first);
    let mut heard = [0; 5];
    third.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hello");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l6_beyond_the_limit_of_streams_an_agent_sends_its_callers_elsewhere() {
    let mut pair = Pair::start(&["allow web api"]).await;
    let limits = Limits { streams_max: 1, ..Limits::default() };
    let mut small = Agent::start_with(&pair.authority, limits);
    small.serve(&pair.authority, "api", pair.echo.address);
    small.rule("api", Action::Deny, &["allow web api"]);
    small.publish().await;
    let here = endpoint("api", small.proxy.mesh_address(), pair.echo.address);
    pair.web.snapshot.endpoints.insert(service_key("api"), vec![here]);
    pair.web.publish().await;
    let mut first = pair.connected().await;
    pair.web.expect_refusal().await;
    assert_eq!(small.refused("inbound", "dial", "overloaded"), 1);
    assert_eq!(pair.web.refused("outbound", "open", "answered_503"), 1);
    say(&mut first, "still here").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_without_streams_is_closed_after_a_while() {
    let limits = Limits { tunnel_idle_max: Duration::from_millis(1), ..Limits::default() };
    let pair = Pair::start_with(&["allow web api"], limits).await;
    drop(pair.connected().await);
    eventually("both sides have closed it", || {
        pair.web.proxy.status().outbound_tunnels == 0 && pair.api.proxy.status().inbound_tunnels == 0
    })
    .await;
    pair.connected().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l6_a_half_closed_connection_may_not_be_silent_for_ever() {
    let limits = Limits { half_closed_silence_max: Duration::from_millis(100), ..Limits::default() };
    let mut pair = Pair::start_with(&["allow web api"], limits).await;
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let key = service_key("api");
    let port = silent.local_addr().unwrap().port();
    pair.api.snapshot.locals.get_mut(&key).unwrap()[0].port = port;
    pair.api.publish().await;
    pair.web.snapshot.endpoints.get_mut(&key).unwrap()[0].port = port;
    pair.web.publish().await;
    let mut stream = pair.web.connect().await;
    stream.write_all(b"question").await.unwrap();
    stream.shutdown().await.unwrap();
    expect_reset(&mut stream).await;
    eventually("counted", || pair.web.closed("outbound", "half_closed_silent") == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_on_threads_of_its_own_carries_and_stops() {
    let pair = Pair::start(&["allow web api"]).await;
    let proxy = Proxy::start(ProxyConfig {
        ingress: Vec::new(),
        mesh_listener: std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(),
        gateway_listener: None,
        own_listeners: Vec::new(),
        runtime: None,
        limits: Limits::default(),
        clock: Arc::new(wire::crypto::now),
        metrics: Metrics::new().proxy,
        access_log: None,
        tracing: None,
        kept_keys: None,
    })
    .unwrap();
    proxy.publish(Arc::new(pair.web.snapshot.clone()));
    let address = proxy.settled().await[0].outcome.clone().unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    say(&mut stream, "hello").await;
    drop(stream);
    assert!(proxy.drain(Duration::from_secs(60)).await);
    drop(proxy);
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_proxy_is_not_settled_before_its_listeners_follow() {
    let mut pair = Pair::start(&["allow web api"]).await;
    assert!(pair.web.proxy.status().is_settled);
    pair.web.snapshot.upstreams.push(listener("db", SocketAddr::from((Ipv4Addr::LOCALHOST, 0))));
    // On one thread, nothing follows before this test waits.
    pair.web.proxy.publish(Arc::new(pair.web.snapshot.clone()));
    assert!(!pair.web.proxy.status().is_settled);
    pair.web.proxy.settled().await;
    assert!(pair.web.proxy.status().is_settled);
}
