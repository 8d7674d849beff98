//! A ztunnel as a neighbour, frame by frame: HTTP/2 CONNECT over mutual TLS, as Istio's HBONE has it.

use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::client::TlsStream;
use tokio_rustls::server::TlsStream as ServerTlsStream;
use wire::tls::mesh_server_config;

use super::agents::{Agent, Pair, endpoint, say};
use super::certificates::{Authority, dial};
use super::frames::{
    ACK, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PREFACE, RST_STREAM, SETTINGS, block, frame, preface, read,
    read_of, settings,
};

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

/// How `CONNECT 127.0.0.1:8080` is written when nothing was said before: its method and its authority by their names in the
/// static table (2 and 1) and in Huffman's code, each to be remembered (RFC 7541 sections 6.2.1 and 5.2).
const CONNECT_TO_8080: &[u8] = b"\x42\x87\xbd\xab\x4e\x9c\x17\xb7\xff\x41\x8a\x08\x9d\x5c\x0b\x81\x70\xdc\x78\x0f\x03";

/// Meets the next caller as a ztunnel does: reads its preface and its settings, says its own, and waits until those are taken.
async fn meet(authority: &Authority, listener: &TcpListener) -> ServerTlsStream<TcpStream> {
    let config = mesh_server_config(authority.anchors(), authority.leaf("api").resolver());
    let (stream, _) = listener.accept().await.unwrap();
    let mut stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    let mut said = [0; PREFACE.len()];
    stream.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, PREFACE);
    let theirs = read(&mut stream).await.unwrap();
    assert_eq!((theirs.kind, theirs.flags, theirs.stream), (SETTINGS, 0, 0), "settings come first");
    let no_push = [0, 2, 0, 0, 0, 0];
    assert!(theirs.payload.chunks(6).any(|setting| setting == no_push), "{:02x?}", theirs.payload);
    // A ztunnel tells how many streams it takes, and that it knows of extended CONNECT.
    for byte in settings(&[(3, 100), (8, 1)]) {
        stream.write_all(&[byte]).await.unwrap();
    }
    stream.write_all(&frame(SETTINGS, ACK, 0, &[])).await.unwrap();
    stream
}

/// Reads the head of the stream that a caller opens first, and sees that it is whole, bare and open.
async fn read_connect(stream: &mut ServerTlsStream<TcpStream>) {
    let asked = read_of(stream, 1).await.unwrap();
    assert_eq!((asked.kind, asked.flags), (HEADERS, END_HEADERS), "the stream stays open");
    assert_eq!(asked.payload, CONNECT_TO_8080, "no scheme, no path, nothing besides: {:02x?}", asked.payload);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_calls_a_service_behind_a_ztunnel() {
    let authority = Authority::new("mesh.test");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let application = "127.0.0.1:8080".parse().unwrap();
    let mut web = Agent::start(&authority);
    web.call(&authority, "web", "api", &[endpoint("api", listener.local_addr().unwrap(), application)]);
    web.publish().await;
    let long = "more than a frame holds. ".repeat(40_000);
    let calling = async {
        let mut stream = web.connect().await;
        say(&mut stream, "hello").await;
        stream.write_all(long.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "and so on", "what came after the caller's own end");
    };
    let serving = async {
        let mut stream = meet(&authority, &listener).await;
        read_connect(&mut stream).await;
        stream.write_all(&frame(HEADERS, END_HEADERS, 1, &[0x88])).await.unwrap();
        let mut heard = Vec::new();
        let mut is_echoed = false;
        loop {
            let data = read_of(&mut stream, 1).await.unwrap();
            assert_eq!(data.kind, DATA, "a half-close is no reset");
            heard.extend_from_slice(&data.payload);
            if heard == b"hello" && !std::mem::replace(&mut is_echoed, true) {
                stream.write_all(&frame(DATA, 0, 1, b"hello")).await.unwrap();
            }
            if data.flags & END_STREAM != 0 {
                break;
            }
        }
        assert!(heard == ["hello", &long].concat().as_bytes(), "within the windows of a ztunnel, to the last byte");
        stream.write_all(&frame(DATA, 0, 1, b"and so ")).await.unwrap();
        stream.write_all(&frame(DATA, END_STREAM, 1, b"on")).await.unwrap();
        stream
    };
    let ((), _stream) = tokio::join!(calling, serving);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_refusal_of_a_ztunnel_is_final() {
    let authority = Authority::new("mesh.test");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let application = "127.0.0.1:8080".parse().unwrap();
    let mut web = Agent::start(&authority);
    web.call(&authority, "web", "api", &[endpoint("api", listener.local_addr().unwrap(), application)]);
    web.publish().await;
    let refusing = async {
        let mut stream = meet(&authority, &listener).await;
        read_connect(&mut stream).await;
        let unauthorized = b"\x08\x03401";
        stream.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 1, unauthorized)).await.unwrap();
        stream
    };
    let ((), _stream) = tokio::join!(web.expect_refusal(), refusing);
    assert_eq!(web.refused("outbound", "open", "denied"), 1);
}
