//! The loopback listeners of upstreams, and the proxy's own threads.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};

use super::agents::{Agent, Pair, say};
use super::certificates::service_key;
use crate::metrics::Metrics;
use crate::proxy::{Limits, Proxy, ProxyConfig, UpstreamListener};

fn listener(destination: &str, address: SocketAddr) -> UpstreamListener {
    UpstreamListener { owner: service_key("web"), destination: service_key(destination), address }
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
    TcpStream::connect(address).await.unwrap();
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
async fn a_proxy_on_threads_of_its_own_carries_and_stops() {
    let pair = Pair::start(&["allow web api"]).await;
    let proxy = Proxy::start(ProxyConfig {
        mesh_listener: std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(),
        own_listeners: Vec::new(),
        runtime: None,
        limits: Limits::default(),
        clock: Arc::new(wire::crypto::now),
        metrics: Metrics::new().proxy,
    })
    .unwrap();
    proxy.publish(Arc::new(pair.web.snapshot.clone()));
    let address = proxy.settled().await[0].outcome.clone().unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    say(&mut stream, "hello").await;
    drop(stream);
    assert!(proxy.drain(std::time::Duration::from_secs(60)).await);
    drop(proxy);
    assert!(TcpStream::connect(address).await.is_err());
}
