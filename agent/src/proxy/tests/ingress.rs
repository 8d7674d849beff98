//! What a load balancer brings: who it is taken for, what it may say of others, and what becomes of it.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use catalog::{Action, CatalogIndex, Protocol};
use http::{StatusCode, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::agents::{Agent, DEADLINE, Echo, eventually, expect_reset, say};
use super::certificates::{Authority, service_key};
use super::http::{Application, get, hear, over_http1, over_http2};
use crate::proxy::{Ingress, Limits};

/// What the load balancer `public` may bring to `web`.
fn public() -> Ingress {
    Ingress {
        source: service_key("ingress/public"),
        service: service_key("web"),
        from: vec!["127.0.0.1".parse().unwrap()],
        forwarded_from: Vec::new(),
        health_check_paths: BTreeSet::new(),
        takes_proxy_protocol: false,
        takes_tls: false,
    }
}

/// `web`, which a load balancer leads to.
struct Edge {
    authority: Authority,
    web: Agent,
    application: Application,
    address: SocketAddr,
}

impl Edge {
    async fn start(ingress: Ingress, rules: &[&str]) -> Self {
        let authority = Authority::new("mesh.test");
        let application = Application::start().await;
        let (mut web, address) = Agent::start_ingress(&authority, Limits::default(), ingress);
        web.serve(&authority, "web", application.address);
        web.rule("web", Action::Deny, rules);
        web.snapshot.protocols.insert(service_key("web"), Protocol::Http);
        web.publish().await;
        Self { authority, web, application, address }
    }

    /// Asks as the load balancer would, and returns the status.
    async fn ask(&self, target: &str, lines: &[(&str, &str)]) -> StatusCode {
        let mut requests = over_http1(TcpStream::connect(self.address).await.unwrap()).await;
        let lines = [&[("host", "shop.example")], lines].concat();
        hear(requests.send_request(get(target, &lines)).await.unwrap()).await.status
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_balancer_is_decided_on_like_any_source_under_its_own_name() {
    let mut edge = Edge::start(public(), &[]).await;
    assert_eq!(edge.ask("/", &[]).await, StatusCode::FORBIDDEN);
    edge.web.rule("web", Action::Deny, &["allow public web", "allow * web"]);
    edge.web.publish().await;
    assert_eq!(edge.ask("/", &[]).await, StatusCode::FORBIDDEN, "it is no service of the namespace `default`");
    edge.web.rule("web", Action::Deny, &["allow ingress/public web"]);
    edge.web.publish().await;
    assert_eq!(edge.ask("/", &[]).await, StatusCode::OK);
    let requests = "weft_proxy_requests_total{direction=\"inbound\",source=\"ingress/public\",\
                    destination=\"default/web\",response=\"2xx\"}";
    eventually("it is counted under its name", || edge.web.metric(requests) == 1).await;
    let mut held = TcpStream::connect(edge.address).await.unwrap();
    held.write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nhello").await.unwrap();
    let mut heard = [0; 12];
    held.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"HTTP/1.1 200");
    edge.web.rule("web", Action::Deny, &["deny ingress/public web"]);
    edge.web.publish().await;
    let ended = tokio::time::timeout(DEADLINE, held.read_to_end(&mut Vec::new())).await;
    assert!(ended.is_ok(), "what is open is cut when it is denied");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c14_the_word_of_an_agent_for_a_load_balancer_is_worth_as_much_as_its_leaf() {
    let edge = Edge::start(public(), &["allow */* web"]).await;
    let mut requests = over_http1(TcpStream::connect(edge.address).await.unwrap()).await;
    assert_eq!(hear(requests.send_request(get("/", &[("host", "x")])).await.unwrap()).await.status, StatusCode::OK);
    edge.web.put_clock_forward(std::time::Duration::from_secs(25 * 3600));
    requests.ready().await.unwrap();
    let heard = hear(requests.send_request(get("/", &[("host", "x")])).await.unwrap()).await;
    assert_eq!(heard.status, StatusCode::FORBIDDEN, "an expired leaf vouches for nobody");
    let mut edge = Edge::start(public(), &["allow */* web"]).await;
    let mut idle = over_http1(TcpStream::connect(edge.address).await.unwrap()).await;
    assert_eq!(hear(idle.send_request(get("/", &[("host", "x")])).await.unwrap()).await.status, StatusCode::OK);
    edge.web.snapshot.revocations.records.insert(CatalogIndex(7));
    edge.web.publish().await;
    eventually("a revoked leaf vouches for nobody", || idle.is_closed()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h3_what_comes_from_outside_says_nothing_of_itself_that_is_believed() {
    let forged = [
        ("x-forwarded-client-cert", "URI=spiffe://mesh.test/ns/default/sa/admin"),
        ("forwarded", "for=192.0.2.1"),
        ("x-weft-port", "nothing"),
        ("x-weft-version", "1.1"),
        ("x-real-ip", "192.0.2.1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-for", "127.0.0.1, 192.0.2.1"),
        ("x-mine", "kept"),
    ];
    let edge = Edge::start(public(), &["allow */* web"]).await;
    assert_eq!(edge.ask("/one", &forged).await, StatusCode::OK);
    let believing = Ingress { forwarded_from: vec!["127.0.0.0/8".parse().unwrap()], ..public() };
    let believed = Edge::start(believing, &["allow */* web"]).await;
    assert_eq!(believed.ask("/two", &forged).await, StatusCode::OK);
    for (edge, client, proto) in [(&edge, "127.0.0.1", ""), (&believed, "192.0.2.1", "https")] {
        let asked = edge.application.asked();
        assert_eq!((asked[0].version, asked[0].header("host")), (Version::HTTP_11, "shop.example"));
        assert_eq!((asked[0].header("x-forwarded-for"), asked[0].header("x-forwarded-proto")), (client, proto));
        assert_eq!(asked[0].header("x-mine"), "kept");
        for name in ["x-forwarded-client-cert", "forwarded", "x-weft-port", "x-weft-version"] {
            assert_eq!(asked[0].header(name), "", "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_balancer_may_ask_how_the_application_is_whatever_the_rules_are() {
    let ingress = Ingress { health_check_paths: BTreeSet::from(["/healthz".to_owned()]), ..public() };
    let mut edge = Edge::start(ingress, &["deny */* web"]).await;
    assert_eq!(edge.ask("/healthz?full", &[]).await, StatusCode::OK);
    assert_eq!(edge.ask("/a/../healthz", &[]).await, StatusCode::OK, "it is the same path");
    for target in ["/healthz/", "/healthz/x", "/HEALTHZ", "/"] {
        assert_eq!(edge.ask(target, &[]).await, StatusCode::FORBIDDEN, "{target}");
    }
    let mut posting = over_http1(TcpStream::connect(edge.address).await.unwrap()).await;
    let mut post = get("/healthz", &[("host", "x")]);
    *post.method_mut() = http::Method::POST;
    assert_eq!(hear(posting.send_request(post).await.unwrap()).await.status, StatusCode::FORBIDDEN);
    // What brings something, or asks for a connection of its own, asks for more than that.
    assert_eq!(
        edge.ask("/healthz", &[("connection", "upgrade"), ("upgrade", "websocket")]).await,
        StatusCode::FORBIDDEN
    );
    for length in ["content-length: 1", "transfer-encoding: chunked"] {
        let mut stream = TcpStream::connect(edge.address).await.unwrap();
        stream.write_all(format!("GET /healthz HTTP/1.1\r\nhost: x\r\n{length}\r\n\r\n").as_bytes()).await.unwrap();
        let mut heard = [0; 12];
        stream.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"HTTP/1.1 403", "{length}");
    }
    // Also while nothing is known that could be decided by.
    edge.web.snapshot.policies.clear();
    edge.web.publish().await;
    assert_eq!(edge.ask("/healthz", &[]).await, StatusCode::OK);
    assert_eq!(edge.ask("/", &[]).await, StatusCode::FORBIDDEN);
    // Others of the mesh have no such right.
    let mut other =
        over_http1(edge.authority.dial("db", "web", edge.web.proxy.mesh_address(), &[]).await.unwrap()).await;
    let heard = hear(other.send_request(get("/healthz", &[("host", "x")])).await.unwrap()).await;
    assert_eq!(heard.status, StatusCode::FORBIDDEN);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l7_who_calls_from_elsewhere_is_not_listened_to() {
    let ingress = Ingress { from: vec!["127.0.0.2/32".parse().unwrap()], ..public() };
    let edge = Edge::start(ingress, &["allow */* web"]).await;
    expect_turned_away(edge.address).await;
    eventually("it is counted", || edge.web.refused("inbound", "handshake", "foreign_address") == 1).await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut requests = over_http1(socket.connect(edge.address).await.unwrap()).await;
    let heard = hear(requests.send_request(get("/", &[("host", "x")])).await.unwrap()).await;
    assert_eq!(heard.status, StatusCode::OK);
    assert_eq!(edge.application.asked()[0].header("x-forwarded-for"), "127.0.0.2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l7_the_proxy_protocol_is_taken_where_it_is_asked_for_and_nowhere_else() {
    let header = b"PROXY TCP4 192.0.2.1 127.0.0.1 4711 80\r\n";
    let request = b"GET / HTTP/1.1\r\nhost: x\r\nx-forwarded-for: 10.9.9.9\r\nconnection: close\r\n\r\n";
    let ask = async |edge: &Edge, bytes: &[u8]| {
        let mut stream = TcpStream::connect(edge.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut heard = Vec::new();
        let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut heard)).await.expect("closed in time");
        String::from_utf8_lossy(&heard).lines().next().unwrap_or_default().to_owned()
    };
    let taking =
        Ingress { takes_proxy_protocol: true, forwarded_from: vec!["127.0.0.0/8".parse().unwrap()], ..public() };
    let edge = Edge::start(taking, &["allow */* web"]).await;
    assert_eq!(ask(&edge, &[&header[..], request].concat()).await, "HTTP/1.1 200 OK");
    assert_eq!(edge.application.asked()[0].header("x-forwarded-for"), "192.0.2.1", "who is told of tells of nobody");
    assert_eq!(ask(&edge, &[b"PROXY UNKNOWN\r\n", &request[..]].concat()).await, "HTTP/1.1 200 OK");
    assert_eq!(ask(&edge, request).await, "", "without the header nothing is read");
    eventually("it is counted", || edge.web.refused("inbound", "handshake", "proxy_header") == 1).await;
    let plain = Edge::start(public(), &["allow */* web"]).await;
    assert_eq!(ask(&plain, &[&header[..], request].concat()).await, "HTTP/1.1 400 Bad Request");
    assert_eq!((edge.application.asked().len(), plain.application.asked().len()), (2, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_balancer_may_speak_tls_and_http_2() {
    let edge = Edge::start(Ingress { takes_tls: true, ..public() }, &["allow ingress/public web"]).await;
    for (offered, agreed) in [(&[&b"h2"[..], b"http/1.1"][..], Some(&b"h2"[..])), (&[], None)] {
        let stream = edge.authority.dial_unnamed("web", edge.address, offered).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), agreed);
        let heard = match agreed {
            Some(_) => hear(over_http2(stream).await.send_request(get("http://x/", &[])).await.unwrap()).await,
            None => hear(over_http1(stream).await.send_request(get("/", &[("host", "x")])).await.unwrap()).await,
        };
        assert_eq!(heard.status, StatusCode::OK);
    }
    let mut plain = TcpStream::connect(edge.address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let _ = tokio::time::timeout(DEADLINE, plain.read_to_end(&mut Vec::new())).await.expect("closed in time");
    eventually("it is counted", || edge.web.refused("inbound", "handshake", "not_tls") == 1).await;
    assert_eq!(edge.application.asked().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_balancer_of_bytes_is_decided_on_and_cut_as_well() {
    let authority = Authority::new("mesh.test");
    let echo = Echo::start().await;
    let (mut web, address) = Agent::start_ingress(&authority, Limits::default(), public());
    web.serve(&authority, "web", echo.address);
    web.publish().await;
    expect_turned_away(address).await;
    assert_eq!(echo.accepted(), 0);
    web.rule("web", Action::Deny, &["allow ingress/public web"]);
    web.publish().await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    say(&mut stream, "hello").await;
    web.rule("web", Action::Deny, &[]);
    web.publish().await;
    expect_reset(&mut stream).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l7_an_application_that_asks_for_it_is_told_who_calls_before_anything_else() {
    let authority = Authority::new("mesh.test");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (mut web, address) = Agent::start_ingress(&authority, Limits::default(), public());
    web.serve(&authority, "web", listener.local_addr().unwrap());
    web.snapshot.locals.get_mut(&service_key("web")).unwrap()[0].takes_proxy_header = true;
    web.rule("web", Action::Deny, &["allow ingress/public web", "allow db web"]);
    web.publish().await;
    let mut outside = TcpStream::connect(address).await.unwrap();
    outside.write_all(b"hello").await.unwrap();
    let (mut told, _) = listener.accept().await.unwrap();
    let told_of = read_header(&mut told).await;
    assert_eq!(told_of.0, outside.local_addr().unwrap());
    assert_eq!(told_of.1, "spiffe://mesh.test/ns/ingress/sa/public");
    let mut first = [0; 5];
    told.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"hello");
    // A caller of the mesh, whose own header is but bytes.
    let mut inside = authority.dial("db", "web", web.proxy.mesh_address(), &[]).await.unwrap();
    inside.write_all(b"PROXY TCP4 192.0.2.1 127.0.0.1 1 2\r\n").await.unwrap();
    let (mut told, _) = listener.accept().await.unwrap();
    let told_of = read_header(&mut told).await;
    assert_eq!(told_of, (inside.get_ref().0.local_addr().unwrap(), "spiffe://mesh.test/ns/default/sa/db".to_owned()));
    told.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"PROXY");
}

/// Checks that a connection is reset, be it that the client sees it opened before or not.
async fn expect_turned_away(address: SocketAddr) {
    if let Ok(mut stream) = TcpStream::connect(address).await {
        expect_reset(&mut stream).await;
    }
}

/// Reads the header that a connection begins with: from where it comes, and as whom.
async fn read_header(stream: &mut TcpStream) -> (SocketAddr, String) {
    let mut fixed = [0; 16];
    stream.read_exact(&mut fixed).await.unwrap();
    let mut header = fixed.to_vec();
    header.resize(16 + usize::from(u16::from_be_bytes([fixed[14], fixed[15]])), 0);
    stream.read_exact(&mut header[16..]).await.unwrap();
    let parsed = ppp::v2::Header::try_from(header.as_slice()).unwrap();
    let ppp::v2::Addresses::IPv4(v4) = parsed.addresses else { panic!("{:?}", parsed.addresses) };
    let identity = parsed.tlvs().find_map(|told| told.ok().filter(|told| told.kind == 0xE0)).unwrap();
    ((v4.source_address, v4.source_port).into(), String::from_utf8(identity.value.to_vec()).unwrap())
}
