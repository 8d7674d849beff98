//! The client of the HTTP API, for the command line and tests: one connection a request, and no hidden repeats.
//!
//! A write is never sent twice behind the caller's back. Where its answer is lost, nobody knows whether it was carried
//! out, and the error says so; a caller that wants to repeat it sends it under a [`RequestId`].

mod address;
mod connect;
mod error;
mod stream;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use catalog::{CatalogIndex, Namespace, RequestId};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use address::ApiAddress;
pub use error::ApiError;
pub use stream::Streamed;

use crate::cluster_key::ClusterKey;
use crate::crypto::Secret;
use crate::tls::cluster_key_client_config;
use error::first_line;

/// Where the API is where nobody says otherwise: the agent or server on this machine.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:8500";
/// How long a call may take where nobody says otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest answer that is read.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Speaks to one agent or server.
#[derive(Clone)]
pub struct ApiClient {
    address: ApiAddress,
    tls: Option<Arc<ClientConfig>>,
    token: Option<Secret>,
    namespace: Option<Namespace>,
    timeout: Duration,
}

impl fmt::Debug for ApiClient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ApiClient").field("address", &self.address).finish_non_exhaustive()
    }
}

impl ApiClient {
    /// Speaks to `address`: `host:port`, `http://host:port` or `https://host:port`.
    ///
    /// # Errors
    ///
    /// [`ApiError::Address`] if it has another form.
    pub fn new(address: &str) -> Result<Self, ApiError> {
        let address = address.parse()?;
        Ok(Self { address, tls: None, token: None, namespace: None, timeout: DEFAULT_TIMEOUT })
    }

    /// Sends `token` with every call.
    #[must_use]
    pub fn with_token(mut self, token: Secret) -> Self {
        self.token = Some(token);
        self
    }

    /// Asks in `namespace` wherever a call does not name one itself.
    #[must_use]
    pub fn with_namespace(mut self, namespace: Namespace) -> Self {
        self.namespace = Some(namespace);
        self
    }

    /// Gives every call so long, from the connection to the last byte of the answer.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Trusts the certificates in the PEM file at `path`, and no others. Only addresses with `https` use it.
    ///
    /// # Errors
    ///
    /// [`ApiError::CaFile`] if the file cannot be read or holds no certificate.
    pub fn with_ca_file(mut self, path: &Path) -> Result<Self, ApiError> {
        self.tls = Some(connect::tls_config(path)?);
        Ok(self)
    }

    /// Trusts whoever holds this cluster key, and nobody else. Only addresses with `https` use it.
    #[must_use]
    pub fn with_cluster_key(mut self, key: &ClusterKey) -> Self {
        self.tls = Some(cluster_key_client_config(key));
        self
    }

    /// Returns where the API is.
    pub fn address(&self) -> &ApiAddress {
        &self.address
    }

    /// Starts a read of `path`.
    pub fn get(&self, path: &str) -> Call<'_> {
        Call::new(self, Method::GET, path)
    }

    /// Starts a write to `path`.
    pub fn put(&self, path: &str) -> Call<'_> {
        Call::new(self, Method::PUT, path)
    }

    /// Starts a request to `path` that makes or ends something of its own, such as a login.
    pub fn post(&self, path: &str) -> Call<'_> {
        Call::new(self, Method::POST, path)
    }

    /// Starts the removal of `path`.
    pub fn delete(&self, path: &str) -> Call<'_> {
        Call::new(self, Method::DELETE, path)
    }
}

/// One call that is being put together.
#[derive(Debug)]
#[must_use = "a call is made by `send` or `json`"]
pub struct Call<'a> {
    client: &'a ApiClient,
    method: Method,
    path: String,
    query: String,
    request_id: Option<RequestId>,
    body: Bytes,
    content_type: &'static str,
    answer_bytes_max: usize,
    timeout: Duration,
}

/// An answer of success.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status, 200 to 299.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// Reports whether the token's rights left something out.
    pub fn is_filtered(&self) -> bool {
        self.headers.get("x-consul-results-filtered-by-acls").is_some_and(|filtered| filtered == "true")
    }

    /// Returns the index that the answer stands at, to wait for the next change with.
    pub fn index(&self) -> Option<CatalogIndex> {
        self.headers.get("x-consul-index")?.to_str().ok()?.parse().ok().map(CatalogIndex)
    }
}

impl<'a> Call<'a> {
    fn new(client: &'a ApiClient, method: Method, path: &str) -> Self {
        let (path, query, body) = (path.to_owned(), String::new(), Bytes::new());
        Self {
            client,
            method,
            path,
            query,
            request_id: None,
            body,
            content_type: "application/json",
            answer_bytes_max: ANSWER_BYTES_MAX,
            timeout: client.timeout,
        }
    }

    /// Appends `/` and a part of the path, whatever characters it has.
    pub fn segment(mut self, segment: impl AsRef<str>) -> Self {
        self.path.push('/');
        percent_encode(segment.as_ref(), &mut self.path);
        self
    }

    /// Appends a parameter of the query, whatever characters it has.
    pub fn query(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.query.push(if self.query.is_empty() { '?' } else { '&' });
        percent_encode(name, &mut self.query);
        self.query.push('=');
        percent_encode(value.as_ref(), &mut self.query);
        self
    }

