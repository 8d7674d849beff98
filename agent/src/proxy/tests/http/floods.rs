//! HTTP/2 that no library would write: heads that HTTP/1 would read otherwise, and floods of what costs its sender nothing.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::{HttpPair, get, hear, over_http2};
use crate::proxy::http::ERROR_STREAMS_MAX;
use crate::proxy::tests::agents::DEADLINE;
use crate::proxy::tests::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE, block,
    frame, preface, read, read_of,
};

const METHOD: (&str, &str) = (":method", "GET");
const SCHEME: (&str, &str) = (":scheme", "http");
const AUTHORITY: (&str, &str) = (":authority", "api");
const PATH: (&str, &str) = (":path", "/");

/// Opens a tunnel to `api` by hand.
async fn tunnel(pair: &HttpPair) -> TlsStream<TcpStream> {
    let mut stream = pair.dial("web", Some(b"h2")).await;
    stream.write_all(&preface()).await.unwrap();
    stream
}

/// Checks that somebody else is served.
async fn check_served(pair: &HttpPair) {
    let mut other = over_http2(pair.dial("web", Some(b"h2")).await).await;
    let served = async { hear(other.send_request(get("http://api/", &[])).await.unwrap()).await };
    assert_eq!(tokio::time::timeout(DEADLINE, served).await.expect("served in time").status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h9_a_head_that_http_1_would_read_otherwise_reaches_nobody() {
    let pair = HttpPair::start(&["allow web api"]).await;
    let whole = [METHOD, SCHEME, AUTHORITY, PATH];
    let with = |more: &[(&'static str, &'static str)]| [&whole[..], more].concat();
    for (what, fields) in [
        ("a name in upper case", with(&[("X-Upper", "1")])),
        ("a field of the connection", with(&[("connection", "close")])),
        ("a coding", with(&[("transfer-encoding", "chunked")])),
        ("an upgrade", with(&[("upgrade", "h2c")])),
        ("what is no te", with(&[("te", "gzip")])),
        ("two paths", with(&[(":path", "/admin")])),
        ("a path behind a field", vec![METHOD, SCHEME, AUTHORITY, ("x-a", "b"), PATH]),
        ("an unknown field of the protocol", with(&[(":weft", "1")])),
        ("a line end in a value", with(&[("x-a", "b\r\nhost: admin")])),
        ("a NUL in a value", with(&[("x-a", "b\0c")])),
        ("a line end in a path", vec![METHOD, SCHEME, AUTHORITY, (":path", "/ HTTP/1.1\r\nx: y")]),
        ("a path that is none", vec![METHOD, SCHEME, AUTHORITY, (":path", "admin")]),
        ("no path", vec![METHOD, SCHEME, AUTHORITY]),
        ("no method", vec![SCHEME, AUTHORITY, PATH]),
        ("a length without a body", with(&[("content-length", "5")])),
        ("two lengths", with(&[("content-length", "0"), ("content-length", "5")])),
        ("another host", with(&[("host", "admin")])),
        ("a space in a method", vec![(":method", "GET /admin"), SCHEME, AUTHORITY, PATH]),
    ] {
        let mut stream = tunnel(&pair).await;
        stream.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&fields))).await.unwrap();
        // Answered with 400, reset, or closed: each says so.
        if let Some(answer) = read_of(&mut stream, 1).await {
            let is_refused = answer.kind == RST_STREAM || (answer.kind == HEADERS && answer.payload[0] == 0x8c);
            assert!(is_refused, "{what}: {answer:?}");
        }
    }
    assert_eq!((pair.application.accepted(), pair.application.asked().len()), (0, 0));
    check_served(&pair).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h9_a_body_of_another_length_than_was_said_ends_its_connection_to_the_application() {
    let pair = HttpPair::start(&["allow web api"]).await;
    for (said, sent) in [("5", &b"hello, and more"[..]), ("20", b"hello")] {
        let mut stream = tunnel(&pair).await;
        let fields =
            [(":method", "POST"), SCHEME, AUTHORITY, PATH, ("content-length", said), ("x-weft-version", "1.1")];
        stream.write_all(&frame(HEADERS, END_HEADERS, 1, &block(&fields))).await.unwrap();
        stream.write_all(&frame(DATA, END_STREAM, 1, sent)).await.unwrap();
        let mut last = None;
        while let Some(frame) = read_of(&mut stream, 1).await {
            let is_over = frame.kind == RST_STREAM || frame.flags & END_STREAM != 0;
            last = Some(frame);
            if is_over {
                break;
            }
        }
        let is_whole = last.as_ref().is_some_and(|frame| frame.kind == DATA && frame.flags & END_STREAM != 0);
        assert!(!is_whole, "{said}: what was cut short passes for nothing whole: {last:?}");
    }
    check_served(&pair).await;
    let asked = pair.application.asked();
    assert!(asked.iter().all(|asked| asked.target == "/" || asked.target == "http://api/"), "{asked:?}");
    let served = asked.last().expect("a request that was served").connection;
    let over_it = asked.iter().filter(|asked| asked.connection == served).count();
    assert_eq!(over_it, 1, "nobody is served over what may hold the rest of a body: {asked:?}");
}

