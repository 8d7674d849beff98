//! A small mesh and handshakes in memory, for the tests of this module.

use std::sync::Arc;
use std::time::Duration;

use catalog::{CatalogIndex, SpiffeId, Timestamp};
use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};
use rustls_pki_types::{CertificateDer, ServerName};

use super::{TlsIdentity, TrustAnchors};
use crate::crypto;
use crate::pki::{LeafKey, LeafRequest, LocalRoot, LocalSigner, Serial, Signer, Validity, leaf_params, parse_csr, pem};

pub(crate) const WEB: &str = "spiffe://mesh.test/ns/default/sa/web";
pub(crate) const API: &str = "spiffe://mesh.test/ns/default/sa/api";
pub(crate) const SERVER: &str = "spiffe://mesh.test/server/s1";
pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);

/// A certificate authority of one trust domain, made just now.
pub(crate) struct Mesh {
    pub(crate) root: LocalRoot,
    pub(crate) signer: LocalSigner,
    pub(crate) now: Timestamp,
}

impl Mesh {
    pub(crate) fn new(trust_domain: &str) -> Self {
        let now = crypto::now();
        let root = LocalRoot::create(&trust_domain.parse().unwrap(), now, 3650 * DAY).unwrap();
        let signer = root.create_intermediate(now, 365 * DAY).unwrap();
        Self { root, signer, now }
    }

    pub(crate) fn root_pem(&self) -> String {
        self.root.certificate_pem().to_owned()
    }

    pub(crate) fn anchors(&self) -> Arc<TrustAnchors> {
        Arc::new(TrustAnchors::from_pem(&[self.root_pem()]).unwrap())
    }

    /// A leaf as the servers sign it, with its intermediate.
    pub(crate) fn leaf_pem(&self, id: &str) -> (Vec<String>, LeafKey) {
        self.leaf_pem_for(id, DAY)
    }

    pub(crate) fn leaf_pem_for(&self, id: &str, ttl: Duration) -> (Vec<String>, LeafKey) {
        let key = LeafKey::generate();
        let (csr, id) = (parse_csr(&key.csr_der(None)).unwrap(), id.parse::<SpiffeId>().unwrap());
        let request = LeafRequest {
            csr: &csr,
            id: &id,
            platform: None,
            serial: Serial::draw(CatalogIndex(7)),
            now: self.now,
            ttl,
        };
        let leaf = self.signer.sign_leaf(&request).unwrap();
        (vec![leaf.certificate_pem, Signer::certificate_pem(&self.signer).to_owned()], key)
    }

    pub(crate) fn identity(&self, id: &str) -> TlsIdentity {
        let (chain, key) = self.leaf_pem(id);
        TlsIdentity::new(&chain, &key).unwrap()
    }

    /// A server's identity, whose chain ends with the root.
    pub(crate) fn server_identity(&self) -> TlsIdentity {
        let (mut chain, key) = self.leaf_pem(SERVER);
        chain.push(self.root_pem());
        TlsIdentity::new(&chain, &key).unwrap()
    }

    /// The chain of a leaf that no server of ours would sign: a good one with `change` applied.
    pub(crate) fn mutant(&self, change: impl FnOnce(&mut CertificateParams)) -> Vec<CertificateDer<'static>> {
        let validity = Validity::starting(self.now, DAY);
        let mut params = leaf_params(&WEB.parse().unwrap(), None, Serial::draw(CatalogIndex(7)), validity);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer()).unwrap();
        vec![leaf.der().clone(), pem::certificate(Signer::certificate_pem(&self.signer)).unwrap()]
    }

    /// The intermediate, as rcgen signs with it.
    pub(crate) fn issuer(&self) -> Issuer<'static, KeyPair> {
        let key = KeyPair::from_pem(self.signer.key_pem().expose()).unwrap();
        Issuer::from_ca_cert_pem(Signer::certificate_pem(&self.signer), key).unwrap()
    }

    /// The root, as rcgen signs with it.
    pub(crate) fn root_issuer(&self) -> Issuer<'static, KeyPair> {
        let key = KeyPair::from_pem(self.root.key_pem().expose()).unwrap();
        Issuer::from_ca_cert_pem(self.root.certificate_pem(), key).unwrap()
    }
}

/// Both ends of a finished handshake.
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) client: ClientConnection,
    pub(crate) server: ServerConnection,
}

/// Which end refused the handshake, and why.
#[derive(Debug)]
pub(crate) enum Failed {
    AtClient(rustls::Error),
    AtServer(rustls::Error),
}

/// Carries out a handshake in memory.
pub(crate) fn handshake(client: ClientConfig, server: ServerConfig) -> Result<Connected, Failed> {
    let name = ServerName::try_from("web.default.dc1.internal.mesh.test").unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    loop {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut quiet = bytes.is_empty();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets().map_err(Failed::AtServer)?;
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        quiet &= bytes.is_empty();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets().map_err(Failed::AtClient)?;
        }
        if quiet {
            assert!(!client.is_handshaking() && !server.is_handshaking(), "the handshake came to a halt");
            return Ok(Connected { client, server });
        }
    }
}
