//! Bodies as they arrive, from whichever side.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use catalog::http::NotNormal;
use h2::RecvStream;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::mirror::Copied;

/// Is the body of a message that has arrived.
#[derive(Debug, Default)]
pub(crate) enum Received {
    /// There is none.
    #[default]
    Empty,
    /// It comes in over HTTP/1.
    Http1(Incoming),
    /// It comes in over an HTTP/2 connection of an application.
    Http2(Incoming),
    /// It is a copy of another.
    Copied(Copied),
    /// It comes in over a stream of a tunnel, or of an HTTP/2 connection to an application.
    Stream(RecvStream),
}

/// Says why a body did not arrive whole.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The connection failed, or what came over it was no HTTP.
    #[error("the connection of the body failed")]
    Connection(#[source] hyper::Error),
    /// The stream failed or was reset.
    #[error("the stream of the body failed")]
    Stream(#[source] h2::Error),
    /// The one who sends it gave up.
    #[error("the body was cut short by its sender")]
    CutShort,
    /// Its trailers say what they must not.
    #[error("the trailers are refused")]
    Trailers(#[source] NotNormal),
    /// What it belongs to had to close.
    #[error("closed ({0})")]
    Closed(&'static str),
}

impl BodyError {
    /// Returns the label of the metric that counts it.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Connection(_) => "connection_failed",
            Self::Stream(_) | Self::CutShort => "stream_reset",
            Self::Trailers(why) => why.label(),
            Self::Closed(label) => label,
        }
    }
}

impl Received {
    /// Takes the body of a message that hyper has read.
    pub(crate) fn of_hyper(version: http::Version, body: Incoming) -> Self {
        if body.is_end_stream() {
            Self::Empty
        } else if version == http::Version::HTTP_2 {
            Self::Http2(body)
        } else {
            Self::Http1(body)
        }
    }

    /// Takes the body of a message on a stream of HTTP/2.
    pub(crate) fn of_stream(stream: RecvStream) -> Self {
        if stream.is_end_stream() { Self::Empty } else { Self::Stream(stream) }
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Http1(body) => Pin::new(body).poll_frame(context).map_err(BodyError::Connection),
            Self::Http2(body) => match ready!(Pin::new(&mut *body).poll_frame(context)) {
                // To hyper a stream that was cancelled has ended; passed on, half a body would pass for a whole one.
                None if !body.is_end_stream() => Poll::Ready(Some(Err(BodyError::CutShort))),
                frame => Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Connection))),
            },
            Self::Copied(copied) => copied.poll_next(context),
            Self::Stream(stream) => poll_stream(stream, context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Http1(body) | Self::Http2(body) => body.is_end_stream(),
            Self::Copied(copied) => copied.is_over(),
            Self::Stream(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Http1(body) | Self::Http2(body) => body.size_hint(),
            Self::Copied(_) | Self::Stream(_) => SizeHint::default(),
        }
    }
}

/// Takes the next of a stream. Its window is given back as it is taken: who takes it sends it on before he asks again.
fn poll_stream(stream: &mut RecvStream, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    match ready!(stream.poll_data(context)) {
        Some(Ok(data)) => {
            let released = stream.flow_control().release_capacity(data.len());
            Poll::Ready(Some(released.map(|()| Frame::data(data)).map_err(BodyError::Stream)))
        }
        Some(Err(error)) => Poll::Ready(Some(Err(BodyError::Stream(error)))),
        None => match ready!(stream.poll_trailers(context)) {
            Ok(trailers) => Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers)))),
            Err(error) => Poll::Ready(Some(Err(BodyError::Stream(error)))),
        },
    }
}
