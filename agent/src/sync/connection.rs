//! One HTTP/2 connection to a server's agent port, shared by everything that asks something of a server.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::response::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Collected, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use wire::agent_protocol;
use wire::tls::PeerRejected;

/// A connection that does not answer a ping within this is dead, even if its TCP connection has not noticed.
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the connection is pinged; a session is given to another server within twice this.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// Time for TCP and TLS handshakes together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);
/// A question that has no answer for so long after its connection took the last one gets none: a server that leaves answers
/// what it has taken up within less.
const LOST_AFTER: Duration = Duration::from_secs(4);
/// The bound on the body of an answer that is read whole.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The bound on the body of an answer that says why not.
const ERROR_BYTES_MAX: usize = 64 * 1024;

pub(crate) type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// Why a server could not be reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// The address is not one.
    #[error("`{server}` is not a server's address: use `host:port`")]
    Address {
        /// The address as configured or learned.
        server: String,
    },
    /// TCP failed.
    #[error("cannot connect to server {server}")]
    Connect {
        /// The server.
        server: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// TLS failed: this is no server of the mesh, or it does not accept this agent.
    #[error("cannot agree on TLS with server {server}")]
    Tls {
        /// The server.
        server: String,
        /// What the TLS library or the verifier said.
        #[source]
        source: io::Error,
    },
    /// HTTP/2 failed.
    #[error("cannot speak HTTP/2 with server {server}")]
    Http {
        /// The server.
        server: String,
        /// What the HTTP library said.
        #[source]
        source: hyper::Error,
    },
    /// It took too long.
    #[error("server {server} did not answer within {} s", CONNECT_TIMEOUT.as_secs())]
    Timeout {
        /// The server.
        server: String,
    },
}

impl ConnectError {
    /// Says what a person can do about it.
    pub(crate) fn advice(&self) -> &'static str {
        let clock = "compare this machine's clock with the servers'";
        match self {
            Self::Address { .. } => "name it as host:port, such as 10.0.0.1:8300",
            Self::Connect { .. } | Self::Timeout { .. } => {
                "is a server up there, and reachable from here? its port for agents is 8300 unless its settings say otherwise"
            }
            Self::Tls { source, .. } => match PeerRejected::of(source) {
                Some(PeerRejected::NotYetValid { .. } | PeerRejected::Expired { .. }) => clock,
                Some(PeerRejected::UnknownAuthority { .. } | PeerRejected::ForeignTrustDomain { .. }) => {
                    "it is a server of another mesh, or its root has changed since: make a new join token, or give the \
                     fingerprint that `weft ca roots` shows"
                }
                Some(_) | None => "is that its port for agents, 8300 by default, and not another one of its ports?",
            },
            Self::Http { .. } => "is that its port for agents, 8300 by default, and not another one of its ports?",
        }
    }
}

/// Why a question to a server got no usable answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The connection failed before the answer was there.
    #[error("server {server} gave no answer to {path}")]
    Transport {
        /// The server.
        server: String,
        /// What was asked.
        path: &'static str,
        /// What the HTTP library said.
        #[source]
        source: hyper::Error,
    },
    /// The connection ended, and whether the question was taken up is not known.
    #[error("the connection to server {server} ended as {path} was asked")]
    Gone {
        /// The server.
        server: String,
        /// What was asked.
        path: &'static str,
    },
    /// The answer took too long.
    #[error("server {server} did not answer {path} within {timeout:?}")]
    Timeout {
        /// The server.
        server: String,
        /// What was asked.
        path: &'static str,
        /// How long was waited.
        timeout: Duration,
    },
    /// The server cannot do it now.
    #[error("server {server} cannot do it now: {error}")]
    Unavailable {
        /// The server.
        server: String,
        /// What it said.
        error: String,
        /// Whether it knows no record of this agent, and would have it log in.
        log_in: bool,
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// The server will not do it.
    #[error("server {server} refused: {error}")]
    Refused {
        /// The server.
        server: String,
        /// The status of its answer.
        status: StatusCode,
        /// Whether it knows no record of this agent, and would have it log in.
        log_in: bool,
        /// What it said.
        error: String,
    },
    /// The answer makes no sense.
    #[error("server {server} answered {path} with something else: {reason}")]
    Answer {
        /// The server.
        server: String,
        /// What was asked.
        path: &'static str,
        /// What is wrong with the answer.
        reason: String,
    },
}

impl CallError {
    /// Reports whether the server knows no record of this agent, so that it should log in again, if it can.
    pub(crate) fn asks_to_log_in(&self) -> bool {
        matches!(self, Self::Refused { log_in: true, .. } | Self::Unavailable { log_in: true, .. })
    }
}

/// A connection to one server; a clone shares it. It ends when the last clone is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    sender: http2::SendRequest<Body>,
    server: Arc<str>,
    driver: Arc<AbortOnDropHandle<()>>,
    ended: CancellationToken,
}

impl Connection {
    /// Connects to `server`, a `host:port`.
    pub(crate) async fn open(server: &str, tls: Arc<rustls::ClientConfig>) -> Result<Self, ConnectError> {
        match tokio::time::timeout(CONNECT_TIMEOUT, Self::handshakes(server, tls)).await {
            Ok(result) => result,
            Err(_) => Err(ConnectError::Timeout { server: server.to_owned() }),
        }
    }

