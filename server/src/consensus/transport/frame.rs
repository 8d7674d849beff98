//! Frames on the Raft port: a length, a kind and a payload.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use catalog::Mesh;
use raft::eraftpb::Message;
use raft_prost::Message as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::hello::{Hello, HelloAnswer};
use super::pieces::Offer;
use crate::consensus::admit::{Admission, Applicant};
use crate::consensus::ask::{Answer, Question};
use crate::consensus::bootstrap::PledgeAnswer;
use crate::consensus::forward::ForwardAnswer;
use crate::consensus::gather::{Inquiry, Reply};

/// Largest frame that carries a greeting, a pledge or the answer to one.
const SMALL_BYTES_MAX: usize = 64 << 10;
/// Largest frame that carries a Raft message, a forwarded write or its outcome.
const MESSAGE_BYTES_MAX: usize = 8 << 20;
/// Largest frame that carries a piece of a snapshot.
const PIECE_BYTES_MAX: usize = (1 << 20) + 8;

/// Length and digest of a snapshot that is offered.
const OFFER_HEAD_BYTES: usize = 40;

/// Length and kind.
const HEAD_BYTES: usize = 5;
/// What is reserved for a payload before any of it has arrived.
const RESERVED_BYTES_MAX: usize = 64 << 10;

/// Is one frame.
#[derive(Debug)]
pub(crate) enum Frame {
    /// The first frame of whoever dials.
    Hello(Box<Hello>),
    /// The answer to it.
    HelloAnswer(Box<HelloAnswer>),
    /// Says that the sender is there; sent where there is nothing else to send.
    Alive,
    /// A Raft message other than a snapshot.
    Message(Box<Message>),
    /// Offers a snapshot, on a connection of its own.
    SnapshotOffer(Box<Offer>),
    /// Asks for the offered snapshot from here on.
    SnapshotFrom(u64),
    /// A piece of it.
    SnapshotPiece {
        /// Where it begins.
        offset: u64,
        /// Its bytes.
        data: Bytes,
    },
    /// The snapshot arrived whole and was taken.
    SnapshotTaken,
    /// An encoded envelope to propose.
    Forward {
        /// Names it in the answer.
        id: u64,
        /// The envelope.
        data: Bytes,
    },
    /// What became of a forwarded envelope.
    Forwarded(Box<ForwardAnswer>),
    /// Asks for a pledge to a cluster.
    Pledge(Box<Mesh>),
    /// The answer to it.
    Pledged(Box<PledgeAnswer>),
    /// Asks to become a member of the cluster.
    Admit(Box<Applicant>),
    /// The answer to it.
    Admitted(Box<Admission>),
    /// Asks the leader something.
    Ask(Box<Question>),
    /// The answer to it.
    Answered(Box<Answer>),
    /// Asks a server what it knows for itself.
    Inquire(Box<Inquiry>),
    /// The answer to it.
    Replied(Box<Reply>),
}

/// Explains why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    /// The connection broke or ended.
    #[error("the connection broke")]
    Io(#[source] io::Error),
    /// The frame is larger than its kind may be.
    #[error("a frame of kind {kind} has {bytes} bytes, and at most {bytes_max} are allowed")]
    TooLarge { kind: u8, bytes: usize, bytes_max: usize },
    /// The kind is not known.
    #[error("a frame has the unknown kind {kind}")]
    UnknownKind { kind: u8 },
    /// The payload is not what the kind says.
    #[error("a frame of kind {kind} cannot be decoded: {reason}")]
    Malformed { kind: u8, reason: String },
    /// What is sent of a snapshot does not fit together.
    #[error("the snapshot cannot be taken: {problem}")]
    Snapshot { problem: &'static str },
    /// The frame does not belong here.
    #[error("a frame of kind {kind} came where it does not belong")]
    Unexpected { kind: u8 },
}

impl FrameError {
    /// Returns the label under which the error is counted; none for a connection that just ended.
    pub(crate) fn label(&self) -> Option<&'static str> {
        match self {
            Self::Io(_) => None,
            Self::TooLarge { .. } => Some("frame_too_large"),
            Self::UnknownKind { .. } | Self::Malformed { .. } => Some("frame_malformed"),
            Self::Snapshot { .. } => Some("snapshot_malformed"),
            Self::Unexpected { .. } => Some("frame_unexpected"),
        }
    }
}

