//! Reading whom a TLS client asks for, without taking part in its handshake.

use std::fmt;

use rustls::server::Acceptor;

/// How many bytes a client may send before its hello is complete: hybrid key exchange and long extensions take a few thousand.
pub const CLIENT_HELLO_BYTES_MAX: usize = 16 * 1024;

/// Says why no server name can be read.
#[derive(Debug, thiserror::Error)]
pub enum ClientHelloError {
    /// What was sent is no TLS, or no hello.
    #[error("what the client sent is no TLS hello")]
    NotTls(#[source] rustls::Error),
    /// The hello has no end.
    #[error("the client's hello is longer than {CLIENT_HELLO_BYTES_MAX} bytes")]
    TooLong,
    /// The hello names no host.
    #[error("the client's hello names no server")]
    NoServerName,
}

/// Reads a client's hello as it arrives, keeping its bytes to be passed on untouched.
#[derive(Default)]
pub struct ClientHelloReader {
    acceptor: Acceptor,
    bytes: Vec<u8>,
}

impl fmt::Debug for ClientHelloReader {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ClientHelloReader").field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

impl ClientHelloReader {
    /// Takes what arrived next; returns the server name once the hello is complete. Not to be called again after that, nor
    /// after an error.
    ///
    /// # Errors
    ///
    /// [`ClientHelloError`] says why there will be none, however much follows.
    pub fn take(&mut self, mut arrived: &[u8]) -> Result<Option<String>, ClientHelloError> {
        if self.bytes.len() + arrived.len() > CLIENT_HELLO_BYTES_MAX {
            return Err(ClientHelloError::TooLong);
        }
        self.bytes.extend_from_slice(arrived);
        while !arrived.is_empty() {
            // Its own buffer is larger than what is let in here, so that only nonsense fails.
            self.acceptor.read_tls(&mut arrived).map_err(|_| ClientHelloError::TooLong)?;
            let Some(accepted) = self.acceptor.accept().map_err(|(error, _)| ClientHelloError::NotTls(error))? else {
                continue;
            };
            let name = accepted.client_hello().server_name().map(str::to_owned);
            return name.map(Some).ok_or(ClientHelloError::NoServerName);
        }
        Ok(None)
    }

    /// Returns all that was taken so far.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use rustls::{ClientConnection, RootCertStore};

    use super::*;

    /// Returns the first flight of a client that asks for `name`.
    fn hello(name: &'static str) -> Vec<u8> {
        let config = crate::tls::web_client_config(RootCertStore::empty());
        let mut client = ClientConnection::new(Arc::new(config), name.try_into().unwrap()).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn l3_the_server_name_is_read_however_the_hello_is_cut_and_its_bytes_are_kept() {
        let hello = hello("api.default.dc1.internal.mesh.example");
        assert!(hello.len() > 1200, "a hybrid key share is in it: {}", hello.len());
        for size in [1, 7, 500, 4096, hello.len()] {
            let mut reader = ClientHelloReader::default();
            let mut found = Vec::new();
            for piece in hello.chunks(size) {
                found.extend(reader.take(piece).unwrap());
            }
            assert_eq!(found, ["api.default.dc1.internal.mesh.example"], "in pieces of {size}");
            assert_eq!(reader.into_bytes(), hello);
        }
    }

    #[test]
    fn l1_l2_l3_what_is_no_hello_has_no_end_or_names_nobody_is_refused() {
        let refused = |bytes: &[u8]| ClientHelloReader::default().take(bytes).unwrap_err();
        assert!(matches!(refused(b"GET / HTTP/1.1\r\nhost: api\r\n\r\n"), ClientHelloError::NotTls(_)));
        assert!(matches!(refused(b"\x80\x2e\x01\x00\x02"), ClientHelloError::NotTls(_)));
        assert!(matches!(refused(&[0; 64]), ClientHelloError::NotTls(_)));
        assert!(matches!(refused(&hello("127.0.0.1")), ClientHelloError::NoServerName));
        // Records of a hello that is announced as longer than anything that is let in.
        let mut reader = ClientHelloReader::default();
        let mut first = vec![0x16, 3, 1, 0x10, 0, 1, 0, 0xf0, 0];
        first.resize(5 + 0x1000, 0);
        let mut outcome = reader.take(&first);
        for _ in 0..8 {
            if outcome.is_err() {
                break;
            }
            let mut next = vec![0x16, 3, 1, 0x10, 0];
            next.resize(5 + 0x1000, 0);
            outcome = reader.take(&next);
        }
        assert!(matches!(outcome, Err(ClientHelloError::TooLong | ClientHelloError::NotTls(_))), "{outcome:?}");
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..600),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
            size in 1usize..300,
        ) {
            let mut damaged = hello("api.default.dc1.internal.mesh.example");
            let at = at.index(damaged.len());
            damaged[at] = byte;
            for sent in [damaged, bytes] {
                let mut reader = ClientHelloReader::default();
                for piece in sent.chunks(size) {
                    if !matches!(reader.take(piece), Ok(None)) {
                        break;
                    }
                }
            }
        }
    }
}
