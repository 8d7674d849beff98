//! The head of a message: what is refused in it, and what is taken off or put on before it goes on.

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, FORWARDED, HOST, HeaderMap, HeaderName,
    HeaderValue, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{Method, StatusCode, Uri, Version};

use super::HEADERS_MAX;

/// Names the caller's certificate to an application, as Envoy does.
pub(crate) const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// Names the caller's address to an application.
pub(crate) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Names a request through all that it causes.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Tells the caller that weft answered, and why, and not the application. An application's own never goes out.
pub(crate) const REFUSED: HeaderName = HeaderName::from_static("x-weft-refused");
/// Tells the other agent which port of the destination is meant, by name or number.
pub(crate) const PORT: HeaderName = HeaderName::from_static("x-weft-port");
/// Tells the other agent which HTTP the application that calls spoke, where it was not HTTP/2.
pub(crate) const VERSION: HeaderName = HeaderName::from_static("x-weft-version");

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// What starts the names of weft's own headers.
const OWN_PREFIX: &str = "x-weft-";

/// Headers of which a request has one at most, since two readers of the same request could each believe another.
const SINGLE: [HeaderName; 2] = [HOST, CONTENT_LENGTH];

/// Says why a request is refused for its form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadRequest {
    /// More than an application should have to read.
    #[error("more than {HEADERS_MAX} headers")]
    TooManyHeaders,
    /// A header that says something about all of the request stands there twice.
    #[error("several `host` or `content-length` headers")]
    SeveralHeaders,
    /// The two places for the host contradict each other, or neither says anything.
    #[error("no host, or two that differ")]
    Host,
    /// The host is none.
    #[error("the host has a user part or is malformed")]
    Authority,
    /// The target is not a path.
    #[error("the target is not a path")]
    Target,
    /// The application behind is nobody's proxy.
    #[error("method CONNECT")]
    Connect,
    /// A header that protects somebody was declared to concern this connection only.
    #[error("the `connection` header names a header that must reach the application")]
    Connection,
    /// A header could be taken for one that weft vouches for.
    #[error("a header that some applications read as one of weft's own")]
    Lookalike,
}

impl BadRequest {
    /// Returns the label of the metric that counts it.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::TooManyHeaders => "too_many_headers",
            Self::SeveralHeaders => "several_headers",
            Self::Host => "host",
            Self::Authority => "authority",
            Self::Target => "target",
            Self::Connect => "connect",
            Self::Connection => "connection_header",
            Self::Lookalike => "lookalike_header",
        }
    }

    /// Returns the status of the answer.
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::TooManyHeaders => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Connect => StatusCode::METHOD_NOT_ALLOWED,
            _ => StatusCode::BAD_REQUEST,
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
}

/// Is what stood in the head of a request for weft or for this connection only, taken out of it.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// Whom the request is for, by its own word.
    pub(crate) authority: Option<Authority>,
    /// The protocol that the caller wants to change to.
    pub(crate) upgrade: Option<HeaderValue>,
    /// Which port is meant, where the other agent says so.
    pub(crate) port: Option<HeaderValue>,
    /// The version that the calling application spoke.
    pub(crate) version: Version,
}

/// Checks the head of a request and takes out of it what must not go on. What is left is what is decided by and what is
/// forwarded: the same bytes.
pub(crate) fn take(head: &mut Parts, origin: Origin) -> Result<Taken, BadRequest> {
    if head.method == Method::CONNECT {
        return Err(BadRequest::Connect);
    }
    if head.headers.len() > HEADERS_MAX {
        return Err(BadRequest::TooManyHeaders);
    }
    if SINGLE.iter().any(|name| head.headers.get_all(name).iter().nth(1).is_some()) {
        return Err(BadRequest::SeveralHeaders);
    }
    let authority = authority(head)?;
    check_target(head)?;
    let upgrade = upgrade_of(head);
    strip_connection(&mut head.headers, true)?;
    let is_of_agent = origin == Origin::Mesh;
    let port = head.headers.remove(PORT).filter(|_| is_of_agent);
    let spoke_http1 = head.headers.remove(VERSION).is_some_and(|version| is_of_agent && version == "1.1");
    strip_own(&mut head.headers, origin)?;
    let version = if spoke_http1 { Version::HTTP_11 } else { head.version };
    Ok(Taken { authority, upgrade, port, version })
}

