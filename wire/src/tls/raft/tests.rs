//! Servers that hold the key, and everybody else.

use super::*;
use crate::cluster_key::ClusterKey;
use crate::tls::speaks;
use crate::tls::testing::{Connected, Failed, Mesh, handshake};

fn server_id(name: &str) -> ServerId {
    name.parse().unwrap()
}

fn identity(keys: &ClusterKeys, name: &str) -> Arc<RaftIdentity> {
    RaftIdentity::new(keys, server_id(name)).unwrap()
}

fn connect(client: &Arc<RaftIdentity>, server: &Arc<RaftIdentity>, expected: &str) -> Result<Connected, Failed> {
    let client = raft_client_config(client, &server_id(expected));
    handshake((*client).clone(), (*raft_server_config(server)).clone())
}

#[test]
fn servers_with_the_same_key_know_each_other() {
    let keys = ClusterKeys::single(ClusterKey::generate());
    let connected = connect(&identity(&keys, "s1"), &identity(&keys, "s2"), "s2").unwrap();
    assert_eq!(raft_peer(&connected.server), Ok(server_id("s1")));
    assert_eq!(raft_peer(&connected.client), Ok(server_id("s2")));
    assert!(speaks(&connected.client, ALPN_RAFT) && speaks(&connected.server, ALPN_RAFT));
}

#[test]
fn the_server_that_was_meant_must_answer() {
    let keys = ClusterKeys::single(ClusterKey::generate());
    let error = connect(&identity(&keys, "s1"), &identity(&keys, "s3"), "s2").unwrap_err();
    let Failed::AtClient(error) = error else { panic!("refused by the other end: {error:?}") };
    assert_eq!(PeerRejected::of_tls(&error).unwrap().label(), "wrong_identity");
}

#[test]
fn a_server_that_is_met_for_the_first_time_tells_its_name() {
    let keys = ClusterKeys::single(ClusterKey::generate());
    let (first, second) = (identity(&keys, "s1"), identity(&keys, "s2"));
    let meet = |server: &Arc<RaftIdentity>| {
        handshake((*raft_meeting_config(&first)).clone(), (*raft_server_config(server)).clone())
    };
    assert_eq!(raft_peer(&meet(&second).unwrap().client), Ok(server_id("s2")));
    let stranger = identity(&ClusterKeys::single(ClusterKey::generate()), "s2");
    assert!(matches!(meet(&stranger), Err(Failed::AtClient(_))));
}

#[test]
fn a_process_without_the_key_is_no_server() {
    let keys = ClusterKeys::single(ClusterKey::generate());
    let other = ClusterKeys::single(ClusterKey::generate());
    assert!(matches!(connect(&identity(&other, "s1"), &identity(&keys, "s2"), "s2"), Err(Failed::AtClient(_))));
    // It would accept the server, but is not accepted.
    let trusting = ClusterKeys { primary: other.primary, previous: Some(keys.primary.clone()) };
    let error = connect(&identity(&trusting, "s1"), &identity(&keys, "s2"), "s2").unwrap_err();
    let Failed::AtServer(error) = error else { panic!("refused by the other end: {error:?}") };
    assert_eq!(PeerRejected::of_tls(&error).unwrap().label(), "unknown_authority");
}

#[test]
fn the_key_is_changed_in_three_rounds_without_an_outage() {
    let (old, new) = (ClusterKey::generate(), ClusterKey::generate());
    let rounds = [
        ClusterKeys::single(old.clone()),
        ClusterKeys { primary: old.clone(), previous: Some(new.clone()) },
        ClusterKeys { primary: new.clone(), previous: Some(old) },
        ClusterKeys::single(new),
    ];
    for pair in rounds.windows(2) {
        let (before, after) = (identity(&pair[0], "s1"), identity(&pair[1], "s2"));
        connect(&before, &after, "s2").unwrap();
        connect(&after, &before, "s1").unwrap();
    }
}

#[test]
fn the_meshs_own_certificates_do_not_open_the_raft_port() {
    let keys = ClusterKeys::single(ClusterKey::generate());
    let server = identity(&keys, "s2");
    let mesh = Mesh::new("mesh.test");
    let verifier =
        SpiffeVerifier::new(Arc::clone(&server.anchors), ExpectedPeer::Exactly(raft_identity(&server_id("s2"))));
    let resolver = mesh.identity("spiffe://mesh.test/server/s1").resolver();
    let client = client(verifier, Some(resolver), ALPN_RAFT);
    let error = handshake(client, (*raft_server_config(&server)).clone()).unwrap_err();
    let Failed::AtServer(error) = error else { panic!("refused by the other end: {error:?}") };
    assert_eq!(PeerRejected::of_tls(&error).unwrap().label(), "foreign_trust_domain");
}

#[test]
fn p9_a_certificate_is_made_anew_at_half_its_life_and_when_the_clock_was_set_back() {
    let keys = ClusterKeys::single(ClusterKey::generate());
    let server = identity(&keys, "s1");
    let first = server.certified_key();
    assert_eq!(server.certified_key().cert, first.cert);
    server.issued.lock().unwrap().renew_at = crypto::now();
    let (made_at, ends_at) = server.lifetime();
    assert!(ends_at.since(made_at) >= LEAF_TTL / 2 && made_at <= crypto::now());
    let second = server.certified_key();
    assert_ne!(second.cert, first.cert);
    server.issued.lock().unwrap().not_before = Timestamp(u64::MAX);
    assert_ne!(server.certified_key().cert, second.cert);
}
