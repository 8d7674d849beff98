//! A request on its way: its bodies are counted, and its answer closes when it must.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use catalog::http::NotNormal;
use http::header::{HeaderMap, HeaderName};
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;

use super::application::Held;
use super::body::{BodyError, Received};
use super::head::{check_trailers_of_request, take_of_trailers};
use super::mirror::Copying;
use super::send::Closes;
use super::server::Attention;
use super::story::Story;
use crate::metrics::{Direction, GaugeGuard};
use crate::proxy::open_streams::{Closing, Place};
use crate::proxy::outbound::endpoints::Chosen;
use crate::proxy::outbound::tunnel::Lease;
use crate::proxy::room::{Room, Stage};

/// Counts the bytes of one request and its answer.
#[derive(Debug)]
pub(crate) struct Tally {
    room: Arc<Room>,
    direction: Direction,
    sent: AtomicU64,
    received: AtomicU64,
    is_sent: AtomicBool,
}

impl Tally {
    /// Starts at zero.
    pub(crate) fn new(room: Arc<Room>, direction: Direction) -> Arc<Self> {
        let (sent, received) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Self { room, direction, sent, received, is_sent: AtomicBool::new(false) })
    }

    /// Returns the direction's work that the request is part of.
    pub(crate) fn stage(&self) -> &Stage {
        match self.direction {
            Direction::Inbound => &self.room.inbound,
            Direction::Outbound => &self.room.outbound,
            Direction::Gateway => &self.room.gateway,
        }
    }

    /// Returns for how long one direction may be silent when the other has ended.
    pub(crate) fn half_closed_silence_max(&self) -> Duration {
        self.room.limits.half_closed_silence_max
    }

    /// Returns the bytes that went either way so far.
    pub(crate) fn carried(&self) -> (u64, u64) {
        (self.sent.load(Ordering::Relaxed), self.received.load(Ordering::Relaxed))
    }

    /// Counts bytes from the caller to the application.
    pub(crate) fn add_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        self.room.metrics.sent(self.direction, bytes as u64);
    }

    /// Counts bytes from the application to the caller.
    pub(crate) fn add_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
        self.room.metrics.received(self.direction, bytes as u64);
    }
}

/// Is the body of a request as it goes on: counted, and cut short before trailers that must not go on. It closes when its
/// request must, be the answer read or not.
#[derive(Debug)]
pub(crate) struct Question {
    /// What was taken of the body before, was not sent after all, and comes first.
    again: Bytes,
    body: Received,
    tally: Arc<Tally>,
    closing: Option<oneshot::Receiver<Closing>>,
    /// Takes down what goes by.
    copying: Option<Copying>,
    /// What its trailers may not say either.
    without: Vec<HeaderName>,
}

impl Question {
    /// Takes over the body of the request that stands at `place`.
    pub(crate) fn new(body: Received, tally: Arc<Tally>, place: &Place) -> Self {
        let is_empty = body.is_end_stream();
        if is_empty {
            tally.is_sent.store(true, Ordering::Release);
        }
        let closing = (!is_empty).then(|| place.closing_of_question());
        Self { again: Bytes::new(), body, tally, closing, copying: None, without: Vec::new() }
    }

    /// Refuses trailers with these names, besides those that nobody may bring.
    pub(crate) fn without(self, names: Vec<HeaderName>) -> Self {
        Self { without: names, ..self }
    }

    fn check_trailers(&self, trailers: &HeaderMap) -> Result<(), NotNormal> {
        check_trailers_of_request(trailers)?;
        match self.without.iter().any(|name| trailers.contains_key(name)) {
            true => Err(NotNormal::Trailer),
            false => Ok(()),
        }
    }

    /// Stands in for the body of a request that has none, when it is sent again.
    pub(crate) fn empty(tally: Arc<Tally>) -> Self {
        Self::bare(Received::Empty, tally)
    }

