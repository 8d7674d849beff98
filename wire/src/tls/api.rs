//! The HTTP API's own TLS: a certificate that any client knows, and no certificate asked of the client.
//!
//! Whoever founds a mesh knows no certificate of it yet, but holds the cluster key: to a client that asks for it by its
//! protocol, a server shows the certificate by which servers know one another.

use std::sync::Arc;

use catalog::Timestamp;
use rustls::ServerConfig;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::RaftIdentity;
use crate::api_name::ApiName;
use crate::crypto::{self, Secret};
use crate::pki::{PemError, from_seconds, pem};

/// The application protocol of the API.
pub const ALPN_API: &[u8] = b"http/1.1";

/// The application protocol of callers of the API who know a server by the cluster key. What they speak then is the API's
/// own protocol.
pub const ALPN_CLUSTER_KEY: &[u8] = b"weft-cluster-key/1";

/// The certificate that the API shows, with its key.
#[derive(Debug, Clone)]
pub struct ApiCertificate {
    certified: Arc<CertifiedKey>,
    names: Vec<ApiName>,
    not_before: Timestamp,
    not_after: Timestamp,
}

/// Why a certificate and a key are of no use to the API.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiCertificateError {
    /// The chain is not PEM.
    #[error("cannot read the certificate chain")]
    Chain(#[source] PemError),
    /// The first certificate is not one.
    #[error("the first certificate of the chain is malformed")]
    Malformed,
    /// The certificate is an authority's, or names nobody.
    #[error("the first certificate of the chain names no host and no address; put the server's own certificate first")]
    Nameless,
    /// The text holds no private key.
    #[error("there is no private key in the PEM text")]
    NoKey,
    /// The key cannot sign handshakes.
    #[error("the private key is of a kind that TLS 1.3 does not use; use ECDSA, Ed25519 or RSA of 2048 bits or more")]
    Key,
    /// The key is not the certificate's.
    #[error("the private key does not belong to the first certificate of the chain")]
    OtherKey,
}

impl ApiCertificate {
    /// Joins a chain in PEM, the server's own certificate first, with that certificate's key.
    ///
    /// # Errors
    ///
    /// [`ApiCertificateError`] says which of the two cannot be used.
    pub fn from_pem(chain_pem: &str, key_pem: &Secret) -> Result<Self, ApiCertificateError> {
        let chain = pem::certificates(chain_pem).map_err(ApiCertificateError::Chain)?;
        let (names, not_before, not_after) =
            chain.first().and_then(|own| read(own)).ok_or(ApiCertificateError::Malformed)?;
        if names.is_empty() {
            return Err(ApiCertificateError::Nameless);
        }
        let key = PrivateKeyDer::from_pem_slice(key_pem.expose().as_bytes()).map_err(|_| ApiCertificateError::NoKey)?;
        let key = crypto::provider().key_provider.load_private_key(key).map_err(|_| ApiCertificateError::Key)?;
        let certified = CertifiedKey::new(chain, key);
        // A key whose public half cannot be told apart is refused too: it would fail every handshake.
        certified.keys_match().map_err(|_| ApiCertificateError::OtherKey)?;
        Ok(Self { certified: Arc::new(certified), names, not_before, not_after })
    }

    /// Returns the names that the certificate is for; there is at least one.
    pub fn names(&self) -> &[ApiName] {
        &self.names
    }

    /// Returns when the certificate became valid.
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// Returns when the certificate expires.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }
}

fn read(own: &[u8]) -> Option<(Vec<ApiName>, Timestamp, Timestamp)> {
    let (_, certificate) = X509Certificate::from_der(own).ok()?;
    let validity = certificate.validity();
    let mut names = Vec::new();
    if let Ok(Some(alternatives)) = certificate.subject_alternative_name()
        && !certificate.is_ca()
    {
        names.extend(alternatives.value.general_names.iter().filter_map(|name| match name {
            GeneralName::DNSName(text) => ApiName::of_certificate(text),
            GeneralName::IPAddress(octets) => match octets.len() {
                4 => <[u8; 4]>::try_from(*octets).ok().map(|octets| ApiName::Ip(octets.into())),
                _ => <[u8; 16]>::try_from(*octets).ok().map(|octets| ApiName::Ip(octets.into())),
            },
            _ => None,
        }));
    }
    Some((names, from_seconds(validity.not_before.timestamp()), from_seconds(validity.not_after.timestamp())))
}

