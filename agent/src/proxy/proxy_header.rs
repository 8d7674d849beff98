//! The PROXY protocol: how a load balancer says for whom it calls, and how an application that asks for it is told who does.

use std::io;
use std::net::{IpAddr, SocketAddr};

use ppp::{v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The longest header that is taken, with all that it says beside the addresses. Nothing of that is passed on.
const BYTES_MAX: usize = 4096;

/// What every header of version 2 begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The bytes that say how long the rest of a header of version 2 is.
const FIXED_BYTES: usize = 16;

/// The longest header of version 1 (the protocol's section 2.1).
const LINE_BYTES_MAX: usize = 107;

/// Names the caller to the application: the first of the types that are nobody's.
const TYPE_IDENTITY: u8 = 0xE0;

/// Says why what a connection begins with is no header.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeaderError {
    /// It is something else, or one of the two versions told wrongly.
    #[error("the connection does not begin with a header of the PROXY protocol")]
    Malformed,
    /// It is longer than anybody needs.
    #[error("the header of the PROXY protocol is longer than {BYTES_MAX} bytes")]
    TooLong,
    /// It is of something else than TCP over IP.
    #[error("the header of the PROXY protocol is not about a TCP connection")]
    NotTcp,
    /// The connection ended or failed before it was whole.
    #[error("the connection ended in the header of the PROXY protocol")]
    Cut(#[source] io::Error),
}

impl HeaderError {
    /// Returns the label of the metric that counts it.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Malformed | Self::NotTcp => "proxy_header",
            Self::TooLong => "proxy_header_too_long",
            Self::Cut(_) => "connection_lost",
        }
    }
}

/// Reads the header that a connection begins with, and not a byte more; returns for whom it is opened, unless the one who
/// opened it speaks for itself.
pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<SocketAddr>, HeaderError> {
    let mut header = vec![0; SIGNATURE.len()];
    stream.read_exact(&mut header).await.map_err(HeaderError::Cut)?;
    if header == SIGNATURE {
        return read_binary(stream, header).await;
    }
    if !header.starts_with(b"PROXY ") {
        return Err(HeaderError::Malformed);
    }
    // Its end is not known before it is there, and what follows is not ours.
    while !header.ends_with(b"\r\n") {
        if header.len() >= LINE_BYTES_MAX {
            return Err(HeaderError::Malformed);
        }
        header.push(stream.read_u8().await.map_err(HeaderError::Cut)?);
    }
    match v1::Header::try_from(header.as_slice()).map_err(|_| HeaderError::Malformed)?.addresses {
        v1::Addresses::Tcp4(tcp) => Ok(Some(SocketAddr::new(IpAddr::V4(tcp.source_address), tcp.source_port))),
        v1::Addresses::Tcp6(tcp) => Ok(Some(SocketAddr::new(IpAddr::V6(tcp.source_address), tcp.source_port))),
        v1::Addresses::Unknown => Ok(None),
    }
}

async fn read_binary(
    stream: &mut (impl AsyncRead + Unpin),
    mut header: Vec<u8>,
) -> Result<Option<SocketAddr>, HeaderError> {
    header.resize(FIXED_BYTES, 0);
    let fixed = header.get_mut(SIGNATURE.len()..).ok_or(HeaderError::Malformed)?;
    stream.read_exact(fixed).await.map_err(HeaderError::Cut)?;
    let &[.., high, low] = &*fixed else { return Err(HeaderError::Malformed) };
    let length = FIXED_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if length > BYTES_MAX {
        return Err(HeaderError::TooLong);
    }
    header.resize(length, 0);
    let rest = header.get_mut(FIXED_BYTES..).ok_or(HeaderError::Malformed)?;
    stream.read_exact(rest).await.map_err(HeaderError::Cut)?;
    let header = v2::Header::try_from(header.as_slice()).map_err(|_| HeaderError::Malformed)?;
    if header.command == v2::Command::Local {
        // A health check of the load balancer's own, say.
        return Ok(None);
    }
    if header.protocol != v2::Protocol::Stream {
        return Err(HeaderError::NotTcp);
    }
    match header.addresses {
        v2::Addresses::IPv4(v4) => Ok(Some(SocketAddr::new(IpAddr::V4(v4.source_address), v4.source_port))),
        v2::Addresses::IPv6(v6) => Ok(Some(SocketAddr::new(IpAddr::V6(v6.source_address), v6.source_port))),
        v2::Addresses::Unspecified | v2::Addresses::Unix(_) => Err(HeaderError::NotTcp),
    }
}

/// Says for whom a connection to an application is opened.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Opener<'a> {
    /// Somebody whose identity is known.
    Caller { from: SocketAddr, identity: &'a str },
    /// Somebody at an address, of whom nothing else is known.
    Stranger { from: SocketAddr },
    /// The agent itself, for as many as will share the connection.
    Agent,
}

/// Returns the header, of version 2, that tells an application at `to` for whom a connection is opened.
pub(crate) fn write(opener: Opener<'_>, to: SocketAddr) -> io::Result<Vec<u8>> {
    match opener {
        Opener::Caller { from, identity } => {
            of_connection(from, to).write_tlv(TYPE_IDENTITY, identity.as_bytes())?.build()
        }
        Opener::Stranger { from } => of_connection(from, to).build(),
        Opener::Agent => {
            let nobody = v2::Addresses::Unspecified;
            let local = v2::Version::Two | v2::Command::Local;
            v2::Builder::with_addresses(local, v2::Protocol::Unspecified, nobody).build()
        }
    }
}