/// Takes out of the head of an answer what must not go on. The refusal of another agent is passed on, an application's
/// word for one is not.
pub(crate) fn take_of_answer(headers: &mut HeaderMap, origin: Origin) {
    // Of an answer nothing is decided, so that a header named in vain is only lost.
    let _ = strip_connection(headers, false);
    if origin == Origin::Application {
        headers.remove(REFUSED);
    }
}

/// Takes out of trailers what must not stand there: what frames or routes the message, and what weft vouches for.
pub(crate) fn take_of_trailers(trailers: &mut HeaderMap) {
    for name in [
        CONTENT_LENGTH,
        TRANSFER_ENCODING,
        HOST,
        CONNECTION,
        TE,
        TRAILER,
        UPGRADE,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        AUTHORIZATION,
        COOKIE,
        FORWARDED,
        FORWARDED_FOR,
        CLIENT_CERT,
        REFUSED,
        PORT,
        VERSION,
    ] {
        trailers.remove(name);
    }
}

/// Returns whom a request is for, from its target or its `host`; both must agree.
fn authority(head: &Parts) -> Result<Option<Authority>, BadRequest> {
    let of_header = head.headers.get(HOST);
    let authority = match (head.uri.authority(), of_header) {
        (Some(target), None) => target.clone(),
        (Some(target), Some(host)) if host.as_bytes().eq_ignore_ascii_case(target.as_str().as_bytes()) => {
            target.clone()
        }
        (None, Some(host)) => Authority::try_from(host.as_bytes()).map_err(|_| BadRequest::Authority)?,
        (None, None) if head.version == Version::HTTP_10 => return Ok(None),
        _ => return Err(BadRequest::Host),
    };
    if authority.as_str().contains('@') || authority.host().is_empty() {
        return Err(BadRequest::Authority);
    }
    Ok(Some(authority))
}

fn check_target(head: &Parts) -> Result<(), BadRequest> {
    let target = head.uri.path_and_query().map_or("", PathAndQuery::as_str);
    match target {
        "*" if head.method == Method::OPTIONS => Ok(()),
        path if path.starts_with('/') => Ok(()),
        _ => Err(BadRequest::Target),
    }
}

