//! Requests: an application that speaks HTTP, callers that do, and what becomes of the requests between them.

mod bounded;
mod carrying;
mod closing;
mod deciding;
mod floods;
mod hostile;
mod refusing;
mod same_bytes;
mod strict;
mod tokens;
mod told;
mod traffic;
mod untaken;
mod upgrading;

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use catalog::{Action, Protocol};
use http::header::{HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::agents::{Agent, Told, endpoint, in_time};
use super::certificates::{Authority, service_key};
use crate::proxy::Limits;

/// What an application was asked: the head of the request as it arrived.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// Which of the connections that it took, from zero on.
    pub(super) connection: usize,
    pub(super) target: String,
    pub(super) version: Version,
    pub(super) headers: HeaderMap,
}

impl Asked {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// An application that speaks both versions of HTTP and says back what it is asked.
pub(super) struct Application {
    pub(super) address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Application {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (accepted, asked) = (Arc::new(AtomicUsize::new(0)), Arc::<Mutex<Vec<Asked>>>::default());
        let (count, heard) = (Arc::clone(&accepted), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                let connection = count.fetch_add(1, Ordering::SeqCst);
                let heard = Arc::clone(&heard);
                let service = service_fn(move |request| answer(connection, Arc::clone(&heard), request));
                tokio::spawn(async move {
                    let server = auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, accepted, asked }
    }

    pub(super) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// What it was asked so far.
    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

/// Says a body back as it comes, with a trailer that says so; changes to any protocol that is asked for, and echoes there.
async fn answer(
    connection: usize,
    heard: Arc<Mutex<Vec<Asked>>>,
    mut request: Request<Incoming>,
) -> Result<Response<Echoed>, Infallible> {
    let (target, version, headers) = (request.uri().to_string(), request.version(), request.headers().clone());
    let asked = Asked { connection, target, version, headers };
    heard.lock().unwrap().push(asked);
    let mut response = Response::builder().header("x-from", "application").header("trailer", "x-echo");
    if request.headers().contains_key("x-dear") {
        response = response.header("x-weft-refused", "forged").header("connection", "x-hop").header("x-hop", "1");
    }
    if let Some(challenge) = request.headers().get("x-challenge") {
        response = response.status(401).header("www-authenticate", challenge);
    }
    if let Some(protocol) = request.headers().get("upgrade").cloned() {
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded.await.unwrap()));
            let _ = tokio::io::copy(&mut read, &mut write).await;
        });
        let response = response.status(101).header("connection", "upgrade").header("upgrade", protocol);
        return Ok(response.body(Echoed { body: None }).unwrap());
    }
    Ok(response.body(Echoed { body: Some(request.into_body()) }).unwrap())
}

struct Echoed {
    body: Option<Incoming>,
}

impl Body for Echoed {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        let frame = std::task::ready!(Pin::new(body).poll_frame(context));
        if frame.is_some() && !frame.as_ref().is_some_and(|frame| frame.as_ref().is_ok_and(Frame::is_trailers)) {
            return Poll::Ready(frame);
        }
        this.body = None;
        let mut trailers = frame.and_then(|frame| frame.unwrap().into_trailers().ok()).unwrap_or_default();
        trailers.insert("x-echo", HeaderValue::from_static("whole"));
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}

/// `web` calls `api` over HTTP; `api`'s application is an [`Application`].
pub(super) struct HttpPair {
    pub(super) authority: Authority,
    pub(super) web: Agent,
    pub(super) api: Agent,
    pub(super) application: Application,
}

impl HttpPair {
    pub(super) async fn start(rules: &[&str]) -> Self {
        Self::start_with(rules, Protocol::Http).await
    }

    pub(super) async fn start_with(rules: &[&str], protocol: Protocol) -> Self {
        Self::start_telling(rules, protocol, [Told::default(), Told::default()]).await
    }

    /// Starts both, each with an access log of its own or none, and so on.
    pub(super) async fn start_telling(rules: &[&str], protocol: Protocol, told: [Told; 2]) -> Self {
        Self::start_within(Limits::default(), rules, protocol, told).await
    }

    /// Starts both; the keys of tokens may be on this machine.
    pub(super) async fn start_reaching(rules: &[&str]) -> Self {
        Self::start_keeping(rules, None).await
    }

    /// Starts both; the keys of tokens may be on this machine, and are kept where this says.
    pub(super) async fn start_keeping(rules: &[&str], kept_keys: Option<Arc<dyn wire::jwt::KeptKeys>>) -> Self {
        let limits = Limits { keys_reach: wire::web::Reach::Loopback, ..Limits::default() };
        let told = [Told::default(), Told { kept_keys, ..Told::default() }];
        Self::start_within(limits, rules, Protocol::Http, told).await
    }