    /// Returns a copy of the body, which comes as this one goes by.
    pub(crate) fn copy(&mut self, tally: Arc<Tally>) -> Self {
        if self.is_end_stream() {
            return Self::empty(tally);
        }
        let (copying, copied) = Copying::start();
        self.copying = Some(copying);
        Self::bare(Received::Copied(copied), tally)
    }

    /// Returns the same once more where nothing comes.
    pub(crate) fn bare_again(&self) -> Option<Self> {
        self.is_end_stream().then(|| Self::empty(Arc::clone(&self.tally)))
    }

    fn bare(body: Received, tally: Arc<Tally>) -> Self {
        Self { again: Bytes::new(), body, tally, closing: None, copying: None, without: Vec::new() }
    }

    /// Puts back what was taken of the body and not sent after all. It is neither counted nor copied twice.
    pub(crate) fn preceded_by(self, again: Bytes) -> Self {
        Self { again, ..self }
    }
}

impl Closes for Question {
    fn poll_must_close(&mut self, context: &mut Context<'_>) -> Poll<BodyError> {
        let Some(closing) = &mut self.closing else { return Poll::Pending };
        let closing = ready!(Pin::new(closing).poll(context));
        self.closing = None;
        match closing {
            Ok(closing) => Poll::Ready(BodyError::Closed(closing.label())),
            // The request is over, and nobody closes it any more.
            Err(_) => Poll::Pending,
        }
    }
}

impl Body for Question {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Poll::Ready(why) = this.poll_must_close(context) {
            return Poll::Ready(Some(Err(why)));
        }
        if !this.again.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut this.again)))));
        }
        let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
        let frame = match frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    this.tally.add_sent(data.len());
                    // Nobody wants more, or it is too much: a copy that just ends is seen to be cut short.
                    this.copying = this.copying.take().and_then(|mut copying| copying.add(data).then_some(copying));
                }
                match frame.trailers_ref().map(|trailers| this.check_trailers(trailers)) {
                    Some(Err(why)) => Some(Err(BodyError::Trailers(why))),
                    _ => Some(Ok(frame)),
                }
            }
            other => other,
        };
        if frame.is_none() || this.body.is_end_stream() {
            if let Some(copying) = this.copying.take() {
                copying.end();
            }
            this.tally.is_sent.store(true, Ordering::Release);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.again.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (again, rest) = (self.again.len() as u64, self.body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(again.saturating_add(rest.lower()));
        if let Some(upper) = rest.upper() {
            hint.set_upper(again.saturating_add(upper));
        }
        hint
    }
}

/// Holds what a request needs until its answer has gone out.
#[derive(Debug)]
pub(crate) struct Exchange {
    place: Place,
    tally: Arc<Tally>,
    open: GaugeGuard,
    way: Way,
    story: Story,
}

/// Is what an answer comes over.
#[derive(Debug)]
pub(crate) enum Way {
    /// A connection to a local application, with the request's share of the limit.
    Application { held: Held, permit: tokio::sync::OwnedSemaphorePermit },
    /// A tunnel, and the instance at its end.
    Tunnel { lease: Lease, endpoint: Chosen, pump: Option<super::send::Pump> },
}

/// Is the body of an answer.
#[derive(Debug)]
pub(crate) struct Reply {
    body: ReplyBody,
    /// Given back at the end.
    exchange: Option<Box<Exchange>>,
    /// Says that it is open for as long as it is.
    open: Option<Arc<Attention>>,
}

#[derive(Debug)]
enum ReplyBody {
    /// weft's own words.
    Own(Option<Bytes>),
    /// Somebody else's.
    Carried(Received),
}

impl Reply {
    /// Makes a body of weft's own words.
    pub(crate) fn own(text: Option<Bytes>) -> Self {
        Self { body: ReplyBody::Own(text), exchange: None, open: None }
    }

