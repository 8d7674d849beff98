//! Who is not let in on the Raft port.

use std::sync::Arc;
use std::time::Duration;

use catalog::{CatalogIndex, ServerId};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use wire::cluster_key::{ClusterKey, ClusterKeys, raft_identity};
use wire::crypto;
use wire::pki::{LeafKey, LeafRequest, LocalRoot, Serial, Signer, parse_csr};
use wire::tls::{ALPN_RAFT, RaftIdentity, TlsIdentity, TrustAnchors, mesh_client_config, raft_client_config};

use super::harness::{Cluster, soon};

/// Speaks TLS to a server's Raft port and returns what came of it, once the server has had its say.
async fn knock(address: &str, config: impl Into<Arc<ClientConfig>>) -> std::io::Result<usize> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("raft.weft.internal").unwrap();
    let mut stream = TlsConnector::from(config.into()).connect(name, stream).await?;
    // In TLS 1.3 a client learns only by reading that its certificate was refused.
    stream.write_all(b"\0\0\0\x02\x01{}").await?;
    stream.read(&mut [0; 64]).await
}

async fn cluster_of_one() -> (Cluster, String) {
    let mut cluster = Cluster::new();
    cluster.start("a", |_| ()).await;
    cluster.established().await;
    let address = cluster.servers["a"].raft_address().to_string();
    (cluster, address)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_a_certificate_of_the_mesh_opens_nothing_on_the_raft_port() {
    let (cluster, address) = cluster_of_one().await;
    let scheme = cluster.consensus("a").catalog().scheme().unwrap();
    let root = LocalRoot::create(&scheme.trust_domain, crypto::now(), Duration::from_secs(3600)).unwrap();
    let signer = root.create_intermediate(crypto::now(), Duration::from_secs(1800)).unwrap();
    let key = LeafKey::generate();
    let agent = scheme.agent(catalog::Platform::Vm, &"node-1".parse().unwrap());
    let authority = cluster.keys.primary.authority().certificate_pem();
    let csr = parse_csr(&key.csr_der(None)).unwrap();
    let (serial, now) = (Serial::draw(CatalogIndex(7)), crypto::now());
    let request = LeafRequest { csr: &csr, id: &agent, platform: None, serial, now, ttl: Duration::from_secs(600) };
    let leaf = signer.sign_leaf(&request).unwrap();
    let chain = [leaf.certificate_pem, Signer::certificate_pem(&signer).to_owned()];
    let identity = TlsIdentity::new(&chain, &key).unwrap();
    let anchors = Arc::new(TrustAnchors::from_pem(&[authority]).unwrap());
    let server: ServerId = "a".parse().unwrap();
    let mut config = mesh_client_config(anchors, &identity, raft_identity(&server));
    config.alpn_protocols = vec![ALPN_RAFT.to_vec()];
    assert!(soon(knock(&address, config)).await.is_err());
    cluster.counted("a", "foreign_trust_domain").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_a_server_of_another_cluster_key_is_refused_on_both_sides() {
    let (cluster, address) = cluster_of_one().await;
    let mut strangers = Cluster::new();
    strangers
        .start("b", |config| {
            config.bootstrap_expect = 2;
            config.retry_join = vec![address.clone()];
        })
        .await;
    strangers.counted("b", "unknown_authority").await;

    // One that trusts this cluster's key and shows a certificate of its own.
    let keys = ClusterKeys { primary: ClusterKey::generate(), previous: Some(cluster.keys.primary.clone()) };
    let identity = RaftIdentity::new(&keys, "b".parse().unwrap()).unwrap();
    let config = raft_client_config(&identity, &"a".parse().unwrap());
    assert!(soon(knock(&address, config)).await.is_err());
    cluster.counted("a", "unknown_authority").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_the_right_authority_with_the_wrong_server_name_is_refused() {
    let (cluster, address) = cluster_of_one().await;
    let expected: ServerId = "b".parse().unwrap();
    let error = cluster.servers["a"].running.dial_for_tests(&address, Some(&expected)).await.unwrap_err();
    assert!(error.contains("does not prove to be server `b`"), "{error}");
    cluster.counted("a", "wrong_identity").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r3_plaintext_is_refused_and_counted() {
    let (cluster, address) = cluster_of_one().await;
    let mut stream = TcpStream::connect(&address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = soon(stream.read_to_end(&mut answer)).await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    cluster.counted("a", "tls_handshake").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_tls_1_2_is_refused() {
    let (cluster, address) = cluster_of_one().await;
    let config = ClientConfig::builder_with_provider(crypto::provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    assert!(soon(knock(&address, config)).await.is_err());
    cluster.counted("a", "tls_handshake").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r5_garbage_after_the_handshake_closes_the_peer() {
    let (cluster, address) = cluster_of_one().await;
    let identity = RaftIdentity::new(&cluster.keys, "b".parse().unwrap()).unwrap();
    let config = raft_client_config(&identity, &"a".parse().unwrap());
    // The greeting that it sends is no greeting.
    assert!(matches!(soon(knock(&address, config)).await, Ok(0) | Err(_)));
    cluster.counted("a", "frame_malformed").await;
}
