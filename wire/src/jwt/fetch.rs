//! Fetching a document over HTTPS from somebody who may be down, slow or hostile.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::reach::Reach;
use crate::tls::web_client_config;

/// Time for one address of a name to answer the TCP handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 4;
/// Is the size of the largest document that is read; a key set of some dozens of keys is a tenth of it.
pub const DOCUMENT_BYTES_MAX: usize = 256 * 1024;

/// Explains why a document could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The address makes no sense.
    #[error("`{url}` is no https address")]
    Address {
        /// The address.
        url: String,
    },
    /// The roots that are to be trusted cannot be read.
    #[error("the CA certificates cannot be read: {reason}")]
    Roots {
        /// What is wrong with them.
        reason: String,
    },
    /// The name has no address that may be asked.
    #[error(
        "`{host}` has no address that keys may be fetched from: loopback, link-local and metadata addresses are refused"
    )]
    Forbidden {
        /// The name.
        host: String,
    },
    /// It cannot be reached.
    #[error("cannot reach `{host}`: {source}")]
    Connect {
        /// Whom.
        host: String,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// It does not speak HTTP, or stopped in the middle.
    #[error("`{host}` does not answer over HTTP: {source}")]
    Http {
        /// Who.
        host: String,
        /// What went wrong.
        #[source]
        source: hyper::Error,
    },
    /// It took too long.
    #[error("`{host}` did not answer within {timeout:?}")]
    Timeout {
        /// Who.
        host: String,
        /// The time that there was.
        timeout: Duration,
    },
    /// It answered with something else than the document; a redirect is not followed.
    #[error("`{url}` was answered with status {status}; redirects are not followed")]
    Status {
        /// What was asked for.
        url: String,
        /// The answer's status.
        status: StatusCode,
    },
    /// The document is too large, or encoded.
    #[error("the answer of `{url}` cannot be used: {reason}")]
    Body {
        /// What was asked for.
        url: String,
        /// What is wrong with the answer.
        reason: String,
    },
}

/// Checks that certificates can be trusted as roots.
///
/// # Errors
///
/// [`FetchError::Roots`] if one cannot be read, or there is none.
pub fn check_roots(pem: &str) -> Result<(), FetchError> {
    read_roots(pem).map(drop)
}

fn read_roots(pem: &str) -> Result<RootCertStore, FetchError> {
    let refused = |reason: String| FetchError::Roots { reason };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| refused(error.to_string()))?;
        roots.add(certificate).map_err(|error| refused(error.to_string()))?;
    }
    if roots.is_empty() { Err(refused("there is no certificate in it".to_owned())) } else { Ok(roots) }
}

/// Fetches documents from hosts that its roots vouch for.
#[derive(Debug)]
pub(super) struct Fetcher {
    tls: Arc<ClientConfig>,
    reach: Reach,
    /// Time for everything, from the name's lookup to the last byte.
    timeout: Duration,
}

impl Fetcher {
    /// Trusts the roots in `ca_pem`, or the system's.
    pub(super) fn new(ca_pem: Option<&str>, reach: Reach, timeout: Duration) -> Result<Self, FetchError> {
        let mut roots = RootCertStore::empty();
        match ca_pem {
            Some(pem) => roots = read_roots(pem)?,
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        if roots.is_empty() {
            let reason = "there are none: install the system's, or name some".to_owned();
            return Err(FetchError::Roots { reason });
        }
        Ok(Self { tls: Arc::new(web_client_config(roots)), reach, timeout })
    }

    /// Fetches one document.
    pub(super) async fn get(&self, url: &str) -> Result<Bytes, FetchError> {
        let malformed = || FetchError::Address { url: url.to_owned() };
        let uri: Uri = url.parse().map_err(|_| malformed())?;
        if uri.scheme_str() != Some("https") {
            return Err(malformed());
        }
        let authority = uri.authority().cloned().ok_or_else(malformed)?;
        if authority.as_str().contains('@') {
            return Err(malformed());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(443);
        match tokio::time::timeout(self.timeout, self.ask(url, &uri, authority.as_str(), &host, port)).await {
            Ok(answer) => answer,
            Err(_) => Err(FetchError::Timeout { host, timeout: self.timeout }),
        }
    }

    async fn ask(&self, url: &str, uri: &Uri, authority: &str, host: &str, port: u16) -> Result<Bytes, FetchError> {
        let failed = |source| FetchError::Connect { host: host.to_owned(), source };
        let http = |source| FetchError::Http { host: host.to_owned(), source };
        let tcp = self.dial(host, port).await?;
        let name = ServerName::try_from(host.to_owned()).map_err(|error| failed(io::Error::other(error)))?;
        let tls = TlsConnector::from(Arc::clone(&self.tls)).connect(name, tcp).await.map_err(failed)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(tls)).await.map_err(http)?;
        let _driver = AbortOnDropHandle::new(tokio::spawn(async move {
            // How it ended is told to whoever waits for the answer.
            let _ = connection.await;
        }));
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.method_mut() = Method::GET;
        *request.uri_mut() = uri
            .path_and_query()
            .map_or("/", |path| path.as_str())
            .parse()
            .map_err(|_| FetchError::Address { url: url.to_owned() })?;
        let headers = request.headers_mut();
        let host_value = HeaderValue::from_str(authority).map_err(|_| FetchError::Address { url: url.to_owned() })?;
        headers.insert(header::HOST, host_value);
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, application/jwk-set+json"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("weft/", env!("CARGO_PKG_VERSION"))));
        let response = sender.send_request(request).await.map_err(http)?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status { url: url.to_owned(), status: response.status() });
        }
        let unusable = |reason: &str| FetchError::Body { url: url.to_owned(), reason: reason.to_owned() };
        // None was asked for; what is packed may unpack to anything.
        if response.headers().get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
            return Err(unusable("it is compressed, which was not asked for"));
        }
        match Limited::new(response.into_body(), DOCUMENT_BYTES_MAX).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => {
                Err(unusable(&format!("it has more than {DOCUMENT_BYTES_MAX} bytes")))
            }
            Err(error) => Err(unusable(&error.to_string())),
        }
    }

    /// Connects to an address that was looked at, so that no later lookup leads elsewhere.
    async fn dial(&self, host: &str, port: u16) -> Result<TcpStream, FetchError> {
        let failed = |source| FetchError::Connect { host: host.to_owned(), source };
        let found = tokio::net::lookup_host((host, port)).await.map_err(failed)?;
        let allowed: Vec<SocketAddr> =
            found.filter(|address| self.reach.allows(address.ip())).take(ADDRESSES_MAX).collect();
        let mut failure = FetchError::Forbidden { host: host.to_owned() };
        for address in allowed {
            match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(source)) => failure = failed(source),
                Err(_) => failure = failed(io::ErrorKind::TimedOut.into()),
            }
        }
        Err(failure)
    }
}
