//! One server in memory, and agents that speak to its port by hand.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use catalog::{
    AgentRecord, Catalog, Command, Incarnation, JoinToken, Outcome, Platform, Rights, SecretHash, ServiceKey,
    Timestamp, Token,
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use wire::agent_protocol::{ClientFrame, JoinRequest, JoinResponse, ServerFrame};
use wire::cluster_key::{ClusterKey, ClusterKeys};
use wire::crypto::{self, Secret};
use wire::frame::{FrameReader, encode_frame};
use wire::pki::LeafKey;
use wire::tls::{TlsIdentity, TrustAnchors, agent_port_client_config, join_client_config};

use crate::agent_port::Bounds;
use crate::api::{self, ApiState};
use crate::config::Config;
use crate::consensus::{self, Consensus};
use crate::login::Logins;
use crate::metrics::Metrics;

/// Generous, for a machine that does something else, too.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a request body of these tests is.
pub(crate) type RequestBody = UnsyncBoxBody<Bytes, std::io::Error>;

async fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

pub(crate) struct Rig {
    pub(crate) keys: ClusterKeys,
    address: SocketAddr,
    metrics: Metrics,
    running: consensus::Running,
    _stop: DropGuard,
}

impl Rig {
    pub(crate) async fn start() -> Rig {
        Self::start_within(Bounds::default()).await
    }

    pub(crate) async fn start_within(bounds: Bounds) -> Rig {
        Self::start_with(bounds, Logins::default()).await
    }

    pub(crate) async fn start_with(bounds: Bounds, logins: Logins) -> Rig {
        crypto::install_provider();
        let keys = ClusterKeys::single(ClusterKey::generate());
        let config = Config::new("s1".parse().unwrap(), keys.clone());
        let (raft, listener) = (listen().await, listen().await);
        let (raft_address, address) = (raft.local_addr().unwrap(), listener.local_addr().unwrap());
        let metrics = Metrics::new();
        let running = consensus::start(&config, raft, raft_address.to_string(), address.to_string(), metrics.clone())
            .await
            .unwrap();
        let consensus = running.consensus.clone();
        let (server, datacenter) = (config.node.clone(), config.datacenter.clone());
        let state = ApiState::new(consensus.clone(), datacenter, server.clone(), keys.clone(), metrics.clone());
        let settings = super::super::Settings {
            logins,
            server,
            cluster_keys: keys.clone(),
            leaf_ttl: config.leaf_ttl,
            periods: config.periods(),
            api: api::passed_on_router(state),
            bounds,
            data_dir: None,
        };
        let stop = CancellationToken::new();
        tokio::spawn(super::super::serve(listener, settings, consensus, metrics.clone(), stop.clone()));
        let rig = Rig { keys, address, metrics, running, _stop: stop.drop_guard() };
        rig.eventually(|catalog| catalog.active_intermediate().is_some()).await;
        // The last thing that a server writes of its own accord: from here on the log grows by what tests do alone.
        let said = |catalog: &Catalog| {
            catalog.membership().members.values().all(|member| member.facts.agent_address == address.to_string())
        };
        rig.eventually(said).await;
        rig.serves_tls().await;
        rig
    }

