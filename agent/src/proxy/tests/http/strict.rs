//! Bytes that two readers could read differently: refused, or rewritten so that there is one reading.

use http::Version;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::HttpPair;
use crate::proxy::tests::agents::DEADLINE;

/// Says bytes over a connection and returns the status lines that come back until it is closed or quiet.
async fn statuses(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), bytes: &[u8]) -> Vec<String> {
    // The other side may close before it has read all.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut heard = Vec::new();
    let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut heard)).await.expect("answered in time");
    let heard = String::from_utf8_lossy(&heard).into_owned();
    heard.lines().filter_map(|line| line.strip_prefix("HTTP/1.1 ")).map(|line| line[..3].to_owned()).collect()
}

/// Requests that must be refused, whoever reads them.
const REFUSED: [(&str, &str); 21] = [
    ("two lengths", "POST / HTTP/1.1\r\nhost: api\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!"),
    ("a list of lengths", "POST / HTTP/1.1\r\nhost: api\r\ncontent-length: 5, 6\r\n\r\nhello!"),
    ("a signed length", "POST / HTTP/1.1\r\nhost: api\r\ncontent-length: +5\r\n\r\nhello"),
    ("a length in hex", "POST / HTTP/1.1\r\nhost: api\r\ncontent-length: 0x5\r\n\r\nhello"),
    ("chunked, but not last", "POST / HTTP/1.1\r\nhost: api\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
    (
        "two codings",
        "POST / HTTP/1.1\r\nhost: api\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    ("an unknown coding", "POST / HTTP/1.1\r\nhost: api\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n"),
    ("a space before the colon", "POST / HTTP/1.1\r\nhost: api\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n"),
    ("a folded header", "GET / HTTP/1.1\r\nhost: api\r\nx-a: b\r\n c\r\n\r\n"),
    ("a control character in a name", "GET / HTTP/1.1\r\nhost: api\r\nx-\x01: b\r\n\r\n"),
    ("a NUL in a value", "GET / HTTP/1.1\r\nhost: api\r\nx-a: b\0c\r\n\r\n"),
    ("chunked in HTTP/1.0", "POST / HTTP/1.0\r\nhost: api\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("no host", "GET / HTTP/1.1\r\n\r\n"),
    ("two hosts", "GET / HTTP/1.1\r\nhost: api\r\nhost: admin\r\n\r\n"),
    ("a host beside another target", "GET http://admin/ HTTP/1.1\r\nhost: api\r\n\r\n"),
    ("a user in the host", "GET / HTTP/1.1\r\nhost: admin@api\r\n\r\n"),
    ("no path", "GET admin HTTP/1.1\r\nhost: api\r\n\r\n"),
    ("a star", "GET * HTTP/1.1\r\nhost: api\r\n\r\n"),
    ("an unknown version", "GET / HTTP/3.1\r\nhost: api\r\n\r\n"),
    (
        "a header that must arrive",
        "GET / HTTP/1.1\r\nhost: api\r\nconnection: authorization\r\nauthorization: x\r\n\r\n",
    ),
    ("a lookalike", "GET / HTTP/1.1\r\nhost: api\r\nx_forwarded_client_cert: URI=spiffe://mesh.test/admin\r\n\r\n"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h1_h7_what_two_readers_could_read_differently_is_refused() {
    let pair = HttpPair::start(&["allow web api"]).await;
    for (what, bytes) in REFUSED {
        // What follows must never be taken for a request of its own.
        let bytes = format!("{bytes}GET /smuggled HTTP/1.1\r\nhost: api\r\n\r\n");
        let mut outbound = TcpStream::connect(pair.web.upstream()).await.unwrap();
        let heard = statuses(&mut outbound, bytes.as_bytes()).await;
        assert_eq!(heard.first().map(|status| &status[..1]), Some("4"), "{what} outbound: {heard:?}");
        let mut inbound = pair.dial("web", None).await;
        let heard = statuses(&mut inbound, bytes.as_bytes()).await;
        assert_eq!(heard.first().map(|status| &status[..1]), Some("4"), "{what} inbound: {heard:?}");
    }
    let seen: Vec<String> = pair.application.asked().into_iter().map(|asked| asked.target).collect();
    assert_eq!(seen, [""; 0], "what follows what is refused is nobody's request");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h1_a_length_beside_chunks_counts_for_nothing_and_ends_the_connection() {
    let pair = HttpPair::start(&["allow web api"]).await;
    for lines in ["content-length: 4\r\ntransfer-encoding: chunked", "transfer-encoding: chunked\r\ncontent-length: 4"]
    {
        let bytes = format!(
            "POST /x HTTP/1.1\r\nhost: api\r\n{lines}\r\n\r\n5\r\nhello\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: api\r\n\r\n"
        );
        let mut outbound = TcpStream::connect(pair.web.upstream()).await.unwrap();
        assert_eq!(statuses(&mut outbound, bytes.as_bytes()).await, ["200"]);
        let mut inbound = pair.dial("web", None).await;
        assert_eq!(statuses(&mut inbound, bytes.as_bytes()).await, ["200"]);
    }
    for asked in pair.application.asked() {
        assert_eq!((asked.target.as_str(), asked.header("content-length")), ("/x", ""));
        assert_eq!((asked.version, asked.header("transfer-encoding")), (Version::HTTP_11, "chunked"));
    }
    assert_eq!(pair.application.asked().len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h1_an_extension_of_a_chunk_without_end_ends_its_connection() {
    let pair = HttpPair::start(&["allow web api"]).await;
    let extension = "x".repeat(1 << 20);
    let bytes = format!(
        "POST /x HTTP/1.1\r\nhost: api\r\ntransfer-encoding: chunked\r\n\r\n5;{extension}\r\nhello\r\n0\r\n\r\n\
         GET /smuggled HTTP/1.1\r\nhost: api\r\n\r\n"
    );
    let mut outbound = TcpStream::connect(pair.web.upstream()).await.unwrap();
    let heard = statuses(&mut outbound, bytes.as_bytes()).await;
    assert!(!heard.iter().any(|status| status == "200"), "outbound: {heard:?}");
    let mut inbound = pair.dial("web", None).await;
    let heard = statuses(&mut inbound, bytes.as_bytes()).await;
    assert!(!heard.iter().any(|status| status == "200"), "inbound: {heard:?}");
    assert!(pair.application.asked().iter().all(|asked| asked.target != "/smuggled"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h4_headers_beyond_the_bounds_are_refused() {
    let pair = HttpPair::start(&["allow web api"]).await;
    let many: String = (0..120).map(|index| format!("x-{index}: 1\r\n")).collect();
    let large = format!("x-large: {}\r\n", "a".repeat(80 * 1024));
    for lines in [&many, &large] {
        let bytes = format!("GET / HTTP/1.1\r\nhost: api\r\n{lines}\r\n");
        let mut outbound = TcpStream::connect(pair.web.upstream()).await.unwrap();
        assert_eq!(statuses(&mut outbound, bytes.as_bytes()).await, ["431"]);
        let mut inbound = pair.dial("web", None).await;
        assert_eq!(statuses(&mut inbound, bytes.as_bytes()).await, ["431"]);
    }
    // A tunnel takes as much and no more, and others on it go on.
    let mut tunnel = super::over_http2(pair.dial("web", Some(b"h2")).await).await;
    let lines: Vec<(String, String)> = (0..120).map(|index| (format!("x-{index}"), "1".to_owned())).collect();
    let lines: Vec<(&str, &str)> = lines.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let heard = super::hear(tunnel.send_request(super::get("http://api/", &lines)).await.unwrap()).await;
    assert_eq!(heard.status, 431);
    let heard = super::hear(tunnel.send_request(super::get("http://api/", &[])).await.unwrap()).await;
    assert_eq!(heard.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_what_is_no_http_ends_an_http_services_connection() {
    let pair = HttpPair::start(&["allow web api"]).await;
    let mut inbound = pair.dial("web", None).await;
    assert_eq!(statuses(&mut inbound, b"\x16\x03\x01\x00\xa5 not http at all\r\n\r\n").await, ["400"]);
    let mut outbound = TcpStream::connect(pair.web.upstream()).await.unwrap();
    assert_eq!(statuses(&mut outbound, b"SSH-2.0-OpenSSH_9.2\r\n").await, ["400"]);
    assert_eq!(pair.application.accepted(), 0);
}