const HELLO: u8 = 1;
const HELLO_ANSWER: u8 = 2;
const ALIVE: u8 = 3;
const MESSAGE: u8 = 4;
const SNAPSHOT_OFFER: u8 = 5;
const SNAPSHOT_TAKEN: u8 = 6;
const FORWARD: u8 = 7;
const FORWARDED: u8 = 8;
const PLEDGE: u8 = 9;
const PLEDGED: u8 = 10;
const ADMIT: u8 = 11;
const ADMITTED: u8 = 12;
const ASK: u8 = 13;
const ANSWERED: u8 = 14;
const INQUIRE: u8 = 15;
const REPLIED: u8 = 16;
const SNAPSHOT_FROM: u8 = 20;
const SNAPSHOT_PIECE: u8 = 21;

fn bytes_max(kind: u8) -> Result<usize, FrameError> {
    match kind {
        HELLO | HELLO_ANSWER | PLEDGE | PLEDGED | ADMIT | ADMITTED | ASK | ANSWERED | INQUIRE => Ok(SMALL_BYTES_MAX),
        ALIVE | SNAPSHOT_TAKEN => Ok(0),
        MESSAGE | FORWARD | FORWARDED | REPLIED => Ok(MESSAGE_BYTES_MAX),
        SNAPSHOT_OFFER => Ok(SMALL_BYTES_MAX),
        SNAPSHOT_FROM => Ok(8),
        SNAPSHOT_PIECE => Ok(PIECE_BYTES_MAX),
        kind => Err(FrameError::UnknownKind { kind }),
    }
}

impl Frame {
    fn kind(&self) -> u8 {
        match self {
            Self::Hello(_) => HELLO,
            Self::HelloAnswer(_) => HELLO_ANSWER,
            Self::Alive => ALIVE,
            Self::Message(_) => MESSAGE,
            Self::SnapshotOffer(_) => SNAPSHOT_OFFER,
            Self::SnapshotFrom(_) => SNAPSHOT_FROM,
            Self::SnapshotPiece { .. } => SNAPSHOT_PIECE,
            Self::SnapshotTaken => SNAPSHOT_TAKEN,
            Self::Forward { .. } => FORWARD,
            Self::Forwarded(_) => FORWARDED,
            Self::Pledge(_) => PLEDGE,
            Self::Pledged(_) => PLEDGED,
            Self::Admit(_) => ADMIT,
            Self::Admitted(_) => ADMITTED,
            Self::Ask(_) => ASK,
            Self::Answered(_) => ANSWERED,
            Self::Inquire(_) => INQUIRE,
            Self::Replied(_) => REPLIED,
        }
    }

    /// Returns the error that this frame does not belong where it came.
    pub(crate) fn unexpected(&self) -> FrameError {
        FrameError::Unexpected { kind: self.kind() }
    }

    /// Appends the frame to `buffer`; on an error nothing is appended.
    ///
    /// # Errors
    /// [`FrameError::TooLarge`] where the other side would refuse it.
    pub(crate) fn encode(&self, buffer: &mut BytesMut) -> Result<(), FrameError> {
        let start = buffer.len();
        buffer.put_bytes(0, HEAD_BYTES);
        match self {
            Self::Hello(hello) => put_json(buffer, hello),
            Self::HelloAnswer(answer) => put_json(buffer, answer),
            Self::Alive | Self::SnapshotTaken => {}
            Self::Message(message) => put_message(buffer, message),
            Self::SnapshotOffer(offer) => {
                buffer.put_u64(offer.bytes);
                buffer.put_slice(&offer.sha256);
                put_message(buffer, &offer.message);
            }
            Self::SnapshotFrom(from) => buffer.put_u64(*from),
            Self::SnapshotPiece { offset, data } => {
                buffer.put_u64(*offset);
                buffer.put_slice(data);
            }
            Self::Forward { id, data } => {
                buffer.put_u64(*id);
                buffer.put_slice(data);
            }
            Self::Forwarded(answer) => put_json(buffer, answer),
            Self::Pledge(mesh) => put_json(buffer, mesh),
            Self::Pledged(answer) => put_json(buffer, answer),
            Self::Admit(applicant) => put_json(buffer, applicant),
            Self::Admitted(admission) => put_json(buffer, admission),
            Self::Ask(question) => put_json(buffer, question),
            Self::Answered(answer) => put_json(buffer, answer),
            Self::Inquire(inquiry) => put_json(buffer, inquiry),
            Self::Replied(reply) => put_json(buffer, reply),
        }
        let kind = self.kind();
        let bytes = buffer.len() - start - HEAD_BYTES;
        let bytes_max = bytes_max(kind)?;
        let length = u32::try_from(bytes).ok().filter(|_| bytes <= bytes_max);
        let Some(length) = length else {
            buffer.truncate(start);
            return Err(FrameError::TooLarge { kind, bytes, bytes_max });
        };
        buffer[start..start + 4].copy_from_slice(&length.to_be_bytes());
        buffer[start + 4] = kind;
        Ok(())
    }

