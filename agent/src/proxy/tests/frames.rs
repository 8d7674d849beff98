//! HTTP/2 written out, frame by frame, so that a test can say what no library would.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::agents::DEADLINE;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;
pub(super) const END_STREAM: u8 = 1;
pub(super) const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// A frame of HTTP/2 (RFC 9113 section 4.1).
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A header block of literals that nobody remembers (RFC 7541 section 6.2.2).
pub(super) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            bytes.push(u8::try_from(text.len()).unwrap());
            bytes.extend_from_slice(text.as_bytes());
        }
    }
    bytes
}

/// What a client says before anything else (RFC 9113 section 3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The preface and settings of a ztunnel that calls.
pub(super) fn preface() -> Vec<u8> {
    let no_push = (2, 0);
    [PREFACE.as_slice(), &settings(&[no_push])].concat()
}

/// What a ztunnel grants: windows of 4 MiB a stream and 16 MiB in all, frames of 1 MiB; and these settings besides.
pub(super) fn settings(besides: &[(u16, u32)]) -> Vec<u8> {
    let settings: Vec<u8> = [(4, 4 << 20), (5, 1 << 20)]
        .iter()
        .chain(besides)
        .flat_map(|(id, value)| id.to_be_bytes().into_iter().chain(value.to_be_bytes()))
        .collect();
    let mut bytes = frame(SETTINGS, 0, 0, &settings);
    bytes.extend(frame(WINDOW_UPDATE, 0, 0, &((16_u32 << 20) - 65_535).to_be_bytes()));
    bytes
}

pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<Frame> {
    let reading = async {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut payload).await.ok()?;
        let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(Frame { kind: head[3], flags: head[4], stream: id, payload })
    };
    tokio::time::timeout(DEADLINE, reading).await.expect("a frame in time")
}

/// Reads until a frame of the stream comes; acknowledges settings on the way.
pub(super) async fn read_of(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), id: u32) -> Option<Frame> {
    loop {
        let frame_read = read(stream).await?;
        if frame_read.kind == SETTINGS && frame_read.flags & ACK == 0 {
            stream.write_all(&frame(SETTINGS, ACK, 0, &[])).await.unwrap();
        }
        if frame_read.stream == id && frame_read.kind != WINDOW_UPDATE {
            return Some(frame_read);
        }
    }
}
