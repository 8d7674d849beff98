//! Who does not even get to be decided.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use rustls::version::TLS12;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wire::tls::mesh_client_config;

use super::agents::{Agent, DEADLINE, Echo, Pair, endpoint, eventually};
use super::certificates::{Authority, dial, service_key};
use crate::proxy::Limits;

const API: &str = "api.default.dc1.internal.mesh.test";

/// Waits until a TLS client notices that it is refused: with TLS 1.3 that may be only after its own handshake.
async fn expect_refused(config: ClientConfig, name: &str, pair: &Pair, reason: &str) {
    let mesh = pair.api.proxy.mesh_address();
    let refused = tokio::time::timeout(DEADLINE, async {
        let mut stream = dial(config, name, mesh).await?;
        stream.read(&mut [0]).await
    });
    let outcome = refused.await.expect("refused in time");
    assert!(!matches!(outcome, Ok(read) if read > 0), "{reason}: nothing is said to one who is refused");
    eventually(reason, || pair.api.refused("inbound", "handshake", reason) == 1).await;
    assert_eq!(pair.echo.accepted(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_plaintext_is_refused() {
    let pair = Pair::start(&["allow */* api"]).await;
    // The last is how clients of SSL 2 begin.
    let greetings: [&[u8]; 3] = [
        b"GET / HTTP/1.1\r\nhost: api\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10",
    ];
    for greeting in greetings {
        let mut stream = TcpStream::connect(pair.api.proxy.mesh_address()).await.unwrap();
        stream.write_all(greeting).await.unwrap();
        let mut heard = Vec::new();
        let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut heard)).await.unwrap();
        assert!(read.is_ok() || read.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
        assert!(heard.first().is_none_or(|content_type| *content_type == 21), "an alert or nothing: {heard:?}");
    }
    eventually("counted", || pair.api.refused("inbound", "handshake", "not_tls") == 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l2_a_giant_hello_ends_its_connection_long_before_it_is_whole() {
    let pair = Pair::start(&["allow web api"]).await;
    let mut stream = TcpStream::connect(pair.api.proxy.mesh_address()).await.unwrap();
    // A hello of a megabyte, in records of sixteen thousand bytes.
    let mut hello = vec![1, 0x10, 0, 0];
    hello.resize(1 << 20, 0);
    for piece in hello.chunks(16_384) {
        let length = u16::try_from(piece.len()).unwrap().to_be_bytes();
        let record = [&[22, 3, 1, length[0], length[1]], piece].concat();
        if stream.write_all(&record).await.is_err() {
            break;
        }
    }
    let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut Vec::new())).await.expect("closed in time");
    eventually("counted", || pair.api.refused("inbound", "handshake", "not_tls") == 1).await;
    drop(pair.connected().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l2_a_hello_in_single_bytes_and_an_end_right_behind_it_hurt_nobody() {
    let pair = Pair::start(&["allow web api"]).await;
    let name = rustls_pki_types::ServerName::try_from(API.to_owned()).unwrap();
    let config = Arc::new(pair.authority.client_config("web", "api"));
    let mut hello = Vec::new();
    rustls::ClientConnection::new(config, name).unwrap().write_tls(&mut hello).unwrap();
    // Each byte of the message in a record of its own.
    let bytes: Vec<u8> = hello[5..].iter().flat_map(|byte| [22, 3, 1, 0, 1, *byte]).collect();
    for end in [&[][..], &[21, 3, 3, 0, 2, 1, 0]] {
        let mut stream = TcpStream::connect(pair.api.proxy.mesh_address()).await.unwrap();
        stream.write_all(&[&bytes[..], end].concat()).await.unwrap();
        stream.shutdown().await.unwrap();
        let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut Vec::new())).await.expect("closed in time");
    }
    drop(pair.connected().await);
    assert_eq!(pair.echo.accepted(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_tls_1_2_is_refused() {
    let pair = Pair::start(&["allow */* api"]).await;
    let config = ClientConfig::builder_with_protocol_versions(&[&TLS12])
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    expect_refused(config, API, &pair, "tls_version_or_algorithms").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_a_client_without_a_certificate_is_refused() {
    let pair = Pair::start(&["allow */* api"]).await;
    let mut config = pair.authority.client_config("web", "api");
    config.client_auth_cert_resolver = Arc::new(NoCertificate);
    expect_refused(config, API, &pair, "no_certificate").await;
}

#[derive(Debug)]
struct NoCertificate;

impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(
        &self,
        _hints: &[&[u8]],
        _schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_a_certificate_of_a_foreign_authority_is_refused() {
    let pair = Pair::start(&["allow */* api"]).await;
    let impostor = Authority::new("mesh.test");
    let config = mesh_client_config(pair.authority.anchors(), &impostor.leaf("web"), pair.authority.id("api"));
    expect_refused(config, API, &pair, "unknown_authority").await;
    let neighbour = Authority::new("other.test");
    let config = mesh_client_config(pair.authority.anchors(), &neighbour.leaf("web"), pair.authority.id("api"));
    expect_refused(config, API, &pair, "foreign_trust_domain").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_an_unknown_server_name_is_refused_and_spelling_does_not_count() {
    let pair = Pair::start(&["allow web api"]).await;
    let config = || pair.authority.client_config("web", "api");
    expect_refused(config(), "db.default.dc1.internal.mesh.test", &pair, "unknown_server_name").await;
    let mesh = pair.api.proxy.mesh_address();
    for name in ["API.Default.dc1.internal.MESH.test", "api.default.dc1.internal.mesh.test."] {
        let mut config = config();
        config.alpn_protocols.clear();
        let mut stream = dial(config, name, mesh).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        stream.read_exact(&mut [0; 5]).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_without_a_server_name_the_only_service_answers_and_of_several_none() {
    let mut pair = Pair::start(&["allow web api"]).await;
    let config = || {
        let mut config = pair.authority.client_config("web", "api");
        config.enable_sni = false;
        config.alpn_protocols.clear();
        config
    };
    let mut stream = dial(config(), API, pair.api.proxy.mesh_address()).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    stream.read_exact(&mut [0; 5]).await.unwrap();
    let config = config();
    pair.api.serve(&pair.authority, "db", pair.echo.address);
    pair.api.publish().await;
    assert!(dial(config.clone(), API, pair.api.proxy.mesh_address()).await.is_err());
    eventually("the refusal to be counted", || pair.api.refused("inbound", "handshake", "unknown_server_name") == 1)
        .await;

    // Where the other has an address of its own, what was dialled says which is meant.
    pair.api.snapshot.locals.get_mut(&service_key("db")).unwrap()[0].advertised_address = "10.1.2.3".to_owned();
    pair.api.publish().await;
    let mut stream = dial(config, API, pair.api.proxy.mesh_address()).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    stream.read_exact(&mut [0; 5]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l2_a_handshake_that_trickles_ends_at_the_deadline() {
    let authority = Authority::new("mesh.test");
    let limits = Limits { handshake_timeout: Duration::from_millis(200), ..Limits::default() };
    let mut api = Agent::start_with(&authority, limits);
    api.serve(&authority, "api", "127.0.0.1:9".parse().unwrap());
    api.publish().await;
    let mut silent = TcpStream::connect(api.proxy.mesh_address()).await.unwrap();
    silent.write_all(&[22, 3, 1]).await.unwrap();
    let read = tokio::time::timeout(DEADLINE, silent.read(&mut [0])).await.expect("closed in time");
    assert!(!matches!(read, Ok(read) if read > 0));
    eventually("counted", || api.refused("inbound", "handshake", "handshake_timeout") == 1).await;

    // A handshake without the tunnel's first words is no better, and itself takes a part of the time.
    let limits = Limits { handshake_timeout: Duration::from_secs(2), ..Limits::default() };
    let mut api = Agent::start_with(&authority, limits);
    api.serve(&authority, "api", "127.0.0.1:9".parse().unwrap());
    api.publish().await;
    let stream = authority.dial("web", "api", api.proxy.mesh_address(), &[b"h2"]).await.unwrap();
    eventually("counted", || api.refused("inbound", "handshake", "preface_timeout") == 1).await;
    drop(stream);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_knows_nothing_yet_refuses_everybody() {
    let authority = Authority::new("mesh.test");
    let api = Agent::start(&authority);
    assert!(authority.dial("web", "api", api.proxy.mesh_address(), &[b"h2"]).await.is_err());
    eventually("counted", || api.refused("inbound", "handshake", "not_ready") == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c6_an_upstream_that_shows_the_certificate_of_another_service_is_refused() {
    let authority = Authority::new("mesh.test");
    let echo = Echo::start().await;
    let mut api = Agent::start(&authority);
    api.serve(&authority, "api", echo.address);
    api.rule("api", catalog::Action::Allow, &[]);
    api.snapshot.identities.insert(service_key("api"), authority.leaf("db"));
    api.publish().await;
    let mut web = Agent::start(&authority);
    web.call(&authority, "web", "api", &[endpoint("api", api.proxy.mesh_address(), echo.address)]);
    web.publish().await;
    web.expect_refusal().await;
    assert_eq!(web.refused("outbound", "connect", "wrong_identity"), 1);
    assert_eq!(echo.accepted(), 0);
}