    fn decode(kind: u8, mut payload: Bytes) -> Result<Self, FrameError> {
        match kind {
            HELLO => json(kind, &payload).map(Self::Hello),
            HELLO_ANSWER => json(kind, &payload).map(Self::HelloAnswer),
            ALIVE => Ok(Self::Alive),
            MESSAGE => message(kind, payload).map(Self::Message),
            SNAPSHOT_OFFER if payload.len() >= OFFER_HEAD_BYTES => {
                let (bytes, mut sha256) = (payload.get_u64(), [0; 32]);
                payload.copy_to_slice(&mut sha256);
                let message = *message(kind, payload)?;
                Ok(Self::SnapshotOffer(Box::new(Offer { bytes, sha256, message })))
            }
            SNAPSHOT_FROM if payload.len() == 8 => Ok(Self::SnapshotFrom(payload.get_u64())),
            SNAPSHOT_PIECE if payload.len() >= 8 => {
                Ok(Self::SnapshotPiece { offset: payload.get_u64(), data: payload })
            }
            SNAPSHOT_OFFER | SNAPSHOT_FROM | SNAPSHOT_PIECE => {
                Err(FrameError::Malformed { kind, reason: "it is shorter than its head".to_owned() })
            }
            SNAPSHOT_TAKEN => Ok(Self::SnapshotTaken),
            FORWARD if payload.len() >= 8 => {
                let id = u64::from_be_bytes(payload.split_to(8)[..].try_into().expect("eight bytes were split off"));
                Ok(Self::Forward { id, data: payload })
            }
            FORWARD => Err(FrameError::Malformed { kind, reason: "it is shorter than its id".to_owned() }),
            FORWARDED => json(kind, &payload).map(Self::Forwarded),
            PLEDGE => json(kind, &payload).map(Self::Pledge),
            PLEDGED => json(kind, &payload).map(Self::Pledged),
            ADMIT => json(kind, &payload).map(Self::Admit),
            ADMITTED => json(kind, &payload).map(Self::Admitted),
            ASK => json(kind, &payload).map(Self::Ask),
            ANSWERED => json(kind, &payload).map(Self::Answered),
            INQUIRE => json(kind, &payload).map(Self::Inquire),
            REPLIED => json(kind, &payload).map(Self::Replied),
            kind => Err(FrameError::UnknownKind { kind }),
        }
    }
}

fn put_json<T: Serialize>(buffer: &mut BytesMut, value: &T) {
    serde_json::to_writer(buffer.writer(), value)
        .expect("greetings have only what JSON can hold, and memory is no device");
}

fn put_message(buffer: &mut BytesMut, message: &Message) {
    message.encode(buffer).expect("a buffer that grows has room");
}

fn json<T: DeserializeOwned>(kind: u8, payload: &Bytes) -> Result<Box<T>, FrameError> {
    serde_json::from_slice(payload)
        .map(Box::new)
        .map_err(|error| FrameError::Malformed { kind, reason: error.to_string() })
}

fn message(kind: u8, payload: Bytes) -> Result<Box<Message>, FrameError> {
    Message::decode(payload).map(Box::new).map_err(|error| FrameError::Malformed { kind, reason: error.to_string() })
}

