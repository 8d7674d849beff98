//! The number that each service is found by, and the addresses that it stands for.
//!
//! An application that knows nothing of the mesh calls a service by an address of its own. Nothing listens there: what goes to
//! it is taken on its way by the caller's agent. Numbers are given by the state machine, so that an address means the same
//! service on every machine and after every restart.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::{ServiceKey, Timestamp};

/// Where virtual addresses begin: the first of `240.0.0.0/4`, which no network routes.
const VIRTUAL_V4: Ipv4Addr = Ipv4Addr::new(240, 0, 0, 0);
/// Where those of IPv6 begin: a prefix of `fd00::/8` that is the same in every mesh, since it never leaves a machine. Rules that
/// take what goes to it can be written while no agent runs.
const VIRTUAL_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0x6566, 0x7400, 0, 0, 0, 0, 0);
/// Where loopback addresses begin.
const LOOPBACK: Ipv4Addr = Ipv4Addr::new(127, 64, 0, 0);

/// Numbers a service within a datacenter: 1 to [`AddressNumber::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct AddressNumber(u32);

impl AddressNumber {
    /// Is the last number: what fits into `127.64.0.0/10`, without that network's own first and last address.
    pub const MAX: u32 = (1 << 22) - 2;
    /// Is the network of virtual IPv4 addresses.
    pub const NETWORK_V4: &str = "240.0.0.0/10";
    /// Is the network of virtual IPv6 addresses.
    pub const NETWORK_V6: &str = "fd77:6566:7400::/96";
    /// Is the one virtual address that no service ever has: rules that lead connections away can be tried with it.
    pub const NOBODYS: Ipv4Addr = Ipv4Addr::new(240, 63, 255, 255);

    /// Makes a number; none of what is out of range.
    #[must_use]
    pub fn new(number: u32) -> Option<Self> {
        (1..=Self::MAX).contains(&number).then_some(Self(number))
    }

    /// Returns the number itself.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }

    /// Returns the number after this one; the first after the last.
    #[must_use]
    pub fn next(self) -> Self {
        Self::new(self.0 + 1).unwrap_or(Self(1))
    }

    /// Returns the address that stands for the service in IPv4.
    #[must_use]
    pub fn virtual_v4(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(VIRTUAL_V4) + self.0)
    }

    /// Returns the address that stands for the service in IPv6.
    #[must_use]
    pub fn virtual_v6(self) -> Ipv6Addr {
        Ipv6Addr::from(u128::from(VIRTUAL_V6) + u128::from(self.0))
    }

    /// Returns the loopback address at which an agent listens for calls to the service where nothing can be redirected.
    #[must_use]
    pub fn loopback(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(LOOPBACK) + self.0)
    }

    /// Returns the number whose virtual address this is; none of any other address.
    #[must_use]
    pub fn of_virtual(address: IpAddr) -> Option<Self> {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::new(u32::from(address).checked_sub(u32::from(VIRTUAL_V4))?),
            IpAddr::V6(address) => {
                let offset = u128::from(address).checked_sub(u128::from(VIRTUAL_V6))?;
                Self::new(u32::try_from(offset).ok()?)
            }
        }
    }

    /// Reports whether an address is of the networks that stand for services, given to one or not: nobody is ever reached
    /// there.
    #[must_use]
    pub fn is_virtual(address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => u32::from(address) >> 22 == u32::from(VIRTUAL_V4) >> 22,
            IpAddr::V6(address) => u128::from(address) >> 32 == u128::from(VIRTUAL_V6) >> 32,
        }
    }
}

impl TryFrom<u32> for AddressNumber {
    type Error = NoAddressNumber;

    fn try_from(number: u32) -> Result<Self, NoAddressNumber> {
        Self::new(number).ok_or(NoAddressNumber(number))
    }
}

impl From<AddressNumber> for u32 {
    fn from(number: AddressNumber) -> Self {
        number.0
    }
}

impl fmt::Display for AddressNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Explains that a number is none of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no number of a service: they go from 1 to {max}", max = AddressNumber::MAX)]
pub struct NoAddressNumber(u32);

/// Is the number that a service has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allotment {
    /// The service.
    pub service: ServiceKey,
    /// Its number.
    pub number: AddressNumber,
    /// Since when nobody serves, calls or shapes it; its number is kept for a while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unused_since: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_and_its_addresses_are_one() {
        for number in [1, 2, 255, 256, 65_536, AddressNumber::MAX] {
            let number = AddressNumber::new(number).unwrap();
            for address in [IpAddr::V4(number.virtual_v4()), IpAddr::V6(number.virtual_v6())] {
                assert_eq!(AddressNumber::of_virtual(address), Some(number), "{address}");
                assert!(AddressNumber::is_virtual(address), "{address}");
            }
            assert!(number.loopback().is_loopback());
            assert_eq!(AddressNumber::of_virtual(number.loopback().into()), None);
        }
        let first = AddressNumber::new(1).unwrap();
        assert_eq!(first.virtual_v4().to_string(), "240.0.0.1");
        assert_eq!(first.virtual_v6().to_string(), "fd77:6566:7400::1");
        assert_eq!(first.loopback().to_string(), "127.64.0.1");
        let mapped: IpAddr = "::ffff:240.0.0.1".parse().unwrap();
        assert_eq!(AddressNumber::of_virtual(mapped), Some(first));
        assert_eq!(AddressNumber::new(AddressNumber::MAX).unwrap().loopback().to_string(), "127.127.255.254");
    }

    #[test]
    fn no_other_address_is_a_services() {
        for other in ["10.0.0.1", "239.255.255.255", "241.0.0.1", "255.255.255.255", "::1", "fd77:6566:7400:1::1"] {
            let other: IpAddr = other.parse().unwrap();
            assert_eq!(AddressNumber::of_virtual(other), None, "{other}");
            assert!(!AddressNumber::is_virtual(other), "{other}");
        }
        assert_eq!(AddressNumber::NOBODYS.to_string(), "240.63.255.255");
        for nobodys in ["240.0.0.0", "240.63.255.255", "fd77:6566:7400::"] {
            let nobodys: IpAddr = nobodys.parse().unwrap();
            assert_eq!(AddressNumber::of_virtual(nobodys), None, "{nobodys}");
            assert!(AddressNumber::is_virtual(nobodys), "{nobodys}");
        }
        assert!(AddressNumber::new(0).is_none() && AddressNumber::new(AddressNumber::MAX + 1).is_none());
        assert!(serde_json::from_str::<AddressNumber>("0").is_err());
    }
}