    async fn handshakes(server: &str, tls: Arc<rustls::ClientConfig>) -> Result<Self, ConnectError> {
        let name = || server.to_owned();
        let (host, _) = server.rsplit_once(':').ok_or_else(|| ConnectError::Address { server: name() })?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        // The name only stands in the ClientHello; whom we talk to is decided by SPIFFE ID.
        let server_name =
            ServerName::try_from(host.to_owned()).map_err(|_| ConnectError::Address { server: name() })?;
        let tcp =
            TcpStream::connect(server).await.map_err(|source| ConnectError::Connect { server: name(), source })?;
        // Frames are small and each is wanted at once.
        let _ = tcp.set_nodelay(true);
        let stream = TlsConnector::from(tls)
            .connect(server_name, tcp)
            .await
            .map_err(|source| ConnectError::Tls { server: name(), source })?;
        let (sender, driver) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .max_header_list_size(64 * 1024)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|source| ConnectError::Http { server: name(), source })?;
        let ended = CancellationToken::new();
        let ending = ended.clone().drop_guard();
        let driver = tokio::spawn(async move {
            // How it ended is told to whoever waits for an answer on it.
            let _ = driver.await;
            drop(ending);
        });
        let driver = Arc::new(AbortOnDropHandle::new(driver));
        Ok(Self { sender, server: Arc::from(server), driver, ended })
    }

    /// Whether requests can still be sent.
    pub(crate) fn is_open(&self) -> bool {
        !self.driver.is_finished() && !self.sender.is_closed()
    }

    /// Reports whether both are clones of one connection.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.driver, &other.driver)
    }

    /// Asks one question in JSON and reads the whole answer.
    pub(crate) async fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        path: &'static str,
        question: &Q,
        timeout: Duration,
    ) -> Result<A, CallError> {
        let body = serde_json::to_vec(question).map_err(|error| self.nonsense(path, &error.to_string()))?;
        match tokio::time::timeout(timeout, self.exchange(path, body)).await {
            Ok(result) => result,
            Err(_) => Err(CallError::Timeout { server: self.server.to_string(), path, timeout }),
        }
    }

    async fn exchange<A: DeserializeOwned>(&self, path: &'static str, body: Vec<u8>) -> Result<A, CallError> {
        let headers = [(header::CONTENT_TYPE, "application/json".parse())];
        let headers = headers.into_iter().filter_map(|(name, value)| Some((name, value.ok()?))).collect();
        let (parts, body) = self.send(Method::POST, path, headers, whole(body), path).await?.into_parts();
        if !parts.status.is_success() {
            return Err(self.failure(parts, body).await);
        }
        self.answer(path, body).await
    }

    /// Reads a whole answer in JSON.
    pub(crate) async fn answer<A: DeserializeOwned>(&self, path: &'static str, body: Incoming) -> Result<A, CallError> {
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| self.nonsense(path, &error.to_string()))?.to_bytes();
        serde_json::from_slice(&body).map_err(|error| self.nonsense(path, &error.to_string()))
    }

    /// Sends a request and returns the answer as soon as its head is there.
    pub(crate) async fn send(
        &self,
        method: Method,
        path_and_query: &str,
        headers: HeaderMap,
        body: Body,
        path: &'static str,
    ) -> Result<Response<Incoming>, CallError> {
        let uri = Uri::builder().scheme("https").authority(&*self.server).path_and_query(path_and_query).build();
        let uri = uri.map_err(|error| self.nonsense(path, &error.to_string()))?;
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        let mut sender = self.sender.clone();
        let transport = |source| CallError::Transport { server: self.server.to_string(), path, source };
        sender.ready().await.map_err(transport)?;
        let mut asked = pin!(sender.send_request(request));
        let answered = tokio::select! {
            biased;
            answered = &mut asked => Ok(answered),
            () = self.ended.cancelled() => tokio::time::timeout(LOST_AFTER, asked).await,
        };
        match answered {
            Ok(answered) => answered.map_err(transport),
            // What is put in its queue just as the connection ends is taken out by nobody.
            Err(_) => Err(CallError::Gone { server: self.server.to_string(), path }),
        }
    }

    /// Reads why the server did not do what it was asked.
    pub(crate) async fn failure(&self, parts: Parts, body: Incoming) -> CallError {
        let body = Limited::new(body, ERROR_BYTES_MAX).collect().await.map(Collected::to_bytes).unwrap_or_default();
        let (error, log_in) = match serde_json::from_slice::<agent_protocol::ApiError>(&body) {
            Ok(answer) => (answer.error, answer.log_in),
            Err(_) => (format!("status {}", parts.status), false),
        };
        let (server, status) = (self.server.to_string(), parts.status);
        let again = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
        if status.is_server_error() || again.contains(&status) {
            let seconds = parts.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            CallError::Unavailable { server, error, log_in, retry_after: seconds.map(Duration::from_secs) }
        } else {
            CallError::Refused { server, status, log_in, error }
        }
    }

    fn nonsense(&self, path: &'static str, reason: &str) -> CallError {
        CallError::Answer { server: self.server.to_string(), path, reason: reason.to_owned() }
    }
}

/// Returns a body that is there as a whole.
pub(crate) fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}
