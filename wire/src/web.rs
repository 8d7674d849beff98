//! Asking over HTTPS somebody who may be down, slow or hostile: an issuer for its keys, a cloud who somebody is.

mod reach;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use crate::AddressKind;
use crate::tls::web_client_config;

pub use reach::Reach;

/// Time for one address of a name to answer the TCP handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 4;
/// Is the size of the largest document that is read; a key set of some dozens of keys is a tenth of it.
pub(crate) const DOCUMENT_BYTES_MAX: usize = 256 * 1024;

/// Explains why a document could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// The address makes no sense, or is of a scheme that is not spoken with others.
    #[error("`{url}` is no https address of a host, with or without a port and a path")]
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
    #[error("`{host}` has no address that may be asked: loopback, link-local and metadata addresses are refused")]
    Forbidden {
        /// The name.
        host: String,
    },
    /// It would be asked in the clear, and is not this machine.
    #[error("`{host}` is not on this machine, and with others only https is spoken")]
    InTheClear {
        /// The name.
        host: String,
    },
    /// It cannot be reached.
    #[error("cannot reach `{host}`")]
    Connect {
        /// Whom.
        host: String,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// It does not speak HTTP, or stopped in the middle.
    #[error("`{host}` does not answer over HTTP")]
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
/// [`WebError::Roots`] if one cannot be read, or there is none.
pub fn check_roots(pem: &str) -> Result<(), WebError> {
    read_roots(pem).map(drop)
}

fn read_roots(pem: &str) -> Result<RootCertStore, WebError> {
    let refused = |reason: String| WebError::Roots { reason };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| refused(error.to_string()))?;
        roots.add(certificate).map_err(|error| refused(error.to_string()))?;
    }
    if roots.is_empty() { Err(refused("there is no certificate in it".to_owned())) } else { Ok(roots) }
}

/// Is the head and the whole body of an answer.
#[derive(Debug, Clone)]
pub struct WebAnswer {
    /// The status.
    pub status: StatusCode,
    /// The body.
    pub body: Bytes,
}

/// Is whom a question goes to.
struct Place {
    host: String,
    port: u16,
    is_tls: bool,
}

/// Asks hosts that its roots vouch for.
#[derive(Debug)]
pub struct WebClient {
    tls: Arc<ClientConfig>,
    reach: Reach,
    /// Time for everything, from the name's lookup to the last byte.
    timeout: Duration,
}

impl WebClient {
    /// Trusts the roots in `ca_pem`, or the system's. All of one question takes at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`WebError::Roots`] if there is nobody to trust.
    pub fn new(ca_pem: Option<&str>, reach: Reach, timeout: Duration) -> Result<Self, WebError> {
        let mut roots = RootCertStore::empty();
        match ca_pem {
            Some(pem) => roots = read_roots(pem)?,
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        if roots.is_empty() {
            let reason = "there are none: install the system's, or name some".to_owned();
            return Err(WebError::Roots { reason });
        }
        Ok(Self { tls: Arc::new(web_client_config(roots)), reach, timeout })
    }

    /// Fetches one document.
    ///
    /// # Errors
    ///
    /// [`WebError`]; any answer but 200 is one.
    pub async fn get(&self, url: &str) -> Result<Bytes, WebError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, application/jwk-set+json"));
        let answer = self.send(Method::GET, url, headers, Bytes::new(), Some(StatusCode::OK)).await?;
        Ok(answer.body)
    }

