//! Who listens on this machine, or in this container, by what the kernel shows of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A longer table is cut: looking is never allowed to take long.
const LINES_MAX: usize = 65_536;
/// How the kernel writes that a socket listens.
const LISTENS: &str = "0A";

/// Is a socket that listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listening {
    pub(crate) address: SocketAddr,
    /// The number of the user that it belongs to.
    pub(crate) user: u32,
}

/// Lists the TCP sockets that listen in this network namespace. It reads files of the kernel's, and none of a disk's.
pub(crate) fn listening() -> Vec<Listening> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    tables.iter().filter_map(|path| std::fs::read_to_string(path).ok()).flat_map(|table| read(&table)).collect()
}

fn read(table: &str) -> Vec<Listening> {
    table.lines().skip(1).take(LINES_MAX).filter_map(read_line).collect()
}

fn read_line(line: &str) -> Option<Listening> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (local, _, state) = (fields.next()?, fields.next()?, fields.next()?);
    let user = fields.nth(3)?.parse().ok()?;
    let (address, port) = local.split_once(':')?;
    let address = SocketAddr::new(read_address(address)?, u16::from_str_radix(port, 16).ok()?);
    (state == LISTENS).then_some(Listening { address, user })
}

/// Reads an address as the kernel writes it: words of 32 bits, each in this machine's own order.
fn read_address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(text.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    match text.len() {
        8 => Some(IpAddr::V4(Ipv4Addr::from(word(0)?))),
        32 => {
            let mut bytes = [0; 16];
            for (number, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(number * 8)?);
            }
            Some(IpAddr::V6(Ipv6Addr::from(bytes)))
        }
        _ => None,
    }
}

/// Says who keeps `wanted` from being listened at, where that can be seen.
pub(crate) fn whoever_has(wanted: SocketAddr, sockets: &[Listening]) -> Option<String> {
    let stands_in_the_way = |found: &&Listening| {
        let there = found.address.ip().to_canonical();
        found.address.port() == wanted.port() && (there.is_unspecified() || there == wanted.ip())
    };
    let found = sockets.iter().find(stands_in_the_way)?;
    Some(format!("a process of the user {} listens on {}", found.user, found.address))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
         0: 0100007F:4A38 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 12345 1 0 100 0 0 10 0\n\
         1: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000    33        0 12346 1 0 100 0 0 10 0\n\
         2: 0100007F:D2F0 0100007F:4A38 01 00000000:00000000 00:00000000 00000000  1000        0 12347 1 0 20 4 30 10 -1\n\
         nonsense\n";
    const TABLE_6: &str = "  sl  local_address                         remote_address                        st\n\
         0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0\n";

    #[test]
    fn the_kernels_table_is_read() {
        let found = read(TABLE);
        let local = Listening { address: "127.0.0.1:19000".parse().unwrap(), user: 1000 };
        assert_eq!(found, [local, Listening { address: "0.0.0.0:80".parse().unwrap(), user: 33 }]);
        assert_eq!(read(TABLE_6), [Listening { address: "[::1]:8080".parse().unwrap(), user: 0 }]);
        assert!(read("").is_empty() && read("x\ny\n").is_empty());
    }

    #[test]
    fn what_listens_here_is_seen() {
        let own = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = own.local_addr().unwrap();
        assert!(listening().iter().any(|found| found.address == address));
        drop(own);
        assert!(!listening().iter().any(|found| found.address == address));
    }

    #[test]
    fn l10_whoever_has_a_port_is_named() {
        let sockets = read(TABLE);
        let wanted = |text: &str| whoever_has(text.parse().unwrap(), &sockets);
        assert_eq!(wanted("127.64.0.1:80").unwrap(), "a process of the user 33 listens on 0.0.0.0:80");
        assert_eq!(wanted("127.0.0.1:19000").unwrap(), "a process of the user 1000 listens on 127.0.0.1:19000");
        assert_eq!(wanted("127.64.0.1:19000"), None, "another address of loopback is free");
        assert_eq!(wanted("127.64.0.1:81"), None);
    }
}
