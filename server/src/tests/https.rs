//! The API over TLS, for callers on other machines.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use catalog::Timestamp;
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use wire::api_name::ApiName;
use wire::client::ApiClient;
use wire::cluster_key::{ClusterKey, ClusterKeys};
use wire::crypto;

use super::harness::{Cluster, soon};
use crate::{CertificateFiles, Config, Https, StartError, start};

const NAME: &str = "localhost";

fn https(files: Option<CertificateFiles>) -> Https {
    Https { port: 0, names: vec![NAME.parse().unwrap()], files }
}

/// Starts a server whose API has a certificate of the mesh, and writes the mesh's root to a file.
async fn with_mesh_certificate(folder: &Path) -> (Cluster, u16, PathBuf) {
    let mut cluster = Cluster::new();
    cluster.start("a", |config| config.https = Some(https(None))).await;
    cluster.established().await;
    let root = folder.join("root.pem");
    std::fs::write(&root, &cluster.consensus("a").catalog().active_root().unwrap().certificate_pem).unwrap();
    let port = cluster.servers["a"].https_address().unwrap().port();
    (cluster, port, root)
}

async fn leader(address: &str, ca: &Path) -> Result<String, wire::client::ApiError> {
    let client = ApiClient::new(address).unwrap().with_ca_file(ca).unwrap();
    client.get("/v1/status/leader").json::<String>().await
}

/// Asks until the API has its certificate, which it gets a moment after the mesh has its authority.
async fn until_answered(address: &str, ca: &Path) -> String {
    soon(async {
        loop {
            match leader(address, ca).await {
                Ok(leader) => return leader,
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
            }
        }
    })
    .await
}

/// Sends bytes over TLS, whatever the certificate says, and returns what comes back.
async fn raw(port: u16, root: &Path, request: &str) -> String {
    let pem = std::fs::read_to_string(root).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    let der = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap().1.contents;
    roots.add(der.into()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(crypto::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let name = ServerName::try_from(NAME).unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    // An end without a goodbye is an end.
    let _ = stream.read_to_string(&mut answer).await;
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_is_served_over_tls_under_its_names_with_a_certificate_of_the_mesh() {
    let folder = tempfile::tempdir().unwrap();
    let (cluster, port, root) = with_mesh_certificate(folder.path()).await;
    let leads = until_answered(&format!("https://{NAME}:{port}"), &root).await;
    assert_eq!(leads, cluster.servers["a"].raft_address().to_string());
    leader(&format!("https://127.0.0.1:{port}"), &root).await.expect("the advertised address is a name of the API");

    let other = folder.path().join("other.pem");
    let foreign =
        wire::pki::LocalRoot::create(&"other.test".parse().unwrap(), crypto::now(), std::time::Duration::from_secs(60));
    std::fs::write(&other, foreign.unwrap().certificate_pem()).unwrap();
    leader(&format!("https://{NAME}:{port}"), &other).await.expect_err("another mesh's root does not vouch for it");
    leader(&format!("http://127.0.0.1:{port}"), &root).await.expect_err("nothing is answered without TLS");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a3_a8_over_tls_a_token_and_an_own_name_are_asked_for_as_on_loopback() {
    let folder = tempfile::tempdir().unwrap();
    let (_cluster, port, root) = with_mesh_certificate(folder.path()).await;
    until_answered(&format!("https://{NAME}:{port}"), &root).await;
    let get = |host: &str, path: &str| format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    let answer = raw(port, &root, &get("127.0.0.1:8501", "/v1/status/leader")).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let answer = raw(port, &root, &get("evil.example", "/v1/status/leader")).await;
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("evil.example"), "{answer}");
    let answer = raw(port, &root, &get(NAME, "/v1/catalog/nodes")).await;
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("Permission denied"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_holds_the_cluster_key_knows_the_servers_by_it_before_any_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let (cluster, port, root) = with_mesh_certificate(folder.path()).await;
    let address = format!("https://127.0.0.1:{port}");
    until_answered(&address, &root).await;
    let holding = async |key: &ClusterKey| {
        let client = ApiClient::new(&address).unwrap().with_cluster_key(key);
        client.get("/v1/status/leader").json::<String>().await
    };
    let leads = holding(&cluster.keys.primary).await.unwrap();
    assert_eq!(leads, cluster.servers["a"].raft_address().to_string());
    let stranger = holding(&ClusterKey::generate()).await.unwrap_err();
    assert!(matches!(stranger, wire::client::ApiError::Unreachable { .. }), "{stranger:?}");
}

fn operators_files(folder: &Path, name: &str) -> CertificateFiles {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
    let files = CertificateFiles { certificate: folder.join("api.pem"), key: folder.join("api.key") };
    std::fs::write(&files.certificate, certificate.pem()).unwrap();
    std::fs::write(&files.key, key.serialize_pem()).unwrap();
    std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(0o600)).unwrap();
    files
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operators_own_certificate_is_shown_and_its_names_are_answered_for() {
    let folder = tempfile::tempdir().unwrap();
    let files = operators_files(folder.path(), NAME);
    let mut cluster = Cluster::new();
    let asked = Https { port: 0, names: Vec::<ApiName>::new(), files: Some(files.clone()) };
    cluster.start("a", |config| config.https = Some(asked)).await;
    let port = cluster.servers["a"].https_address().unwrap().port();
    until_answered(&format!("https://{NAME}:{port}"), &files.certificate).await;
    let metrics = cluster.consensus("a").metrics_text();
    let expiry =
        metrics.lines().find(|line| line.starts_with("weft_api_certificate_expiry_timestamp_seconds ")).unwrap();
    let seconds: u64 = expiry.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(Timestamp(seconds * 1000) > crypto::now());
}

#[tokio::test]
async fn f1_a_server_does_not_start_with_a_certificate_that_it_could_not_show() {
    let folder = tempfile::tempdir().unwrap();
    let refused = async |files: CertificateFiles| {
        let mut config = Config::new("a".parse().unwrap(), ClusterKeys::single(ClusterKey::generate()));
        config.https = Some(https(Some(files)));
        match start(config).await {
            Err(StartError::Certificate(error)) => wire::one_line(&error),
            other => panic!("{other:?}"),
        }
    };
    let files = operators_files(folder.path(), NAME);
    std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(refused(files.clone()).await.contains("mode 0644"));
    std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&files.key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    assert!(refused(files.clone()).await.contains("does not belong"));
    std::fs::write(&files.certificate, "nothing").unwrap();
    assert!(refused(files.clone()).await.contains("api.pem"));
    std::fs::remove_file(&files.certificate).unwrap();
    assert!(refused(files).await.contains("cannot read the API's certificate"));
}
