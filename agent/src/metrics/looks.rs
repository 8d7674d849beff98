//! What the first bytes of a connection look like that nobody looks into.
//!
//! It is counted, so that an operator finds services whose protocol nobody wrote down, and nothing else comes of it: how
//! bytes are read is the destination's word alone.

/// Names what carries a connection's bytes, by its first ones.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Look {
    /// A request of HTTP/1.
    Http1,
    /// The preface of HTTP/2, gRPC's included.
    Http2,
    /// The hello of a TLS client.
    Tls,
    /// The application spoke first, as databases and mail servers do.
    ServerFirst,
    /// None of these.
    Other,
}

/// The methods that a request of HTTP/1 is likely to begin with.
const METHODS: [&[u8]; 9] =
    [b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"OPTIONS ", b"PATCH ", b"CONNECT ", b"TRACE "];

impl Look {
    /// Judges the first bytes that a caller sent, as many as came at once.
    pub(crate) fn of_caller(bytes: &[u8]) -> Self {
        if bytes.starts_with(b"PRI * HTTP/2.0") {
            return Self::Http2;
        }
        if METHODS.iter().any(|method| bytes.starts_with(method)) {
            return Self::Http1;
        }
        // A record of type handshake, of any version that was ever written there (RFC 8446 section 5.1).
        match bytes {
            [0x16, 0x03, 0..=4, ..] => Self::Tls,
            _ => Self::Other,
        }
    }

    /// Returns the label of the metric.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Tls => "tls",
            Self::ServerFirst => "server_first",
            Self::Other => "other",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_are_told_apart() {
        let rows: [(&[u8], Look); 9] = [
            (b"GET / HTTP/1.1\r\n", Look::Http1),
            (b"OPTIONS * HTTP/1.1", Look::Http1),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Look::Http2),
            (&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01], Look::Tls),
            (&[0x16, 0x03, 0x09], Look::Other),
            (b"GETTING", Look::Other),
            (b"get / HTTP/1.1", Look::Other),
            (&[0, 0, 0, 8, 4, 210, 22, 47], Look::Other),
            (b"", Look::Other),
        ];
        for (bytes, want) in rows {
            assert_eq!(Look::of_caller(bytes), want, "{bytes:?}");
        }
    }
}