    /// Starts both within these bounds.
    pub(super) async fn start_within(limits: Limits, rules: &[&str], protocol: Protocol, told: [Told; 2]) -> Self {
        let [web_told, api_told] = told;
        let authority = Authority::new("mesh.test");
        let application = Application::start().await;
        let mut api = Agent::start_telling(&authority, limits.clone(), api_told);
        api.serve(&authority, "api", application.address);
        api.rule("api", Action::Deny, rules);
        api.snapshot.protocols.insert(service_key("api"), protocol);
        api.publish().await;
        let mut web = Agent::start_telling(&authority, limits, web_told);
        web.call(&authority, "web", "api", &[endpoint("api", api.proxy.mesh_address(), application.address)]);
        web.snapshot.protocols.insert(service_key("api"), protocol);
        web.publish().await;
        Self { authority, web, api, application }
    }

    /// Replaces the rules of `api`.
    pub(super) async fn rule(&mut self, rules: &[&str]) {
        self.api.rule("api", Action::Deny, rules);
        self.api.publish().await;
    }

    /// Opens a connection over HTTP/1.1 to the upstream, as `web`'s application.
    pub(super) async fn http1(&self) -> http1::SendRequest<Asking> {
        over_http1(self.web.connect().await).await
    }

    /// Opens one over HTTP/2.
    pub(super) async fn http2(&self) -> http2::SendRequest<Asking> {
        over_http2(self.web.connect().await).await
    }

    /// Dials `api`'s agent with a leaf of `caller`, offering one protocol or none.
    pub(super) async fn dial(
        &self,
        caller: &str,
        protocol: Option<&[u8]>,
    ) -> tokio_rustls::client::TlsStream<TcpStream> {
        let mesh = self.api.proxy.mesh_address();
        self.authority.dial(caller, "api", mesh, protocol.as_slice()).await.unwrap()
    }
}

/// The body of a request in tests: what is said over a channel, until its other end is dropped.
#[derive(Debug)]
pub(super) struct Asking {
    frames: Option<mpsc::Receiver<Frame<Bytes>>>,
}

/// Says the body of a request.
#[derive(Debug)]
pub(super) struct Speaker(mpsc::Sender<Frame<Bytes>>);

impl Speaker {
    pub(super) async fn say(&self, data: impl Into<Bytes>) {
        self.0.send(Frame::data(data.into())).await.unwrap();
    }

    pub(super) async fn say_trailers(&self, trailers: HeaderMap) {
        self.0.send(Frame::trailers(trailers)).await.unwrap();
    }
}

impl Body for Asking {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.get_mut().frames {
            Some(frames) => frames.poll_recv(context).map(|frame| frame.map(Ok)),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_none()
    }
}

pub(super) async fn over_http1<I>(io: I) -> http1::SendRequest<Asking>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (requests, connection) = http1::handshake(TokioIo::new(io)).await.unwrap();
    drive(connection.with_upgrades());
    requests
}

pub(super) async fn over_http2<I>(io: I) -> http2::SendRequest<Asking>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (requests, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.unwrap();
    drive(connection);
    requests
}

/// Drives a connection, and keeps it a little longer than it lasts: what is put in its queue just as it ends fails only when
/// that goes with it.
fn drive<T>(connection: impl Future<Output = T> + Send + 'static) {
    tokio::spawn(async move {
        let mut connection = pin!(connection);
        connection.as_mut().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    });
}

/// A request to `target` with these headers, and who says its body.
pub(super) fn asking(method: Method, target: &str, headers: &[(&str, &str)]) -> (Request<Asking>, Speaker) {
    let (sender, frames) = mpsc::channel(4);
    (request(method, target, headers).map(|()| Asking { frames: Some(frames) }), Speaker(sender))
}

/// A request without a body.
pub(super) fn get(target: &str, headers: &[(&str, &str)]) -> Request<Asking> {
    request(Method::GET, target, headers).map(|()| Asking { frames: None })
}

fn request(method: Method, target: &str, headers: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

/// An answer that has arrived whole.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

pub(super) async fn hear(response: Response<Incoming>) -> Heard {
    let (head, body) = response.into_parts();
    let body = in_time("the answer is whole", body.collect()).await.unwrap().to_bytes();
    Heard { status: head.status, headers: head.headers, body }
}
