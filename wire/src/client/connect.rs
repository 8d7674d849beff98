//! Connecting: plain TCP, or TLS 1.3 with the roots of one file.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::client::Resumption;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{ApiClient, ApiError};
use crate::crypto;
use crate::pki::pem;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// No file of certificates is larger.
const CA_BYTES_MAX: u64 = 1024 * 1024;

/// Builds the TLS configuration that trusts the certificates in the file at `path`.
pub(super) fn tls_config(path: &Path) -> Result<Arc<ClientConfig>, ApiError> {
    let refused = |source: io::Error| ApiError::CaFile { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(refused)?.len() > CA_BYTES_MAX {
        return Err(refused(io::ErrorKind::FileTooLarge.into()));
    }
    let text = std::fs::read_to_string(path).map_err(refused)?;
    let mut roots = RootCertStore::empty();
    for certificate in pem::certificates(&text).map_err(|error| refused(io::Error::other(error)))? {
        roots.add(certificate).map_err(|error| refused(io::Error::other(error)))?;
    }
    let mut config = ClientConfig::builder_with_provider(crypto::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| refused(io::Error::other(error)))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Connects to the client's address.
pub(super) async fn connect(client: &ApiClient) -> Result<Stream, ApiError> {
    let address = &client.address;
    let unreachable = |source: io::Error| ApiError::Unreachable { address: address.to_string(), source };
    let connecting = async {
        let found = tokio::net::lookup_host((address.host.as_str(), address.port)).await.map_err(unreachable)?;
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for candidate in found {
            if client.token.is_some() && !address.is_tls && !candidate.ip().is_loopback() {
                return Err(ApiError::TokenInClear { address: address.to_string() });
            }
            match dial(client, candidate).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = error,
            }
        }
        Err(unreachable(failure))
    };
    if address.is_tls && client.tls.is_none() {
        return Err(ApiError::NoCaFile { address: address.to_string() });
    }
    match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(result) => result,
        Err(_) => Err(unreachable(io::Error::new(io::ErrorKind::TimedOut, "the connection took too long"))),
    }
}

async fn dial(client: &ApiClient, candidate: SocketAddr) -> io::Result<Stream> {
    let stream = TcpStream::connect(candidate).await?;
    stream.set_nodelay(true)?;
    match (&client.tls, client.address.is_tls) {
        (Some(config), true) => {
            let name = ServerName::try_from(client.address.host.clone()).map_err(io::Error::other)?;
            let stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await?;
            Ok(Stream::Tls(Box::new(stream)))
        }
        _ => Ok(Stream::Plain(stream)),
    }
}

/// A connection to the API.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
