//! Whole handshakes in memory, over every pair of configurations.

use rustls::NamedGroup;
use rustls::version::TLS12;

use super::*;
use crate::pki;
use crate::tls::testing::{API, Connected, DAY, Failed, Mesh, SERVER, WEB, handshake};
use crate::tls::{PeerRejected, peer_identity};

fn mesh_server(mesh: &Mesh) -> ServerConfig {
    mesh_server_config(mesh.anchors(), mesh.identity(API).resolver())
}

fn mesh_client(mesh: &Mesh) -> ClientConfig {
    mesh_client_config(mesh.anchors(), &mesh.identity(WEB), API.parse().unwrap())
}

fn agent_server(mesh: &Mesh) -> ServerConfig {
    agent_port_server_config(mesh.anchors(), mesh.server_identity().resolver())
}

fn id_of(connection: &CommonState) -> String {
    peer_identity(connection).unwrap().unwrap().id.to_string()
}

#[track_caller]
fn refused_at_client(result: Result<Connected, Failed>) -> PeerRejected {
    match result {
        Err(Failed::AtClient(error)) => PeerRejected::of_tls(&error).expect("the peer's certificate was refused"),
        other => panic!("not refused by the client: {other:?}"),
    }
}

#[track_caller]
fn refused_at_server(result: Result<Connected, Failed>) -> PeerRejected {
    match result {
        Err(Failed::AtServer(error)) => PeerRejected::of_tls(&error).expect("the peer's certificate was refused"),
        other => panic!("not refused by the server: {other:?}"),
    }
}

#[test]
fn agents_know_each_other_after_the_handshake() {
    let mesh = Mesh::new("mesh.test");
    let Connected { client, server } = handshake(mesh_client(&mesh), mesh_server(&mesh)).unwrap();
    assert_eq!((id_of(&client), id_of(&server)), (API.to_owned(), WEB.to_owned()));
    assert!(speaks(&client, ALPN_MESH) && speaks(&server, ALPN_MESH) && !speaks(&server, ALPN_AGENT));
}

#[test]
fn the_key_exchange_is_hybrid_post_quantum() {
    let mesh = Mesh::new("mesh.test");
    let Connected { client, server } = handshake(mesh_client(&mesh), mesh_server(&mesh)).unwrap();
    for connection in [&*client as &CommonState, &*server] {
        let group = connection.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, NamedGroup::X25519MLKEM768);
        assert_eq!(connection.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    }
}

#[test]
fn l4_no_session_is_resumed() {
    let mesh = Mesh::new("mesh.test");
    let (client, server) = (mesh_client(&mesh), mesh_server(&mesh));
    for _ in 0..2 {
        let connected = handshake(client.clone(), server.clone()).unwrap();
        assert_eq!(connected.server.handshake_kind(), Some(rustls::HandshakeKind::Full));
        assert_eq!(connected.client.tls13_tickets_received(), 0);
    }
    assert!(!client.enable_early_data && server.max_early_data_size == 0);
}

#[test]
fn l1_a_client_without_certificate_is_refused() {
    let mesh = Mesh::new("mesh.test");
    let mut client = join_client_config(vec![pki::fingerprint(&mesh.root_pem()).unwrap()]);
    client.alpn_protocols = vec![ALPN_MESH.to_vec()];
    let server = mesh_server_config(mesh.anchors(), mesh.server_identity().resolver());
    assert_eq!(refused_at_server(handshake(client, server)), PeerRejected::NoCertificate);
}

#[test]
fn l1_older_versions_of_tls_are_refused() {
    let mesh = Mesh::new("mesh.test");
    let verifier = SpiffeVerifier::new(mesh.anchors(), ExpectedPeer::Anyone);
    let client = ClientConfig::builder_with_provider(crypto::provider())
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(mesh.identity(WEB).resolver());
    let error = handshake(client, mesh_server(&mesh)).unwrap_err();
    assert!(matches!(error, Failed::AtServer(rustls::Error::PeerIncompatible(_))), "{error:?}");
}

#[test]
fn c6_a_server_of_another_identity_is_refused() {
    let mesh = Mesh::new("mesh.test");
    let server = mesh_server_config(mesh.anchors(), mesh.identity(WEB).resolver());
    let rejected = refused_at_client(handshake(mesh_client(&mesh), server));
    assert_eq!(rejected.label(), "wrong_identity");
}

#[test]
fn agents_of_different_meshes_refuse_each_other() {
    let (mesh, other) = (Mesh::new("mesh.test"), Mesh::new("mesh.test"));
    let rejected = refused_at_client(handshake(mesh_client(&other), mesh_server(&mesh)));
    assert_eq!(rejected.label(), "unknown_authority");
    let client = mesh_client_config(mesh.anchors(), &other.identity(WEB), API.parse().unwrap());
    assert_eq!(refused_at_server(handshake(client, mesh_server(&mesh))).label(), "unknown_authority");
}

#[test]
fn an_enrolled_agent_and_a_server_know_each_other() {
    let mesh = Mesh::new("mesh.test");
    let agent = "spiffe://mesh.test/agent/vm/n1";
    let client = agent_port_client_config(mesh.anchors(), "mesh.test".parse().unwrap(), &mesh.identity(agent));
    let Connected { client, server } = handshake(client, agent_server(&mesh)).unwrap();
    assert_eq!((id_of(&client), id_of(&server)), (SERVER.to_owned(), agent.to_owned()));
    assert!(speaks(&server, ALPN_AGENT));
}

