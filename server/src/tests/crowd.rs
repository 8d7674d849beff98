//! A crowd of agents, each with a record, a key, a certificate and a connection of its own, that keep in step with servers
//! as agents do: resume where they were, leave alone who sends them away, turn to the next server.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use catalog::{
    AgentRecord, Catalog, Command, Follower, Incarnation, JoinToken, Outcome, Platform, ServerId, ServiceKey,
    Timestamp, Topic,
};
use futures_util::future::join_all;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;
use wire::agent_protocol::{ClientFrame, SIGN_PATH, STREAM_PATH, ServerFrame, SignRequest, Subject};
use wire::cluster_key::ClusterKeys;
use wire::crypto::{self, Secret};
use wire::frame::{FrameReader, encode_frame};
use wire::pki::LeafKey;
use wire::tls::{TlsIdentity, TrustAnchors, agent_port_client_config};

use super::harness::{PATIENCE, envelope};
use crate::agent_port::tests::rig::RequestBody;
use crate::ca::CertificateAuthority;
use crate::consensus::Consensus;

/// Enrolments that are under way at once.
const AT_ONCE: usize = 64;
/// A pause before the next server is tried.
const PAUSE: Duration = Duration::from_millis(50);

/// An agent with its certificate.
pub(crate) struct Enrolled {
    key: LeafKey,
    config: Arc<rustls::ClientConfig>,
}

/// Enrols agents for `web` on nodes `vm-0` and so on, with certificates that the cluster's keys sign.
pub(crate) async fn enrol(consensus: &Consensus, keys: &ClusterKeys, count: usize) -> Vec<Arc<Enrolled>> {
    let authority = CertificateAuthority::new(keys.clone(), Duration::from_secs(3600));
    let mut enrolled = Vec::new();
    while enrolled.len() < count {
        let batch = (enrolled.len()..count).take(AT_ONCE).map(|number| record(consensus, number));
        for (record, key) in join_all(batch).await {
            let catalog = consensus.catalog();
            let csr = key.csr_der(None);
            let leaf = authority.sign(&catalog, &record, &Subject::Agent, &csr, crypto::now()).unwrap();
            let identity = TlsIdentity::new(&leaf.chain_pem, &key).unwrap();
            let config = Arc::new(client_config(&catalog, &identity));
            enrolled.push(Arc::new(Enrolled { key, config }));
        }
    }
    enrolled
}

fn client_config(catalog: &Catalog, identity: &TlsIdentity) -> rustls::ClientConfig {
    let anchors = Arc::new(TrustAnchors::from_bundles(&catalog.trust_bundles()).unwrap());
    agent_port_client_config(anchors, catalog.mesh().unwrap().trust_domain.clone(), identity)
}

async fn record(consensus: &Consensus, number: usize) -> (AgentRecord, LeafKey) {
    let (secret, key) = (Secret::new(crypto::random_hex(32)), LeafKey::generate());
    let services: Vec<ServiceKey> = vec!["web".parse().unwrap()];
    let expires_at = Timestamp(crypto::now().0 + 600_000);
    let token = JoinToken::new(crypto::uuid_v4().parse().unwrap(), crypto::secret_hash(&secret), services, expires_at);
    let node = format!("vm-{number}").parse().unwrap();
    let enrol =
        Command::Enrol { secret: token.secret.clone(), key: key.fingerprint().clone(), node, platform: Platform::Vm };
    consensus.propose(envelope(Command::CreateJoinToken { token })).await.unwrap();
    let enrolled = consensus.propose(envelope(enrol)).await.unwrap().outcome;
    let Outcome::Enrolled { record } = enrolled else { panic!("{enrolled:?}") };
    (*record, key)
}

