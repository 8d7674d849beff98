//! Sending messages over streams of HTTP/2.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, SendStream};
use http::{Request, Response};
use hyper::body::{Body, Frame};
use tokio::task::AbortHandle;

use super::body::{BodyError, Received};
use super::carried::Question;

/// How much of a request's body is kept until its answer begins or more of it has come, so that one that nobody took up is
/// sent again whole.
pub(crate) const KEPT_BYTES_MAX: usize = 16 * 1024;

/// Says why a body was not sent whole.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// It did not arrive whole.
    #[error(transparent)]
    Body(BodyError),
    /// The other side wants no more of it.
    #[error("stream reset by the peer ({0})")]
    Reset(Reason),
    /// The connection failed.
    #[error("the connection failed")]
    Connection(#[from] h2::Error),
}

/// Is a body that may have to close before its end, also while it waits for its reader.
pub(crate) trait Closes: Body<Data = Bytes, Error = BodyError> + Unpin {
    /// Asks whether it must close, and has the task woken when it must.
    fn poll_must_close(&mut self, context: &mut Context<'_>) -> Poll<BodyError>;
}

/// Sends the rest of a request's body beside its answer, until dropped.
#[derive(Debug)]
pub(crate) struct Pump(AbortHandle);

impl Pump {
    /// Stops a task when it is dropped.
    pub(crate) fn of(task: AbortHandle) -> Self {
        Self(task)
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        // An answer that is whole, or nobody's any more, has no use for the rest of its question.
        self.0.abort();
    }
}

/// Is a request that was not answered.
#[derive(Debug)]
pub(crate) struct Unanswered {
    /// Why not.
    pub(crate) error: h2::Error,
    /// Its body as it was, where the other side has not taken the request up and all of the body is still there: whoever
    /// asks again asks once.
    pub(crate) untaken: Option<Question>,
}

/// Reports whether the other side says of a stream that it has not taken it up: it opens no more of them here (RFC 9113
/// section 6.8), or refuses this one (section 8.7). Nothing speaks against that side, and whoever asks again asks once.
pub(crate) fn is_untaken(error: &h2::Error) -> bool {
    let reason = error.reason();
    error.is_remote()
        && (error.is_go_away() && reason == Some(Reason::NO_ERROR)
            || error.is_reset() && reason == Some(Reason::REFUSED_STREAM))
}

/// Sends a request on a connection that takes one now, and waits for the head of the answer.
pub(crate) async fn request(
    mut ready: SendRequest<Bytes>,
    head: Request<()>,
    body: Question,
) -> Result<(Response<Received>, Option<Pump>), Unanswered> {
    let is_whole = body.is_end_stream();
    let (mut answer, send) = match ready.send_request(head, is_whole) {
        Ok(sent) => sent,
        Err(error) => {
            // Nothing was sent: the connection is ending. A head that cannot be sent at all, though, no other one takes.
            let untaken = (error.is_go_away() || error.is_io()).then_some(body);
            return Err(Unanswered { error, untaken });
        }
    };
    let mut sending = Sending { kept: Kept::of(&body), is_over: is_whole, ..Sending::new(body, send) };
    let answered = loop {
        tokio::select! {
            biased;
            answered = &mut answer => break answered,
            () = sending.finish(), if !sending.is_over => {}
        }
    };
    match answered {
        Ok(answer) => {
            // It was taken up.
            sending.kept = None;
            let pump = (!sending.is_over).then(|| {
                let rest = tokio::spawn(async move { sending.finish().await });
                Pump(rest.abort_handle())
            });
            Ok((answer.map(Received::of_stream), pump))
        }
        Err(error) => {
            let untaken = is_untaken(&error).then(|| sending.take_back()).flatten();
            Err(Unanswered { error, untaken })
        }
    }
}

/// Sends a body and ends the stream; resets it if the body fails.
pub(crate) async fn send_body<B>(body: B, send: SendStream<Bytes>) -> Result<(), SendError>
where
    B: Closes,
{
    Sending::new(body, send).send_or_reset().await
}

/// Is what was taken of a body while it may have to be sent again.
#[derive(Debug, Default)]
struct Kept(Vec<u8>);

impl Kept {
    /// Starts to keep a body; nothing where it is known to be too large.
    fn of(body: &Question) -> Option<Self> {
        (body.size_hint().lower() <= KEPT_BYTES_MAX as u64).then(Self::default)
    }

