//! The forward proxy, for applications that know `HTTP_PROXY` and no other way into the mesh: `http://api.virtual.mesh/`.
//!
//! It leads to the listeners of declared upstreams and nowhere else, so that it is no way around anything.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use catalog::{Namespace, ServiceKey, ServiceName};
use http::{Method, Request, Response, StatusCode, Uri, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1 as client;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use wire::accept::{Accepted, accept_all};

use crate::proxy::Proxy;
use crate::sockets::user_of;

/// Connections held at once; the next ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 4096;
/// Time for a request's head to arrive.
const HEAD_READ_TIMEOUT: Duration = Duration::from_secs(30);
/// A listener of this very process answers at once.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);
/// What names of the mesh end in.
const DOMAIN: &str = "mesh";
/// Headers that are between the application and this proxy.
const OWN_HEADERS: [&str; 4] = ["proxy-connection", "proxy-authorization", "proxy-authenticate", "keep-alive"];

type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// Serves until `stopping` is cancelled.
pub(crate) async fn serve(listener: TcpListener, proxy: Arc<Proxy>, stopping: CancellationToken) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    accept_all(
        "forward proxy",
        listener,
        room,
        stopping.cancelled(),
        || {},
        |Accepted { stream, from, permit }| {
            let proxy = Arc::clone(&proxy);
            tokio::spawn(stopping.clone().run_until_cancelled_owned(async move {
                let _permit = permit;
                let user = user_behind(&stream, from).await;
                let answer = service_fn(move |request| {
                    let proxy = Arc::clone(&proxy);
                    async move { Ok::<_, Infallible>(answer(&proxy, user, request).await) }
                });
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_READ_TIMEOUT)
                    .serve_connection(TokioIo::new(stream), answer)
                    .with_upgrades();
                // What is wrong with a connection of the application's, it sees itself.
                let _ = connection.await;
            }));
        },
    )
    .await;
}

/// Returns the number of the user whose process has connected; none where it cannot be seen.
async fn user_behind(stream: &TcpStream, from: SocketAddr) -> Option<u32> {
    let own = stream.local_addr().ok()?;
    tokio::task::spawn_blocking(move || user_of(from, own)).await.ok().flatten()
}

async fn answer(proxy: &Proxy, user: Option<u32>, request: Request<Incoming>) -> Response<Body> {
    let is_tunnel = request.method() == Method::CONNECT;
    let found = destination(request.uri()).and_then(|service| listener(proxy, user, &service));
    let answered = match found {
        Ok(listener) if is_tunnel => tunnel(listener, request).await,
        Ok(listener) => pass_on(listener, request).await,
        Err(refused) => Err(refused),
    };
    answered.unwrap_or_else(|(status, reason)| {
        let mut response =
            Response::new(Full::new(Bytes::from(format!("weft: {reason}\n"))).map_err(never).boxed_unsync());
        *response.status_mut() = status;
        response
    })
}

fn never(impossible: Infallible) -> hyper::Error {
    match impossible {}
}

type Refused = (StatusCode, String);

/// Reads which service a request is for.
fn destination(uri: &Uri) -> Result<ServiceKey, Refused> {
    let Some(host) = uri.host() else {
        let reason = "this is a forward proxy: set HTTP_PROXY, and call http://NAME.virtual.mesh/".to_owned();
        return Err((StatusCode::BAD_REQUEST, reason));
    };
    if uri.scheme_str().is_some_and(|scheme| scheme != "http") {
        return Err((StatusCode::BAD_REQUEST, "write http://: the mesh itself encrypts and authenticates".to_owned()));
    }
    service_of(host).ok_or_else(|| {
        let host = wire::harmless(host);
        (
            StatusCode::FORBIDDEN,
            format!("`{host}` is no service of the mesh: only names such as NAME.virtual.{DOMAIN} pass here"),
        )
    })
}

/// Reads `api.virtual.mesh` or `api.virtual.shop.ns.mesh`, and the same with `service`.
fn service_of(host: &str) -> Option<ServiceKey> {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let labels: Vec<&str> = host.split('.').collect();
    let (name, namespace) = match labels[..] {
        [name, "virtual" | "service", DOMAIN] => (name, Namespace::default_namespace()),
        [name, "virtual" | "service", namespace, "ns", DOMAIN] => (name, namespace.parse().ok()?),
        _ => return None,
    };
    Some(ServiceKey::new(namespace, name.parse::<ServiceName>().ok()?))
}

