//! How one side learns of the other's end, and what a side that does not read costs.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use catalog::Action;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::agents::{Agent, Pair, endpoint, eventually, expect_reset, say, until_stalled};
use super::certificates::Authority;

/// Starts a pair whose application is the test itself.
async fn pair_with_application() -> (Agent, Agent, TcpListener) {
    let authority = Authority::new("mesh.test");
    let application = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = application.local_addr().unwrap();
    let mut api = Agent::start(&authority);
    api.serve(&authority, "api", address);
    api.rule("api", Action::Deny, &["allow web api"]);
    api.publish().await;
    let mut web = Agent::start(&authority);
    web.call(&authority, "web", "api", &[endpoint("api", api.proxy.mesh_address(), address)]);
    web.publish().await;
    (web, api, application)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l6_a_reset_by_the_application_reaches_the_caller_as_a_reset() {
    let (web, _api, application) = pair_with_application().await;
    let mut caller = web.connect().await;
    let (stream, _) = application.accept().await.unwrap();
    stream.set_zero_linger().unwrap();
    drop(stream);
    expect_reset(&mut caller).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l6_a_reset_by_the_caller_reaches_the_application_as_a_reset() {
    let (web, api, application) = pair_with_application().await;
    let caller = web.connect().await;
    let (mut stream, _) = application.accept().await.unwrap();
    caller.set_zero_linger().unwrap();
    drop(caller);
    expect_reset(&mut stream).await;
    eventually("it is counted", || api.closed("inbound", "stream_reset") == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l6_a_reset_after_half_close_reaches_the_other_side() {
    let (web, _api, application) = pair_with_application().await;
    let mut caller = web.connect().await;
    let (mut stream, _) = application.accept().await.unwrap();
    caller.write_all(b"question").await.unwrap();
    caller.shutdown().await.unwrap();
    let mut heard = String::new();
    stream.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "question");
    stream.set_zero_linger().unwrap();
    drop(stream);
    expect_reset(&mut caller).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h8_readers_that_have_stalled_take_nothing_from_the_others() {
    let (web, _api, application) = pair_with_application().await;
    // Applications that write without end to callers that never read.
    let (mut stalled, written) = (Vec::new(), Arc::new(AtomicUsize::new(0)));
    for _ in 0..63 {
        let caller = web.connect().await;
        let (mut stream, _) = application.accept().await.unwrap();
        let written = Arc::clone(&written);
        let flooding = tokio::spawn(async move {
            let chunk = vec![7; 16 * 1024];
            while stream.write_all(&chunk).await.is_ok() {
                written.fetch_add(1, Ordering::SeqCst);
            }
        });
        stalled.push((caller, flooding));
    }
    let mut caller = web.connect().await;
    let (stream, _) = application.accept().await.unwrap();
    let echoing = tokio::spawn(async move {
        let (mut read, mut write) = stream.into_split();
        tokio::io::copy(&mut read, &mut write).await
    });
    until_stalled(&written, async || say(&mut caller, "still here").await).await;
    say(&mut caller, &"x".repeat(100_000)).await;
    assert_eq!(web.metric("weft_proxy_handshakes_total{direction=\"outbound\"}"), 1);
    echoing.abort();
    for (_, flooding) in stalled {
        flooding.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_small_writes_to_an_application_that_does_not_read_cost_nobody_the_tunnel() {
    let (web, _api, application) = pair_with_application().await;
    let mut other = web.connect().await;
    let (mut other_end, _) = application.accept().await.unwrap();
    let mut caller = web.connect().await;
    caller.set_nodelay(true).unwrap();
    let (mut stalled, _) = application.accept().await.unwrap();
    let total = 30_000;
    let writing = tokio::spawn(async move {
        for _ in 0..total {
            caller.write_all(b"x").await.unwrap();
        }
        caller
    });
    let caller = writing.await.unwrap();
    other.write_all(b"still here").await.unwrap();
    let mut heard = [0; 10];
    other_end.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"still here");
    let mut all = vec![0; total];
    stalled.read_exact(&mut all).await.unwrap();
    assert!(all.iter().all(|byte| *byte == b'x'));
    drop(caller);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_is_gone_leaves_nothing_behind() {
    let pair = Pair::start(&["allow web api"]).await;
    let stream: TcpStream = pair.connected().await;
    drop(stream);
    eventually("both sides have let go", || pair.web.proxy.open_streams() == 0 && pair.api.proxy.open_streams() == 0)
        .await;
}