/// Reads one frame, and says how large its payload was.
///
/// Memory is taken as the bytes arrive, not as the head announces them. Not cancel safe.
///
/// # Errors
/// [`FrameError`]; the connection cannot be read any further then.
pub(crate) async fn read<R: AsyncRead + Unpin>(reader: &mut R) -> Result<(Frame, usize), FrameError> {
    let mut head = [0; HEAD_BYTES];
    reader.read_exact(&mut head).await.map_err(FrameError::Io)?;
    let [a, b, c, d, kind] = head;
    let bytes = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    let bytes_max = bytes_max(kind)?;
    if bytes > bytes_max {
        return Err(FrameError::TooLarge { kind, bytes, bytes_max });
    }
    let mut payload = BytesMut::with_capacity(bytes.min(RESERVED_BYTES_MAX));
    let mut rest = reader.take(bytes as u64);
    while payload.len() < bytes {
        if rest.read_buf(&mut payload).await.map_err(FrameError::Io)? == 0 {
            return Err(FrameError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
    }
    Ok((Frame::decode(kind, payload.freeze())?, bytes))
}

/// Writes one frame and flushes it.
///
/// # Errors
/// [`FrameError`]; nothing was written if it is [`FrameError::TooLarge`].
pub(crate) async fn write<W: AsyncWrite + Unpin>(writer: &mut W, frame: &Frame) -> Result<(), FrameError> {
    let mut buffer = BytesMut::new();
    frame.encode(&mut buffer)?;
    writer.write_all(&buffer).await.map_err(FrameError::Io)?;
    writer.flush().await.map_err(FrameError::Io)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    async fn read_back(bytes: &[u8]) -> Result<(Frame, usize), FrameError> {
        read(&mut &*bytes).await
    }

    fn framed(length: u32, kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.push(kind);
        bytes.extend_from_slice(payload);
        bytes
    }

    #[tokio::test]
    async fn a_message_is_read_back_as_it_was_written() {
        let mut message = Message { term: 7, from: 1, to: 2, ..Message::default() };
        message.set_msg_type(raft::eraftpb::MessageType::MsgAppend);
        let mut wire = Vec::new();
        write(&mut wire, &Frame::Message(Box::new(message.clone()))).await.unwrap();
        let (frame, bytes) = read_back(&wire).await.unwrap();
        assert_eq!(bytes, wire.len() - HEAD_BYTES);
        assert!(matches!(frame, Frame::Message(read) if *read == message), "another message came back");
    }

    #[tokio::test]
    async fn r5_a_frame_larger_than_its_kind_is_refused_before_it_is_read() {
        for (kind, bytes_max) in
            [(HELLO, SMALL_BYTES_MAX), (MESSAGE, MESSAGE_BYTES_MAX), (SNAPSHOT_PIECE, PIECE_BYTES_MAX)]
        {
            let head = framed(u32::try_from(bytes_max).unwrap() + 1, kind, b"");
            assert!(matches!(read_back(&head).await, Err(FrameError::TooLarge { .. })), "kind {kind}");
        }
        let head = framed(u32::MAX, MESSAGE, b"");
        assert!(matches!(read_back(&head).await, Err(FrameError::TooLarge { .. })));
    }

    #[tokio::test]
    async fn r5_an_announced_length_takes_no_memory_before_its_bytes_arrive() {
        let head = framed(u32::try_from(MESSAGE_BYTES_MAX).unwrap(), MESSAGE, b"few");
        assert!(matches!(read_back(&head).await, Err(FrameError::Io(_))));
    }

    #[tokio::test]
    async fn r5_garbage_is_refused() {
        for (kind, payload) in [
            (MESSAGE, &b"\xff\xff\xff"[..]),
            (HELLO, b"{}"),
            (FORWARD, b"1234567"),
            (PLEDGE, b"["),
            (SNAPSHOT_OFFER, b"short"),
            (SNAPSHOT_FROM, b"1234567"),
            (SNAPSHOT_PIECE, b"1234567"),
        ] {
            let bytes = framed(u32::try_from(payload.len()).unwrap(), kind, payload);
            assert!(matches!(read_back(&bytes).await, Err(FrameError::Malformed { .. })), "kind {kind}");
        }
        let bytes = framed(0, 200, b"");
        assert!(matches!(read_back(&bytes).await, Err(FrameError::UnknownKind { kind: 200 })));
    }

    #[test]
    fn what_the_other_side_would_refuse_is_not_written() {
        let mut buffer = BytesMut::from(&b"before"[..]);
        let frame = Frame::Forward { id: 1, data: Bytes::from(vec![0; MESSAGE_BYTES_MAX]) };
        assert!(matches!(frame.encode(&mut buffer), Err(FrameError::TooLarge { .. })));
        assert_eq!(&buffer[..], b"before");
    }

    proptest! {
        #[test]
        fn r5_no_bytes_make_the_reader_panic(bytes: Vec<u8>, kind in 0_u8..24, cut in 0_usize..64) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let length = u32::try_from(bytes.len().saturating_sub(cut)).unwrap();
            let _ = runtime.block_on(read_back(&framed(length, kind, &bytes)));
            let _ = runtime.block_on(read_back(&bytes));
        }
    }
}