#[test]
fn a_workload_does_not_pass_for_a_server() {
    let mesh = Mesh::new("mesh.test");
    let client = agent_port_client_config(mesh.anchors(), "mesh.test".parse().unwrap(), &mesh.identity(WEB));
    let server = agent_port_server_config(mesh.anchors(), mesh.identity(API).resolver());
    assert_eq!(refused_at_client(handshake(client, server)).label(), "wrong_identity");
}

#[test]
fn an_expired_leaf_is_marked_at_the_agent_port_and_refused_elsewhere() {
    let mesh = Mesh::new("mesh.test");
    let (chain, key) = {
        // Signed two days ago for one day.
        let past = Mesh { now: mesh.now.saturating_sub(2 * DAY), ..Mesh::new("mesh.test") };
        let root = pki::LocalRoot::create(&"mesh.test".parse().unwrap(), past.now, 10 * DAY).unwrap();
        let signer = root.create_intermediate(past.now, 10 * DAY).unwrap();
        let past = Mesh { root, signer, now: past.now };
        let (chain, key) = past.leaf_pem("spiffe://mesh.test/agent/vm/n1");
        (chain, (key, past))
    };
    let (key, past) = key;
    let expired = TlsIdentity::new(&chain, &key).unwrap();
    let fresh = Mesh::new("mesh.test");
    let both = Arc::new(TrustAnchors::from_pem(&[past.root_pem(), fresh.root_pem()]).unwrap());
    let agent_port = agent_port_server_config(Arc::clone(&both), fresh.server_identity().resolver());
    let client = agent_port_client_config(Arc::clone(&both), "mesh.test".parse().unwrap(), &expired);
    let connected = handshake(client, agent_port).unwrap();
    let peer = peer_identity(&connected.server).unwrap().unwrap();
    assert!(peer.expired);
    assert_eq!(peer.key, key.fingerprint());
    let tunnel = mesh_server_config(Arc::clone(&both), fresh.identity(API).resolver());
    let client = mesh_client_config(both, &expired, API.parse().unwrap());
    assert_eq!(refused_at_server(handshake(client, tunnel)).label(), "expired");
}

#[test]
fn c9_a_joining_agent_trusts_the_root_of_its_token_only() {
    let mesh = Mesh::new("mesh.test");
    let fingerprint = pki::fingerprint(&mesh.root_pem()).unwrap();
    let connected = handshake(join_client_config(vec![[0; 32], fingerprint]), agent_server(&mesh)).unwrap();
    assert_eq!(id_of(&connected.client), SERVER);
    assert_eq!(peer_identity(&connected.server), Ok(None));
    let other = Mesh::new("mesh.test");
    let rejected = refused_at_client(handshake(join_client_config(vec![fingerprint]), agent_server(&other)));
    assert_eq!(rejected.label(), "unknown_authority");
    assert!(handshake(join_client_config(vec![]), agent_server(&mesh)).is_err());
}

#[test]
fn c9_a_pinned_certificate_that_is_no_root_vouches_for_nobody() {
    let mesh = Mesh::new("mesh.test");
    let (chain, key) = mesh.leaf_pem(SERVER);
    let identity = TlsIdentity::new(&chain, &key).unwrap();
    let pin_of_leaf = pki::fingerprint(&chain[0]).unwrap();
    let server = agent_port_server_config(mesh.anchors(), identity.resolver());
    assert!(handshake(join_client_config(vec![pin_of_leaf]), server.clone()).is_err());
    // The server's chain must carry the root itself.
    let pin_of_root = pki::fingerprint(&mesh.root_pem()).unwrap();
    let rejected = refused_at_client(handshake(join_client_config(vec![pin_of_root]), server));
    assert_eq!(rejected.label(), "unknown_authority");
}

#[test]
fn c9_a_workload_does_not_pass_for_the_server_that_an_agent_joins() {
    let mesh = Mesh::new("mesh.test");
    let (mut chain, key) = mesh.leaf_pem(WEB);
    chain.push(mesh.root_pem());
    let impostor = TlsIdentity::new(&chain, &key).unwrap();
    let server = agent_port_server_config(mesh.anchors(), impostor.resolver());
    let fingerprint = pki::fingerprint(&mesh.root_pem()).unwrap();
    let rejected = refused_at_client(handshake(join_client_config(vec![fingerprint]), server));
    assert_eq!(rejected.label(), "wrong_identity");
}

#[test]
fn the_reason_is_found_in_an_io_error() {
    let mesh = Mesh::new("mesh.test");
    let server = mesh_server_config(mesh.anchors(), mesh.identity(WEB).resolver());
    let Err(Failed::AtClient(error)) = handshake(mesh_client(&mesh), server) else { panic!("not refused") };
    let error = std::io::Error::new(std::io::ErrorKind::InvalidData, error);
    assert_eq!(PeerRejected::of(&error).unwrap().label(), "wrong_identity");
    assert_eq!(PeerRejected::of(&std::io::Error::other("else")), None);
}
