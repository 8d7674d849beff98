//! Stopping without breaking what is in flight.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::agents::{DEADLINE, Pair, eventually, expect_reset, say};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_the_called_side_finishes_what_is_in_flight() {
    let pair = Pair::start(&["allow web api"]).await;
    let mut stream = pair.connected().await;
    let Pair { api, web, .. } = &pair;
    let draining = async {
        assert!(api.proxy.drain(Duration::from_secs(60)).await, "everything finished");
    };
    let calling = async {
        // The listener is closed; what is open goes on, and then ends in order.
        let mesh = api.proxy.mesh_address();
        let closed = async { while TcpStream::connect(mesh).await.is_ok() {} };
        tokio::time::timeout(DEADLINE, closed).await.expect("no new callers");
        web.expect_refusal_soon().await;
        say(&mut stream, "the end").await;
        stream.shutdown().await.unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, ".");
    };
    tokio::time::timeout(DEADLINE, async { tokio::join!(draining, calling) }).await.expect("drained in time");
    assert_eq!(api.proxy.open_streams(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_the_calling_side_finishes_what_is_in_flight() {
    let pair = Pair::start(&["allow web api"]).await;
    let mut stream = pair.connected().await;
    let upstream = pair.web.upstream();
    let draining = async {
        assert!(pair.web.proxy.drain(Duration::from_secs(60)).await, "everything finished");
    };
    let calling = async {
        let closed = async { while TcpStream::connect(upstream).await.is_ok() {} };
        tokio::time::timeout(DEADLINE, closed).await.expect("no new connections");
        say(&mut stream, "the end").await;
        stream.shutdown().await.unwrap();
        stream.read_to_end(&mut Vec::new()).await.unwrap();
    };
    tokio::time::timeout(DEADLINE, async { tokio::join!(draining, calling) }).await.expect("drained in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_finish_is_cut_at_the_deadline() {
    let pair = Pair::start(&["allow web api"]).await;
    let mut stream = pair.connected().await;
    assert!(!pair.api.proxy.drain(Duration::from_millis(50)).await);
    expect_reset(&mut stream).await;
    eventually("the cut is counted", || pair.api.closed("inbound", "cut") == 1).await;

    let pair = Pair::start(&["allow web api"]).await;
    let mut stream = pair.connected().await;
    assert!(!pair.web.proxy.drain(Duration::from_millis(50)).await);
    expect_reset(&mut stream).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_proxy_drains_at_once() {
    let pair = Pair::start(&["allow web api"]).await;
    let mut stream = pair.connected().await;
    stream.write_all(b"x").await.unwrap();
    drop(stream);
    eventually("nothing is open", || pair.api.proxy.open_streams() == 0).await;
    let drained = tokio::time::timeout(DEADLINE, pair.api.proxy.drain(Duration::from_secs(60)));
    assert!(drained.await.expect("an idle tunnel does not hold it up"));
}
