//! The head of a message: what is refused in it, and what is taken off or put on before it goes on.

use catalog::http::{CALLER_FIELDS, CONNECTION_FIELDS, NotNormal, OWN_FIELD_PREFIX, check_trailers};
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{StatusCode, Uri, Version};

use super::request_id::RequestIds;

/// Names the caller's certificate to an application, as Envoy does.
pub(crate) const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// Names the caller's address to an application.
pub(crate) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Names a request through all that it causes.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Names the trace that a request is part of, as W3C's Trace Context has it.
pub(crate) const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");
/// What others say of that trace.
const TRACE_STATE: HeaderName = HeaderName::from_static("tracestate");
/// Tells the caller that weft answered, and why, and not the application. An application's own never goes out.
pub(crate) const REFUSED: HeaderName = HeaderName::from_static("x-weft-refused");
/// Tells the other agent which port of the destination is meant, by name or number.
pub(crate) const PORT: HeaderName = HeaderName::from_static("x-weft-port");
/// Tells the other agent which HTTP the application that calls spoke, where it was not HTTP/2.
pub(crate) const VERSION: HeaderName = HeaderName::from_static("x-weft-version");

/// What the names of protocols begin with over which requests may go that nobody would decide, or which are another CONNECT.
const NO_UPGRADES: [&str; 10] = ["connect", "dtls", "h2", "h3", "masque", "ptth", "quic", "spdy", "ssl", "tls"];

/// Tells the application that a request is a copy of one that went elsewhere.
pub(crate) const MIRRORED: HeaderName = HeaderName::from_static("x-weft-mirrored");

/// Says why a request is refused for its form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadRequest {
    /// It could be read in more than one way.
    #[error(transparent)]
    NotNormal(#[from] NotNormal),
    /// The application behind is nobody's proxy.
    #[error("method CONNECT")]
    Connect,
}

impl BadRequest {
    /// Returns the label of the metric that counts it.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::NotNormal(why) => why.label(),
            Self::Connect => "connect",
        }
    }

    /// Returns the status of the answer.
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::NotNormal(why) => StatusCode::from_u16(why.status()).unwrap_or(StatusCode::BAD_REQUEST),
            Self::Connect => StatusCode::METHOD_NOT_ALLOWED,
        }
    }
}

/// Says where the head of a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A local application, on its way out.
    Application,
    /// Another agent or a peer that is none, on its way in.
    Mesh,
    /// A load balancer, on its way in.
    Outside,
}

/// Is what stood in the head of a request for weft or for this connection only, taken out of it.
#[derive(Debug)]
pub(crate) struct Taken {
    /// The protocol that the caller wants to change to.
    pub(crate) upgrade: Option<HeaderValue>,
    /// Which port is meant, where the other agent says so.
    pub(crate) port: Option<HeaderValue>,
    /// The version that the calling application spoke.
    pub(crate) version: Version,
}

/// Takes out of the head of a request what must not go on. What is left is what is decided by.
///
/// Its fields can be read in one way only, so that what `connection` names is what is taken out anyway.
pub(crate) fn take(head: &mut Parts, origin: Origin) -> Taken {
    let upgrade = upgrade_of(head);
    strip_connection(&mut head.headers);
    let is_of_agent = origin == Origin::Mesh;
    let port = head.headers.remove(PORT).filter(|_| is_of_agent);
    let spoke_http1 = head.headers.remove(VERSION).is_some_and(|version| is_of_agent && version == "1.1");
    let is_mirrored = head.headers.contains_key(&MIRRORED) && is_of_agent;
    strip_own(&mut head.headers, origin);
    if is_mirrored {
        head.headers.insert(MIRRORED, HeaderValue::from_static("1"));
    }
    join_cookies(&mut head.headers);
    let version = if spoke_http1 { Version::HTTP_11 } else { head.version };
    Taken { upgrade, port, version }
}

/// Sees to it that a request has an id and is part of a trace: its own, where they can be read, or new ones.
///
/// Returns whether the trace is a new one.
pub(crate) fn name(headers: &mut HeaderMap, ids: &RequestIds) -> bool {
    if !headers.contains_key(REQUEST_ID) {
        headers.insert(REQUEST_ID, ids.next());
    }
    let begins = !is_trace(headers);
    if begins {
        headers.remove(TRACE_STATE);
        headers.insert(TRACE_PARENT, ids.trace());
    }
    begins
}

