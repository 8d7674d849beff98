//! What passes, what is refused, and how bytes go.

use catalog::Action;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::agents::{Pair, eventually, say};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_allowed_call_is_carried_both_ways_with_half_close() {
    let pair = Pair::start(&["allow web api"]).await;
    let mut stream = pair.connected().await;
    stream.write_all(b"and the rest").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut heard = String::new();
    stream.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "and the rest.", "the application answers after its caller has finished");
    eventually("the connection is closed on both sides", || {
        pair.api.closed("inbound", "done") == 1 && pair.web.closed("outbound", "done") == 1
    })
    .await;
    assert_eq!(pair.api.metric("weft_proxy_sent_bytes_total{direction=\"inbound\"}"), 17);
    assert_eq!(pair.api.metric("weft_proxy_received_bytes_total{direction=\"inbound\"}"), 18);
    assert_eq!(pair.web.metric("weft_proxy_sent_bytes_total{direction=\"outbound\"}"), 17);
    assert_eq!(pair.web.metric("weft_proxy_received_bytes_total{direction=\"outbound\"}"), 18);
    assert_eq!((pair.api.proxy.open_streams(), pair.web.proxy.open_streams()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_a_call_is_refused_by_default_and_its_application_is_not_dialled() {
    let pair = Pair::start(&[]).await;
    pair.web.expect_refusal().await;
    assert_eq!(pair.echo.accepted(), 0);
    assert_eq!(pair.api.refused("inbound", "decide", "default_deny"), 1);
    assert_eq!(pair.web.refused("outbound", "open", "denied"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_without_a_policy_is_called_by_nobody() {
    let mut pair = Pair::start(&["allow web api"]).await;
    pair.api.snapshot.policies.clear();
    pair.api.publish().await;
    pair.web.expect_refusal().await;
    assert_eq!(pair.api.refused("inbound", "decide", "undecidable"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_identity_decides_and_not_the_address() {
    let pair = Pair::start(&["allow web api"]).await;
    let mesh = pair.api.proxy.mesh_address();
    let mut stream = pair.authority.dial("db", "api", mesh, &[]).await.unwrap();
    let mut heard = Vec::new();
    assert!(stream.read_to_end(&mut heard).await.is_err());
    assert_eq!(pair.api.refused("inbound", "decide", "default_deny"), 1);
    assert_eq!(pair.echo.accepted(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_mutual_tls_is_carried_and_decided_as_a_tunnel_is() {
    let mut pair = Pair::start(&["allow web api"]).await;
    let mesh = pair.api.proxy.mesh_address();
    for protocols in [&[][..], &[b"http/1.1".as_slice()], &[b"istio".as_slice(), b"http/1.0"]] {
        let mut stream = pair.authority.dial("web", "api", mesh, protocols).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "hello.", "{protocols:?}");
    }
    pair.api.rule("api", Action::Allow, &["deny web api"]);
    pair.api.publish().await;
    let mut stream = pair.authority.dial("web", "api", mesh, &[]).await.unwrap();
    assert!(stream.read_to_end(&mut Vec::new()).await.is_err());
    assert_eq!(pair.api.refused("inbound", "decide", "intention"), 1);
    assert_eq!(pair.echo.accepted(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_connections_cost_one_handshake() {
    let pair = Pair::start(&["allow web api"]).await;
    let mut streams = Vec::new();
    for _ in 0..50 {
        streams.push(pair.connected().await);
    }
    // The other half at once, before it is known how long the tunnel takes.
    let together: Vec<_> = (0..50).map(|_| pair.connected()).collect();
    streams.extend(futures_util::future::join_all(together).await);
    for stream in &mut streams {
        say(stream, "again").await;
    }
    assert_eq!(pair.web.metric("weft_proxy_handshakes_total{direction=\"outbound\"}"), 1);
    assert_eq!(pair.api.metric("weft_proxy_handshakes_total{direction=\"inbound\"}"), 1);
    assert_eq!(pair.api.proxy.status().inbound_streams, 100);
    // The next one finds no place.
    streams.push(pair.connected().await);
    assert_eq!(pair.web.proxy.status().outbound_tunnels, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_come_while_a_tunnel_is_opened_wait_for_it() {
    let pair = Pair::start(&["allow web api"]).await;
    let together: Vec<_> = (0..60).map(|_| pair.connected()).collect();
    let streams = futures_util::future::join_all(together).await;
    assert_eq!(streams.len(), 60);
    assert_eq!(pair.web.metric("weft_proxy_handshakes_total{direction=\"outbound\"}"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_streams_arrive_whole_in_both_directions_at_once() {
    let pair = Pair::start(&["allow web api"]).await;
    let sent: Vec<u8> = (0..6_000_000_u32).map(|index| (index % 251) as u8).collect();
    let expected = sent.clone();
    let (mut read, mut write) = pair.web.connect().await.into_split();
    let writing = tokio::spawn(async move {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut heard = Vec::new();
    read.read_to_end(&mut heard).await.unwrap();
    writing.await.unwrap();
    assert_eq!(heard.pop(), Some(b'.'));
    assert!(heard == expected, "{} bytes of {}", heard.len(), expected.len());
}