    /// Keeps some more; nothing of what becomes too large, or ends with what is no bytes. A copy, so that it holds no more
    /// memory than it has bytes.
    fn with(mut self, frame: &Frame<Bytes>) -> Option<Self> {
        let data = frame.data_ref().filter(|data| self.0.len() + data.len() <= KEPT_BYTES_MAX)?;
        self.0.extend_from_slice(data);
        Some(self)
    }
}

/// Is a body on its way into a stream. Whoever stops in between goes on where that was.
#[derive(Debug)]
struct Sending<B> {
    body: B,
    send: SendStream<Bytes>,
    /// What was taken of the body and is not sent yet, and whether it is the last of it.
    left: Bytes,
    is_last: bool,
    /// All that was taken of it so far, for as long as it may have to be sent again.
    kept: Option<Kept>,
    /// Whether all was sent, or will not be.
    is_over: bool,
}

impl Sending<Question> {
    /// Returns the body as it was before any of it was taken, if all of that is still there.
    fn take_back(self) -> Option<Question> {
        let Self { body, kept, .. } = self;
        kept.map(|Kept(taken)| body.preceded_by(taken.into()))
    }
}

impl<B: Closes> Sending<B> {
    fn new(body: B, send: SendStream<Bytes>) -> Self {
        Self { body, send, left: Bytes::new(), is_last: false, kept: None, is_over: false }
    }

    /// Sends what is left beside the answer, which alone says what became of the request.
    async fn finish(&mut self) {
        let sent = self.send_or_reset().await;
        self.is_over = true;
        if let Err(error) = sent {
            if matches!(error, SendError::Body(_)) {
                // What comes after that is lost.
                self.kept = None;
            }
            tracing::debug!(error = %wire::one_line(&error), "request cut short");
        }
    }

    async fn send_or_reset(&mut self) -> Result<(), SendError> {
        let sent = self.send_left().await;
        if sent.is_err() {
            self.send.send_reset(Reason::CANCEL);
        }
        sent
    }

    /// Sends as fast as the other side's window lets it go.
    async fn send_left(&mut self) -> Result<(), SendError> {
        loop {
            if !self.left.is_empty() {
                self.send.reserve_capacity(self.left.len());
                let granted = match self.send.capacity() {
                    0 => poll_fn(|context| poll_capacity(&mut self.body, &mut self.send, context)).await?,
                    granted => granted,
                };
                let piece = self.left.split_to(granted.min(self.left.len()));
                let is_end = self.is_last && self.left.is_empty();
                if !piece.is_empty() {
                    self.send.send_data(piece, is_end)?;
                }
                if is_end {
                    return Ok(());
                }
                continue;
            }
            let Some(frame) = next(&mut self.body, &mut self.send).await? else {
                return Ok(self.send.send_data(Bytes::new(), true)?);
            };
            self.kept = self.kept.take().and_then(|kept| kept.with(&frame));
            match frame.into_data() {
                Ok(data) => (self.left, self.is_last) = (data, self.body.is_end_stream()),
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        return Ok(self.send.send_trailers(trailers)?);
                    }
                }
            }
            if self.is_last && self.left.is_empty() {
                return Ok(self.send.send_data(Bytes::new(), true)?);
            }
        }
    }
}

/// Waits for the next of a body, or until nobody wants it any more.
async fn next<B: Closes>(body: &mut B, send: &mut SendStream<Bytes>) -> Result<Option<Frame<Bytes>>, SendError> {
    poll_fn(|context| {
        if let Poll::Ready(reset) = send.poll_reset(context) {
            return Poll::Ready(Err(reset.map_or_else(SendError::Connection, SendError::Reset)));
        }
        Pin::new(&mut *body).poll_frame(context).map(|frame| frame.transpose().map_err(SendError::Body))
    })
    .await
}

/// Asks how much the other side takes, for as long as the body need not close: a reader that has stalled keeps nothing open.
fn poll_capacity<B: Closes>(
    body: &mut B,
    send: &mut SendStream<Bytes>,
    context: &mut Context<'_>,
) -> Poll<Result<usize, SendError>> {
    if let Poll::Ready(why) = body.poll_must_close(context) {
        return Poll::Ready(Err(SendError::Body(why)));
    }
    Poll::Ready(match ready!(send.poll_capacity(context)) {
        Some(granted) => granted.map_err(SendError::Connection),
        None => Err(SendError::Reset(Reason::STREAM_CLOSED)),
    })
}
