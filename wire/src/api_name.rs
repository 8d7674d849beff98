//! The names that a server's API is asked under beyond loopback: DNS names and addresses.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Longest DNS name (RFC 1035 §2.3.4, without the root's dot).
const DNS_BYTES_MAX: usize = 253;

/// A name that an API certificate is for, and that a request may ask for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ApiName {
    /// A host name, in lower case.
    Dns(String),
    /// Every host name of exactly one label more than this one; only operators' own certificates have such names.
    DnsBelow(String),
    /// An address.
    Ip(IpAddr),
}

/// A text is no name that an API could have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is no name for the API: use a host name of a-z, 0-9, `-` and dots, or an IP address", text.escape_debug())]
pub struct ApiNameError {
    text: String,
}

impl ApiName {
    /// Reads a name as a certificate has it, where the first label may be a star.
    pub(crate) fn of_certificate(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        match text.strip_prefix("*.") {
            Some(above) => is_host_name(above).then(|| Self::DnsBelow(above.to_owned())),
            None => is_host_name(&text).then_some(Self::Dns(text)),
        }
    }

    /// Reports whether a request for `host` means this name; an IPv6 address stands in brackets, as in a URL.
    pub fn is_asked_by(&self, host: &str) -> bool {
        match self {
            Self::Dns(name) => name.eq_ignore_ascii_case(host),
            Self::DnsBelow(above) => {
                host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(above))
            }
            Self::Ip(address) => {
                let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
                match address {
                    IpAddr::V4(v4) => host.parse() == Ok(*v4),
                    IpAddr::V6(v6) => bare.is_some_and(|bare| bare.parse() == Ok(*v6)),
                }
            }
        }
    }
}

fn is_host_name(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // What ends in a number is an address written in a way that readers take differently.
    let last_is_numeric = text.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    text.len() <= DNS_BYTES_MAX && text.split('.').all(is_label) && !last_is_numeric
}

impl FromStr for ApiName {
    type Err = ApiNameError;

    fn from_str(text: &str) -> Result<Self, ApiNameError> {
        if let Ok(address) = text.parse::<IpAddr>()
            && !address.is_unspecified()
        {
            return Ok(Self::Ip(address));
        }
        let lower = text.to_ascii_lowercase();
        if is_host_name(&lower) {
            Ok(Self::Dns(lower))
        } else {
            Err(ApiNameError { text: text.chars().take(128).collect() })
        }
    }
}

impl fmt::Display for ApiName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => formatter.write_str(name),
            Self::DnsBelow(above) => write!(formatter, "*.{above}"),
            Self::Ip(address) => address.fmt(formatter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h12_a_name_is_a_host_name_or_an_address_and_nothing_else() {
        for (text, shown) in
            [("weft.example.com", "weft.example.com"), ("WEFT", "weft"), ("10.0.0.1", "10.0.0.1"), ("::1", "::1")]
        {
            assert_eq!(text.parse::<ApiName>().unwrap().to_string(), shown);
        }
        for text in [
            "",
            "*",
            "*.example.com",
            "a..b",
            "-a",
            "a-",
            "a_b",
            "a b",
            "10.0.0.1:8501",
            "1.2.3",
            "0.0.0.0",
            "é.com",
            "a\0b",
        ] {
            assert!(text.parse::<ApiName>().is_err(), "{text}");
        }
        assert!("a.".repeat(200).parse::<ApiName>().is_err());
    }

    #[test]
    fn a8_a_host_is_asked_for_to_the_letter() {
        let asked = |name: &str, host: &str| {
            ApiName::of_certificate(name).unwrap_or_else(|| name.parse().unwrap()).is_asked_by(host)
        };
        assert!(asked("weft.example.com", "WEFT.example.com"));
        assert!(asked("*.example.com", "s1.example.com"));
        assert!(asked("10.0.0.1", "10.0.0.1") && asked("fd00::1", "[fd00::1]"));
        for (name, host) in [
            ("weft.example.com", "weft.example.com.evil.example"),
            ("weft.example.com", "xweft.example.com"),
            ("*.example.com", "example.com"),
            ("*.example.com", "a.b.example.com"),
            ("*.example.com", ".example.com"),
            ("10.0.0.1", "10.0.0.2"),
            ("fd00::1", "fd00::1"),
        ] {
            assert!(!asked(name, host), "{name} {host}");
        }
    }
}
