//! An application sees the very bytes that were matched: paths that are hard to read, over every carrier, and what arrives.

use std::collections::BTreeMap;

use catalog::Action;
use catalog::http::NormalPath;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::carrying::connect;
use super::{HttpPair, get, hear, over_http2};
use crate::proxy::tests::agents::DEADLINE;

/// How many paths are tried.
const TARGETS: usize = 300;

/// What makes a path hard to read.
const PIECES: [&str; 24] = [
    "/", "//", "/.", "/..", "/./", "/../", "a", "/a", "/admin", "admin", "/%61dmin", "/adm%69n", "%61", "%41", "%2e",
    "/%2E%2e/", "~", "@", "%40", "%c3%a9", "é", "?", "?/../", "b",
];

/// What has one reading nowhere, or none that rules go by.
const FOUL: [&str; 10] = ["%2F", "%5c", "\\", "%00", "%", "%25", ";", "%3b", "{", " "];

/// Draws the same paths on every run.
struct Draws(u64);

impl Draws {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }

    fn target(&mut self) -> String {
        let mut target = ["/a", "/a", "/a/b", "/"][self.below(4)].to_owned();
        for _ in 0..self.below(6) {
            let pieces = if self.below(12) == 0 { &FOUL[..] } else { &PIECES[..] };
            target.push_str(pieces[self.below(pieces.len())]);
        }
        target
    }
}

/// Is one request: its mark, what it asked for, and the status of its answer where there was one.
struct Tried {
    mark: String,
    target: String,
    status: Option<u16>,
}

/// Asks in bytes of its own, which no library has read before.
async fn ask_in_bytes(mut io: impl AsyncRead + AsyncWrite + Unpin, target: &str, mark: &str) -> Option<u16> {
    let request = format!("GET {target} HTTP/1.1\r\nhost: api\r\nx-mark: {mark}\r\nconnection: close\r\n\r\n");
    let mut heard = Vec::new();
    let asking = async {
        io.write_all(request.as_bytes()).await.ok()?;
        io.flush().await.ok()?;
        // However it ends: what was answered before is what counts.
        let _ = io.read_to_end(&mut heard).await;
        let _ = io.shutdown().await;
        Some(())
    };
    tokio::time::timeout(DEADLINE, asking).await.expect("answered in time");
    std::str::from_utf8(heard.get(9..12)?).ok()?.parse().ok()
}

/// Asks for each path over each carrier.
async fn ask_for_all(pair: &HttpPair) -> Vec<Tried> {
    let (mut draws, mut tried) = (Draws(7), Vec::new());
    let mut streams = over_http2(pair.dial("web", Some(b"h2")).await).await;
    for number in 0..TARGETS {
        let target = draws.target();
        let mut note = |mark: String, status| tried.push(Tried { mark, target: target.clone(), status });
        let mark = format!("agent-{number}");
        let listener = TcpStream::connect(pair.web.upstream()).await.unwrap();
        let status = ask_in_bytes(listener, &target, &mark).await;
        note(mark, status);
        // A handshake for each of these.
        if number % 4 == 0 {
            let mark = format!("tls-{number}");
            let status = ask_in_bytes(pair.dial("web", None).await, &target, &mark).await;
            note(mark, status);
            let mark = format!("connect-{number}");
            let inside = connect(pair, "web", &pair.application.address.to_string()).await.unwrap();
            let status = ask_in_bytes(inside, &target, &mark).await;
            note(mark, status);
        }
        let uri = format!("http://api{target}");
        if uri.parse::<http::Uri>().is_ok() {
            let mark = format!("stream-{number}");
            let status = match streams.send_request(get(&uri, &[("x-mark", mark.as_str())])).await {
                Ok(answer) => Some(hear(answer).await.status.as_u16()),
                Err(_) => {
                    streams = over_http2(pair.dial("web", Some(b"h2")).await).await;
                    None
                }
            };
            note(mark, status);
        }
    }
    tried
}

/// Reads a path as applications do: escapes undone, parameters cut off, dot segments and empty ones gone.
fn as_an_application_reads(path: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), path.as_bytes());
    while let Some((first, others)) = rest.split_first() {
        let escaped = std::str::from_utf8(others.get(..2).unwrap_or_default()).unwrap_or_default();
        match u8::from_str_radix(escaped, 16) {
            Ok(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = &others[2..];
            }
            _ => {
                bytes.push(*first);
                rest = others;
            }
        }
    }
    let mut segments = Vec::new();
    for segment in String::from_utf8_lossy(&bytes).split(['/', '\\']) {
        match segment.split(';').next().unwrap_or_default() {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment.to_owned()),
        }
    }
    format!("/{}", segments.join("/"))
}

/// What the rules of the test let through.
fn is_allowed(path: &str) -> bool {
    path.starts_with("/a") && !path.starts_with("/admin")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h5_an_application_sees_the_very_bytes_that_were_matched() {
    let mut pair = HttpPair::start(&[]).await;
    let rules = json!([
        {"action": "deny", "http": {"path": {"prefix": "/admin"}}},
        {"action": "allow", "http": {"path": {"prefix": "/a"}}},
    ]);
    pair.permit(Action::Deny, rules).await;
    let tried = ask_for_all(&pair).await;
    let asked = pair.application.asked();
    let arrived: BTreeMap<&str, &str> =
        asked.iter().map(|asked| (asked.header("x-mark"), asked.target.as_str())).collect();
    assert_eq!(arrived.len(), asked.len(), "one arrived twice");
    let mut answers = BTreeMap::<Option<u16>, usize>::new();
    for Tried { mark, target, status } in &tried {
        *answers.entry(*status).or_default() += 1;
        let path = target.split('?').next().unwrap_or_default();
        let normal = NormalPath::of(path);
        let is_free = |normal: &NormalPath<'_>| !normal.has_parameters() && is_allowed(normal.decoded());
        let may_pass = normal.as_ref().is_ok_and(is_free);
        let Some(got) = arrived.get(mark.as_str()) else {
            assert_ne!(*status, Some(200), "{mark}: {target} was answered by nobody");
            let is_plain = path.bytes().all(|byte| byte.is_ascii_graphic());
            assert!(!may_pass || !is_plain, "{mark}: {target} should have passed: {status:?}");
            continue;
        };
        assert_eq!((*status, may_pass), (Some(200), true), "{mark}: {target} arrived as {got}");
        let got = got.strip_prefix("http://api").unwrap_or(got);
        let (path, query) = got.split_once('?').map_or((got, None), |(path, query)| (path, Some(query)));
        assert_eq!(normal.as_ref().unwrap().as_str(), path, "{mark}: {target}");
        assert_eq!(NormalPath::of(path).unwrap().as_str(), path, "{mark}: what arrives is normal already");
        assert_eq!(query, target.split_once('?').map(|(_, query)| query), "{mark}");
        assert!(
            is_allowed(&as_an_application_reads(path)),
            "{mark}: {target} arrived as {path}, which is read otherwise"
        );
    }
    let of = |status: u16| answers.get(&Some(status)).copied().unwrap_or(0);
    assert!(of(200) > 100 && of(403) > 100 && of(400) > 20, "too few of a kind: {answers:?}");
}