/// Reports whether there is one `traceparent` and it is of the known form: version, trace, span, flags.
fn is_trace(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(TRACE_PARENT).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return false };
    let Ok(value) = value.to_str() else { return false };
    let mut parts = value.split('-');
    let mut is_hex = |digits: usize, may_be_zero: bool| {
        parts.next().is_some_and(|part| {
            part.len() == digits
                && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
                && (may_be_zero || part.bytes().any(|b| b != b'0'))
        })
    };
    value.starts_with("00-")
        && is_hex(2, true)
        && is_hex(32, false)
        && is_hex(16, false)
        && is_hex(2, true)
        && parts.next().is_none()
}

/// Takes out of the head of an answer what must not go on. The refusal of another agent is passed on, an application's
/// word for one is not.
pub(crate) fn take_of_answer(headers: &mut HeaderMap, origin: Origin) {
    let named: Vec<HeaderName> =
        tokens(headers, &CONNECTION).filter_map(|token| HeaderName::try_from(token).ok()).collect();
    for name in named {
        headers.remove(name);
    }
    strip_connection(headers);
    if origin == Origin::Application {
        headers.remove(REFUSED);
    }
}

/// Checks the trailers of a request; nothing in them may say what had to stand before the body.
pub(crate) fn check_trailers_of_request(trailers: &HeaderMap) -> Result<(), NotNormal> {
    check_trailers(trailers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())))
}

/// Takes out of the trailers of an answer what must not stand there.
pub(crate) fn take_of_trailers(trailers: &mut HeaderMap) {
    if check_trailers_of_request(trailers).is_ok() {
        return;
    }
    let is_fine = |name: &HeaderName, value: &HeaderValue| check_trailers([(name.as_str(), value.as_bytes())]).is_ok();
    *trailers = trailers
        .iter()
        .filter(|(name, value)| is_fine(name, value))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
}