/// One HTTP/2 connection; it ends when this is dropped.
struct Connection {
    sender: http2::SendRequest<RequestBody>,
    driver: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// What became of a stream that was asked for.
pub(crate) enum Opened {
    /// It is open.
    Stream(Box<Stream>),
    /// The server has too much to do.
    SentAway(Duration),
}

/// One open stream, with the connection under it.
pub(crate) struct Stream {
    frames: FrameReader<Incoming>,
    _connection: Connection,
}

impl Enrolled {
    async fn connect(&self, server: SocketAddr, window: Option<u32>) -> Option<Connection> {
        let tcp = TcpStream::connect(server).await.ok()?;
        let name = ServerName::from(server.ip());
        let tls = TlsConnector::from(Arc::clone(&self.config)).connect(name, tcp).await.ok()?;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(window).adaptive_window(false);
        let (sender, driver) = builder.handshake(TokioIo::new(tls)).await.ok()?;
        let driver = tokio::spawn(async move {
            let mut driver = pin!(driver);
            let _ = driver.as_mut().await;
            // What is put in its queue just as it ends fails only when that goes with it.
            tokio::time::sleep(Duration::from_millis(50)).await;
        });
        let driver = driver.abort_handle();
        Some(Connection { sender, driver })
    }

    /// Opens a stream that follows `topics`; none where the server is not there. `window` bounds what is on the way to a
    /// reader that does not read.
    pub(crate) async fn open(
        &self,
        server: SocketAddr,
        topics: &[(Topic, Option<catalog::CatalogIndex>)],
        window: Option<u32>,
    ) -> Option<Opened> {
        let mut connection = self.connect(server, window).await?;
        let mut said = BytesMut::from(&encode_frame(&ClientFrame::hello()).unwrap()[..]);
        for (topic, from) in topics {
            said.extend(encode_frame(&ClientFrame::Subscribe { topic: topic.clone(), from: *from }).unwrap());
        }
        // The body stays open: its end is the session's.
        let said = futures_util::stream::once(async { Ok::<_, std::io::Error>(Frame::data(said.freeze())) });
        let body = StreamBody::new(futures_util::StreamExt::chain(said, futures_util::stream::pending()));
        let uri = format!("https://server{STREAM_PATH}");
        let request = Request::post(uri).body(body.boxed_unsync()).unwrap();
        let response = connection.sender.send_request(request).await.ok()?;
        if let Some(retry_after) = retry_after(&response) {
            return Some(Opened::SentAway(retry_after));
        }
        (response.status() == StatusCode::OK).then(|| {
            let frames = FrameReader::new(response.into_body());
            Opened::Stream(Box::new(Stream { frames, _connection: connection }))
        })
    }

    /// Asks for the agent's own leaf again and again until it is there; returns how long it was sent away each time.
    pub(crate) async fn renew(&self, server: SocketAddr) -> Vec<Duration> {
        let (mut waits, mut connected) = (Vec::new(), None);
        loop {
            // On a machine that does ten other things, a handshake among hundreds may take too long for the server, and so may
            // what comes after it.
            let mut connection: Connection = match connected.take() {
                Some(connection) => connection,
                None => match self.connect(server, None).await {
                    Some(connection) => connection,
                    None => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        continue;
                    }
                },
            };
            let asked = SignRequest { csr: self.key.csr_der(None), subject: Subject::Agent };
            let body = Full::new(Bytes::from(serde_json::to_vec(&asked).unwrap())).map_err(|never| match never {});
            let request = Request::post(format!("https://server{SIGN_PATH}")).body(body.boxed_unsync()).unwrap();
            if connection.sender.ready().await.is_err() {
                continue;
            }
            let Ok(response) = connection.sender.send_request(request).await else { continue };
            match retry_after(&response) {
                Some(wait) => {
                    waits.push(wait);
                    connected = Some(connection);
                    tokio::time::sleep(wait).await;
                }
                None => {
                    assert_eq!(response.status(), StatusCode::OK);
                    return waits;
                }
            }
        }
    }
}

fn retry_after(response: &http::Response<Incoming>) -> Option<Duration> {
    if response.status() != StatusCode::SERVICE_UNAVAILABLE {
        return None;
    }
    let seconds = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    Some(Duration::from_secs(seconds.expect("whoever is sent away is told for how long")))
}

impl Stream {
    /// Waits for the next frame; none at the end.
    pub(crate) async fn next(&mut self) -> Option<ServerFrame> {
        self.frames.next().await.ok().flatten()
    }
}