/// Picks what a server shows to a caller of its API.
#[derive(Debug)]
struct Shown {
    certificate: Arc<CertifiedKey>,
    server: Arc<RaftIdentity>,
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if hello.alpn().is_some_and(|mut offered| offered.any(|protocol| protocol == ALPN_CLUSTER_KEY)) {
            return self.server.resolve(hello);
        }
        Some(Arc::clone(&self.certificate))
    }
}

/// Returns what is shown to whoever calls an API over TLS 1.3.
pub fn api_server_config(certificate: &ApiCertificate) -> ServerConfig {
    let shown = SingleCertAndKey::from(Arc::clone(&certificate.certified));
    config(Arc::new(shown), &[ALPN_API])
}

/// Returns what a server of the group shows to whoever calls its API over TLS 1.3: the API's certificate, and its own as `server` to
/// whoever asks for [`ALPN_CLUSTER_KEY`].
pub fn group_api_config(certificate: &ApiCertificate, server: Arc<RaftIdentity>) -> ServerConfig {
    let shown = Shown { certificate: Arc::clone(&certificate.certified), server };
    config(Arc::new(shown), &[ALPN_API, ALPN_CLUSTER_KEY])
}

fn config(shown: Arc<dyn ResolvesServerCert>, protocols: &[&[u8]]) -> ServerConfig {
    let mut config = ServerConfig::builder_with_provider(crypto::provider())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has the algorithms of TLS 1.3")
        .with_no_client_auth()
        .with_cert_resolver(shown);
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cluster_key::{ClusterKey, ClusterKeys};
    use crate::pki::{LeafKey, LocalRoot, Serial, Signer, parse_csr};
    use catalog::CatalogIndex;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn made(names: &[&str]) -> (String, LeafKey) {
        let now = crypto::now();
        let signer = LocalRoot::create(&"mesh.test".parse().unwrap(), now, 10 * DAY)
            .unwrap()
            .create_intermediate(now, 5 * DAY)
            .unwrap();
        let key = LeafKey::generate();
        let csr = parse_csr(&key.csr_der(None)).unwrap();
        let names: Vec<ApiName> = names.iter().map(|name| name.parse().unwrap()).collect();
        let signed = signer.sign_api(&csr, &names, Serial::draw(CatalogIndex(1)), now, DAY).unwrap();
        (signed.certificate_pem + Signer::certificate_pem(&signer), key)
    }

    #[test]
    fn a_certificate_of_the_api_names_hosts_and_addresses() {
        let (chain, key) = made(&["weft.example.com", "10.0.0.1", "fd00::1"]);
        let certificate = ApiCertificate::from_pem(&chain, &key.to_pem()).unwrap();
        let names: Vec<String> = certificate.names().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["weft.example.com", "10.0.0.1", "fd00::1"]);
        assert!(certificate.not_before() < certificate.not_after());
        let keys = ClusterKeys::single(ClusterKey::generate());
        let server = RaftIdentity::new(&keys, "a".parse().unwrap()).unwrap();
        assert_eq!(group_api_config(&certificate, server).alpn_protocols, [ALPN_API, ALPN_CLUSTER_KEY]);
        assert_eq!(api_server_config(&certificate).alpn_protocols, [ALPN_API]);
    }

    #[test]
    fn c5_a_certificate_of_the_api_is_no_identity_of_the_mesh() {
        let (chain, key) = made(&["weft.example.com"]);
        crate::tls::TlsIdentity::from_pem(&[chain], &key.to_pem()).unwrap_err();
    }

    #[test]
    fn what_no_client_would_accept_is_refused_by_name() {
        let (chain, key) = made(&["weft.example.com"]);
        let refused = |chain: &str, key: &Secret| ApiCertificate::from_pem(chain, key).unwrap_err();
        assert!(matches!(refused("", &key.to_pem()), ApiCertificateError::Chain(_)));
        assert_eq!(refused(&chain, &Secret::new("")), ApiCertificateError::NoKey);
        assert_eq!(refused(&chain, &LeafKey::generate().to_pem()), ApiCertificateError::OtherKey);
        let issuer = chain.split_inclusive("-----END CERTIFICATE-----\n").nth(1).unwrap();
        assert_eq!(refused(issuer, &key.to_pem()), ApiCertificateError::Nameless);
    }
}
