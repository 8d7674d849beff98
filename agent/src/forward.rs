//! The forward proxy, for applications that know `HTTP_PROXY` and no other way into the mesh: `http://api.virtual.mesh/`.
//!
//! It leads to the listeners of declared upstreams and nowhere else, so that it is no way around anything.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use catalog::ServiceKey;
use http::{Method, Request, Response, StatusCode, Uri, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1 as client;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use wire::accept::{Accepted, accept_all};

use crate::core::Handle;
use crate::dns::Zones;
use crate::proxy::{Forwarded, ForwardedPlace, Proxy};
use crate::sockets::user_of;

/// Connections held at once; the next ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 4096;
/// Time for a request's head to arrive.
const HEAD_READ_TIMEOUT: Duration = Duration::from_secs(30);
/// A listener of this very process answers at once.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);
/// Headers that are between the application and this proxy. A change of protocol is nothing that it passes on, but by CONNECT.
const OWN_HEADERS: [&str; 7] = [
    "proxy-connection",
    "proxy-authorization",
    "proxy-authenticate",
    "keep-alive",
    "connection",
    "upgrade",
    "http2-settings",
];

type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// Says where requests lead.
#[derive(Clone)]
pub(crate) struct Ways {
    pub(crate) proxy: Arc<Proxy>,
    /// Tells the mesh's datacenter.
    pub(crate) core: Handle,
    /// The domains of the mesh's names.
    pub(crate) zones: Zones,
}

/// Is a connection's share of the limit on connections, and the end of all of them; a tunnel keeps both until it ends.
#[derive(Clone)]
struct Place {
    _permit: Arc<OwnedSemaphorePermit>,
    stopping: CancellationToken,
}

/// Serves until `stopping` is cancelled.
pub(crate) async fn serve(listener: TcpListener, ways: Ways, stopping: CancellationToken) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    accept_all(
        "forward proxy",
        listener,
        room,
        stopping.cancelled(),
        || {},
        |Accepted { stream, from, permit }| {
            let ways = ways.clone();
            let place = Place { _permit: Arc::new(permit), stopping: stopping.clone() };
            tokio::spawn(stopping.clone().run_until_cancelled_owned(async move {
                let user = user_behind(&stream, from).await;
                let answer = service_fn(move |request| {
                    let (ways, place) = (ways.clone(), place.clone());
                    async move { Ok::<_, Infallible>(answer(&ways, user, place, request).await) }
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

async fn answer(ways: &Ways, user: Option<u32>, place: Place, request: Request<Incoming>) -> Response<Body> {
    let is_tunnel = request.method() == Method::CONNECT;
    let status = ways.core.status();
    let found = destination(&ways.zones, &status.datacenter, request.uri());
    let found = found.and_then(|service| listener(&ways.proxy, user, &service));
    let answered = match found {
        Ok(listener) if is_tunnel => tunnel(ways.proxy.forwarded(), listener, place, request).await,
        Ok(listener) => pass_on(ways.proxy.forwarded(), listener, request).await,
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
fn destination(zones: &Zones, datacenter: &str, uri: &Uri) -> Result<ServiceKey, Refused> {
    let Some(host) = uri.host() else {
        let reason = format!("this is a forward proxy: set HTTP_PROXY, and call NAME.virtual in the domain {zones}");
        return Err((StatusCode::BAD_REQUEST, reason));
    };
    if uri.scheme_str().is_some_and(|scheme| scheme != "http") {
        return Err((StatusCode::BAD_REQUEST, "write http://: the mesh itself encrypts and authenticates".to_owned()));
    }
    zones.service_of(host, datacenter).ok_or_else(|| {
        let host = wire::harmless(host);
        (
            StatusCode::FORBIDDEN,
            format!("`{host}` is no service of the mesh: only NAME.virtual in the domain {zones} passes here"),
        )
    })
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

async fn dial(made: &Arc<Forwarded>, listener: SocketAddr) -> Result<(TcpStream, ForwardedPlace), Refused> {
    let failed = |reason: String| (StatusCode::BAD_GATEWAY, format!("the upstream's listener at {listener}: {reason}"));
    match tokio::time::timeout(DIAL_TIMEOUT, made.dial(listener)).await {
        Ok(dialled) => dialled.map_err(|error| failed(error.to_string())),
        Err(_) => Err(failed("it did not answer".to_owned())),
    }
}

/// Carries whatever the application speaks to the service.
async fn tunnel(
    made: &Arc<Forwarded>,
    listener: SocketAddr,
    place: Place,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refused> {
    let (mut upstream, forwarded) = dial(made, listener).await?;
    let stopping = place.stopping.clone();
    tokio::spawn(stopping.run_until_cancelled_owned(async move {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            // Either side ends it, and sees how.
            let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(upgraded), &mut upstream).await;
        }
        drop((forwarded, place));
    }));
    Ok(Response::new(Full::default().map_err(never).boxed_unsync()))
}

/// Sends one request to the service, as an application would that had called it directly.
async fn pass_on(
    made: &Arc<Forwarded>,
    listener: SocketAddr,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refused> {
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
    let (stream, forwarded) = dial(made, listener).await?;
    let (sender, connection) = client::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    // How it ended is told to whoever reads the answer.
    tokio::spawn(async move { drop((connection.await, forwarded)) });
    let asked = wire::ask_once(sender, Request::from_parts(parts, body));
    let answer = asked.await.map_err(|error| failed(&error))?;
    Ok(answer.map(|body| body.boxed_unsync()))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::dns::DnsSettings;

    #[test]
    fn a_request_says_whom_it_is_for_by_an_absolute_address() {
        let zones = Zones::new(&DnsSettings::default()).unwrap();
        let status =
            |uri: &str| destination(&zones, "dc1", &uri.parse().unwrap()).map_err(|(status, _)| status.as_u16());
        assert_eq!(status("http://api.virtual.mesh/a?b"), Ok("api".parse().unwrap()));
        assert_eq!(status("api.virtual.mesh:80"), Ok("api".parse().unwrap()));
        assert_eq!(status("/a"), Err(400));
        assert_eq!(status("https://api.virtual.mesh/"), Err(400));
        assert_eq!(status("http://example.com/"), Err(403));
    }

    #[tokio::test]
    async fn a_change_of_protocol_is_asked_for_by_a_tunnel_and_not_passed_on() {
        let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = upstream.local_addr().unwrap();
        let (mut client, server) = tokio::io::duplex(4096);
        let answer = service_fn(move |request| async move {
            Ok::<_, Infallible>(pass_on(&Arc::default(), address, request).await.unwrap())
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(server), answer));
        let asked =
            "GET http://api.virtual.mesh/ HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        client.write_all(asked.as_bytes()).await.unwrap();
        let (mut called, _) = upstream.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(called.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        assert!(head.contains("host: api.virtual.mesh\r\n") && !head.contains("upgrade"), "{head}");
        called.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        let mut answered = [0; 15];
        client.read_exact(&mut answered).await.unwrap();
        assert_eq!(&answered, b"HTTP/1.1 200 OK");
    }

    #[tokio::test]
    async fn l6_a_tunnel_counts_until_it_ends_and_ends_with_the_agent() {
        let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = upstream.local_addr().unwrap();
        let (room, stopping) = (Arc::new(Semaphore::new(2)), CancellationToken::new());
        let open = async || {
            let permit = Arc::new(Arc::clone(&room).try_acquire_owned().unwrap());
            let place = Place { _permit: permit, stopping: stopping.clone() };
            let (mut client, server) = tokio::io::duplex(4096);
            let answer = service_fn(move |request| {
                let place = place.clone();
                async move { Ok::<_, Infallible>(tunnel(&Arc::default(), address, place, request).await.unwrap()) }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(server), answer).with_upgrades());
            client.write_all(b"CONNECT api.virtual.mesh:80 HTTP/1.1\r\nhost: api\r\n\r\n").await.unwrap();
            let (mut called, _) = upstream.accept().await.unwrap();
            let mut head = vec![0; 15];
            client.read_exact(&mut head).await.unwrap();
            assert_eq!(head, b"HTTP/1.1 200 OK");
            called.write_all(b"here").await.unwrap();
            while !head.ends_with(b"here") {
                head.push(client.read_u8().await.unwrap());
            }
            (client, called)
        };
        let (first, (_second, mut called)) = (open().await, open().await);
        assert_eq!(room.available_permits(), 0, "both are under way");
        drop(first);
        let free = Arc::clone(&room).acquire_owned();
        let freed = tokio::time::timeout(Duration::from_secs(5), free).await;
        assert!(freed.is_ok(), "one that has ended counts no more");
        stopping.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(5), called.read(&mut [0; 1])).await;
        assert!(matches!(ended, Ok(Ok(0) | Err(_))), "{ended:?}");
    }
}
