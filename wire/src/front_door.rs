//! What every HTTP listener on loopback asks of a request before anything else: is it meant for us, and whose is it.
//!
//! Any web page can make a browser send requests to 127.0.0.1, and by DNS rebinding even read the answers. What a page
//! cannot do is choose the Host and Origin that the browser sends. The content type is not judged: Consul's clients
//! and curl send none, or a form's.

use std::net::{Ipv4Addr, Ipv6Addr};

use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, StatusCode, Uri, header};

use crate::api_name::ApiName;
use crate::crypto::{Secret, constant_time_eq};

/// Explains why a request is turned away at the door.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TurnedAway {
    /// The request names a host that this listener does not answer for.
    #[error("{header} `{value}` is not this listener's; ask for localhost, a loopback address or one of api_names")]
    ForeignHost {
        /// Which header names it.
        header: &'static str,
        /// The host, as it was sent.
        value: String,
    },
    /// The request names no host, or several.
    #[error("the request needs exactly one Host header; send it once")]
    NoHost,
    /// Two headers carry two tokens.
    #[error("the headers X-Consul-Token and Authorization carry different tokens; send one of them")]
    TwoTokens,
    /// A header that carries a credential or an id is not of its form. What it holds is not repeated.
    #[error("the header {name} is malformed; {expected}")]
    Header {
        /// The header.
        name: &'static str,
        /// What to send.
        expected: &'static str,
    },
}

impl TurnedAway {
    /// Returns the status to answer with.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::ForeignHost { .. } => StatusCode::FORBIDDEN,
            Self::NoHost | Self::TwoTokens | Self::Header { .. } => StatusCode::BAD_REQUEST,
        }
    }
}

/// Checks that a request was meant for a listener on loopback.
///
/// # Errors
///
/// [`TurnedAway::NoHost`] or [`TurnedAway::ForeignHost`], naming the header.
pub fn check_addressee(parts: &Parts) -> Result<(), TurnedAway> {
    check_addressee_of(parts, &[])
}

/// Checks that a request was meant for a listener that is asked under `names`, or under loopback's.
///
/// # Errors
///
/// [`TurnedAway::NoHost`] or [`TurnedAway::ForeignHost`], naming the header.
pub fn check_addressee_of(parts: &Parts, names: &[ApiName]) -> Result<(), TurnedAway> {
    let is_own = |authority: &Authority| {
        is_loopback(authority)
            || (!authority.as_str().contains('@') && names.iter().any(|name| name.is_asked_by(authority.host())))
    };
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return Err(TurnedAway::NoHost) };
    let host = host.to_str().unwrap_or_default();
    if !host.parse::<Authority>().is_ok_and(|authority| is_own(&authority)) {
        return Err(foreign("Host", host));
    }
    if let Some(authority) = parts.uri.authority()
        && !is_own(authority)
    {
        return Err(foreign("the request target's host", authority.as_str()));
    }
    for origin in parts.headers.get_all(header::ORIGIN) {
        let origin = origin.to_str().unwrap_or_default();
        if !is_own_origin(origin, is_own) {
            return Err(foreign("Origin", origin));
        }
    }
    Ok(())
}

fn foreign(header: &'static str, value: &str) -> TurnedAway {
    TurnedAway::ForeignHost { header, value: value.to_owned() }
}

/// Reports whether an origin is a page served from an own name; `null` is what sandboxed pages send.
fn is_own_origin(origin: &str, is_own: impl Fn(&Authority) -> bool) -> bool {
    let Ok(uri) = origin.parse::<Uri>() else { return false };
    matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some_and(is_own)
}

/// Reports whether a host, with any port, is `localhost` or a loopback address in canonical form.
fn is_loopback(authority: &Authority) -> bool {
    if authority.as_str().contains('@') {
        return false;
    }
    let host = authority.host();
    if let Some(v6) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return v6.parse::<Ipv6Addr>().is_ok_and(|address| address.is_loopback());
    }
    host.eq_ignore_ascii_case("localhost") || host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
}

/// Returns the token that a request carries, in `X-Consul-Token` or as a bearer token.
///
/// # Errors
///
/// [`TurnedAway::Header`] or [`TurnedAway::TwoTokens`]; neither repeats what was sent.
pub fn sent_token(headers: &HeaderMap) -> Result<Option<Secret>, TurnedAway> {
    let own = single_header(headers, "X-Consul-Token", "send it once, as plain text")?;
    let bearer = single_header(headers, "Authorization", "send it once, as `Bearer <token>`")?;
    let bearer = match bearer {
        None | Some("") => None,
        Some(value) => match value.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Some(token.trim()),
            _ => return Err(TurnedAway::Header { name: "Authorization", expected: "send `Bearer <token>`" }),
        },
    };
    // Consul's clients send an empty header where no token is configured.
    let own = own.map(str::trim).filter(|token| !token.is_empty());
    let bearer = bearer.filter(|token| !token.is_empty());
    match (own, bearer) {
        (Some(own), Some(bearer)) if !constant_time_eq(own.as_bytes(), bearer.as_bytes()) => Err(TurnedAway::TwoTokens),
        (own, bearer) => Ok(own.or(bearer).map(Secret::new)),
    }
}