/// How one agent of a crowd stands.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    /// The server of its session, while one is open, and the session's number.
    pub(crate) session: Option<(ServerId, Incarnation)>,
    /// Where it was told that the servers are.
    pub(crate) servers: Vec<String>,
    /// How many sessions it opened.
    pub(crate) opened: usize,
    /// What it was told, to the letter of the promise.
    pub(crate) follower: Follower,
    /// What broke that promise.
    pub(crate) broken: Option<String>,
    /// How often it was sent away, and for how long each time.
    pub(crate) sent_away: Vec<Duration>,
}

/// Agents that live until this is dropped.
pub(crate) struct Crowd {
    pub(crate) agents: Vec<Arc<Mutex<Standing>>>,
    tasks: Vec<AbortHandle>,
}

impl Crowd {
    /// Lets agents follow `topics` at `servers`; each starts with another one of them.
    pub(crate) fn start(enrolled: &[Arc<Enrolled>], servers: &[SocketAddr], topics: &[Topic]) -> Self {
        let mut crowd = Self { agents: Vec::new(), tasks: Vec::new() };
        for (number, agent) in enrolled.iter().enumerate() {
            let standing = Arc::new(Mutex::new(Standing::default()));
            let servers: Vec<SocketAddr> =
                servers.iter().cycle().skip(number % servers.len()).take(servers.len()).copied().collect();
            let life = live(Arc::clone(agent), servers, topics.to_vec(), Arc::clone(&standing));
            crowd.tasks.push(tokio::spawn(life).abort_handle());
            crowd.agents.push(standing);
        }
        crowd
    }

    /// Waits until every agent is as wanted.
    pub(crate) async fn all(&self, what: &str, wanted: impl Fn(&Standing) -> bool) {
        let waiting = tokio::time::timeout(PATIENCE, async {
            while !self.agents.iter().all(|standing| wanted(&lock(standing))) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        if waiting.await.is_err() {
            let missing = self.agents.iter().filter(|standing| !wanted(&lock(standing))).count();
            let broken: Vec<String> = self.agents.iter().filter_map(|one| lock(one).broken.clone()).take(3).collect();
            panic!("{missing} of {} agents are not {what}; broken: {broken:?}", self.agents.len());
        }
    }

    /// Waits until every agent holds exactly what the catalog has of its topics, by an unbroken stream.
    pub(crate) async fn holds(&self, catalog: &Catalog, topics: &[Topic]) {
        let views: Vec<_> = topics.iter().map(|topic| (topic, catalog.view(topic))).collect();
        self.all("in step", |standing| {
            standing.broken.is_none() && views.iter().all(|(topic, view)| standing.follower.items(topic) == Some(view))
        })
        .await;
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

pub(crate) fn lock(standing: &Mutex<Standing>) -> std::sync::MutexGuard<'_, Standing> {
    standing.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn live(agent: Arc<Enrolled>, servers: Vec<SocketAddr>, topics: Vec<Topic>, standing: Arc<Mutex<Standing>>) {
    for server in servers.iter().cycle() {
        let wanted: Vec<_> = {
            let mut standing = lock(&standing);
            topics.iter().map(|topic| (topic.clone(), standing.follower.subscribe(topic))).collect()
        };
        match agent.open(*server, &wanted, None).await {
            None => tokio::time::sleep(PAUSE).await,
            Some(Opened::SentAway(wait)) => {
                lock(&standing).sent_away.push(wait);
                tokio::time::sleep(wait).await;
            }
            Some(Opened::Stream(mut stream)) => {
                while let Some(frame) = stream.next().await {
                    let mut standing = lock(&standing);
                    match frame {
                        ServerFrame::Welcome { incarnation, server, servers, .. } => {
                            standing.servers = servers;
                            standing.session = Some((server, incarnation));
                            standing.opened += 1;
                        }
                        ServerFrame::Event(event) => {
                            let taken = standing.follower.take(&event);
                            if let Err(error) = taken {
                                standing.broken = Some(format!("{error}: {event:?}"));
                                return;
                            }
                        }
                        ServerFrame::Servers { servers } => standing.servers = servers,
                        ServerFrame::Goodbye { .. } => break,
                        _ => {}
                    }
                }
                lock(&standing).session = None;
            }
        }
    }
}
