//! A certificate authority as whoever runs a cluster has one: it vouches for a server and for its clients, who are told of both.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use serde_json::{Value, json};

/// Signs certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    /// Makes an authority of this name.
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Returns its own certificate.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// Signs a certificate of a user in an organization, or of a host by these names.
    pub(crate) fn sign(&self, user: &str, organization: &str, names: &[String]) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, user);
        if !organization.is_empty() {
            params.distinguished_name.push(DnType::OrganizationName, organization);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// Has a server be known by these names, and by their certificates whoever shows one.
    pub(crate) fn server(&self, names: &[String]) -> ServerConfig {
        let (certificate, key) = self.sign("server", "", names);
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), wire::crypto::provider());
        let config = ServerConfig::builder_with_provider(wire::crypto::provider());
        let config = config.with_safe_default_protocol_versions().unwrap();
        let config = config.with_client_cert_verifier(clients.allow_unauthenticated().build().unwrap());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        config.with_single_cert(vec![certificate.der().clone()], key).unwrap()
    }
}

/// Says in a configuration that a client shows a certificate.
pub(crate) fn client_certificate(certificate: &rcgen::Certificate, key: &rcgen::KeyPair) -> Value {
    let encode = |text: String| data_encoding::BASE64.encode(text.as_bytes());
    json!({"client-certificate-data": encode(certificate.pem()), "client-key-data": encode(key.serialize_pem())})
}

/// Writes the configuration of a client of one server.
pub(crate) fn kubeconfig(server: &str, ca_pem: &str, user: &Value) -> Value {
    let ca = data_encoding::BASE64.encode(ca_pem.as_bytes());
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "own",
        "clusters": [{"name": "own", "cluster": {"server": server, "certificate-authority-data": ca}}],
        "users": [{"name": "own", "user": user}], "contexts": [{"name": "own", "context": {"cluster": "own", "user": "own"}}],
    })
}