/// Returns a header that may stand once; none where it is not there.
///
/// # Errors
///
/// [`TurnedAway::Header`] where it stands twice or is not text.
pub fn single_header<'a>(
    headers: &'a HeaderMap,
    name: &'static str,
    expected: &'static str,
) -> Result<Option<&'a str>, TurnedAway> {
    let mut values = headers.get_all(name).iter();
    let value = values.next();
    if values.next().is_some() {
        return Err(TurnedAway::Header { name, expected });
    }
    value.map(|value| value.to_str().map_err(|_| TurnedAway::Header { name, expected })).transpose()
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn judged(headers: &[(&str, &str)]) -> Result<(), TurnedAway> {
        let mut request = Request::get("/v1/status/leader");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        check_addressee(&request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn a8_takes_loopback_hosts_with_any_port() {
        for host in ["localhost", "LOCALHOST:8500", "127.0.0.1", "127.0.0.1:1", "127.8.9.1:80", "[::1]", "[::1]:8500"] {
            judged(&[("host", host)]).unwrap();
        }
    }

    #[test]
    fn a8_refuses_every_other_host() {
        let foreign = [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "localhost@evil.example",
            "10.0.0.1:8500",
            "0.0.0.0",
            "[::]",
            "[::ffff:127.0.0.1]",
            "169.254.169.254",
            "127.1",
            "2130706433",
            "",
        ];
        for host in foreign {
            assert!(matches!(judged(&[("host", host)]), Err(TurnedAway::ForeignHost { .. })), "{host}");
        }
        assert_eq!(judged(&[]), Err(TurnedAway::NoHost));
        assert_eq!(judged(&[("host", "localhost"), ("host", "evil.example")]), Err(TurnedAway::NoHost));
    }

    #[test]
    fn a8_refuses_a_foreign_origin_and_takes_a_loopback_one() {
        judged(&[("host", "localhost"), ("origin", "http://localhost:3000")]).unwrap();
        judged(&[("host", "localhost"), ("origin", "https://[::1]")]).unwrap();
        for origin in ["https://evil.example", "null", "", "file://localhost", "http://localhost@evil.example"] {
            let result = judged(&[("host", "localhost"), ("origin", origin)]);
            assert!(matches!(result, Err(TurnedAway::ForeignHost { header: "Origin", .. })), "{origin}");
        }
    }

    #[test]
    fn a8_a_listener_with_names_takes_these_and_loopback_and_no_others() {
        let names: Vec<ApiName> = ["weft.example.com", "10.0.0.1"].map(|name| name.parse().unwrap()).to_vec();
        let judged = |host: &str, origin: &str| {
            let request = Request::get("/v1/status/leader").header("host", host).header("origin", origin);
            check_addressee_of(&request.body(()).unwrap().into_parts().0, &names)
        };
        for host in ["weft.example.com:8501", "10.0.0.1:8501", "localhost"] {
            judged(host, "https://weft.example.com").unwrap();
        }
        for (host, origin) in [
            ("evil.example", "https://weft.example.com"),
            ("weft.example.com", "https://evil.example"),
            ("x@weft.example.com", "https://weft.example.com"),
            ("10.0.0.2:8501", "https://weft.example.com"),
        ] {
            assert!(matches!(judged(host, origin), Err(TurnedAway::ForeignHost { .. })), "{host} {origin}");
        }
    }

    #[test]
    fn a8_judges_the_request_target_too() {
        let request = Request::get("http://evil.example/v1/status/leader").header("host", "localhost");
        let parts = request.body(()).unwrap().into_parts().0;
        assert!(matches!(check_addressee(&parts), Err(TurnedAway::ForeignHost { .. })));
    }

    fn token_of(headers: &[(&'static str, &'static str)]) -> Result<Option<Secret>, TurnedAway> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        sent_token(&map)
    }

    #[test]
    fn a_token_comes_in_either_header_or_in_both_alike() {
        let abc = Ok(Some(Secret::new("abc")));
        assert_eq!(token_of(&[]), Ok(None));
        assert_eq!(token_of(&[("x-consul-token", "")]), Ok(None));
        assert_eq!(token_of(&[("x-consul-token", "abc")]), abc);
        assert_eq!(token_of(&[("authorization", "Bearer abc")]), abc);
        assert_eq!(token_of(&[("authorization", "bearer  abc")]), abc);
        assert_eq!(token_of(&[("x-consul-token", "abc"), ("authorization", "Bearer abc")]), abc);
    }

    #[test]
    fn a6_a_malformed_credential_is_refused_without_repeating_it() {
        let refused: [&[(&str, &str)]; 4] = [
            &[("x-consul-token", "s3cret"), ("authorization", "Bearer other-s3cret")],
            &[("authorization", "Basic s3cret")],
            &[("authorization", "s3cret")],
            &[("x-consul-token", "s3cret"), ("x-consul-token", "s3cret2")],
        ];
        for headers in refused {
            let error = token_of(headers).unwrap_err();
            assert_eq!(error.status(), StatusCode::BAD_REQUEST);
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
    }
}
