//! A ztunnel as a neighbour, frame by frame: HTTP/2 CONNECT over mutual TLS, as Istio's HBONE has it.

use std::net::Ipv4Addr;
use std::sync::Arc;

use bytes::Bytes;
use h2::RecvStream;
use http::{Method, Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::client::TlsStream;
use wire::tls::mesh_server_config;

use super::agents::{Agent, Pair, endpoint, say};
use super::certificates::{Authority, dial};
use super::frames::{DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, block, frame, preface, read, read_of};

/// Dials as a ztunnel does: `h2` alone, and no server name.
async fn ztunnel(pair: &Pair, caller: &str) -> TlsStream<TcpStream> {
    let mut config = pair.authority.client_config(caller, "api");
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.enable_sni = false;
    dial(config, "nobody.invalid", pair.api.proxy.mesh_address()).await.unwrap()
}

/// What a ztunnel asks with.
fn connect(authority: &str) -> Vec<u8> {
    block(&[
        (":method", "CONNECT"),
        (":authority", authority),
        ("baggage", "k8s.cluster.name=one,k8s.namespace.name=default,service.name=web"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("forwarded", "for=10.9.9.9"),
    ])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ztunnel_calls_a_service_behind_an_agent() {
    let pair = Pair::start(&["allow web api"]).await;
    let mut stream = ztunnel(&pair, "web").await;
    let mut bytes = preface();
    bytes.extend(frame(HEADERS, END_HEADERS, 1, &connect(&pair.echo.address.to_string())));
    for byte in bytes {
        stream.write_all(&[byte]).await.unwrap();
    }
    let answer = read_of(&mut stream, 1).await.unwrap();
    // 0x88 is `:status 200` in the static table; the stream stays open.
    assert_eq!((answer.kind, answer.flags & END_STREAM, answer.payload[0]), (HEADERS, 0, 0x88));
    stream.write_all(&frame(DATA, 0, 1, b"hel")).await.unwrap();
    stream.write_all(&frame(DATA, END_STREAM, 1, b"lo")).await.unwrap();
    let mut heard = Vec::new();
    loop {
        let data = read_of(&mut stream, 1).await.unwrap();
        assert_eq!(data.kind, DATA);
        heard.extend_from_slice(&data.payload);
        if data.flags & END_STREAM != 0 {
            break;
        }
    }
    assert_eq!(heard, b"hello.", "half-close is the end of the stream, each way for itself");

    // Another authority than the workload's is not ours (400), and the tunnel goes on.
    stream.write_all(&frame(HEADERS, END_HEADERS, 3, &connect("10.1.2.3:80"))).await.unwrap();
    let answer = read_of(&mut stream, 3).await.unwrap();
    assert_eq!((answer.kind, answer.flags & END_STREAM), (HEADERS, END_STREAM));
    assert_eq!(answer.payload[0], 0x8c, "`:status 400` in the static table");
    stream.write_all(&frame(HEADERS, END_HEADERS, 5, &connect(&pair.echo.address.to_string()))).await.unwrap();
    assert_eq!(read_of(&mut stream, 5).await.unwrap().payload[0], 0x88);
    stream.write_all(&frame(RST_STREAM, 0, 5, &8_u32.to_be_bytes())).await.unwrap();
    super::agents::eventually("the reset reaches the application's side", || pair.api.proxy.open_streams() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ztunnel_that_is_denied_is_told_so() {
    let pair = Pair::start(&["allow web api"]).await;
    let mut stream = ztunnel(&pair, "db").await;
    stream.write_all(&preface()).await.unwrap();
    stream.write_all(&frame(HEADERS, END_HEADERS, 1, &connect(&pair.echo.address.to_string()))).await.unwrap();
    let answer = read_of(&mut stream, 1).await.unwrap();
    assert_eq!((answer.kind, answer.flags & END_STREAM), (HEADERS, END_STREAM));
    // A literal under the name `:status` (8), of three digits: 401, plain or by Huffman's code.
    assert_eq!(answer.payload[0] & 0x0f, 8, "{:02x?}", answer.payload);
    let huffman_401 = [0x82, 0x68, 0x01];
    assert!(
        answer.payload[1..].starts_with(b"\x03401") || answer.payload[1..].starts_with(&huffman_401),
        "{:02x?}",
        answer.payload
    );
    assert_eq!(pair.echo.accepted(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h8_streams_that_are_reset_as_soon_as_they_are_opened_cost_their_sender_the_tunnel() {
    let pair = Pair::start(&["allow web api"]).await;
    let mut other = pair.connected().await;
    let mut stream = ztunnel(&pair, "web").await;
    let mut bytes = preface();
    for id in 0..2000 {
        bytes.extend(frame(HEADERS, END_HEADERS, 2 * id + 1, &connect(&pair.echo.address.to_string())));
        bytes.extend(frame(RST_STREAM, 0, 2 * id + 1, &8_u32.to_be_bytes()));
    }
    let _ = stream.write_all(&bytes).await;
    let mut code = None;
    while let Some(frame) = read(&mut stream).await {
        if frame.kind == GOAWAY {
            code = frame.payload.get(4..8).map(|code| u32::from_be_bytes(code.try_into().unwrap()));
        }
    }
    // ENHANCE_YOUR_CALM, where it still reached us.
    assert!(code.is_none_or(|code| code == 11), "{code:?}");
    say(&mut other, "still here").await;
}

/// Serves as a ztunnel does, and returns the head of what it was asked.
async fn serve_one(authority: &Authority, listener: &TcpListener, status: StatusCode) -> http::request::Parts {
    let config = mesh_server_config(authority.anchors(), authority.leaf("api").resolver());
    let (stream, _) = listener.accept().await.unwrap();
    let stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    let mut tunnel = ztunnels_settings().handshake::<_, Bytes>(stream).await.unwrap();
    let (request, mut respond) = tunnel.accept().await.unwrap().unwrap();
    let (head, body) = request.into_parts();
    let response = Response::builder().status(status).body(()).unwrap();
    let send = respond.send_response(response, status != StatusCode::OK).unwrap();
    if status == StatusCode::OK {
        tokio::spawn(echo(body, send));
    }
    tokio::spawn(async move { while tunnel.accept().await.is_some() {} });
    head
}

/// What a ztunnel grants: windows of 4 MiB for a stream and 16 MiB for all, and frames up to 1 MiB.
fn ztunnels_settings() -> h2::server::Builder {
    let mut settings = h2::server::Builder::new();
    settings.initial_window_size(4 << 20).initial_connection_window_size(16 << 20).max_frame_size(1 << 20);
    settings
}

async fn echo(mut body: RecvStream, mut send: h2::SendStream<Bytes>) {
    while let Some(Ok(data)) = body.data().await {
        body.flow_control().release_capacity(data.len()).unwrap();
        send.send_data(data, false).unwrap();
    }
    send.send_data(Bytes::from_static(b"."), true).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_calls_a_service_behind_a_ztunnel() {
    let authority = Authority::new("mesh.test");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let application = "127.0.0.1:8080".parse().unwrap();
    let mut web = Agent::start(&authority);
    web.call(&authority, "web", "api", &[endpoint("api", listener.local_addr().unwrap(), application)]);
    web.publish().await;
    let calling = async {
        let mut stream = web.connect().await;
        say(&mut stream, "hello").await;
        say(&mut stream, &"more than a frame holds. ".repeat(40_000)).await;
        stream.shutdown().await.unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, ".");
    };
    let ((), head) = tokio::join!(calling, serve_one(&authority, &listener, StatusCode::OK));
    assert_eq!((head.method, head.uri.authority().unwrap().as_str()), (Method::CONNECT, "127.0.0.1:8080"));
    assert_eq!((head.uri.path_and_query(), head.uri.scheme()), (None, None), "a CONNECT has neither");

    // Its refusal by policy is final, and is counted as one.
    let mut web = Agent::start(&authority);
    web.call(&authority, "web", "api", &[endpoint("api", listener.local_addr().unwrap(), application)]);
    web.publish().await;
    tokio::join!(web.expect_refusal(), serve_one(&authority, &listener, StatusCode::UNAUTHORIZED));
    assert_eq!(web.refused("outbound", "open", "denied"), 1);
}
