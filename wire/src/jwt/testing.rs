//! An issuer of tokens for tests: real keys, real signatures, and a real HTTPS server where one is asked for.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{CertificateParams, Issuer as CaIssuer, KeyPair};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

pub(crate) const ISSUER: &str = "https://issuer.example";
pub(crate) const AUDIENCE: &str = "weft";

/// Somebody who vouches for identities by signing with ES256.
pub(crate) struct Issuer {
    key: KeyPair,
}

impl Issuer {
    pub(crate) fn new() -> Self {
        Self { key: KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap() }
    }

    pub(crate) fn public_pem(&self) -> String {
        self.key.public_key_pem()
    }

    /// Returns the key as a set of one, under a key id.
    pub(crate) fn jwks(&self, kid: &str) -> Value {
        let point = &self.key.public_key_raw()[1..];
        let part = |bytes: &[u8]| data_encoding::BASE64URL_NOPAD.encode(bytes);
        let (x, y) = (part(&point[..32]), part(&point[32..]));
        json!({"keys": [{"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": kid, "x": x, "y": y}]})
    }

    /// Signs claims as they are.
    pub(crate) fn sign(&self, header: &Header, claims: &Value) -> String {
        let key = EncodingKey::from_ec_pem(self.key.serialize_pem().as_bytes()).unwrap();
        encode(header, claims, &key).unwrap()
    }

    /// Signs what a good token says, and what `more` says over it; null takes a claim away.
    pub(crate) fn token(&self, more: &Value) -> String {
        self.sign(&Header::new(Algorithm::ES256), &claims(more))
    }
}

/// Returns the claims of a good token, changed by `more`.
pub(crate) fn claims(more: &Value) -> Value {
    let now = wire::crypto::now().0 / 1000;
    let mut claims =
        json!({"iss": ISSUER, "aud": AUDIENCE, "sub": "web-7", "exp": now + 600, "nbf": now - 1, "iat": now - 1});
    for (name, value) in more.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims
}

/// An HTTPS server that answers every path with one text, as it is.
pub(crate) struct Website {
    pub(crate) url: String,
    pub(crate) ca_pem: String,
    asked: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Website {
    /// Answers on loopback with `response`, given the path that was asked for and the server's own address.
    pub(crate) async fn start(response: impl Fn(&str, &str) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::start_as("localhost", Ipv4Addr::LOCALHOST.into(), response).await
    }

    /// Answers at an address of this machine.
    pub(crate) async fn start_on(
        address: IpAddr,
        response: impl Fn(&str, &str) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        Self::start_as(&address.to_string(), address, response).await
    }

    async fn start_as(
        host: &str,
        address: IpAddr,
        response: impl Fn(&str, &str) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        wire::crypto::install_provider();
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec![host.to_owned()]).unwrap();
        let certificate = leaf.signed_by(&key, &CaIssuer::new(ca, ca_key)).unwrap();
        let tls = rustls::ServerConfig::builder_with_provider(wire::crypto::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            )
            .unwrap();
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let url = format!("https://{host}:{}", listener.local_addr().unwrap().port());
        let (acceptor, response, own) = (TlsAcceptor::from(Arc::new(tls)), Arc::new(response), url.clone());
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (acceptor, response, own) = (acceptor.clone(), Arc::clone(&response), own.clone());
                let counted = Arc::clone(&counted);
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(tcp).await else { return };
                    let mut request = Vec::new();
                    while !request.ends_with(b"\r\n\r\n") {
                        match stream.read_u8().await {
                            Ok(byte) => request.push(byte),
                            Err(_) => return,
                        }
                    }
                    counted.fetch_add(1, Ordering::SeqCst);
                    let request = String::from_utf8_lossy(&request).into_owned();
                    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
                    let _ = stream.write_all(&response(&path, &own)).await;
                    let _ = stream.shutdown().await;
                });
            }
        });
        Self { url, ca_pem, asked, task }
    }

    /// Returns how often it was asked.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Drop for Website {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Returns an answer with a body of JSON.
pub(crate) fn ok(body: &Value) -> Vec<u8> {
    let body = body.to_string();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
    [head.into_bytes(), body.into_bytes()].concat()
}