/// Returns the protocol that a caller over HTTP/1.1 wants to change to. Changes to HTTP or TLS are not among them: what
/// comes after would be requests that nobody has decided.
fn upgrade_of(head: &Parts) -> Option<HeaderValue> {
    let wanted = head.headers.get(UPGRADE).filter(|_| head.version == Version::HTTP_11)?;
    let is_named = tokens(&head.headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"));
    let is_http = wanted.to_str().ok()?.split(',').map(str::trim).any(|protocol| {
        let family = protocol.split('/').next().unwrap_or_default();
        ["h2c", "h2", "http", "tls"].iter().any(|known| family.eq_ignore_ascii_case(known))
    });
    (is_named && !is_http).then(|| wanted.clone())
}

/// Takes out what concerns one connection only (RFC 9110 section 7.6.1), the headers that `connection` names included.
fn strip_connection(headers: &mut HeaderMap, is_request: bool) -> Result<(), BadRequest> {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> =
            tokens(headers, &CONNECTION).filter_map(|token| HeaderName::try_from(token).ok()).collect();
        if is_request && named.iter().any(must_arrive) {
            return Err(BadRequest::Connection);
        }
        for name in named.iter().filter(|name| **name != TE) {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    let wants_trailers = tokens(headers, &TE).any(|token| token.eq_ignore_ascii_case("trailers"));
    for name in [KEEP_ALIVE, PROXY_CONNECTION, TRANSFER_ENCODING, UPGRADE, HTTP2_SETTINGS, TE] {
        headers.remove(name);
    }
    if wants_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    Ok(())
}

/// Reports whether a header is one that nobody on the way may be told to drop.
fn must_arrive(name: &HeaderName) -> bool {
    [AUTHORIZATION, COOKIE, HOST, CONTENT_LENGTH, CONTENT_TYPE, FORWARDED, REQUEST_ID].contains(name)
        || name.as_str().starts_with("x-forwarded-")
        || name.as_str().starts_with(OWN_PREFIX)
}

/// Takes out the headers that only weft sets, and what others say of the caller.
fn strip_own(headers: &mut HeaderMap, origin: Origin) -> Result<(), BadRequest> {
    if headers.keys().any(is_lookalike) {
        return Err(BadRequest::Lookalike);
    }
    if headers.keys().any(|name| name.as_str().starts_with(OWN_PREFIX)) {
        let own: Vec<HeaderName> =
            headers.keys().filter(|name| name.as_str().starts_with(OWN_PREFIX)).cloned().collect();
        for name in own {
            headers.remove(name);
        }
    }
    if origin == Origin::Mesh {
        for name in [CLIENT_CERT, FORWARDED_FOR, FORWARDED] {
            headers.remove(name);
        }
    }
    Ok(())
}

/// Reports whether an application that takes `_` for `-`, as CGI does, would read one of weft's headers in this one.
fn is_lookalike(name: &HeaderName) -> bool {
    let name = name.as_str();
    if !name.contains('_') {
        return false;
    }
    let read = name.replace('_', "-");
    read.starts_with(OWN_PREFIX) || [CLIENT_CERT, FORWARDED_FOR, REQUEST_ID].iter().any(|own| own.as_str() == read)
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
pub(crate) fn target_http1(head: &mut Parts, authority: Option<&Authority>) {
    let path = std::mem::take(&mut head.uri).into_parts().path_and_query;
    head.uri = path.map_or_else(Uri::default, Uri::from);
    head.version = Version::HTTP_11;
    if !head.headers.contains_key(HOST) {
        // The authority was read from a header or a target, so that it is a header's value too.
        let host = authority.and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
        head.headers.insert(HOST, host.unwrap_or_else(|| HeaderValue::from_static("")));
    }
}

/// Says how the body of a request over HTTP/1.1 is told from the next request, where its length was not given.
pub(crate) fn frame_http1(headers: &mut HeaderMap, is_empty: bool) {
    if !is_empty && !headers.contains_key(CONTENT_LENGTH) {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// Writes the target for a side that is spoken to in HTTP/2, where the host stands in it.
pub(crate) fn target_http2(head: &mut Parts, authority: Authority) {
    head.headers.remove(HOST);
    let mut parts = std::mem::take(&mut head.uri).into_parts();
    parts.scheme = Some(http::uri::Scheme::HTTP);
    parts.authority = Some(authority);
    parts.path_and_query.get_or_insert_with(|| PathAndQuery::from_static("/"));
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
        take(&mut head, origin).unwrap();
        let mut names: Vec<String> = head.headers.keys().map(|name| name.as_str().to_owned()).collect();
        names.sort();
        names
    }

    #[track_caller]
    fn refused(lines: &[(&str, &str)], want: BadRequest) {
        assert_eq!(take(&mut head(lines), Origin::Mesh).unwrap_err(), want, "{lines:?}");
    }

    #[test]
    fn what_concerns_one_connection_only_does_not_go_on() {
        let lines = [
            ("connection", "keep-alive, x-mine"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "close"),
            ("transfer-encoding", "chunked"),
            ("x-mine", "1"),
            ("te", "gzip, trailers"),
            ("trailer", "grpc-status"),
            ("x-yours", "1"),
        ];
        assert_eq!(names_left(&lines, Origin::Mesh), ["host", "te", "trailer", "x-yours"]);
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
        let taken = take(&mut head, Origin::Application).unwrap();
        assert_eq!((taken.port, taken.version), (None, Version::HTTP_11));
    }

    #[test]
    fn h3_the_connection_header_takes_nothing_away_that_protects_somebody() {
        for name in [
            "authorization",
            "Cookie",
            "host",
            "content-length",
            "x-forwarded-client-cert",
            "x-forwarded-for",
            "x-request-id",
            "x-weft-port",
        ] {
            refused(&[("connection", &format!("close, {name}"))], BadRequest::Connection);
        }
    }

    #[test]
    fn h4_lookalikes_of_wefts_headers_and_too_many_headers_are_refused() {
        for name in ["x_forwarded_client_cert", "x-forwarded_for", "x_weft_port", "x_request_id"] {
            refused(&[(name, "1")], BadRequest::Lookalike);
        }
        assert_eq!(names_left(&[("x_mine", "1")], Origin::Mesh), ["host", "x_mine"]);
        let many: Vec<(String, &str)> = (0..100).map(|index| (format!("x-{index}"), "1")).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        refused(&many, BadRequest::TooManyHeaders);
        assert_eq!(BadRequest::TooManyHeaders.status(), 431);
    }

    #[test]
    fn h7_a_request_is_for_one_host() {
        refused(&[("host", "admin")], BadRequest::SeveralHeaders);
        let with = |uri: &str, host: Option<&str>| {
            let mut request = Request::builder().uri(uri);
            if let Some(host) = host {
                request = request.header(HOST, host);
            }
            let mut head = request.body(()).unwrap().into_parts().0;
            take(&mut head, Origin::Mesh).map(|taken| taken.authority.unwrap().to_string())
        };
        assert_eq!(with("http://api:80/x", Some("API:80")).unwrap(), "api:80");
        assert_eq!(with("http://api/x", None).unwrap(), "api");
        assert_eq!(with("http://api/x", Some("admin")), Err(BadRequest::Host));
        assert_eq!(with("/x", None), Err(BadRequest::Host));
        assert_eq!(with("/x", Some("a@b")), Err(BadRequest::Authority));
        assert_eq!(with("/x", Some("")), Err(BadRequest::Authority));
    }

    #[test]
    fn an_upgrade_is_known_unless_it_leads_to_requests_that_nobody_decides() {
        let upgrade = |to: &str, connection: &str| {
            let mut head = head(&[("connection", connection), ("upgrade", to)]);
            take(&mut head, Origin::Mesh).unwrap().upgrade
        };
        assert_eq!(upgrade("websocket", "keep-alive, Upgrade").unwrap(), "websocket");
        assert_eq!(upgrade("websocket", "keep-alive"), None);
        for to in ["h2c", "HTTP/2.0", "TLS/1.3", "websocket, h2c"] {
            assert_eq!(upgrade(to, "upgrade"), None, "{to}");
        }
    }

    #[test]
    fn h1_trailers_frame_and_route_nothing() {
        let mut trailers = HeaderMap::new();
        for name in ["content-length", "transfer-encoding", "host", "authorization", "x-forwarded-client-cert"] {
            trailers.insert(HeaderName::from_static(name), HeaderValue::from_static("1"));
        }
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        take_of_trailers(&mut trailers);
        assert_eq!(trailers.keys().collect::<Vec<_>>(), ["grpc-status"]);
    }

    #[test]
    fn a_target_is_written_for_the_side_that_reads_it() {
        let mut request = Request::builder().uri("http://api:80/x?y").body(()).unwrap().into_parts().0;
        let authority = Authority::from_static("api:80");
        target_http1(&mut request, Some(&authority));
        assert_eq!(
            (request.uri.to_string(), &request.headers[HOST]),
            ("/x?y".to_owned(), &HeaderValue::from_static("api:80"))
        );
        target_http2(&mut request, authority);
        assert_eq!(request.uri, "http://api:80/x?y");
        assert!(!request.headers.contains_key(HOST));
    }
}
