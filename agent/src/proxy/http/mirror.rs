//! Copies of requests that go elsewhere: nobody waits for what is answered to them, and they hold nothing up.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::header::HeaderValue;
use http::request::Parts;
use hyper::body::{Body, Frame};
use tokio::sync::mpsc;

use super::body::BodyError;
use super::carried::{Question, Tally};
use super::head::{MIRRORED, PORT};
use super::send;
use crate::metrics::Direction;
use crate::proxy::outbound::endpoints::Tried;
use crate::proxy::outbound::{Call, Course, Opened, Wanted, open};
use crate::proxy::room::Room;

/// How many copies are on their way at once at most; further ones are not made.
pub(crate) const MIRRORED_MAX: usize = 64;
/// How much of a body is copied: a copy of a larger one is cut short, and the application sees that it is.
const BODY_BYTES_MAX: usize = 256 * 1024;
/// How long one may take with all that is answered to it.
const TIME_MAX: Duration = Duration::from_secs(30);

/// Is a piece of a body that is copied.
#[derive(Debug)]
enum Piece {
    Bytes(Bytes),
    End,
}

/// Takes down what goes by of a body.
#[derive(Debug)]
pub(crate) struct Copying {
    pieces: mpsc::UnboundedSender<Piece>,
    left: usize,
}

/// Is the copy of a body.
#[derive(Debug)]
pub(crate) struct Copied {
    pieces: mpsc::UnboundedReceiver<Piece>,
    is_over: bool,
}

impl Copying {
    /// Starts a copy.
    pub(crate) fn start() -> (Self, Copied) {
        let (sender, pieces) = mpsc::unbounded_channel();
        (Self { pieces: sender, left: BODY_BYTES_MAX }, Copied { pieces, is_over: false })
    }

    /// Takes down some bytes; says whether more are wanted.
    pub(crate) fn add(&mut self, bytes: &Bytes) -> bool {
        self.left = match self.left.checked_sub(bytes.len()) {
            Some(left) => left,
            None => return false,
        };
        // A copy, for what is held here must not be counted against whoever sends it.
        self.pieces.send(Piece::Bytes(Bytes::copy_from_slice(bytes))).is_ok()
    }

    /// Says that the body was whole.
    pub(crate) fn end(self) {
        let _nobody_reads_it = self.pieces.send(Piece::End);
    }
}

impl Copied {
    /// Reports whether the end was read.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Takes the next of it.
    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        self.pieces.poll_recv(context).map(|piece| match piece {
            Some(Piece::Bytes(bytes)) => Some(Ok(Frame::data(bytes))),
            Some(Piece::End) => {
                self.is_over = true;
                None
            }
            None => {
                self.is_over = true;
                Some(Err(BodyError::CutShort))
            }
        })
    }
}

/// Sends a copy of a request another way, if not too many are on theirs. What its body says is copied as it goes by.
pub(crate) fn start(room: &Arc<Room>, call: &Call, way: usize, head: &Parts, question: &mut Question) {
    let Ok(permit) = Arc::clone(&room.mirror_permits).try_acquire_owned() else {
        return room.metrics.mirrored("dropped");
    };
    let tally = Tally::new(Arc::clone(room), Direction::Outbound);
    let copy = question.copy(tally);
    let mut head = head.clone();
    head.headers.insert(MIRRORED, HeaderValue::from_static("1"));
    let (room, call) = (Arc::clone(room), call.clone());
    tokio::spawn(async move {
        let _permit = permit;
        let outcome = tokio::select! {
            sent = tokio::time::timeout(TIME_MAX, carry(&room, &call, way, head, copy)) => match sent {
                Ok(Some(())) => "answered",
                Ok(None) | Err(_) => "failed",
            },
            () = room.outbound.stopping.cancelled() => "failed",
        };
        room.metrics.mirrored(outcome);
    });
}

/// Carries a copy, once, and reads what is answered to it; nothing where it was not answered whole.
async fn carry(room: &Arc<Room>, call: &Call, way: usize, mut head: Parts, body: Question) -> Option<()> {
    let course = Course { way, hash: None, deadline: None };
    let opened = open(room, call, course, &mut Tried::default(), Wanted::Request).await;
    let Ok((Opened::Ready(ready, _lease), endpoint)) = opened else { return None };
    head.headers.insert(PORT, endpoint.port.clone());
    let (answer, _pump) = send::request(ready, Request::from_parts(head, ()), body).await.ok()?;
    endpoint.succeeded();
    let mut answer = answer.into_body();
    while let Some(frame) = std::future::poll_fn(|context| std::pin::Pin::new(&mut answer).poll_frame(context)).await {
        frame.ok()?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(copied: &mut Copied) -> Vec<String> {
        let mut context = Context::from_waker(std::task::Waker::noop());
        let mut read = Vec::new();
        while let Poll::Ready(Some(frame)) = copied.poll_next(&mut context) {
            read.push(match frame {
                Ok(frame) => String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap(),
                Err(error) => error.label().to_owned(),
            });
        }
        read
    }

    #[test]
    fn a_copy_is_whole_or_seen_to_be_cut_short() {
        let (mut copying, mut copied) = Copying::start();
        assert!(copying.add(&Bytes::from_static(b"hello")));
        copying.end();
        assert_eq!((read(&mut copied), copied.is_over()), (vec!["hello".to_owned()], true));
        let (mut copying, mut copied) = Copying::start();
        assert!(!copying.add(&Bytes::from(vec![0; BODY_BYTES_MAX + 1])));
        drop(copying);
        assert_eq!(read(&mut copied), ["stream_reset"]);
    }
}
