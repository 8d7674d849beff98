//! Where the API is.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::ApiError;

/// Names one agent's or server's API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiAddress {
    pub(super) is_tls: bool,
    /// A name or an IP address, without brackets.
    pub(super) host: String,
    pub(super) port: u16,
}

impl ApiAddress {
    /// Returns `host:port`, as requests name it.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for ApiAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        write!(formatter, "{scheme}://{}", self.authority())
    }
}

impl FromStr for ApiAddress {
    type Err = ApiError;

    fn from_str(text: &str) -> Result<Self, ApiError> {
        let malformed = || ApiError::Address { address: text.chars().take(256).collect() };
        let (is_tls, rest) = match text.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            Some(_) => return Err(malformed()),
            None => (false, text),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = authority.rsplit_once(':').ok_or_else(malformed)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(malformed)?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(host) if matches!(host.parse(), Ok(IpAddr::V6(_))) => host,
            Some(_) => return Err(malformed()),
            None => host,
        };
        let is_name = |host: &str| {
            !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
        };
        if !is_name(host) && host.parse::<IpAddr>().is_err() {
            return Err(malformed());
        }
        if host.contains(':') && !authority.starts_with('[') {
            return Err(malformed());
        }
        Ok(Self { is_tls, host: host.to_owned(), port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_host_and_port_with_or_without_a_scheme() {
        for (text, want) in [
            ("127.0.0.1:8500", "http://127.0.0.1:8500"),
            ("http://localhost:8500", "http://localhost:8500"),
            ("https://weft.example.com:8501/", "https://weft.example.com:8501"),
            ("[::1]:8500", "http://[::1]:8500"),
        ] {
            assert_eq!(text.parse::<ApiAddress>().unwrap().to_string(), want);
        }
    }

    #[test]
    fn f1_what_is_no_address_is_refused() {
        for text in [
            "",
            "localhost",
            "localhost:",
            "localhost:0",
            "localhost:70000",
            "ftp://a:1",
            "http://a b:1",
            "::1:8500",
            "[a]:1",
            "http://user@a:1",
            "http://a:1/v1",
            "a\r\nb:1",
        ] {
            assert!(text.parse::<ApiAddress>().is_err(), "{text}");
        }
    }
}