    /// Waits until the port has its certificate, which it makes once the mesh can sign one.
    async fn serves_tls(&self) {
        let root = wire::pki::fingerprint(&self.catalog().active_root().unwrap().certificate_pem).unwrap();
        let config = Arc::new(join_client_config(vec![root]));
        let trying = tokio::time::timeout(PATIENCE, async {
            loop {
                let tcp = TcpStream::connect(self.address).await.unwrap();
                let name = ServerName::from(self.address.ip());
                if TlsConnector::from(Arc::clone(&config)).connect(name, tcp).await.is_ok() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        trying.await.unwrap();
    }

    pub(crate) fn consensus(&self) -> &Consensus {
        &self.running.consensus
    }

    pub(crate) fn catalog(&self) -> Arc<Catalog> {
        self.consensus().catalog()
    }

    pub(crate) fn metrics(&self) -> String {
        self.metrics.text()
    }

    /// Waits until a metric has this line; what is counted after a connection has ended cannot be awaited otherwise.
    pub(crate) async fn counts(&self, line: &str) {
        let waiting = tokio::time::timeout(PATIENCE, async {
            while !self.metrics().contains(line) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        assert!(waiting.await.is_ok(), "no {line} in {}", self.metrics());
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until this server's catalog is as wanted.
    pub(crate) async fn eventually(&self, wanted: impl Fn(&Catalog) -> bool) {
        tokio::time::timeout(PATIENCE, async {
            let mut touched = self.consensus().touched();
            while !wanted(&self.catalog()) {
                let _ = tokio::time::timeout(Duration::from_millis(100), touched.next()).await;
            }
        })
        .await
        .unwrap();
    }

    pub(crate) async fn write(&self, command: Command) -> Outcome {
        let envelope = catalog::Envelope {
            version: catalog::ENVELOPE_VERSION,
            request_id: crypto::uuid_v4().parse().unwrap(),
            actor: catalog::Actor::ClusterKey,
            source_address: None,
            proposed_at: crypto::now(),
            command,
        };
        envelope.command.validate().unwrap();
        self.consensus().propose(envelope).await.unwrap().outcome
    }

    /// Makes a join token and returns its secret.
    pub(crate) async fn join_token(&self, services: &[&str], expires_at: Timestamp) -> Secret {
        let secret = Secret::new(crypto::random_hex(32));
        let mut services: Vec<ServiceKey> = services.iter().map(|name| name.parse().unwrap()).collect();
        services.sort();
        let token =
            JoinToken::new(crypto::uuid_v4().parse().unwrap(), crypto::secret_hash(&secret), services, expires_at);
        assert_eq!(self.write(Command::CreateJoinToken { token }).await, Outcome::Done);
        secret
    }

    /// Makes a management token and returns its secret.
    pub(crate) async fn management_token(&self) -> String {
        let secret = crypto::random_hex(32);
        let hash = SecretHash(crypto::sha256_hex(secret.as_bytes()));
        let token = Token::new(crypto::uuid_v4().parse().unwrap(), hash, Rights::Management, crypto::now());
        assert_eq!(self.write(Command::BootstrapAcl { token }).await, Outcome::Done);
        secret
    }

    pub(crate) fn anchors(&self) -> Arc<TrustAnchors> {
        Arc::new(TrustAnchors::from_bundles(&self.catalog().trust_bundles()).unwrap())
    }

    /// Connects as one who joins: without a certificate, trusting the root's fingerprint only.
    pub(crate) async fn connect_to_join(&self) -> Peer {
        let root = wire::pki::fingerprint(&self.catalog().active_root().unwrap().certificate_pem).unwrap();
        self.connect(join_client_config(vec![root])).await
    }

    /// Connects with a certificate.
    pub(crate) async fn connect_as(&self, identity: &TlsIdentity) -> Peer {
        let trust_domain = self.catalog().mesh().unwrap().trust_domain.clone();
        self.connect(agent_port_client_config(self.anchors(), trust_domain, identity)).await
    }

    pub(crate) async fn connect(&self, config: rustls::ClientConfig) -> Peer {
        let (sender, driver) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(self.tls(config).await)).await.unwrap();
        tokio::spawn(async move {
            let _ = driver.await;
        });
        Peer { sender }
    }

    /// Completes TLS, and says nothing yet.
    pub(crate) async fn tls(&self, config: rustls::ClientConfig) -> TlsStream<TcpStream> {
        let tcp = TcpStream::connect(self.address()).await.unwrap();
        let name = ServerName::from(self.address().ip());
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap()
    }

    /// Connects with a certificate as one who reads nothing of what it is answered; the second part is over when the connection
    /// is.
    pub(crate) async fn connect_deaf(&self, identity: &TlsIdentity) -> (Peer, impl Future<Output = ()> + use<>) {
        let trust_domain = self.catalog().mesh().unwrap().trust_domain.clone();
        let tls = self.tls(agent_port_client_config(self.anchors(), trust_domain, identity)).await;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(0).adaptive_window(false);
        let (sender, driver) = builder.handshake(TokioIo::new(tls)).await.unwrap();
        let driver = tokio::spawn(async move { drop(driver.await) });
        (Peer { sender }, async { tokio::time::timeout(PATIENCE, driver).await.unwrap().unwrap() })
    }

    /// Enrols an agent that may stand before `services`.
    pub(crate) async fn enrol(&self, node: &str, services: &[&str]) -> Enrolled {
        let secret = self.join_token(services, Timestamp(crypto::now().0 + 60_000)).await;
        let key = LeafKey::generate();
        let answer = self.connect_to_join().await.join(&secret, &key, node).await;
        let (StatusCode::OK, body) = answer else { panic!("{answer:?}") };
        let response: JoinResponse = serde_json::from_value(body).unwrap();
        let identity = TlsIdentity::new(&response.leaf.chain_pem, &key).unwrap();
        Enrolled { record: response.record.clone(), key, identity, response }
    }
}

/// An agent that has joined.
pub(crate) struct Enrolled {
    pub(crate) record: AgentRecord,
    pub(crate) key: LeafKey,
    pub(crate) identity: TlsIdentity,
    pub(crate) response: JoinResponse,
}

/// One connection to the port.
#[derive(Clone)]
pub(crate) struct Peer {
    sender: http2::SendRequest<RequestBody>,
}

impl Peer {
    pub(crate) async fn send(&self, request: Request<RequestBody>) -> Response<Incoming> {
        let mut sender = self.sender.clone();
        let answer = tokio::time::timeout(PATIENCE, async {
            sender.ready().await.unwrap();
            sender.send_request(request).await.unwrap()
        });
        answer.await.unwrap()
    }

    /// Sends a body and reads the whole answer, as JSON where it is JSON.
    pub(crate) async fn exchange(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> (StatusCode, serde_json::Value) {
        let mut request = Request::builder().method(method).uri(format!("https://server{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync();
        let response = self.send(request.body(body).unwrap()).await;
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let text = || serde_json::Value::String(String::from_utf8_lossy(&bytes).into_owned());
        (status, serde_json::from_slice(&bytes).unwrap_or_else(|_| text()))
    }

    pub(crate) async fn post(&self, path: &str, content: &impl Serialize) -> (StatusCode, serde_json::Value) {
        self.exchange(Method::POST, path, &[], serde_json::to_vec(content).unwrap()).await
    }

    /// Posts what must succeed, and reads the answer.
    pub(crate) async fn call<A: DeserializeOwned>(&self, path: &str, content: &impl Serialize) -> A {
        let (status, body) = self.post(path, content).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        serde_json::from_value(body).unwrap()
    }

    pub(crate) async fn join(&self, secret: &Secret, key: &LeafKey, node: &str) -> (StatusCode, serde_json::Value) {
        let request = JoinRequest {
            secret: secret.clone(),
            csr: key.csr_der(None),
            node: node.parse().unwrap(),
            platform: Platform::Vm,
            zone: None,
            network: String::new(),
        };
        self.post("/v1/join", &request).await
    }

    /// Opens a stream without saying anything on it yet.
    pub(crate) async fn open(&self, first: &[u8]) -> Result<Stream, (StatusCode, serde_json::Value)> {
        let (frames, mut queue) = mpsc::unbounded_channel::<Bytes>();
        frames.send(Bytes::copy_from_slice(first)).unwrap();
        let body = futures_util::stream::poll_fn(move |context| {
            queue.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok::<_, std::io::Error>(Frame::data(bytes))))
        });
        let request = Request::post("https://server/v1/stream").body(StreamBody::new(body).boxed_unsync()).unwrap();
        let response = self.send(request).await;
        let status = response.status();
        if status == StatusCode::OK {
            return Ok(Stream { frames, answers: FrameReader::new(response.into_body()) });
        }
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        Err((status, serde_json::from_slice(&bytes).unwrap()))
    }

    /// Opens a session.
    pub(crate) async fn session(&self) -> (Stream, Incarnation) {
        let mut stream = self.open(&encode_frame(&ClientFrame::hello()).unwrap()).await.unwrap();
        let Some(ServerFrame::Welcome { incarnation, .. }) = stream.next().await else { panic!("no welcome") };
        (stream, incarnation)
    }
}

/// One open stream.
pub(crate) struct Stream {
    frames: mpsc::UnboundedSender<Bytes>,
    answers: FrameReader<Incoming>,
}

impl Stream {
    pub(crate) fn say(&self, frame: &ClientFrame) {
        self.frames.send(encode_frame(frame).unwrap()).unwrap();
    }

    /// Ends what the agent says, and goes on listening.
    pub(crate) fn say_no_more(&mut self) {
        self.frames = mpsc::unbounded_channel().0;
    }

    /// Says what this release has no frame for.
    pub(crate) fn say_raw(&self, frame: &serde_json::Value) {
        self.frames.send(encode_frame(frame).unwrap()).unwrap();
    }

    /// Waits for the next frame that is no ping; none at the end.
    pub(crate) async fn next(&mut self) -> Option<ServerFrame> {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.answers.next::<ServerFrame>()).await.unwrap();
            match next.unwrap() {
                Some(ServerFrame::Ping) => {}
                frame => return frame,
            }
        }
    }

    /// Waits for the server's goodbye and the end after it.
    pub(crate) async fn goodbye(&mut self) -> String {
        loop {
            match self.next().await {
                Some(ServerFrame::Goodbye { reason }) => {
                    assert_eq!(self.next().await, None);
                    return reason;
                }
                Some(_) => {}
                None => panic!("the stream ended without a goodbye"),
            }
        }
    }
}
