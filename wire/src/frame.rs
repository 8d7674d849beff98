//! Messages on a stream: four bytes of length, big endian, then that many bytes of JSON.

use std::collections::BTreeMap;
use std::io;

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body;
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};

/// The largest message, without its length.
pub const FRAME_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How the kind of a message starts that whoever does not know it passes over.
pub const OPTIONAL_KIND: &str = "may-";

const LENGTH_BYTES: usize = 4;

/// Why bytes are not a message, or a message does not become bytes.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The message is larger than both sides have agreed on.
    #[error("a message of {length} bytes is larger than {FRAME_BYTES_MAX}")]
    TooLarge {
        /// Its length, as far as it is known.
        length: usize,
    },
    /// The bytes are no message that this release knows.
    #[error("a message of {length} bytes cannot be read")]
    Unreadable {
        /// The message's length.
        length: usize,
        /// Where reading failed.
        #[source]
        source: serde_json::Error,
    },
    /// A value cannot be written as JSON.
    #[error("a message cannot be written")]
    Unwritable(#[source] serde_json::Error),
    /// The stream ended within a message.
    #[error("the stream ended {missing} bytes before the end of a message")]
    Truncated {
        /// How many bytes were still to come, as far as it is known.
        missing: usize,
    },
}

/// Returns `message` as it goes over the wire, length first.
///
/// # Errors
///
/// [`FrameError::TooLarge`] for a message above [`FRAME_BYTES_MAX`], of which no more than that is ever held.
pub fn encode_frame<T: Serialize + ?Sized>(message: &T) -> Result<Bytes, FrameError> {
    let mut bounded = Bounded { bytes: vec![0; LENGTH_BYTES], is_full: false };
    if let Err(error) = serde_json::to_writer(&mut bounded, message) {
        return Err(if bounded.is_full {
            FrameError::TooLarge { length: FRAME_BYTES_MAX + 1 }
        } else {
            FrameError::Unwritable(error)
        });
    }
    let mut bytes = bounded.bytes;
    let length = bytes.len() - LENGTH_BYTES;
    let header = u32::try_from(length).map_err(|_| FrameError::TooLarge { length })?;
    bytes[..LENGTH_BYTES].copy_from_slice(&header.to_be_bytes());
    Ok(bytes.into())
}

/// Collects what is written, up to the largest message.
struct Bounded {
    bytes: Vec<u8>,
    is_full: bool,
}

impl io::Write for Bounded {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + part.len() > LENGTH_BYTES + FRAME_BYTES_MAX {
            self.is_full = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Finds messages in bytes that arrive in pieces of any size.
///
/// It holds what has arrived and no more: an announced length is checked, and nothing is allocated for it.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    arrived: BytesMut,
}

impl FrameDecoder {
    /// Takes the next bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.arrived.extend_from_slice(bytes);
    }

    /// Returns the next message if all of it has arrived. Those of a later release that may be passed over are.
    ///
    /// # Errors
    ///
    /// [`FrameError`] for anything that is not a message. The stream is of no use afterwards.
    pub fn decode<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        loop {
            let Some(length) = self.announced() else { return Ok(None) };
            if length > FRAME_BYTES_MAX {
                return Err(FrameError::TooLarge { length });
            }
            if self.arrived.len() < LENGTH_BYTES + length {
                return Ok(None);
            }
            self.arrived.advance(LENGTH_BYTES);
            let message = self.arrived.split_to(length);
            match serde_json::from_slice(&message) {
                Ok(message) => return Ok(Some(message)),
                Err(_) if is_optional(&message) => {}
                Err(source) => return Err(FrameError::Unreadable { length, source }),
            }
        }
    }

    /// Checks, at the end of the stream, that no message was cut short.
    ///
    /// # Errors
    ///
    /// [`FrameError::Truncated`] if one was.
    pub fn finish(&self) -> Result<(), FrameError> {
        if self.arrived.is_empty() {
            return Ok(());
        }
        let whole = LENGTH_BYTES + self.announced().unwrap_or(0);
        Err(FrameError::Truncated { missing: whole.saturating_sub(self.arrived.len()) })
    }

    fn announced(&self) -> Option<usize> {
        let header: [u8; LENGTH_BYTES] = self.arrived.get(..LENGTH_BYTES)?.try_into().ok()?;
        // On the platforms that weft builds for a u32 fits; elsewhere the length is refused as too large.
        Some(usize::try_from(u32::from_be_bytes(header)).unwrap_or(usize::MAX))
    }
}

