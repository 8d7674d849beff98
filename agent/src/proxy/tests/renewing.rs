//! Leaves end and are renewed while tunnels are open.

use std::time::Duration;

use super::agents::{Pair, eventually, say};
use super::certificates::service_key;

const LONGER_THAN_A_LEAF: Duration = Duration::from_secs(25 * 3600);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_leaf_of_the_caller_gets_a_new_tunnel_and_the_old_one_drains() {
    let mut pair = Pair::start(&["allow web api"]).await;
    let mut old = pair.connected().await;
    pair.web.snapshot.identities.insert(service_key("web"), pair.authority.leaf("web"));
    pair.web.publish().await;
    let mut new = pair.connected().await;
    assert_eq!(pair.web.proxy.status().outbound_tunnels, 2);
    say(&mut old, "still here").await;
    drop(old);
    eventually("the old tunnel is gone", || {
        pair.web.proxy.status().outbound_tunnels == 1 && pair.api.proxy.status().inbound_tunnels == 1
    })
    .await;
    say(&mut new, "here to stay").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_leaf_of_the_destination_gets_a_new_tunnel_and_the_old_one_drains() {
    let mut pair = Pair::start(&["allow web api"]).await;
    let mut old = pair.connected().await;
    pair.api.snapshot.identities.insert(service_key("api"), pair.authority.leaf("api"));
    pair.api.publish().await;
    let mut new = pair.connected().await;
    // The old tunnel may take streams until the news of its end has come over.
    for _ in 0..1000 {
        if pair.web.metric("weft_proxy_handshakes_total{direction=\"outbound\"}") == 2 {
            break;
        }
        new = pair.connected().await;
    }
    assert_eq!(pair.web.metric("weft_proxy_handshakes_total{direction=\"outbound\"}"), 2);
    say(&mut old, "still here").await;
    say(&mut new, "here to stay").await;
    drop(old);
    eventually("the old tunnel is gone", || pair.web.proxy.status().outbound_tunnels == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_with_the_same_leaves_keeps_the_tunnels() {
    let mut pair = Pair::start(&["allow web api"]).await;
    let mut stream = pair.connected().await;
    pair.web.publish().await;
    pair.api.publish().await;
    // Not even the trust anchors, read anew, make a difference.
    pair.api.snapshot.anchors = pair.authority.anchors();
    pair.api.publish().await;
    pair.connected().await;
    say(&mut stream, "still").await;
    assert_eq!(pair.web.metric("weft_proxy_handshakes_total{direction=\"outbound\"}"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_leaf_of_the_caller_opens_no_new_stream_on_an_old_tunnel() {
    let pair = Pair::start(&["allow web api"]).await;
    let mut old = pair.connected().await;
    pair.api.put_clock_forward(LONGER_THAN_A_LEAF);
    pair.web.expect_refusal().await;
    assert_eq!(pair.api.refused("inbound", "decide", "peer_leaf_expired"), 1);
    say(&mut old, "expiry alone closes nothing").await;
    pair.api.publish().await;
    say(&mut old, "nor does a new snapshot").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_own_expired_leaf_calls_nobody_and_closes_nothing() {
    let pair = Pair::start(&["allow web api"]).await;
    let mut old = pair.connected().await;
    pair.web.put_clock_forward(LONGER_THAN_A_LEAF);
    pair.web.expect_refusal().await;
    assert_eq!(pair.web.refused("outbound", "identify", "own_leaf_expired"), 1);
    say(&mut old, "still here").await;
}
