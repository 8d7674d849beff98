//! Whom the local API talks to: programs that asked for it by a loopback name.
//!
//! Any web page can make a browser send requests to 127.0.0.1, and by DNS rebinding even read the answers. What a page
//! cannot do is choose the Host and Origin that the browser sends. The content type is not judged: Consul's clients
//! and curl send none, or a form's.

use std::net::{Ipv4Addr, Ipv6Addr};

use http::request::Parts;
use http::uri::Authority;
use http::{Uri, header};

use super::error::ApiError;

/// Checks that the request was meant for this listener.
pub(super) fn check(parts: &Parts) -> Result<(), ApiError> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return Err(ApiError::NoHost) };
    let host = host.to_str().unwrap_or_default();
    if !host.parse::<Authority>().is_ok_and(|authority| is_loopback(&authority)) {
        return Err(foreign("Host", host));
    }
    if let Some(authority) = parts.uri.authority()
        && !is_loopback(authority)
    {
        return Err(foreign("the request target's host", authority.as_str()));
    }
    for origin in parts.headers.get_all(header::ORIGIN) {
        let origin = origin.to_str().unwrap_or_default();
        if !is_own_origin(origin) {
            return Err(foreign("Origin", origin));
        }
    }
    Ok(())
}

fn foreign(header: &'static str, value: &str) -> ApiError {
    ApiError::ForeignHost { header, value: value.to_owned() }
}

/// Whether an origin is a page served from loopback; `null` is what sandboxed pages send.
fn is_own_origin(origin: &str) -> bool {
    let Ok(uri) = origin.parse::<Uri>() else { return false };
    matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some_and(is_loopback)
}

/// Whether a host, with any port, is `localhost` or a loopback address in canonical form.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(headers: &[(&str, &str)]) -> Result<(), ApiError> {
        let mut request = http::Request::get("/v1/agent/self");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        check(&request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn a8_a_loopback_host_is_taken_with_any_port() {
        for host in ["localhost", "LOCALHOST:8500", "127.0.0.1", "127.0.0.1:1", "127.8.9.1:80", "[::1]:8500"] {
            judged(&[("host", host), ("origin", "http://localhost:3000")]).unwrap();
        }
    }

    #[test]
    fn a8_every_other_host_is_refused() {
        let hosts = ["evil.example", "localhost.evil.example", "a@localhost", "10.0.0.1", "0.0.0.0", "[::ffff:127.0.0.1]", ""];
        for host in hosts {
            assert!(matches!(judged(&[("host", host)]), Err(ApiError::ForeignHost { .. })), "{host}");
        }
        assert!(matches!(judged(&[]), Err(ApiError::NoHost)));
        assert!(matches!(judged(&[("host", "localhost"), ("host", "evil.example")]), Err(ApiError::NoHost)));
    }

    #[test]
    fn a8_a_foreign_origin_is_refused() {
        for origin in ["https://evil.example", "null", "", "file://localhost", "http://localhost@evil.example"] {
            let result = judged(&[("host", "localhost"), ("origin", origin)]);
            assert!(matches!(result, Err(ApiError::ForeignHost { header: "Origin", .. })), "{origin}");
        }
    }

    #[test]
    fn a8_the_request_target_is_judged_too() {
        let request = http::Request::get("http://evil.example/v1/agent/self").header("host", "localhost");
        let parts = request.body(()).unwrap().into_parts().0;
        assert!(matches!(check(&parts), Err(ApiError::ForeignHost { .. })));
    }
}
