//! A new snapshot reaches what is open.

use std::time::Duration;

use catalog::{Action, CatalogIndex, KeyExchange, Timestamp};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wire::tls::{ExpectedPeer, PeerIdentity, SpiffeVerifier, TlsIdentity};

use super::agents::{DEADLINE, Pair, eventually, expect_reset, intention, say};
use super::certificates::{Authority, service_key};
use crate::proxy::Distrust;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_a_deny_closes_every_open_stream() {
    let mut pair = Pair::start(&["allow web api"]).await;
    let mut streams = Vec::new();
    for _ in 0..120 {
        streams.push(pair.connected().await);
    }
    let mesh = pair.api.proxy.mesh_address();
    let mut plain = pair.authority.dial("web", "api", mesh, &[]).await.unwrap();
    plain.write_all(b"hello").await.unwrap();
    plain.read_exact(&mut [0; 5]).await.unwrap();

    pair.api.rule("api", Action::Deny, &["deny web api"]);
    pair.api.publish().await;
    for stream in &mut streams {
        expect_reset(stream).await;
    }
    assert!(tokio::time::timeout(DEADLINE, plain.read(&mut [0])).await.unwrap().is_err());
    eventually("every stream is counted as closed by the intention", || {
        pair.api.closed("inbound", "intention") == 121 && pair.api.proxy.open_streams() == 0
    })
    .await;
    pair.web.expect_refusal().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_still_allows_a_stream_leaves_it_alone() {
    let mut pair = Pair::start(&["allow web api"]).await;
    let mut stream = pair.connected().await;
    pair.api.rule("api", Action::Deny, &["allow * api", "deny db api"]);
    pair.api.publish().await;
    pair.web.publish().await;
    say(&mut stream, "still").await;
    assert_eq!(pair.web.metric("weft_proxy_handshakes_total{direction=\"outbound\"}"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_ends_with_the_allow_that_let_it_in() {
    let mut pair = Pair::start(&[]).await;
    let mut allow = intention("allow web api");
    allow.expires_at = Some(Timestamp(wire::crypto::now().0 + 3_600_000));
    pair.api.snapshot.policies.get_mut(&service_key("api")).unwrap().intentions.push(allow);
    pair.api.publish().await;
    let mut stream = pair.connected().await;
    pair.api.put_clock_forward(Duration::from_secs(3601));
    expect_reset(&mut stream).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c14_a_revoked_caller_is_cut_off_and_stays_out() {
    let mut pair = Pair::start(&["allow web api"]).await;
    let mut stream = pair.connected().await;
    pair.api.snapshot.revocations.records.insert(CatalogIndex(7));
    pair.api.publish().await;
    expect_reset(&mut stream).await;
    pair.web.expect_refusal().await;
    eventually("the refusal is counted", || pair.api.refused("inbound", "handshake", "revoked") >= 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c14_the_calling_side_cuts_off_a_revoked_destination_too() {
    let mut pair = Pair::start(&["allow web api"]).await;
    let mut stream = pair.connected().await;
    pair.web.snapshot.revocations.records.insert(CatalogIndex(7));
    pair.web.publish().await;
    expect_reset(&mut stream).await;
    pair.web.expect_refusal().await;
    assert_eq!(pair.web.refused("outbound", "connect", "revoked"), 1);
}

/// Returns what judges by the roots of one authority.
fn distrust(authority: &Authority) -> crate::proxy::Revocations {
    let anchors = std::sync::Arc::unwrap_or_clone(authority.anchors());
    let distrust = Some(std::sync::Arc::new(crate::proxy::Distrust::new(anchors)));
    crate::proxy::Revocations { distrust, ..crate::proxy::Revocations::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_root_distrusted_on_purpose_cuts_what_only_it_vouches_for_and_nothing_else() {
    let mut pair = Pair::start(&["allow web api"]).await;
    let mut stream = pair.connected().await;
    // Another root was distrusted; this one vouches for both sides still.
    pair.api.snapshot.revocations = distrust(&pair.authority);
    pair.api.publish().await;
    pair.web.snapshot.revocations = distrust(&pair.authority);
    pair.web.publish().await;
    say(&mut stream, "still").await;
    // Now it is this one, and what is left vouches for nobody here.
    let other = Authority::new("mesh.test");
    pair.api.snapshot.revocations = distrust(&other);
    pair.api.publish().await;
    expect_reset(&mut stream).await;
    eventually("it is counted", || pair.api.closed("inbound", "revoked") == 1).await;
    pair.web.expect_refusal().await;
}

/// A peer that showed a leaf, and after it what it chose to.
fn shown(authority: &Authority, leaf: &TlsIdentity, after: &[CertificateDer<'static>]) -> PeerIdentity {
    let chain = [&leaf.certified_key().cert[..1], after].concat();
    let verifier = SpiffeVerifier::new(authority.anchors(), ExpectedPeer::Anyone);
    // Later than all leaves here begin, and long before they end.
    let at = Timestamp(wire::crypto::now().0 + 7_200_000);
    PeerIdentity { chain: chain.as_slice().into(), ..verifier.verify_client(&chain, at).unwrap() }
}

#[test]
fn p6_whose_leaf_is_vouched_for_is_not_known_by_what_was_sent_after_it() {
    let (old, new) = (Authority::new("mesh.test"), Authority::new("mesh.test"));
    let signer = |authority: &Authority| authority.leaf("web").certified_key().cert[1].clone();
    let of_new = [signer(&new)];
    let of_both = [signer(&new), signer(&old)];
    let rows = [
        // The key of the old root is known, and what honest peers send after their leaves is known to everybody.
        (shown(&new, &new.leaf("web"), &of_new), shown(&old, &old.leaf_of_root("admin"), &of_new)),
        // The key of the old intermediate is.
        (shown(&new, &new.leaf("web"), &of_both), shown(&old, &old.leaf("admin"), &of_both)),
    ];
    for (honest, forged) in &rows {
        let judge = || Distrust::new(std::sync::Arc::unwrap_or_clone(new.anchors()));
        let asked = judge();
        assert_eq!((asked.vouches_for(honest), asked.vouches_for(forged)), (true, false));
        let asked = judge();
        assert_eq!((asked.vouches_for(forged), asked.vouches_for(honest)), (false, true));
    }
    // It connected before the clock here was set back by an hour.
    let leaf = new.leaf_at("web", Timestamp(wire::crypto::now().0 + 3_600_000));
    let early = shown(&new, &leaf, &of_new);
    assert!(Distrust::new(std::sync::Arc::unwrap_or_clone(new.anchors())).vouches_for(&early));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_raised_floor_of_the_key_exchange_cuts_classical_connections_and_no_hybrid_one() {
    let mut pair = Pair::start(&["allow web api"]).await;
    let mut hybrid = pair.connected().await;
    let mesh = pair.api.proxy.mesh_address();
    let mut classical = pair.authority.dial_classically("web", "api", mesh).await.unwrap();
    classical.write_all(b"hello").await.unwrap();
    classical.read_exact(&mut [0; 5]).await.unwrap();
    let inbound = |exchange| pair.api.proxy.connections().iter().filter(|one| one.key_exchange == exchange).count();
    assert_eq!((inbound(KeyExchange::Hybrid), inbound(KeyExchange::Classical)), (1, 1));
    assert!(pair.web.proxy.connections().iter().all(|one| one.key_exchange == KeyExchange::Hybrid));

    for agent in [&mut pair.api, &mut pair.web] {
        agent.snapshot.min_key_exchange = KeyExchange::Hybrid;
        agent.publish().await;
    }
    assert!(tokio::time::timeout(DEADLINE, classical.read(&mut [0])).await.unwrap().is_err());
    eventually("it is counted", || pair.api.closed("inbound", "key_exchange") == 1).await;
    say(&mut hybrid, "still").await;
    // A new one is told nothing but a reset; what it asked reaches nobody.
    let mut again = pair.authority.dial_classically("web", "api", mesh).await.unwrap();
    let _sent = again.write_all(b"hello").await;
    assert!(!matches!(tokio::time::timeout(DEADLINE, again.read(&mut [0])).await.unwrap(), Ok(1..)));
    assert_eq!(pair.api.refused("inbound", "handshake", "key_exchange"), 1);
    pair.connected().await;
}