    /// Sends one request and returns its answer, whatever its status; a redirect is an answer like any other. The header
    /// `Host` is what the address says.
    ///
    /// `http` is spoken with this machine alone, and only where it may be asked at all.
    ///
    /// # Errors
    ///
    /// [`WebError`], if there is no whole answer.
    pub async fn exchange(
        &self,
        method: Method,
        url: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<WebAnswer, WebError> {
        self.send(method, url, headers, body, None).await
    }

    /// Sends one request; the body of an answer with another status than the one that is `wanted`, if one is, is not read.
    async fn send(
        &self,
        method: Method,
        url: &str,
        headers: HeaderMap,
        body: Bytes,
        wanted: Option<StatusCode>,
    ) -> Result<WebAnswer, WebError> {
        let malformed = || WebError::Address { url: url.to_owned() };
        let uri: Uri = url.parse().map_err(|_| malformed())?;
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(malformed)?;
        let is_tls = match (uri.scheme_str(), self.reach) {
            (Some("https"), _) => true,
            (Some("http"), Reach::Loopback) => false,
            _ => return Err(malformed()),
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let place = Place { host, port: authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 }), is_tls };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().map_err(|_| malformed())?;
        *request.headers_mut() = headers;
        let headers = request.headers_mut();
        headers.insert(header::HOST, HeaderValue::from_str(authority.as_str()).map_err(|_| malformed())?);
        headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("weft/", env!("CARGO_PKG_VERSION"))));
        match tokio::time::timeout(self.timeout, self.ask(url, &place, request, wanted)).await {
            Ok(answer) => answer,
            Err(_) => Err(WebError::Timeout { host: place.host, timeout: self.timeout }),
        }
    }

    async fn ask(
        &self,
        url: &str,
        place: &Place,
        request: Request<Full<Bytes>>,
        wanted: Option<StatusCode>,
    ) -> Result<WebAnswer, WebError> {
        let failed = |source| WebError::Connect { host: place.host.clone(), source };
        let http = |source| WebError::Http { host: place.host.clone(), source };
        let tcp = self.dial(place).await?;
        let (sender, driver) = if place.is_tls {
            let name = ServerName::try_from(place.host.clone()).map_err(|error| failed(io::Error::other(error)))?;
            let tls = TlsConnector::from(Arc::clone(&self.tls)).connect(name, tcp).await.map_err(failed)?;
            let (sender, connection) = http1::handshake(TokioIo::new(tls)).await.map_err(http)?;
            // How a connection ended is told to whoever waits for the answer.
            (sender, tokio::spawn(async move { drop(connection.await) }))
        } else {
            let (sender, connection) = http1::handshake(TokioIo::new(tcp)).await.map_err(http)?;
            (sender, tokio::spawn(async move { drop(connection.await) }))
        };
        let _driver = AbortOnDropHandle::new(driver);
        let response = crate::ask_once(sender, request).await.map_err(http)?;
        let status = response.status();
        if wanted.is_some_and(|wanted| wanted != status) {
            return Err(WebError::Status { url: url.to_owned(), status });
        }
        let unusable = |reason: &str| WebError::Body { url: url.to_owned(), reason: reason.to_owned() };
        // None was asked for; what is packed may unpack to anything.
        if response.headers().get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
            return Err(unusable("it is compressed, which was not asked for"));
        }
        match Limited::new(response.into_body(), DOCUMENT_BYTES_MAX).collect().await {
            Ok(body) => Ok(WebAnswer { status, body: body.to_bytes() }),
            Err(error) if error.is::<LengthLimitError>() => {
                Err(unusable(&format!("it has more than {DOCUMENT_BYTES_MAX} bytes")))
            }
            Err(error) => Err(unusable(&error.to_string())),
        }
    }

    /// Connects to an address that was looked at, so that no later lookup leads elsewhere.
    async fn dial(&self, place: &Place) -> Result<TcpStream, WebError> {
        let failed = |source| WebError::Connect { host: place.host.clone(), source };
        let found = tokio::net::lookup_host((place.host.as_str(), place.port)).await.map_err(failed)?;
        let mut failure = WebError::Forbidden { host: place.host.clone() };
        let mut allowed: Vec<SocketAddr> = found.filter(|address| self.reach.allows(address.ip())).collect();
        if !place.is_tls && !allowed.is_empty() {
            failure = WebError::InTheClear { host: place.host.clone() };
            allowed.retain(|address| AddressKind::of(address.ip()) == AddressKind::Loopback);
        }
        allowed.truncate(ADDRESSES_MAX);
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

#[cfg(test)]
mod tests {
    use super::*;

    async fn asked(url: &str, reach: Reach) -> WebError {
        crate::crypto::install_provider();
        let root = crate::pki::LocalRoot::create(
            &"mesh.example".parse().unwrap(),
            crate::crypto::now(),
            Duration::from_secs(3600),
        );
        let client = WebClient::new(Some(root.unwrap().certificate_pem()), reach, Duration::from_secs(5)).unwrap();
        client.get(url).await.unwrap_err()
    }

    #[tokio::test]
    async fn whoever_is_not_asked_is_told_of_with_the_reason() {
        use Reach::{Loopback, Others};
        for (url, reach, want) in [
            ("https://127.0.0.1:1/", Others, "loopback, link-local and metadata addresses are refused"),
            ("http://192.0.2.1:1/", Loopback, "with others only https is spoken"),
            ("http://169.254.169.254/", Loopback, "link-local and metadata addresses are refused"),
            ("http://192.0.2.1/", Others, "is no https address"),
            ("https://user@example.com/", Others, "is no https address"),
            ("ftp://example.com/", Loopback, "is no https address"),
        ] {
            let error = asked(url, reach).await.to_string();
            assert!(error.contains(want), "{url}: {error}");
        }
    }

    #[tokio::test]
    async fn the_cause_of_a_failure_is_told_once() {
        let error = crate::one_line(&asked("http://127.0.0.1:9/", Reach::Loopback).await);
        assert_eq!(error.matches("refused").count(), 1, "{error}");
    }
}