/// Finds the listener of the upstream that leads to a service, for a process of a user.
fn listener(proxy: &Proxy, user: Option<u32>, service: &ServiceKey) -> Result<SocketAddr, Refused> {
    let status = proxy.status();
    let mut leading = status.upstreams.iter().filter(|upstream| upstream.listener.destination == *service);
    let first = leading.next().ok_or_else(|| {
        let reason = format!("`{service}` is not among the upstreams of this service: declare it in its definition");
        (StatusCode::FORBIDDEN, reason)
    })?;
    if leading.any(|other| other.listener.owner != first.listener.owner) {
        let reason =
            format!("several services beside this agent call `{service}`, and a proxy cannot tell which one asks");
        return Err((StatusCode::CONFLICT, reason));
    }
    if first.listener.user.is_some_and(|wanted| user != Some(wanted)) {
        let reason = format!("only processes of its own user call `{service}` as `{}`", first.listener.owner);
        return Err((StatusCode::FORBIDDEN, reason));
    }
    first.outcome.clone().map_err(|reason| (StatusCode::SERVICE_UNAVAILABLE, reason))
}

async fn dial(listener: SocketAddr) -> Result<TcpStream, Refused> {
    let failed = |reason: String| (StatusCode::BAD_GATEWAY, format!("the upstream's listener at {listener}: {reason}"));
    match tokio::time::timeout(DIAL_TIMEOUT, TcpStream::connect(listener)).await {
        Ok(stream) => stream.map_err(|error| failed(error.to_string())),
        Err(_) => Err(failed("it did not answer".to_owned())),
    }
}

/// Carries whatever the application speaks to the service.
async fn tunnel(listener: SocketAddr, request: Request<Incoming>) -> Result<Response<Body>, Refused> {
    let mut upstream = dial(listener).await?;
    tokio::spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            // Either side ends it, and sees how.
            let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(upgraded), &mut upstream).await;
        }
    });
    Ok(Response::new(Full::default().map_err(never).boxed_unsync()))
}

/// Sends one request to the service, as an application would that had called it directly.
async fn pass_on(listener: SocketAddr, request: Request<Incoming>) -> Result<Response<Body>, Refused> {
    let failed = |error: &dyn std::error::Error| (StatusCode::BAD_GATEWAY, wire::one_line(&error));
    let (mut parts, body) = request.into_parts();
    let authority = parts.uri.authority().map(|authority| authority.as_str().to_owned()).unwrap_or_default();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    parts.uri = path.parse().map_err(|error: http::uri::InvalidUri| failed(&error))?;
    // Whatever the header says, an absolute address is whom the request is for (RFC 9112 §3.2.2).
    let host = authority.parse().map_err(|error: header::InvalidHeaderValue| failed(&error))?;
    parts.headers.insert(header::HOST, host);
    for name in OWN_HEADERS {
        parts.headers.remove(name);
    }
    let stream = dial(listener).await?;
    let (mut sender, connection) = client::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    // How it ended is told to whoever reads the answer.
    tokio::spawn(async move { drop(connection.await) });
    let answer = sender.send_request(Request::from_parts(parts, body)).await.map_err(|error| failed(&error))?;
    Ok(answer.map(|body| body.boxed_unsync()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_mesh_and_no_others_are_read() {
        let read = |host: &str| service_of(host).map(|service| service.to_string());
        assert_eq!(read("api.virtual.mesh").as_deref(), Some("default/api"));
        assert_eq!(read("API.Virtual.Mesh.").as_deref(), Some("default/api"));
        assert_eq!(read("api.service.mesh").as_deref(), Some("default/api"));
        assert_eq!(read("api.virtual.shop.ns.mesh").as_deref(), Some("shop/api"));
        for other in [
            "api",
            "mesh",
            "example.com",
            "api.mesh",
            "api.virtual.mesh.example.com",
            "a.b.virtual.mesh",
            ".virtual.mesh",
            "api.virtual.consul",
            "169.254.169.254",
            "localhost",
            "api..virtual.mesh",
            "*.virtual.mesh",
            "",
        ] {
            assert_eq!(read(other), None, "{other}");
        }
    }

    #[test]
    fn a_request_says_whom_it_is_for_by_an_absolute_address() {
        let status = |uri: &str| destination(&uri.parse().unwrap()).map_err(|(status, _)| status.as_u16());
        assert_eq!(status("http://api.virtual.mesh/a?b"), Ok("api".parse().unwrap()));
        assert_eq!(status("api.virtual.mesh:80"), Ok("api".parse().unwrap()));
        assert_eq!(status("/a"), Err(400));
        assert_eq!(status("https://api.virtual.mesh/"), Err(400));
        assert_eq!(status("http://example.com/"), Err(403));
    }
}
