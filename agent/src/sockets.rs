//! Who listens on this machine, or in this container, by what the kernel shows of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A longer table is cut: looking is never allowed to take long.
const LINES_MAX: usize = 65_536;
/// How the kernel writes that a socket listens.
const LISTENS: &str = "0A";
/// The kernel's tables of this network namespace. They are this process's own: the unit shows it nothing else of `/proc`.
const TABLES: [&str; 2] = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];

/// Is a socket that listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listening {
    pub(crate) address: SocketAddr,
    /// The number of the user that it belongs to.
    pub(crate) user: u32,
}

/// Is a line of the tables.
struct Socket {
    local: SocketAddr,
    remote: SocketAddr,
    listens: bool,
    user: u32,
}

/// Lists the TCP sockets that listen in this network namespace; none where the kernel shows no table.
pub(crate) fn listening() -> Option<Vec<Listening>> {
    let sockets = tables()?.into_iter().flat_map(|table| read(&table).collect::<Vec<_>>());
    let listening = sockets.filter(|socket| socket.listens);
    Some(listening.map(|socket| Listening { address: socket.local, user: socket.user }).collect())
}

/// Returns the number of the user whose socket is at the other end of a connection within this machine, as the end here sees
/// it; none where that cannot be seen.
pub(crate) fn user_of(client: SocketAddr, own: SocketAddr) -> Option<u32> {
    let is_it = |socket: &Socket| !socket.listens && same(socket.local, client) && same(socket.remote, own);
    tables()?.iter().find_map(|table| read(table).find(is_it)).map(|socket| socket.user)
}

fn same(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() == other.port() && one.ip().to_canonical() == other.ip().to_canonical()
}

/// Reads the tables, which are files of the kernel's and none of a disk's; none where there is neither.
fn tables() -> Option<Vec<String>> {
    let tables: Vec<String> = TABLES.iter().filter_map(|path| std::fs::read_to_string(path).ok()).collect();
    (!tables.is_empty()).then_some(tables)
}

fn read(table: &str) -> impl Iterator<Item = Socket> {
    table.lines().skip(1).take(LINES_MAX).filter_map(read_line)
}

fn read_line(line: &str) -> Option<Socket> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (local, remote, state) = (fields.next()?, fields.next()?, fields.next()?);
    let user = fields.nth(3)?.parse().ok()?;
    Some(Socket { local: read_socket(local)?, remote: read_socket(remote)?, listens: state == LISTENS, user })
}

fn read_socket(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    Some(SocketAddr::new(read_address(address)?, u16::from_str_radix(port, 16).ok()?))
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
    use std::net::{TcpListener, TcpStream};

    use socket2::Socket as Socket2;

    use super::*;

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
         0: 0100007F:4A38 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 12345 1 0 100 0 0 10 0\n\
         1: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000    33        0 12346 1 0 100 0 0 10 0\n\
         2: 0100007F:D2F0 0100007F:4A38 01 00000000:00000000 00:00000000 00000000  1000        0 12347 1 0 20 4 30 10 -1\n\
         nonsense\n";
    const TABLE_6: &str = "  sl  local_address                         remote_address                        st\n\
         0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0\n";

    fn listeners(table: &str) -> Vec<Listening> {
        let listening = read(table).filter(|socket| socket.listens);
        listening.map(|socket| Listening { address: socket.local, user: socket.user }).collect()
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn the_kernels_table_is_read() {
        let local = Listening { address: "127.0.0.1:19000".parse().unwrap(), user: 1000 };
        assert_eq!(listeners(TABLE), [local, Listening { address: "0.0.0.0:80".parse().unwrap(), user: 33 }]);
        assert_eq!(listeners(TABLE_6), [Listening { address: "[::1]:8080".parse().unwrap(), user: 0 }]);
        assert!(listeners("").is_empty() && listeners("x\ny\n").is_empty());
        for wrong in ["0100007F", "0100:1F90", "0100007F:XX", ""] {
            assert_eq!(read_socket(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_listens_here_is_seen() {
        // A port that is held and not listened at is nobody else's meanwhile.
        let own = Socket2::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        own.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let address = own.local_addr().unwrap().as_socket().unwrap();
        let is_seen = || listening().unwrap().iter().any(|found| found.address == address);
        assert!(!is_seen());
        own.listen(1).unwrap();
        assert!(is_seen());
    }

    #[test]
    fn whose_connection_it_is_is_seen_whatever_family_it_was_made_in() {
        let own = rustix::process::getuid().as_raw();
        for (listens, dials) in [("127.0.0.1", "127.0.0.1"), ("::", "127.0.0.1"), ("::1", "::1")] {
            let listener = TcpListener::bind((listens, 0)).unwrap();
            let client = TcpStream::connect((dials, listener.local_addr().unwrap().port())).unwrap();
            let (stream, from) = listener.accept().unwrap();
            assert_eq!(user_of(from, stream.local_addr().unwrap()), Some(own), "{dials} to {listens}");
            drop(client);
            assert_eq!(user_of("127.0.0.1:1".parse().unwrap(), stream.local_addr().unwrap()), None);
        }
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn l10_whoever_has_a_port_is_named() {
        let sockets = listeners(TABLE);
        let wanted = |text: &str| whoever_has(text.parse().unwrap(), &sockets);
        assert_eq!(wanted("127.64.0.1:80").unwrap(), "a process of the user 33 listens on 0.0.0.0:80");
        assert_eq!(wanted("127.0.0.1:19000").unwrap(), "a process of the user 1000 listens on 127.0.0.1:19000");
        assert_eq!(wanted("127.64.0.1:19000"), None, "another address of loopback is free");
        assert_eq!(wanted("127.64.0.1:81"), None);
    }
}