fn of_connection(from: SocketAddr, to: SocketAddr) -> v2::Builder {
    let (source, destination) = (from.ip().to_canonical(), to.ip().to_canonical());
    let addresses: v2::Addresses = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            v2::IPv4::new(source, destination, from.port(), to.port()).into()
        }
        (source, destination) => v2::IPv6::new(mapped(source), mapped(destination), from.port(), to.port()).into(),
    };
    v2::Builder::with_addresses(v2::Version::Two | v2::Command::Proxy, v2::Protocol::Stream, addresses)
}

fn mapped(address: IpAddr) -> std::net::Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a header out of bytes that go on; returns what it says and what is left.
    async fn reading(bytes: &[u8]) -> Result<(Option<String>, Vec<u8>), HeaderError> {
        let mut stream = bytes;
        let found = read(&mut stream).await?;
        Ok((found.map(|address| address.to_string()), stream.to_vec()))
    }

    fn binary(version_and_command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut header = SIGNATURE.to_vec();
        header.extend([version_and_command, family]);
        header.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
        header.extend(rest);
        header
    }

    const V4: [u8; 12] = [192, 0, 2, 1, 10, 0, 0, 1, 0x30, 0x39, 0, 80];

    #[tokio::test]
    async fn l7_a_header_of_either_version_is_read_to_its_end_and_no_further() {
        let mut v6 = [0; 36];
        (v6[0], v6[15], v6[33]) = (0xfd, 1, 7);
        let with_more = [&V4[..], &[0x04, 0, 3, 1, 2, 3]].concat();
        for (header, want) in [
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 12345 80\r\n".to_vec(), Some("192.0.2.1:12345")),
            (b"PROXY TCP6 fd00::1 fd00::2 1 2\r\n".to_vec(), Some("[fd00::1]:1")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (binary(0x21, 0x11, &V4), Some("192.0.2.1:12345")),
            (binary(0x21, 0x11, &with_more), Some("192.0.2.1:12345")),
            (binary(0x21, 0x21, &v6), Some("[fd00::1]:7")),
            (binary(0x20, 0x00, &[]), None),
        ] {
            let bytes = [&header[..], b"GET / HTTP/1.1\r\n"].concat();
            let (found, rest) = reading(&bytes).await.unwrap();
            assert_eq!((found.as_deref(), &rest[..]), (want, &b"GET / HTTP/1.1\r\n"[..]), "{header:?}");
            for end in 0..header.len() {
                assert!(matches!(reading(&header[..end]).await, Err(HeaderError::Cut(_))), "{header:?} cut at {end}");
            }
        }
    }

    #[tokio::test]
    async fn l7_what_is_no_header_is_refused() {
        let long_line = [&b"PROXY TCP4 "[..], &[b'1'; 200]].concat();
        for bytes in [
            b"GET / HTTP/1.1\r\nhost: api\r\n\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 99999 80\r\n".to_vec(),
            b"PROXY TCP4 example.org 10.0.0.1 1 80\r\n".to_vec(),
            b"proxy tcp4 192.0.2.1 10.0.0.1 1 80\r\n".to_vec(),
            long_line,
            binary(0x11, 0x11, &V4),
            binary(0x22, 0x11, &V4),
            binary(0x21, 0x11, &V4[..8]),
        ] {
            let refused = reading(&bytes).await;
            assert!(matches!(refused, Err(HeaderError::Malformed)), "{bytes:?}: {refused:?}");
        }
        for bytes in [binary(0x21, 0x12, &V4), binary(0x21, 0x31, &[0; 216]), binary(0x21, 0x00, &[])] {
            assert!(matches!(reading(&bytes).await, Err(HeaderError::NotTcp)), "{bytes:?}");
        }
        let giant = binary(0x21, 0x11, &[0; 60_000]);
        assert!(matches!(reading(&giant).await, Err(HeaderError::TooLong)));
    }

    #[tokio::test]
    async fn l7_what_an_application_is_told_can_be_read_and_names_the_caller() {
        let id = "spiffe://mesh.test/ns/default/sa/web";
        for (from, to) in
            [("192.0.2.1:7", "127.0.0.1:80"), ("[fd00::1]:7", "127.0.0.1:80"), ("192.0.2.1:7", "[::1]:80")]
        {
            let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
            let known = (TYPE_IDENTITY, id.as_bytes().to_vec());
            for (opener, want) in
                [(Opener::Caller { from, identity: id }, vec![known]), (Opener::Stranger { from }, vec![])]
            {
                let header = write(opener, to).unwrap();
                let read_back = reading(&header).await.unwrap().0.unwrap().parse::<SocketAddr>().unwrap();
                assert_eq!((read_back.ip().to_canonical(), read_back.port()), (from.ip(), from.port()), "{opener:?}");
                let parsed = v2::Header::try_from(header.as_slice()).unwrap();
                let told: Vec<(u8, Vec<u8>)> =
                    parsed.tlvs().map(|told| told.unwrap()).map(|told| (told.kind, told.value.to_vec())).collect();
                assert_eq!(told, want, "{opener:?}");
            }
        }
        let own = write(Opener::Agent, "127.0.0.1:80".parse().unwrap()).unwrap();
        assert_eq!(reading(&own).await.unwrap(), (None, Vec::new()));
    }
}