    /// Sends `value` as JSON.
    ///
    /// # Errors
    ///
    /// [`ApiError::Encode`] if JSON cannot hold it.
    pub fn body<T: Serialize + ?Sized>(mut self, value: &T) -> Result<Self, ApiError> {
        let written = serde_json::to_vec(value);
        self.body = written.map_err(|source| ApiError::Encode { path: self.path.clone(), source })?.into();
        Ok(self)
    }

    /// Sends bytes that are no JSON.
    pub fn bytes(mut self, content_type: &'static str, bytes: impl Into<Bytes>) -> Self {
        self.content_type = content_type;
        self.body = bytes.into();
        self
    }

    /// Reads an answer of up to so many bytes.
    pub fn answer_bytes_max(mut self, bytes_max: usize) -> Self {
        self.answer_bytes_max = bytes_max;
        self
    }

    /// Marks the call, so that its repeat under the same id is answered as the first was and nothing is done twice.
    pub fn request_id(mut self, id: RequestId) -> Self {
        self.request_id = Some(id);
        self
    }

    /// Gives this call so long, as a blocking query needs it.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Makes the call and reads the answer as JSON.
    ///
    /// # Errors
    ///
    /// As [`Call::send`], and [`ApiError::Decode`] if the answer is something else.
    pub async fn json<T: DeserializeOwned>(self) -> Result<T, ApiError> {
        let path = self.path.clone();
        let answer = self.send().await?;
        serde_json::from_slice(&answer.body).map_err(|source| ApiError::Decode { path, source })
    }

    /// Makes the call.
    ///
    /// # Errors
    ///
    /// [`ApiError::Status`] if the answer is not of success, other [`ApiError`]s if there is none.
    pub async fn send(self) -> Result<Answer, ApiError> {
        let timeout = self.timeout;
        let timed_out = self.lost(format!("there was no answer within {timeout:?}"), None);
        match tokio::time::timeout(timeout, self.exchange()).await {
            Ok(result) => result,
            Err(_) => Err(timed_out),
        }
    }

    async fn exchange(&self) -> Result<Answer, ApiError> {
        let stream = connect::connect(self.client).await?;
        let lost = |source: hyper::Error| self.lost("the connection broke".to_owned(), Some(source));
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
        let request = self.request()?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(lost)?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, self.answer_bytes_max).collect().await.map_err(|error| {
                if error.is::<LengthLimitError>() {
                    return ApiError::AnswerTooLarge { path: self.path.clone(), limit_bytes: self.answer_bytes_max };
                }
                self.lost("the connection broke".to_owned(), error.downcast().ok().map(|error| *error))
            })?;
            Ok((parts, body.to_bytes()))
        };
        tokio::pin!(exchange);
        let (parts, body) = tokio::select! {
            answer = &mut exchange => answer,
            // What arrived before the connection ended is still there to be read.
            _ = connection => exchange.await,
        }?;
        if !parts.status.is_success() {
            let message = first_line(&body);
            let (method, path) = (self.method.clone(), self.path.clone());
            return Err(ApiError::Status { method, path, status: parts.status, message });
        }
        Ok(Answer { status: parts.status, headers: parts.headers, body })
    }

    fn request(&self) -> Result<Request<Full<Bytes>>, ApiError> {
        let mut target = format!("{}{}", self.path, self.query);
        if let Some(namespace) = &self.client.namespace
            && !self.names_namespace()
        {
            target.push(if self.query.is_empty() { '?' } else { '&' });
            target.push_str("ns=");
            target.push_str(namespace.as_str());
        }
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(target)
            .header(header::HOST, self.client.address.authority())
            .header(header::USER_AGENT, concat!("weft/", env!("CARGO_PKG_VERSION")));
        if !self.body.is_empty() {
            request = request.header(header::CONTENT_TYPE, self.content_type);
        }
        if let Some(id) = &self.request_id {
            request = request.header("x-weft-request-id", id.as_str());
        }
        if let Some(token) = &self.client.token {
            let mut value = HeaderValue::from_str(token.expose()).map_err(|_| ApiError::TokenForm)?;
            value.set_sensitive(true);
            request = request.header("x-consul-token", value);
        }
        let malformed = |source| ApiError::Request { path: self.path.clone(), source };
        request.body(Full::new(self.body.clone())).map_err(malformed)
    }

    fn names_namespace(&self) -> bool {
        self.query.starts_with("?ns=") || self.query.contains("&ns=")
    }

    /// Makes the error of a call whose answer is lost.
    fn lost(&self, reason: String, source: Option<hyper::Error>) -> ApiError {
        let address = self.client.address.to_string();
        if self.method == Method::GET {
            ApiError::NoAnswer { address, reason, source }
        } else {
            ApiError::OutcomeUnknown { address, reason, source }
        }
    }
}

/// Appends `text` with everything but the unreserved characters of RFC 3986 §2.3 encoded.
fn percent_encode(text: &str, target: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            target.push(char::from(byte));
        } else {
            target.push('%');
            for digit in [byte >> 4, byte & 0xf] {
                target.push(char::from_digit(u32::from(digit), 16).unwrap_or_default().to_ascii_uppercase());
            }
        }
    }
}

#[cfg(test)]
mod tests;