    /// Carries a body; ends what it belongs to when it has gone out or is dropped.
    pub(crate) fn carried(body: Received, exchange: Box<Exchange>) -> Self {
        Self { body: ReplyBody::Carried(body), exchange: Some(exchange), open: None }
    }

    /// Holds what its connection counts its open answers by, until it has gone out.
    pub(crate) fn hold(&mut self, open: Arc<Attention>) {
        self.open = Some(open);
    }

    fn finish(&mut self, reason: &'static str, is_whole: bool) {
        if let Some(exchange) = self.exchange.take() {
            exchange.end(reason, is_whole);
        }
    }
}

impl Exchange {
    /// Gathers it: `place` is where it stands among the open ones, `open` counts it as one.
    pub(crate) fn new(place: Place, tally: Arc<Tally>, open: GaugeGuard, way: Way, story: Story) -> Self {
        Self { place, tally, open, way, story }
    }

    /// Returns what its bytes are counted with.
    pub(crate) fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }

    /// Asks whether it must close, and has the task woken when it must.
    pub(crate) fn poll_closing(&mut self, context: &mut Context<'_>) -> Poll<Closing> {
        self.place.poll_closing(context)
    }

    /// Lets go of what it needed and tells of it. A connection whose answer went out whole serves the next request.
    pub(crate) fn end(self, reason: &'static str, is_whole: bool) {
        let Self { place, tally, open, way, story } = self;
        drop((place, open));
        match way {
            Way::Application { held, permit } => {
                drop(permit);
                // A connection over which a question is still coming would make the next one wait for it. It ends here, and the
                // question with it: nobody decides about that any more, nor counts it.
                if is_whole && tally.is_sent.load(Ordering::Acquire) {
                    held.give_back(&tally.room);
                }
            }
            Way::Tunnel { lease, endpoint, pump } => drop((pump, lease, endpoint)),
        }
        tally.room.metrics.closed(tally.direction, reason);
        story.tell(reason, tally.sent.load(Ordering::Relaxed), tally.received.load(Ordering::Relaxed));
    }
}

impl Closes for Reply {
    fn poll_must_close(&mut self, context: &mut Context<'_>) -> Poll<BodyError> {
        let Some(exchange) = &mut self.exchange else { return Poll::Pending };
        let label = ready!(exchange.poll_closing(context)).label();
        self.body = ReplyBody::Carried(Received::Empty);
        self.finish(label, false);
        Poll::Ready(BodyError::Closed(label))
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Poll::Ready(why) = this.poll_must_close(context) {
            return Poll::Ready(Some(Err(why)));
        }
        let body = match &mut this.body {
            ReplyBody::Own(text) => return Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            ReplyBody::Carried(body) => body,
        };
        let Some(exchange) = &mut this.exchange else { return Poll::Ready(None) };
        match ready!(Pin::new(body).poll_frame(context)) {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    exchange.tally.add_received(data.len());
                }
                Poll::Ready(Some(Ok(cleaned(frame))))
            }
            Some(Err(error)) => {
                this.finish(error.label(), false);
                Poll::Ready(Some(Err(error)))
            }
            None => {
                this.finish("done", true);
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            ReplyBody::Own(text) => text.is_none(),
            ReplyBody::Carried(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            ReplyBody::Own(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            ReplyBody::Carried(body) => body.size_hint(),
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        // Who writes an answer does not ask again for what he knows to have ended.
        if self.is_end_stream() {
            self.finish("done", true);
        } else {
            let closed = self.exchange.as_mut().and_then(|exchange| exchange.place.closed());
            if let (Some(open), true, None) = (&self.open, self.exchange.is_some(), closed) {
                open.given_up();
            }
            self.finish(closed.map_or("caller_gone", Closing::label), false);
        }
    }
}

fn cleaned(frame: Frame<Bytes>) -> Frame<Bytes> {
    if !frame.is_trailers() {
        return frame;
    }
    match frame.into_trailers() {
        Ok(mut trailers) => {
            take_of_trailers(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }
}
