//! Spans of requests, for whoever collects traces: one of a server inbound, one of a client outbound.
//!
//! A request that comes with a trace is recorded where that says so; one that comes with none begins one, of which a share
//! is recorded. Recording is handing a finished span to a bounded queue: whatever becomes of the collector, no request
//! waits for it. Without an endpoint nothing of this exists.

mod export;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use catalog::NodeName;
use http::header::{HeaderMap, HeaderValue};
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc;
use wire::crypto;
use wire::random::drawn;

use crate::metrics::{Direction, SpanMetrics};

/// Spans that wait to be sent; further ones are dropped and counted.
const WAITING_MAX: usize = 4096;

/// Says where spans go, and how many.
#[derive(Debug, Clone, PartialEq)]
pub struct TracingSettings {
    /// A collector's address for OTLP over gRPC, as `http://host:port` or `https://host:port`.
    pub endpoint: String,
    /// The certificates, in PEM, of the authorities that vouch for the collector; those of the system where there are none.
    pub authorities: Option<String>,
    /// Of how many of the traces that begin here there are spans, from 0 to 1.
    pub sample: f64,
    /// The node that spans tell of.
    pub node: NodeName,
}

/// Explains why there are no spans.
#[derive(Debug, thiserror::Error)]
pub enum TracingError {
    /// The endpoint is none.
    #[error("`{}` is no address of a collector: use `https://host:port`, or `http://host:port` of one beside the agent", .endpoint.escape_debug())]
    Endpoint {
        /// What was configured.
        endpoint: String,
    },
    /// There are authorities for a collector that shows no certificate.
    #[error("`{}` is in the clear, and so its certificate cannot be checked: use `https://`, or leave the authorities out", .endpoint.escape_debug())]
    InTheClear {
        /// What was configured.
        endpoint: String,
    },
    /// The exporter cannot be made.
    #[error("cannot send spans to `{}`", .endpoint.escape_debug())]
    Exporter {
        /// The endpoint.
        endpoint: String,
        /// Why not.
        #[source]
        source: opentelemetry_otlp::ExporterBuildError,
    },
}

/// Takes spans. A clone takes for the same collector.
#[derive(Debug, Clone)]
pub(crate) struct Spans(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    finished: mpsc::Sender<Finished>,
    dropped: Counter,
    /// Of a trace that begins here, the spans are recorded if the low half of its id is below this.
    below: u64,
    seed: u64,
    drawn: AtomicU64,
    scope: InstrumentationScope,
}

/// Is a span that is over, and the local service that it is of.
#[derive(Debug)]
pub(crate) struct Finished {
    service: Arc<str>,
    data: SpanData,
}

/// Is a span that is not over yet.
#[derive(Debug)]
pub(crate) struct Open {
    spans: Spans,
    trace: TraceId,
    span: SpanId,
    parent: SpanId,
    kind: SpanKind,
    started: SystemTime,
}

/// Is what is told of a request in its span.
#[derive(Debug)]
pub(crate) struct About {
    /// The local service, as `namespace/name`.
    pub(crate) service: Arc<str>,
    /// What stands in it.
    pub(crate) attributes: Vec<KeyValue>,
    /// The method, by which the span is named.
    pub(crate) name: std::borrow::Cow<'static, str>,
    /// Whether it counts as failed.
    pub(crate) is_error: bool,
}

impl Spans {
    /// Starts to send spans; to be called on a runtime, on which they are sent.
    ///
    /// # Errors
    ///
    /// [`TracingError`] where the endpoint is none. That nobody answers there is no error.
    pub(crate) fn start(settings: &TracingSettings, metrics: SpanMetrics) -> Result<Self, TracingError> {
        let endpoint = settings.endpoint.clone();
        let address = endpoint.parse::<http::Uri>().ok();
        let address = address.filter(|uri| uri.authority().is_some_and(|authority| !authority.as_str().contains('@')));
        match address.as_ref().and_then(http::Uri::scheme_str) {
            Some("https") => (),
            Some("http") if settings.authorities.is_none() => (),
            Some("http") => return Err(TracingError::InTheClear { endpoint }),
            _ => return Err(TracingError::Endpoint { endpoint }),
        }
        let (finished, waiting) = mpsc::channel(WAITING_MAX);
        let dropped = metrics.dropped.clone();
        tokio::spawn(export::run(export::Exporters::new(settings)?, waiting, metrics));
        let share = settings.sample.clamp(0.0, 1.0);
        let below = if share >= 1.0 { u64::MAX } else { (share * u64::MAX as f64) as u64 };
        let scope = InstrumentationScope::builder("weft").with_version(env!("CARGO_PKG_VERSION")).build();
        let seed = u64::from_le_bytes(crypto::random());
        Ok(Self(Arc::new(Inner { finished, dropped, below, seed, drawn: AtomicU64::default(), scope })))
    }

    /// Begins the span of a request whose head has a `traceparent`, and has what goes on be its child; none where nobody
    /// asked for it to be recorded. `is_new` says that the trace begins here.
    pub(crate) fn begin(&self, direction: Direction, headers: &mut HeaderMap, is_new: bool) -> Option<Box<Open>> {
        let (trace, parent, flags) = parts(headers.get(TRACE_PARENT)?)?;
        let bits = u128::from_be_bytes(trace.to_bytes());
        let is_recorded = if is_new { (bits as u64) < self.0.below } else { flags & 1 == 1 };
        if !is_recorded {
            return None;
        }
        let span = SpanId::from(self.draw());
        let text = format!("00-{trace}-{span}-{:02x}", flags | 1);
        headers.insert(TRACE_PARENT, HeaderValue::try_from(text).ok()?);
        let kind = if direction == Direction::Inbound { SpanKind::Server } else { SpanKind::Client };
        let parent = if is_new { SpanId::INVALID } else { parent };
        Some(Box::new(Open { spans: self.clone(), trace, span, parent, kind, started: SystemTime::now() }))
    }

    /// Draws a number other than zero.
    fn draw(&self) -> u64 {
        let count = self.0.drawn.fetch_add(1, Ordering::Relaxed);
        drawn(self.0.seed, count).max(1)
    }
}

const TRACE_PARENT: &str = "traceparent";

/// Takes a `traceparent` apart, whose form was checked: trace, span, flags.
fn parts(value: &HeaderValue) -> Option<(TraceId, SpanId, u8)> {
    let mut parts = value.to_str().ok()?.split('-').skip(1);
    let trace = TraceId::from_hex(parts.next()?).ok()?;
    let span = SpanId::from_hex(parts.next()?).ok()?;
    Some((trace, span, u8::from_str_radix(parts.next()?, 16).ok()?))
}

impl Open {
    /// Ends the span, and has it sent if there is room.
    pub(crate) fn end(self, about: About) {
        let Self { spans, trace, span, parent, kind, started } = self;
        let context = SpanContext::new(trace, span, TraceFlags::SAMPLED, false, TraceState::NONE);
        let data = SpanData {
            span_context: context,
            parent_span_id: parent,
            parent_span_is_remote: parent != SpanId::INVALID,
            span_kind: kind,
            name: about.name,
            start_time: started,
            end_time: SystemTime::now().max(started),
            attributes: about.attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: if about.is_error { Status::error("") } else { Status::Unset },
            instrumentation_scope: spans.0.scope.clone(),
        };
        if spans.0.finished.try_send(Finished { service: about.service, data }).is_err() {
            spans.0.dropped.inc();
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
