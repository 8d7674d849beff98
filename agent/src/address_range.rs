//! Ranges of IP addresses, as operators name networks.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Is a range of addresses: one, or all that begin alike. An IPv4 address is the same however it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AddressRange {
    first: IpAddr,
    prefix: u8,
}

/// Says why a text is no range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressRangeError {
    /// What stands before the slash is no address.
    #[error("`{}` is no address; write `10.0.0.0/8`, `fd00::/8` or one address", .0.escape_debug())]
    Address(String),
    /// What stands behind the slash is no length.
    #[error("`{}` is no number of bits; it is at most {max}", text.escape_debug())]
    Prefix {
        /// What stands there.
        text: String,
        /// How many bits the address has.
        max: u8,
    },
    /// It begins in the middle of what it would be.
    #[error("`{given}` is not where a range of /{prefix} begins; `{first}/{prefix}` is")]
    Unaligned {
        /// The address that was given.
        given: IpAddr,
        /// Where the range that it lies in begins.
        first: IpAddr,
        /// Its length.
        prefix: u8,
    },
}

impl AddressRange {
    /// Reports whether it is one of IPv4.
    pub(crate) fn is_v4(&self) -> bool {
        self.first.is_ipv4()
    }

    /// Reports whether an address lies in the range.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.first, address.to_canonical()) {
            (IpAddr::V4(first), IpAddr::V4(address)) => u32::from(first) == u32::from(address) & mask32(self.prefix),
            (IpAddr::V6(first), IpAddr::V6(address)) => u128::from(first) == u128::from(address) & mask128(self.prefix),
            _ => false,
        }
    }
}

/// Returns what keeps the first `prefix` of 32 bits.
fn mask32(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0)
}

/// Returns what keeps the first `prefix` of 128 bits.
fn mask128(prefix: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0)
}

impl FromStr for AddressRange {
    type Err = AddressRangeError;

    fn from_str(text: &str) -> Result<Self, AddressRangeError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let given: IpAddr = address.parse().map_err(|_| AddressRangeError::Address(address.to_owned()))?;
        let max = if given.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => max,
            Some(digits) => {
                let number = digits.parse().ok().filter(|prefix: &u8| *prefix <= max && !digits.starts_with('+'));
                number.ok_or_else(|| AddressRangeError::Prefix { text: digits.to_owned(), max })?
            }
        };
        let first = match given {
            IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) & mask32(prefix)).into()),
            IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & mask128(prefix)).into()),
        };
        if first != given {
            return Err(AddressRangeError::Unaligned { given, first, prefix });
        }
        Ok(Self { first, prefix })
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.first, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(range: &str, inside: &[&str], outside: &[&str]) {
        let range: AddressRange = range.parse().unwrap();
        for address in inside {
            assert!(range.contains(address.parse().unwrap()), "{range} has {address}");
        }
        for address in outside {
            assert!(!range.contains(address.parse().unwrap()), "{range} has not {address}");
        }
    }

    #[test]
    fn l7_a_range_has_what_begins_like_it() {
        check("10.0.0.0/8", &["10.0.0.0", "10.255.255.255", "::ffff:10.1.2.3"], &["9.255.255.255", "11.0.0.0", "::1"]);
        check("192.0.2.7", &["192.0.2.7"], &["192.0.2.6", "192.0.2.8"]);
        check("0.0.0.0/0", &["1.2.3.4", "255.255.255.255"], &["::1", "fd00::1"]);
        check("fd00::/8", &["fd00::1", "fdff::"], &["fe00::", "10.0.0.1"]);
        check("::/0", &["::1", "fd00::1"], &["10.0.0.1"]);
        check("2001:db8::/127", &["2001:db8::", "2001:db8::1"], &["2001:db8::2"]);
    }

    #[test]
    fn what_is_no_range_is_refused_with_what_is_wrong() {
        let refused = |text: &str| text.parse::<AddressRange>().unwrap_err().to_string();
        for text in ["", "10.0.0", "example.org", "10.0.0.0 /8", "/8"] {
            assert!(refused(text).contains("is no address"), "{text}");
        }
        for text in ["10.0.0.0/33", "10.0.0.0/", "10.0.0.0/+8", "10.0.0.0/-1", "::/129", "10.0.0.0/8/8"] {
            assert!(refused(text).contains("is no number of bits"), "{text}");
        }
        assert!(refused("10.1.0.0/8").contains("`10.0.0.0/8` is"));
    }
}
