//! A certificate authority for tests, and callers that use its leaves by hand.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use catalog::{CatalogIndex, IdentityScheme, ServiceKey, SpiffeId, Timestamp};
use h2::client::SendRequest;
use http::{Method, Request, StatusCode};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use wire::crypto;
use wire::pki::{LeafKey, LeafRequest, LocalRoot, LocalSigner, Serial, Signer, parse_csr};
use wire::tls::{ExpectedPeer, SpiffeVerifier, TlsIdentity, TrustAnchors, mesh_client_config};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The authority of one trust domain.
pub(super) struct Authority {
    root: LocalRoot,
    signer: LocalSigner,
    pub(super) scheme: IdentityScheme,
}

impl Authority {
    pub(super) fn new(trust_domain: &str) -> Self {
        crypto::install_provider();
        let scheme = IdentityScheme {
            trust_domain: trust_domain.parse().unwrap(),
            template: Default::default(),
            datacenter: "dc1".to_owned(),
        };
        let root = LocalRoot::create(&scheme.trust_domain, crypto::now(), 3650 * DAY).unwrap();
        let signer = root.create_intermediate(crypto::now(), 365 * DAY).unwrap();
        Self { root, signer, scheme }
    }

    pub(super) fn anchors(&self) -> Arc<TrustAnchors> {
        Arc::new(TrustAnchors::from_pem(&[self.root.certificate_pem().to_owned()]).unwrap())
    }

    /// A leaf for a service, of an agent that was enrolled at index 7.
    pub(super) fn leaf(&self, service: &str) -> Arc<TlsIdentity> {
        self.leaf_for(&self.id(service), CatalogIndex(7), DAY)
    }

    pub(super) fn leaf_for(&self, id: &SpiffeId, enrolled: CatalogIndex, ttl: Duration) -> Arc<TlsIdentity> {
        Arc::new(leaf_by(&self.signer, id, enrolled, crypto::now(), ttl))
    }

    /// A leaf that begins to be valid about then.
    pub(super) fn leaf_at(&self, service: &str, now: Timestamp) -> TlsIdentity {
        leaf_by(&self.signer, &self.id(service), CatalogIndex(7), now, DAY)
    }

    /// A leaf that the root has signed itself, as nobody does but who got hold of its key.
    pub(super) fn leaf_of_root(&self, service: &str) -> TlsIdentity {
        let (certificate, key) = (self.root.certificate_pem(), self.root.key_pem());
        let root = LocalSigner::load_operators(certificate, &key, &self.scheme.trust_domain).unwrap();
        leaf_by(&root, &self.id(service), CatalogIndex(7), crypto::now(), DAY)
    }

    pub(super) fn id(&self, service: &str) -> SpiffeId {
        self.scheme.workload(&service_key(service))
    }

    /// What a caller with a leaf of `caller` dials `service` with.
    pub(super) fn client_config(&self, caller: &str, service: &str) -> ClientConfig {
        mesh_client_config(self.anchors(), &self.leaf(caller), self.id(service))
    }

    /// Dials a mesh listener as `caller`, asking for `service` by its own name, offering the given protocols.
    pub(super) async fn dial(
        &self,
        caller: &str,
        service: &str,
        address: SocketAddr,
        protocols: &[&[u8]],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut config = self.client_config(caller, service);
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        dial(config, &self.scheme.sni(&service_key(service)), address).await
    }

    /// Dials as [`Self::dial`] does, with a client that knows no hybrid key exchange.
    pub(super) async fn dial_classically(
        &self,
        caller: &str,
        service: &str,
        address: SocketAddr,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut provider = Arc::unwrap_or_clone(wire::crypto::provider());
        provider.kx_groups.retain(|group| group.name() == rustls::NamedGroup::X25519);
        let expected = ExpectedPeer::Exactly(self.scheme.workload(&service_key(service)));
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(SpiffeVerifier::new(self.anchors(), expected)))
            .with_client_cert_resolver(self.leaf(caller).resolver());
        dial(config, &self.scheme.sni(&service_key(service)), address).await
    }

    /// Dials the agent of `service` without a certificate, as a load balancer does.
    pub(super) async fn dial_unnamed(
        &self,
        service: &str,
        address: SocketAddr,
        protocols: &[&[u8]],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let expected = ExpectedPeer::Exactly(self.scheme.workload(&service_key(service)));
        let mut config = ClientConfig::builder_with_provider(wire::crypto::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(SpiffeVerifier::new(self.anchors(), expected)))
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        dial(config, "lb.example", address).await
    }

    /// Opens a tunnel to a mesh listener by hand.
    pub(super) async fn tunnel(&self, caller: &str, service: &str, address: SocketAddr) -> SendRequest<Bytes> {
        let stream = self.dial(caller, service, address, &[b"h2"]).await.unwrap();
        let (requests, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        requests.ready().await.unwrap()
    }
}

fn leaf_by(signer: &LocalSigner, id: &SpiffeId, enrolled: CatalogIndex, now: Timestamp, ttl: Duration) -> TlsIdentity {
    let key = LeafKey::generate();
    let csr = parse_csr(&key.csr_der(None)).unwrap();
    let request = LeafRequest { csr: &csr, id, platform: None, serial: Serial::draw(enrolled), now, ttl };
    let leaf = signer.sign_leaf(&request).unwrap();
    TlsIdentity::new(&[leaf.certificate_pem, Signer::certificate_pem(signer).to_owned()], &key).unwrap()
}

pub(super) fn service_key(service: &str) -> ServiceKey {
    service.parse().unwrap()
}

pub(super) async fn dial(
    config: ClientConfig,
    server_name: &str,
    address: SocketAddr,
) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(server_name.to_owned()).unwrap();
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// Asks for a stream and returns the status of the answer.
pub(super) async fn ask(requests: &mut SendRequest<Bytes>, method: Method, target: &str) -> StatusCode {
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = target.parse().unwrap();
    let mut requests = requests.clone().ready().await.unwrap();
    let (answer, _send) = requests.send_request(request, false).unwrap();
    answer.await.unwrap().status()
}
