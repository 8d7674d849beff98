//! A server's agent port over real sockets, with the model of `sync::model` behind it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use catalog::{Authority, CatalogIndex, Namespace, Rules, ServiceKey};
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;
use wire::acl::OwnRights;
use wire::agent_protocol::{
    ApiError, JoinRequest, JoinResponse, SignRequest, SignResponse, Subject, WriteRequest, WriteResponse,
};
use wire::frame::{FrameReader, encode_frame};
use wire::join_token::JoinSecret;
use wire::pki::{LeafKey, parse_csr};
use wire::tls::{TlsIdentity, TrustAnchors, agent_port_server_config};

use super::{HOUR, TestMesh};
use crate::sync::model::Cluster;

/// The management token that the server knows.
pub(crate) const MANAGEMENT: &str = "management-token";
/// The token that stands for the service `web`.
pub(crate) const OF_WEB: &str = "token-of-web";
/// The token that is linked to nothing.
pub(crate) const OF_NOTHING: &str = "token-of-nothing";

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What the server is and what tests change of it.
pub(crate) struct Shared {
    cluster: Mutex<Cluster>,
    changed: Notify,
    /// How long leaves live.
    leaf_ttl: Mutex<Duration>,
    /// The join tokens that were used, with the key that used each.
    used: Mutex<Vec<(catalog::SecretHash, catalog::KeyFingerprint)>>,
    leaves_signed: Mutex<Vec<Subject>>,
    /// The authority that is to take over, and signs already whatever joins nothing.
    successor: Mutex<Option<TestMesh>>,
}

/// A server for agents on loopback; dropping it is its death.
pub(crate) struct ModelServer {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    _task: AbortOnDropHandle<()>,
}

impl Shared {
    pub(crate) fn new(services: &[&str]) -> Arc<Self> {
        let services: Vec<ServiceKey> = services.iter().map(|service| service.parse().unwrap()).collect();
        Arc::new(Self {
            cluster: Mutex::new(Cluster::new(1, &services)),
            changed: Notify::new(),
            leaf_ttl: Mutex::new(HOUR),
            used: Mutex::default(),
            leaves_signed: Mutex::default(),
            successor: Mutex::default(),
        })
    }

    /// Returns the cluster, to look at or to commit something to.
    pub(crate) fn cluster(&self) -> MutexGuard<'_, Cluster> {
        self.changed.notify_waiters();
        self.cluster.lock().unwrap()
    }

    pub(crate) fn set_leaf_ttl(&self, ttl: Duration) {
        *self.leaf_ttl.lock().unwrap() = ttl;
    }

    pub(crate) fn leaves_signed(&self) -> Vec<Subject> {
        self.leaves_signed.lock().unwrap().clone()
    }

    /// Has another authority sign leaves from now on, of which agents do not know yet. To be called before servers start, which
    /// trust it.
    pub(crate) fn sign_by_successor(&self) {
        *self.successor.lock().unwrap() = Some(TestMesh::new());
    }

    /// Tells agents of that authority's root.
    pub(crate) fn announce_successor(&self) {
        let mut cluster = self.cluster();
        cluster.start_rotation(self.successor.lock().unwrap().as_ref().unwrap());
    }

    fn roots_pem(&self, cluster: &Cluster) -> Vec<String> {
        let successor = self.successor.lock().unwrap();
        let successor = successor.as_ref().map(TestMesh::roots_pem).unwrap_or_default();
        cluster.mesh.roots_pem().into_iter().chain(successor).collect()
    }

    /// Makes a join token.
    pub(crate) fn join_token(&self, services: &[&str]) -> JoinSecret {
        let services: Vec<ServiceKey> = services.iter().map(|service| service.parse().unwrap()).collect();
        let mut cluster = self.cluster();
        let token = JoinSecret::generate(wire::pki::fingerprint(cluster.mesh.root.certificate_pem()).unwrap());
        cluster.join_token(&token.secret_hash(), &services);
        token
    }
}

impl ModelServer {
    pub(crate) async fn start(shared: Arc<Shared>) -> Self {
        Self::start_at(shared, "127.0.0.1:0".parse().unwrap()).await
    }

