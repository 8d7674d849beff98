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

/// Sends the body of a request beside its answer, until dropped.
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
pub(crate) struct Unanswered<B> {
    /// Why not.
    pub(crate) error: h2::Error,
    /// Its body, where the other side has not taken the request up and nothing of the body was sent: whoever asks again asks
    /// once.
    pub(crate) untaken: Option<B>,
}

/// Sends a request on a connection that takes one now, and waits for the head of the answer.
pub(crate) async fn request<B>(
    mut ready: SendRequest<Bytes>,
    head: Request<()>,
    body: B,
) -> Result<(Response<Received>, Option<Pump>), Unanswered<B>>
where
    B: Closes + Send + 'static,
{
    let is_whole = body.is_end_stream();
    let (answer, send) = match ready.send_request(head, is_whole) {
        Ok(sent) => sent,
        Err(error) => return Err(Unanswered { error, untaken: Some(body) }),
    };
    let (pump, whole) = if is_whole {
        (None, Some(body))
    } else {
        let sending = async move {
            if let Err(error) = send_body(body, send).await {
                tracing::debug!(error = %wire::one_line(&error), "request cut short");
            }
        };
        (Some(Pump(tokio::spawn(sending).abort_handle())), None)
    };
    match answer.await {
        Ok(answer) => Ok((answer.map(Received::of_stream), pump)),
        Err(error) => {
            // A side that takes no more streams says which was the last that it took up (RFC 9113 section 6.8), and this one
            // came after that.
            let is_too_late = error.is_go_away() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR);
            Err(Unanswered { error, untaken: whole.filter(|_| is_too_late) })
        }
    }
}

/// Sends a body and ends the stream; resets it if the body fails.
pub(crate) async fn send_body<B>(mut body: B, mut send: SendStream<Bytes>) -> Result<(), SendError>
where
    B: Closes,
{
    let result = send_frames(&mut body, &mut send).await;
    if result.is_err() {
        send.send_reset(Reason::CANCEL);
    }
    result
}

async fn send_frames<B>(body: &mut B, send: &mut SendStream<Bytes>) -> Result<(), SendError>
where
    B: Closes,
{
    loop {
        let frame = match next(body, send).await? {
            Some(frame) => frame,
            None => return Ok(send.send_data(Bytes::new(), true)?),
        };
        match frame.into_data() {
            Ok(data) => {
                let is_last = body.is_end_stream();
                send_data(body, send, data, is_last).await?;
                if is_last {
                    return Ok(());
                }
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    return Ok(send.send_trailers(trailers)?);
                }
            }
        }
    }
}

/// Waits for the next of a body, or until nobody wants it any more.
async fn next<B>(body: &mut B, send: &mut SendStream<Bytes>) -> Result<Option<Frame<Bytes>>, SendError>
where
    B: Closes,
{
    poll_fn(|context| {
        if let Poll::Ready(reset) = send.poll_reset(context) {
            return Poll::Ready(Err(reset.map_or_else(SendError::Connection, SendError::Reset)));
        }
        Pin::new(&mut *body).poll_frame(context).map(|frame| frame.transpose().map_err(SendError::Body))
    })
    .await
}

/// Sends bytes as fast as the other side's window lets them go.
async fn send_data<B: Closes>(
    body: &mut B,
    send: &mut SendStream<Bytes>,
    mut data: Bytes,
    is_last: bool,
) -> Result<(), SendError> {
    while !data.is_empty() {
        send.reserve_capacity(data.len());
        let granted = match send.capacity() {
            0 => poll_fn(|context| poll_capacity(body, send, context)).await?,
            granted => granted,
        };
        let piece = data.split_to(granted.min(data.len()));
        if !piece.is_empty() {
            send.send_data(piece, is_last && data.is_empty())?;
            if data.is_empty() {
                return Ok(());
            }
        }
    }
    // It was empty from the start.
    if is_last { Ok(send.send_data(Bytes::new(), true)?) } else { Ok(()) }
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