/// Returns the protocol that a caller over HTTP/1.1 wants to change to (RFC 9110 section 7.8), where none of its requests go
/// over it: those would be decided by nobody. Of several that it would take, the application is asked for the first that may
/// be: what the rules see is what is granted.
fn upgrade_of(head: &Parts) -> Option<HeaderValue> {
    let is_named = || tokens(&head.headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"));
    if head.version != Version::HTTP_11 || !head.headers.contains_key(UPGRADE) || !is_named() {
        return None;
    }
    tokens(&head.headers, &UPGRADE).find_map(passing_protocol)
}

/// Returns a protocol in its one form, a name in lower case and perhaps a version, if a connection may change to it.
fn passing_protocol(wanted: &str) -> Option<HeaderValue> {
    let (name, version) = wanted.split_once('/').map_or((wanted, None), |(name, version)| (name, Some(version)));
    let is_token = |text: &str| !text.is_empty() && text.bytes().all(is_token_byte);
    let name = name.to_ascii_lowercase();
    let carries_requests = name.contains("http") || NO_UPGRADES.iter().any(|start| name.starts_with(start));
    if carries_requests || !is_token(&name) || !version.is_none_or(is_token) {
        return None;
    }
    let text = version.map_or_else(|| name.clone(), |version| format!("{name}/{version}"));
    HeaderValue::try_from(text).ok()
}

/// Reports whether a byte may stand in a token (RFC 9110 section 5.6.2).
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Joins cookies into the one line that an application which speaks HTTP/1 expects them in (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    if crumbs.next().is_none() || crumbs.next().is_none() {
        return;
    }
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    // What is joined has the characters of its parts and two more that may stand in a value.
    if let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

/// Reports whether an exchange vouches for its connection and for all that is asked over that later, instead of for itself
/// (RFC 4559 section 6): who asks next would do so in the name of this one.
pub(crate) fn binds_connection(headers: &HeaderMap, name: &HeaderName) -> bool {
    tokens(headers, name).any(|challenge| {
        let scheme = challenge.split(' ').next().unwrap_or_default();
        ["ntlm", "negotiate"].iter().any(|known| scheme.eq_ignore_ascii_case(known))
    })
}

/// Takes out what concerns one connection only (RFC 9110 section 7.6.1).
fn strip_connection(headers: &mut HeaderMap) {
    let wants_trailers = tokens(headers, &TE).any(|token| token.eq_ignore_ascii_case("trailers"));
    for name in CONNECTION_FIELDS {
        headers.remove(name);
    }
    if wants_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Takes out the headers that only weft sets, and what others say of the caller.
fn strip_own(headers: &mut HeaderMap, origin: Origin) {
    let is_own = |name: &HeaderName| name.as_str().starts_with(OWN_FIELD_PREFIX);
    if headers.keys().any(is_own) {
        let own: Vec<HeaderName> = headers.keys().filter(|name| is_own(name)).cloned().collect();
        for name in own {
            headers.remove(name);
        }
    }
    if origin != Origin::Application {
        for name in CALLER_FIELDS {
            headers.remove(name);
        }
    }
}

/// Returns the members of a list that may stand in several lines.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

/// Writes the target and the host for a side that is spoken to in HTTP/1.1.
pub(crate) fn target_http1(head: &mut Parts, target: PathAndQuery, host: Option<HeaderValue>) {
    head.uri = Uri::from(target);
    head.version = Version::HTTP_11;
    // HTTP/1.0 knows no host, and HTTP/1.1 not its absence.
    head.headers.insert(HOST, host.unwrap_or_else(|| HeaderValue::from_static("")));
}

/// Says how the body of a request over HTTP/1.1 is told from the next request, where its length was not given.
pub(crate) fn frame_http1(headers: &mut HeaderMap, is_empty: bool) {
    if !is_empty && !headers.contains_key(CONTENT_LENGTH) {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// Writes the target for a side that is spoken to in HTTP/2, where the host stands in it.
pub(crate) fn target_http2(head: &mut Parts, target: PathAndQuery, authority: Authority) {
    head.headers.remove(HOST);
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(authority);
    parts.path_and_query = Some(target);
    // All three parts are there.
    head.uri = Uri::from_parts(parts).unwrap_or_default();
    head.version = Version::HTTP_2;
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn head(lines: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri("/x").header(HOST, "api");
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[track_caller]
    fn names_left(lines: &[(&str, &str)], origin: Origin) -> Vec<String> {
        let mut head = head(lines);
        take(&mut head, origin);
        let mut names: Vec<String> = head.headers.keys().map(|name| name.as_str().to_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_concerns_one_connection_only_does_not_go_on() {
        let lines = [
            ("connection", "keep-alive, upgrade"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "close"),
            ("transfer-encoding", "chunked"),
            ("te", "gzip, trailers"),
            ("trailer", "grpc-status"),
            ("x-mine", "1"),
        ];
        assert_eq!(names_left(&lines, Origin::Mesh), ["host", "te", "trailer", "x-mine"]);
        assert_eq!(names_left(&[("te", "gzip")], Origin::Mesh), ["host"]);
    }

    #[test]
    fn h3_what_weft_vouches_for_is_never_a_callers_word() {
        let lines = [
            ("x-forwarded-client-cert", "URI=spiffe://mesh/admin"),
            ("x-forwarded-for", "10.0.0.1"),
            ("forwarded", "for=10.0.0.1"),
            ("x-weft-port", "admin"),
            ("x-weft-version", "1.1"),
            ("x-weft-anything", "1"),
        ];
        assert_eq!(names_left(&lines, Origin::Mesh), ["host"]);
        // On the way out they stay, for the other side takes them off; but weft's own never come from an application.
        assert_eq!(
            names_left(&lines, Origin::Application),
            ["forwarded", "host", "x-forwarded-client-cert", "x-forwarded-for"]
        );
        let mut head = head(&lines);
        let taken = take(&mut head, Origin::Application);
        assert_eq!((taken.port, taken.version), (None, Version::HTTP_11));
    }

    #[test]
    fn h2_an_upgrade_is_asked_for_where_no_requests_go_over_it() {
        let upgrade = |to: &str, connection: &str| {
            let mut head = head(&[("connection", connection), ("upgrade", to)]);
            take(&mut head, Origin::Mesh).upgrade
        };
        assert_eq!(upgrade("websocket", "keep-alive, Upgrade").unwrap(), "websocket");
        assert_eq!(upgrade("websocket", "keep-alive"), None);
        assert_eq!(upgrade("h2c, WebSocket, tcp", "upgrade").unwrap(), "websocket", "one, in one form");
        for (to, asked) in [("tcp", "tcp"), ("TCP, websocket", "tcp"), ("IRC/6.9", "irc/6.9"), ("h2c,,x-own", "x-own")]
        {
            assert_eq!(upgrade(to, "upgrade").unwrap(), asked, "{to}");
        }
        for to in [
            "h2c",
            "H2C",
            "h2c-14",
            "h2-14",
            "h3",
            "HTTP/2.0",
            "http",
            "HTTPS/1.3",
            "Secure-HTTP/1.4",
            "TLS/1.3",
            "dtls",
            "SSL/3",
            "SPDY/3.1",
            "connect-udp",
            "Connect-IP",
            "masque",
            "quic",
            "",
            "tcp/",
            "/1",
            "tcp/1/2",
            "t cp",
            "tcp;a",
            "h2c, TLS/1.0, connect-udp",
        ] {
            assert_eq!(upgrade(to, "upgrade"), None, "{to}");
        }
        let mut http1_0 = head(&[("connection", "upgrade"), ("upgrade", "tcp")]);
        http1_0.version = Version::HTTP_10;
        assert_eq!(take(&mut http1_0, Origin::Mesh).upgrade, None);
    }

    #[test]
    fn h9_cookies_that_http_2_has_in_pieces_are_one_line() {
        let mut head = head(&[("cookie", "a=1"), ("cookie", "b=2; c=3"), ("cookie", "d=4")]);
        take(&mut head, Origin::Mesh);
        let cookies: Vec<&HeaderValue> = head.headers.get_all(COOKIE).iter().collect();
        assert_eq!(cookies, ["a=1; b=2; c=3; d=4"]);
    }

    #[test]
    fn what_vouches_for_a_connection_is_known_by_its_scheme() {
        let binds = |value: &str| {
            let headers = HeaderMap::from_iter([(http::header::WWW_AUTHENTICATE, value.parse().unwrap())]);
            binds_connection(&headers, &http::header::WWW_AUTHENTICATE)
        };
        for value in ["NTLM", "Negotiate abc==", "Basic realm=\"x\", negotiate", "ntlm TlRM"] {
            assert!(binds(value), "{value}");
        }
        for value in ["Basic realm=\"negotiate\"", "Bearer ntlm", "Digest nonce=1, algorithm=MD5", ""] {
            assert!(!binds(value), "{value}");
        }
    }

    #[test]
    fn a_request_has_an_id_and_a_trace() {
        let ids = RequestIds::default();
        let known = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let named = |lines: &[(&str, &str)]| {
            let mut headers = head(lines).headers;
            name(&mut headers, &ids);
            headers
        };
        let kept = named(&[("x-request-id", "mine"), ("traceparent", known), ("tracestate", "a=b")]);
        assert_eq!(
            (&kept["x-request-id"], &kept["traceparent"], &kept["tracestate"]),
            (&HeaderValue::from_static("mine"), &HeaderValue::from_static(known), &HeaderValue::from_static("a=b"))
        );
        for wrong in [
            "",
            "00-0-0-0",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            &known.to_uppercase(),
            &format!("{known}-x"),
        ] {
            let headers = named(&[("traceparent", wrong), ("tracestate", "a=b")]);
            assert!(is_trace(&headers) && headers["traceparent"] != wrong, "{headers:?}");
            assert!(!headers.contains_key("tracestate"));
        }
        assert!(is_trace(&named(&[])) && named(&[]).contains_key("x-request-id"));
        assert!(is_trace(&named(&[("traceparent", known), ("traceparent", known)])));
    }

    #[test]
    fn h3_an_answer_loses_what_its_connection_names_and_what_only_weft_says() {
        let mut headers = head(&[("connection", "x-hop"), ("x-hop", "1"), ("x-weft-refused", "intention")]).headers;
        let mut passed_on = headers.clone();
        take_of_answer(&mut headers, Origin::Application);
        assert_eq!(headers.keys().collect::<Vec<_>>(), ["host"]);
        take_of_answer(&mut passed_on, Origin::Mesh);
        assert_eq!(passed_on["x-weft-refused"], "intention");
    }

    #[test]
    fn h1_trailers_frame_and_route_nothing() {
        let mut trailers = HeaderMap::new();
        for name in ["content-length", "transfer-encoding", "host", "authorization", "x-forwarded-client-cert"] {
            trailers.insert(HeaderName::from_static(name), HeaderValue::from_static("1"));
            assert_eq!(check_trailers_of_request(&trailers), Err(NotNormal::Trailer));
        }
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        take_of_trailers(&mut trailers);
        assert_eq!(trailers.keys().collect::<Vec<_>>(), ["grpc-status"]);
    }
}
