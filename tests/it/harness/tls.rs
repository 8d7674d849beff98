//! Peers that no process of ours would be: they trust anybody, show what they like, and speak what they like.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::Arc,
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned, SupportedProtocolVersion,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};

/// How long a door may take to shut: five times the promise of five seconds.
const SHUT: Duration = Duration::from_secs(25);

/// Is a certificate chain with its key.
pub(crate) struct Credential {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl Clone for Credential {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

impl Credential {
    /// Takes an agent's own certificate from its data directory, as a thief would.
    pub(crate) fn of_agent(data: &Path) -> Self {
        Self::stored(&agent_file(data, "identity.json")["leaf"])
    }

    /// Takes the leaf of one of the agent's services.
    #[track_caller]
    pub(crate) fn of_service(data: &Path, service: &str) -> Self {
        let leaves = agent_file(data, "leaves.json");
        let subject = serde_json::json!({ "service": format!("default/{service}") });
        let found = leaves.as_array().unwrap().iter().find(|entry| entry[0] == subject);
        Self::stored(&found.unwrap_or_else(|| panic!("no leaf of {service} among {leaves:#}"))[1])
    }

    fn stored(leaf: &serde_json::Value) -> Self {
        let chain = leaf["chain_pem"].as_array().unwrap().iter();
        let chain = chain.map(|pem| CertificateDer::from_pem_slice(pem.as_str().unwrap().as_bytes()).unwrap());
        let key = PrivateKeyDer::from_pem_slice(leaf["key_pem"].as_str().unwrap().as_bytes()).unwrap();
        Self { chain: chain.collect(), key }
    }
}

/// Reads a file of an agent's data directory: a checksum's line, then JSON that wraps the content.
#[track_caller]
pub(crate) fn agent_file(data: &Path, name: &str) -> serde_json::Value {
    let text = std::fs::read_to_string(data.join(name)).unwrap();
    let (_, json) = text.split_once('\n').unwrap();
    let mut file: serde_json::Value = serde_json::from_str(json).unwrap();
    file["content"].take()
}

/// Makes the TLS side of a client that trusts anybody; TLS 1.3 unless said otherwise.
pub(crate) fn reckless(credential: Option<Credential>, protocols: &[&str]) -> ClientConfig {
    reckless_speaking(credential, protocols, &[&TLS13])
}

/// Makes the TLS side of a client that trusts anybody and speaks these versions.
pub(crate) fn reckless_speaking(
    credential: Option<Credential>,
    protocols: &[&str],
    versions: &[&'static SupportedProtocolVersion],
) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(wire::crypto::provider())
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustsAnybody));
    let mut config = match credential {
        Some(credential) => builder.with_client_auth_cert(credential.chain, credential.key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

/// Is how a door answered a knock.
#[derive(Debug)]
pub(crate) struct Knock {
    /// Where the knock came from.
    pub(crate) from: SocketAddr,
    /// What was heard before the door shut: nothing, an alert, or an error of the connection.
    pub(crate) heard: Vec<u8>,
    pub(crate) error: Option<io::Error>,
}

impl Knock {
    /// Fails the test unless the door stayed shut: not a byte came back that was meant for whoever is let in.
    #[track_caller]
    pub(crate) fn assert_refused(&self, what: &str) {
        let timed_out = self
            .error
            .as_ref()
            .is_some_and(|error| matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut));
        assert!(!timed_out, "{what}: still open after {SHUT:?}");
        // A TLS alert, which is what plaintext is answered with, is a record of type 21.
        let is_alert = self.heard.first() == Some(&21) && self.heard.len() <= 7;
        assert!(self.heard.is_empty() || is_alert, "{what}: answered with {:?}", String::from_utf8_lossy(&self.heard));
    }
}

/// Sends bytes in the clear and listens until the other side closes.
#[track_caller]
pub(crate) fn knock_in_the_clear(address: SocketAddr, bytes: &[u8]) -> Knock {
    let mut stream = connect(address);
    let from = stream.local_addr().unwrap();
    let (heard, error) = say_and_listen(&mut stream, bytes);
    Knock { from, heard, error }
}

/// Does TLS as far as the other side lets it, says something, and listens until it closes.
#[track_caller]
pub(crate) fn knock(address: SocketAddr, config: ClientConfig, server_name: &str, bytes: &[u8]) -> Knock {
    let stream = connect(address);
    let from = stream.local_addr().unwrap();
    let name = ServerName::try_from(server_name.to_owned()).unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let (heard, error) = say_and_listen(&mut StreamOwned::new(connection, stream), bytes);
    Knock { from, heard, error }
}

#[track_caller]
fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(SHUT)).unwrap();
    stream.set_write_timeout(Some(SHUT)).unwrap();
    stream
}

fn say_and_listen(stream: &mut (impl Read + Write), bytes: &[u8]) -> (Vec<u8>, Option<io::Error>) {
    let mut heard = Vec::new();
    let said = stream.write_all(bytes).and_then(|()| stream.flush());
    // The other side may have shut the door while we spoke, and have said why before.
    let listened = stream.read_to_end(&mut heard);
    (heard, listened.err().or(said.err()))
}

#[derive(Debug)]
struct TrustsAnybody;

impl ServerCertVerifier for TrustsAnybody {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        wire::crypto::provider().signature_verification_algorithms.supported_schemes()
    }
}
