//! The one normal form of the host that a request names.

use std::{borrow::Cow, fmt, net::Ipv6Addr};

use super::NotNormal;

/// Is the host that a request names, and its port where one stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NormalAuthority<'a> {
    host: Cow<'a, str>,
    port: Option<u16>,
}

/// What a host without a port means: requests in the mesh are `http`.
const DEFAULT_PORT: u16 = 80;
const HOST_BYTES_MAX: usize = 255;

impl<'a> NormalAuthority<'a> {
    /// Normalises `host` or `host:port`: lower case, without the trailing dot.
    ///
    /// # Errors
    /// [`NotNormal::Host`] for a user part, an empty host, a port that is none, and what no host has.
    pub fn of(text: &'a str) -> Result<Self, NotNormal> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, port) = rest.split_once(']').ok_or(NotNormal::Host)?;
                let address: Ipv6Addr = address.parse().map_err(|_| NotNormal::Host)?;
                let port = match port {
                    "" => None,
                    port => Some(port.strip_prefix(':').ok_or(NotNormal::Host)?),
                };
                (Cow::Owned(format!("[{address}]")), port)
            }
            None => {
                let (host, port) = match text.split_once(':') {
                    Some((host, port)) => (host, Some(port)),
                    None => (text, None),
                };
                (host_name(host)?, port)
            }
        };
        Ok(Self { host, port: port.map(port_number).transpose()?.flatten() })
    }

    /// Returns the one host of a request that may name it in its target, in a Host field, or in both; none where it names
    /// none.
    ///
    /// # Errors
    /// [`NotNormal::Hosts`] if they differ or the field stands twice, [`NotNormal::Host`] if one is malformed.
    pub fn one_of(
        target: Option<&'a str>,
        fields: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Option<Self>, NotNormal> {
        let mut fields = fields.into_iter();
        let field = fields.next();
        if fields.next().is_some() {
            return Err(NotNormal::Hosts);
        }
        let target = target.map(Self::of).transpose()?;
        let field = match field {
            Some(bytes) => Some(Self::of(std::str::from_utf8(bytes).map_err(|_| NotNormal::Host)?.trim_ascii())?),
            None => None,
        };
        match (target, field) {
            (Some(target), Some(field)) if !target.is_same(&field) => Err(NotNormal::Hosts),
            (Some(one), _) | (None, Some(one)) => Ok(Some(one)),
            (None, None) => Ok(None),
        }
    }

    /// Returns the host: a name in lower case, an IPv4 address, or an IPv6 address in brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the port, where one stands.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    fn is_same(&self, other: &Self) -> bool {
        self.host == other.host && self.port.unwrap_or(DEFAULT_PORT) == other.port.unwrap_or(DEFAULT_PORT)
    }
}

impl fmt::Display for NormalAuthority<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

fn host_name(text: &str) -> Result<Cow<'_, str>, NotNormal> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let has_bytes = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let is_name =
        name.len() <= HOST_BYTES_MAX && name.split('.').all(|label| !label.is_empty() && label.bytes().all(has_bytes));
    if !is_name {
        return Err(NotNormal::Host);
    }
    Ok(if name.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    })
}

/// Reads a port; an empty one is none (RFC 3986 §3.2.3).
fn port_number(text: &str) -> Result<Option<u16>, NotNormal> {
    if text.is_empty() {
        return Ok(None);
    }
    let is_number = text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(port) if is_number && port != 0 => Ok(Some(port)),
        _ => Err(NotNormal::Host),
    }
}