    pub(crate) async fn start_at(shared: Arc<Shared>, address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let tls = {
            let mut cluster = shared.cluster();
            cluster.addresses = vec![address.to_string()];
            let key = LeafKey::generate();
            let id = cluster.mesh.scheme().server(&"server-0".parse().unwrap());
            let mut leaf = cluster.mesh.sign(&key.csr_der(None), &id, wire::crypto::now(), HOUR);
            leaf.chain_pem.push(cluster.mesh.root.certificate_pem().to_owned());
            let identity = TlsIdentity::new(&leaf.chain_pem, &key).unwrap();
            let anchors = TrustAnchors::from_pem(&shared.roots_pem(&cluster)).unwrap();
            agent_port_server_config(Arc::new(anchors), identity.resolver())
        };
        let serving = serve(listener, TlsAcceptor::from(Arc::new(tls)), Arc::clone(&shared), address);
        Self { address, shared, _task: AbortOnDropHandle::new(tokio::spawn(serving)) }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, shared: Arc<Shared>, address: SocketAddr) {
    // The set ends its connections with this task.
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        connections.spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let peer = wire::tls::peer_identity(stream.get_ref().1).unwrap();
            let service = service_fn(move |request| {
                let (shared, expired) = (Arc::clone(&shared), peer.as_ref().map(|peer| peer.expired));
                async move { Ok::<_, Infallible>(answer(shared, request, expired, address).await) }
            });
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
    expired: Option<bool>,
    address: SocketAddr,
) -> Response<Body> {
    let path = request.uri().path().to_owned();
    match (path.as_str(), expired) {
        ("/v1/join", _) => join(&shared, read(request).await, address),
        (_, None) => refuse(StatusCode::FORBIDDEN, "join first"),
        ("/v1/sign", _) => sign(&shared, read(request).await),
        (_, Some(true)) => refuse(StatusCode::FORBIDDEN, "the certificate has expired: renew it on /v1/sign first"),
        ("/v1/write", _) => {
            let request: WriteRequest = read(request).await;
            let outcome = shared.cluster().write(&request);
            shared.changed.notify_waiters();
            json(StatusCode::OK, &WriteResponse { index: CatalogIndex(1), outcome })
        }
        ("/v1/stream", _) => stream(shared, request).await,
        (api, _) => api_answer(api, &request),
    }
}

fn join(shared: &Shared, request: JoinRequest, address: SocketAddr) -> Response<Body> {
    let hash = wire::crypto::secret_hash(&request.secret);
    let key = parse_csr(&request.csr).unwrap().fingerprint().clone();
    let mut used = shared.used.lock().unwrap();
    if used.iter().any(|(secret, by)| *secret == hash && *by != key) {
        return refuse(StatusCode::FORBIDDEN, "the join token was used already, by another key: make a new one");
    }
    used.push((hash.clone(), key.clone()));
    let mut cluster = shared.cluster();
    if cluster.leader().join_token_by_secret(&hash).is_none() {
        return refuse(StatusCode::FORBIDDEN, "the join token is unknown: make a new one");
    }
    let record = cluster.enrol(&hash, &key);
    let id = cluster.mesh.scheme().agent(record.platform, &record.node);
    let ttl = *shared.leaf_ttl.lock().unwrap();
    let leaf = cluster.mesh.sign(&request.csr, &id, wire::crypto::now(), ttl);
    let (mesh, roots_pem) = (cluster.mesh.item.clone(), cluster.mesh.roots_pem());
    json(
        StatusCode::OK,
        &JoinResponse { record, mesh, roots_pem, leaf, servers: vec![address.to_string()], provisional: false },
    )
}

fn sign(shared: &Shared, request: SignRequest) -> Response<Body> {
    let cluster = shared.cluster();
    let scheme = cluster.mesh.scheme();
    let id = match &request.subject {
        Subject::Agent => scheme.agent(cluster.record.platform, &cluster.record.node),
        Subject::Service(service) => scheme.workload(service),
    };
    let ttl = *shared.leaf_ttl.lock().unwrap();
    let successor = shared.successor.lock().unwrap();
    let leaf = successor.as_ref().unwrap_or(&cluster.mesh).sign(&request.csr, &id, wire::crypto::now(), ttl);
    shared.leaves_signed.lock().unwrap().push(request.subject);
    json(StatusCode::OK, &SignResponse { leaf })
}

async fn stream(shared: Arc<Shared>, request: Request<Incoming>) -> Response<Body> {
    let mut frames = FrameReader::new(request.into_body());
    let (outgoing, incoming) = mpsc::channel::<Bytes>(64);
    let hello = frames.next().await.unwrap().unwrap();
    shared.cluster().receive(0, hello);
    tokio::spawn(async move {
        loop {
            let changed = shared.changed.notified();
            loop {
                let Some(frame) = shared.cluster.lock().unwrap().next_frame(0) else { break };
                if outgoing.try_send(encode_frame(&frame).unwrap()).is_err() {
                    return;
                }
            }
            tokio::select! {
                () = outgoing.closed() => return,
                () = changed => {}
                // Another session's writes are noticed too, without anybody telling.
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
                frame = frames.next() => match frame {
                    Ok(Some(frame)) => shared.cluster.lock().unwrap().receive(0, frame),
                    _ => return,
                },
            }
        }
    });
    let body = futures_util::stream::unfold(incoming, |mut incoming| async move {
        let bytes = incoming.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(bytes)), incoming))
    });
    Response::new(BodyExt::boxed_unsync(StreamBody::new(body)))
}

/// Knows three tokens, and tells of everything else what it was asked.
fn api_answer(path: &str, request: &Request<Incoming>) -> Response<Body> {
    let token = request.headers().get("x-consul-token").and_then(|token| token.to_str().ok()).unwrap_or_default();
    let authority = match token {
        MANAGEMENT => Authority::management(),
        OF_WEB => {
            let mut authority = Authority::default();
            authority.add(&Rules::of_service(&"web".parse().unwrap()), &Namespace::default_namespace());
            authority
        }
        OF_NOTHING => Authority::default(),
        _ => {
            let mut response = Response::new(Full::new(Bytes::from_static(b"ACL not found")).boxed_unsync());
            *response.status_mut() = StatusCode::FORBIDDEN;
            return response;
        }
    };
    if path == "/v1/api/acl/token/self/rights" {
        return json(StatusCode::OK, &OwnRights { authority, expires_at: None });
    }
    json(StatusCode::OK, &format!("{} {}", request.method(), request.uri().path_and_query().unwrap()))
}

async fn read<T: serde::de::DeserializeOwned>(request: Request<Incoming>) -> T {
    serde_json::from_slice(&request.into_body().collect().await.unwrap().to_bytes()).unwrap()
}

fn json(status: StatusCode, content: &impl Serialize) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(serde_json::to_vec(content).unwrap())).boxed_unsync());
    *response.status_mut() = status;
    response
}

fn refuse(status: StatusCode, error: &str) -> Response<Body> {
    json(status, &ApiError { error: error.to_owned(), log_in: false })
}