/// Says so much at once that costs nothing to say, and reports whether the other side closed the connection over it.
async fn flood(stream: &mut TlsStream<TcpStream>, bytes: &[u8]) -> bool {
    let (mut read, mut write) = tokio::io::split(stream);
    let saying = async {
        for piece in bytes.chunks(64 * 1024) {
            if write.write_all(piece).await.is_err() || write.flush().await.is_err() {
                return;
            }
        }
    };
    let hearing = async {
        let mut buffer = vec![0; 64 * 1024];
        while matches!(read.read(&mut buffer).await, Ok(heard) if heard > 0) {}
    };
    tokio::time::timeout(DEADLINE, async { tokio::join!(saying, hearing) }).await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h8_a_head_without_end_and_data_without_bytes_end_their_tunnel() {
    let pair = HttpPair::start(&["allow web api"]).await;
    let head = block(&[METHOD, SCHEME, AUTHORITY, PATH]);
    let mut endless = frame(HEADERS, 0, 1, &head);
    for _ in 0..20_000 {
        endless.extend(frame(CONTINUATION, 0, 1, &block(&[("x-a", "b")])));
    }
    let posting = block(&[(":method", "POST"), SCHEME, AUTHORITY, PATH]);
    let mut empty = frame(HEADERS, END_HEADERS, 1, &posting);
    for _ in 0..500_000 {
        empty.extend(frame(DATA, 0, 1, &[]));
    }
    for (what, bytes) in [("a head without end", endless), ("data without bytes", empty)] {
        let mut stream = tunnel(&pair).await;
        assert!(flood(&mut stream, &bytes).await, "{what}");
        check_served(&pair).await;
    }
}

/// Asks so often, and each time makes the other side reset what was asked; returns the code that the tunnel ended with.
async fn made_to_reset(pair: &HttpPair, increment: u32) -> Option<u32> {
    let mut stream = tunnel(pair).await;
    let head = block(&[METHOD, SCHEME, AUTHORITY, PATH]);
    for number in 0..2 * ERROR_STREAMS_MAX {
        let id = u32::try_from(2 * number + 1).unwrap();
        let mut bytes = frame(HEADERS, END_HEADERS | END_STREAM, id, &head);
        bytes.extend(frame(WINDOW_UPDATE, 0, id, &increment.to_be_bytes()));
        // Closed over it, it takes no more.
        if stream.write_all(&bytes).await.is_err() {
            break;
        }
    }
    let mut code = None;
    while let Some(heard) = read(&mut stream).await {
        if heard.kind == GOAWAY {
            code = Some(u32::from_be_bytes(heard.payload[4..8].try_into().unwrap()));
        }
    }
    code
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h8_a_caller_that_makes_the_other_side_reset_its_requests_is_cut_off() {
    let pair = HttpPair::start(&["allow web api"]).await;
    // A window larger than may be is an error of one stream (RFC 9113 section 6.9.1); none at all ends the tunnel at once.
    for (increment, reason) in [(0x7fff_ffff, 11), (0, 1)] {
        let code = made_to_reset(&pair, increment).await;
        // The word may be lost where the connection ends while more is on its way.
        assert!(code.is_none_or(|code| code == reason), "{increment}: {code:?}");
        check_served(&pair).await;
    }
    let asked = pair.application.asked().len();
    assert!(asked <= ERROR_STREAMS_MAX + 10, "{asked} requests reached the application");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h8_pings_and_settings_that_nobody_reads_the_answers_to_cost_others_nothing() {
    let pair = HttpPair::start(&["allow web api"]).await;
    for (kind, payload) in [(PING, &[7; 8][..]), (SETTINGS, &[])] {
        let mut stream = tunnel(&pair).await;
        let one = frame(kind, 0, 0, payload).repeat(4096);
        // Until nothing more is taken: the answers are not read, so that none are gathered either.
        let stalled = async {
            for _ in 0..2000 {
                if stream.write_all(&one).await.is_err() {
                    return true;
                }
            }
            false
        };
        let outcome = tokio::time::timeout(std::time::Duration::from_secs(2), stalled).await;
        assert!(!matches!(outcome, Ok(false)), "kind {kind}: a hundred megabytes were taken");
        check_served(&pair).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h8_a_small_head_that_stands_for_a_giant_one_is_refused() {
    let pair = HttpPair::start(&["allow web api"]).await;
    let mut stream = tunnel(&pair).await;
    // A field of four thousand bytes that both sides remember (RFC 7541 section 6.2.1), then sixteen thousand mentions of it.
    let mut remembered = block(&[METHOD, SCHEME, AUTHORITY, PATH]);
    remembered.extend([0x40, 1, b'x', 0x7f, 0xa1, 0x1e]);
    remembered.extend([b'a'; 4000]);
    stream.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &remembered)).await.unwrap();
    assert_eq!(read_of(&mut stream, 1).await.unwrap().payload[0], 0x88, "it is taken once");
    let mut bomb = block(&[METHOD, SCHEME, AUTHORITY, (":path", "/bomb")]);
    bomb.extend([0xbe; 16_000]);
    stream.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 3, &bomb)).await.unwrap();
    let answer = read_of(&mut stream, 3).await;
    assert!(answer.is_none_or(|answer| answer.payload[0] != 0x88), "it stands for sixty-four megabytes");
    let asked = pair.application.asked();
    assert!(asked.len() == 1 && !asked[0].target.contains("bomb"), "{} requests", asked.len());
    check_served(&pair).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h10_what_is_compressed_stays_as_it_is() {
    let pair = HttpPair::start(&["allow web api"]).await;
    // The beginning of a stream that unpacks to far more than it is.
    let packed: Vec<u8> = [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 3][..], &[0xed; 2000]].concat();
    let lines = [("host", "api"), ("content-encoding", "gzip"), ("accept-encoding", "gzip, zstd")];
    let (request, body) = super::asking(http::Method::POST, "/", &lines);
    body.say(packed.clone()).await;
    drop(body);
    let heard = hear(pair.http1().await.send_request(request).await.unwrap()).await;
    assert_eq!((heard.status.as_u16(), heard.body.as_ref()), (200, packed.as_slice()));
    let asked = pair.application.asked();
    assert_eq!((asked[0].header("content-encoding"), asked[0].header("accept-encoding")), ("gzip", "gzip, zstd"));
}
