//! Where a server of the web is: scheme, host and port, read in one way by whoever stores or asks such an address.

use std::net::IpAddr;

/// Is the beginning of an address of the web, up to its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin<'t> {
    /// Whether it is spoken to under TLS.
    pub is_tls: bool,
    /// The host: a name, or an IP address without the brackets of an IPv6 one.
    pub host: &'t str,
}

impl<'t> Origin<'t> {
    /// Takes the origin off an address, and returns what is behind it; none where it is no `https://HOST` or
    /// `https://HOST:PORT`, or the same with `http`, without a user.
    #[must_use]
    pub fn split(address: &'t str) -> Option<(Self, &'t str)> {
        let (is_tls, rest) = match (address.strip_prefix("https://"), address.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return None,
        };
        let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let (host, port) = match authority.strip_prefix('[') {
            Some(bracketed) => {
                let (host, port) = bracketed.split_once(']')?;
                host.parse::<std::net::Ipv6Addr>().ok()?;
                (host, port)
            }
            None => {
                let (host, port) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
                (is_name(host).then_some(host)?, port)
            }
        };
        let is_port = |digits: &str| {
            digits.bytes().all(|b| b.is_ascii_digit()) && digits.parse::<u16>().is_ok_and(|port| port != 0)
        };
        let fits = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        fits.then_some((Self { is_tls, host }, rest))
    }

    /// Reads an address that is an origin and nothing more; one `/` may end it.
    #[must_use]
    pub fn read(address: &'t str) -> Option<Self> {
        Self::split(address).filter(|(_, rest)| matches!(*rest, "" | "/")).map(|(origin, _)| origin)
    }

    /// Reports whether it is this machine by its very name: nobody has to be asked where that is.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.host.eq_ignore_ascii_case("localhost") || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

/// Reports whether a text can be a name, or an IPv4 address.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_a_scheme_a_host_and_maybe_a_port() {
        for (address, is_tls, host) in [
            ("https://sts.amazonaws.com", true, "sts.amazonaws.com"),
            ("https://sts.amazonaws.com/", true, "sts.amazonaws.com"),
            ("https://ABC.eks.amazonaws.com:443", true, "ABC.eks.amazonaws.com"),
            ("http://127.0.0.1:5555", false, "127.0.0.1"),
            ("https://[fd00::1]:6443/", true, "fd00::1"),
            ("http://[::1]", false, "::1"),
        ] {
            assert_eq!(Origin::read(address), Some(Origin { is_tls, host }), "{address}");
        }
        for address in [
            "",
            "sts.amazonaws.com",
            "HTTPS://a",
            "ftp://a",
            "https://",
            "https:///",
            "https://:443",
            "https://a:",
            "https://a:0",
            "https://a:+1",
            "https://a:65536",
            "https://a:1:2",
            "https://a//",
            "https://a/path",
            "https://a?query",
            "https://a#part",
            "https://user@a",
            "https://user:word@a",
            "https://a b",
            "https://a\u{e9}",
            "https://fd00::1",
            "https://[fd00::1",
            "https://[10.0.0.1]",
            "https://[fd00::1]x",
            "https://[fe80::1%eth0]",
        ] {
            assert_eq!(Origin::read(address), None, "{address}");
        }
        let (origin, rest) = Origin::split("https://idp.example:8443/keys?set=1").unwrap();
        assert_eq!((origin.host, rest), ("idp.example", "/keys?set=1"));
    }

    #[test]
    fn only_a_whole_name_of_this_machine_is_this_machine() {
        let is_here = |address| Origin::read(address).unwrap().is_loopback();
        for here in ["http://localhost:1", "http://LOCALHOST", "http://127.0.0.1", "http://127.9.9.9", "http://[::1]:5"]
        {
            assert!(is_here(here), "{here}");
        }
        for other in ["http://127.evil.example", "http://localhost.evil.example", "http://10.0.0.1", "http://[fd00::1]"]
        {
            assert!(!is_here(other), "{other}");
        }
    }
}
