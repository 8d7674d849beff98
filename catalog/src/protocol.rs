//! How the bytes of a service are read.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::node::{UnknownWord, words};

/// Names the protocol of a service, as its `service-defaults` say it. The destination's decides how a stream is read:
/// never the stream's kind or its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Bytes that nobody looks into.
    #[default]
    Tcp,
    /// HTTP in any version, which the application is spoken to in as its caller spoke.
    Http,
    /// HTTP/2, which the application is always spoken to in.
    Http2,
    /// gRPC, which is HTTP/2.
    Grpc,
}
words!(Protocol, "protocol", "`tcp`, `http`, `http2` or `grpc`", {
    Tcp = "tcp", Http = "http", Http2 = "http2", Grpc = "grpc"
});

impl Protocol {
    /// Reports whether requests can be told apart, so that rules may speak of them.
    #[must_use]
    pub fn is_http(self) -> bool {
        self != Self::Tcp
    }

    /// Reports whether the application takes HTTP/2 only.
    #[must_use]
    pub fn is_http2_only(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protocol_reads_as_it_is_written_and_an_unknown_one_is_refused() {
        for (protocol, is_http, is_http2_only) in [
            (Protocol::Tcp, false, false),
            (Protocol::Http, true, false),
            (Protocol::Http2, true, true),
            (Protocol::Grpc, true, true),
        ] {
            assert_eq!(protocol.as_str().parse(), Ok(protocol));
            assert_eq!(serde_json::to_string(&protocol).unwrap(), format!("\"{protocol}\""));
            assert_eq!((protocol.is_http(), protocol.is_http2_only()), (is_http, is_http2_only));
        }
        assert_eq!(Protocol::default(), Protocol::Tcp);
        let error = "HTTP/3".parse::<Protocol>().unwrap_err();
        assert_eq!(error.to_string(), "`HTTP/3` is no protocol: use `tcp`, `http`, `http2` or `grpc`");
    }
}