/// Reports whether a message is of a kind that may be passed over: its kind alone, or the only key of an object.
fn is_optional(message: &[u8]) -> bool {
    let is_optional = |kind: &String| kind.starts_with(OPTIONAL_KIND);
    match serde_json::from_slice::<BTreeMap<String, IgnoredAny>>(message) {
        Ok(tagged) => tagged.len() == 1 && tagged.keys().all(is_optional),
        Err(_) => serde_json::from_slice::<String>(message).as_ref().is_ok_and(is_optional),
    }
}

/// Why the next message of a stream could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FrameReadError<E: std::error::Error + 'static> {
    /// What arrived is not a message.
    #[error(transparent)]
    Frame(FrameError),
    /// The stream broke.
    #[error("the stream broke")]
    Broken(#[source] E),
}

/// Reads messages from a request's or an answer's body.
#[derive(Debug)]
pub struct FrameReader<B> {
    body: B,
    decoder: FrameDecoder,
}

impl<B> FrameReader<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
{
    /// Reads from `body`.
    pub fn new(body: B) -> Self {
        Self { body, decoder: FrameDecoder::default() }
    }

    /// Waits for the next message; none at the end of the stream.
    ///
    /// Nothing is lost when the future is dropped before it is ready.
    ///
    /// # Errors
    ///
    /// [`FrameReadError`]; the stream is of no use afterwards.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameReadError<B::Error>> {
        loop {
            if let Some(message) = self.decoder.decode().map_err(FrameReadError::Frame)? {
                return Ok(Some(message));
            }
            match self.body.frame().await {
                // Trailers carry nothing here.
                Some(Ok(part)) => {
                    if let Some(bytes) = part.data_ref() {
                        self.decoder.push(bytes);
                    }
                }
                Some(Err(error)) => return Err(FrameReadError::Broken(error)),
                None => return self.decoder.finish().map(|()| None).map_err(FrameReadError::Frame),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{Full, StreamBody};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_message_is_its_length_and_its_json() {
        assert_eq!(encode_frame(&json!([1])).unwrap().as_ref(), b"\0\0\0\x03[1]");
    }

    #[test]
    fn a1_a_message_that_is_too_large_is_refused_by_its_length_alone() {
        let mut decoder = FrameDecoder::default();
        decoder.push(&u32::try_from(FRAME_BYTES_MAX + 1).unwrap().to_be_bytes());
        assert!(
            matches!(decoder.decode::<Value>(), Err(FrameError::TooLarge { length }) if length == FRAME_BYTES_MAX + 1)
        );
        let mut decoder = FrameDecoder::default();
        decoder.push(&[0xff; 4]);
        assert!(matches!(decoder.decode::<Value>(), Err(FrameError::TooLarge { .. })));
        // Nothing is set aside for what has only been announced.
        let mut decoder = FrameDecoder::default();
        decoder.push(&u32::try_from(FRAME_BYTES_MAX).unwrap().to_be_bytes());
        assert!(matches!(decoder.decode::<Value>(), Ok(None)));
        assert!(decoder.arrived.capacity() < 1024);
    }

    #[test]
    fn the_largest_message_passes_and_a_larger_one_is_not_written() {
        let text = "x".repeat(FRAME_BYTES_MAX - 2);
        let bytes = encode_frame(&text).unwrap();
        let mut decoder = FrameDecoder::default();
        decoder.push(&bytes);
        assert_eq!(decoder.decode::<String>().unwrap().unwrap().len(), text.len());
        assert!(matches!(encode_frame(&format!("{text}x")), Err(FrameError::TooLarge { .. })));
    }

    #[test]
    fn garbage_and_a_cut_message_are_errors() {
        let mut decoder = FrameDecoder::default();
        decoder.push(b"\0\0\0\x02{]");
        assert!(matches!(decoder.decode::<Value>(), Err(FrameError::Unreadable { length: 2, .. })));
        let mut decoder = FrameDecoder::default();
        decoder.push(b"\0\0\0\0");
        assert!(matches!(decoder.decode::<Value>(), Err(FrameError::Unreadable { length: 0, .. })));
        let mut decoder = FrameDecoder::default();
        decoder.push(b"\0\0\0\x02{");
        assert!(decoder.decode::<Value>().unwrap().is_none());
        assert!(matches!(decoder.finish(), Err(FrameError::Truncated { missing: 1 })));
        let mut decoder = FrameDecoder::default();
        decoder.push(b"\0\0");
        assert!(matches!(decoder.finish(), Err(FrameError::Truncated { missing: 2 })));
        FrameDecoder::default().finish().unwrap();
    }

    #[test]
    fn fault_22_an_unknown_message_is_passed_over_only_where_its_kind_says_so() {
        #[derive(Debug, PartialEq, serde::Deserialize)]
        #[serde(rename_all = "kebab-case")]
        enum Known {
            Ping,
        }
        let next = |first: &Value| {
            let mut decoder = FrameDecoder::default();
            decoder.push(&encode_frame(first).unwrap());
            decoder.push(&encode_frame("ping").unwrap());
            decoder.decode::<Known>()
        };
        for optional in [json!("may-dance"), json!({"may-dance": {"steps": [1, 2]}})] {
            assert_eq!(next(&optional).unwrap(), Some(Known::Ping), "{optional}");
        }
        for needed in [json!("dance"), json!({"dance": {}}), json!({"may-dance": 1, "dance": 2}), json!({}), json!(7)] {
            assert!(matches!(next(&needed), Err(FrameError::Unreadable { .. })), "{needed}");
        }
    }

    #[tokio::test]
    async fn a_body_is_read_message_by_message_to_its_end() {
        let bytes = [encode_frame("a").unwrap(), encode_frame("b").unwrap()].concat();
        let mut reader = FrameReader::new(Full::new(Bytes::from(bytes.clone())));
        assert_eq!(reader.next::<String>().await.unwrap().as_deref(), Some("a"));
        assert_eq!(reader.next::<String>().await.unwrap().as_deref(), Some("b"));
        assert_eq!(reader.next::<String>().await.unwrap(), None);
        let mut reader = FrameReader::new(Full::new(Bytes::from(bytes).slice(..6)));
        assert!(matches!(
            reader.next::<String>().await,
            Err(FrameReadError::Frame(FrameError::Truncated { missing: 1 }))
        ));
    }

    #[tokio::test]
    async fn a_broken_body_is_an_error_and_not_an_end() {
        let parts = futures_util::stream::iter([Err::<hyper::body::Frame<Bytes>, _>(io::Error::other("reset"))]);
        let mut reader = FrameReader::new(StreamBody::new(parts));
        assert!(matches!(reader.next::<String>().await, Err(FrameReadError::Broken(_))));
    }

    proptest! {
        #[test]
        fn messages_survive_any_chunking(
            messages in prop::collection::vec(".{0,40}", 0..8),
            sizes in prop::collection::vec(1usize..17, 1..40),
        ) {
            let mut bytes = Vec::new();
            for message in &messages {
                bytes.extend_from_slice(&encode_frame(message).unwrap());
            }
            let (mut decoder, mut found, mut rest) = (FrameDecoder::default(), Vec::new(), bytes.as_slice());
            for size in sizes.iter().cycle() {
                let (chunk, behind) = rest.split_at((*size).min(rest.len()));
                decoder.push(chunk);
                while let Some(message) = decoder.decode::<String>().unwrap() {
                    found.push(message);
                }
                rest = behind;
                if rest.is_empty() {
                    break;
                }
            }
            decoder.finish().unwrap();
            prop_assert_eq!(found, messages);
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut decoder = FrameDecoder::default();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.decode::<Value>() {}
        }
    }
}
