//! Loopback in both families: whoever is led to this machine comes by the one that it was calling in.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustix::io::Errno;

/// Both addresses of loopback.
pub(crate) const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Reports whether listening failed because the machine has no such family, and nobody can come by it: any other failure
/// leaves somebody without an answer.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    [Errno::ADDRNOTAVAIL, Errno::AFNOSUPPORT].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_ipv6_is_told_from_one_that_has_no_more_room() {
        let of = |errno: Errno| io::Error::from_raw_os_error(errno.raw_os_error());
        assert!([Errno::ADDRNOTAVAIL, Errno::AFNOSUPPORT].into_iter().all(|errno| is_absent(&of(errno))));
        assert!([Errno::ADDRINUSE, Errno::MFILE, Errno::ACCESS].into_iter().all(|errno| !is_absent(&of(errno))));
    }
}
