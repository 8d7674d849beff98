//! What is told of a request when it is over: in the metrics, and where somebody wants to know more.

mod line;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use catalog::Action;
use catalog::http::RequestVerdict;
use http::header::{HeaderMap, HeaderValue, USER_AGENT};
use http::uri::PathAndQuery;
use http::{Method, StatusCode};
use opentelemetry::KeyValue;
use tokio::time::Instant;
use wire::tap::{TapEvent, shown_header};

use super::head::{REQUEST_ID, TRACE_PARENT};
use super::normal::Lines;
use crate::access_log::{AccessLog, Field};
use crate::metrics::{Direction, PairCounters};
use crate::proxy::observers::Observers;
use crate::proxy::taps::Taps;
use crate::spans::{About, Open};

/// Is what is told of a request when it is over.
#[derive(Debug)]
pub(crate) struct Story {
    direction: Direction,
    started: Instant,
    status: StatusCode,
    counters: Arc<PairCounters>,
    /// What is taken down only where somebody wants to know.
    notes: Option<Box<Notes>>,
}

/// Is what there is to tell of a request besides numbers.
#[derive(Debug)]
struct Notes {
    log: Option<AccessLog>,
    span: Option<Box<Open>>,
    /// Who watches; of what arrives here alone.
    taps: Option<Arc<Taps>>,
    /// What they want to see of the headers.
    headers: BTreeMap<String, String>,
    from: SocketAddr,
    method: Method,
    target: Option<PathAndQuery>,
    authority: Option<String>,
    user_agent: Option<HeaderValue>,
    request_id: Option<HeaderValue>,
    trace: Option<HeaderValue>,
    decided: Option<Decided>,
}

/// Is what the rules said.
#[derive(Debug)]
struct Decided {
    decision: &'static str,
    rule: String,
}

/// Is how a request ended.
struct End {
    status: StatusCode,
    /// Why it ended, or was refused: the words of the metrics.
    reason: &'static str,
    bytes_sent: u64,
    bytes_recv: u64,
    duration_ms: f64,
}

impl End {
    /// Reports whether there is always a line of it.
    fn is_notable(&self) -> bool {
        self.status.as_u16() >= 400 || self.reason != "done"
    }
}

impl Story {
    /// Begins when the request has come.
    pub(crate) fn new(direction: Direction, counters: Arc<PairCounters>) -> Self {
        Self { direction, started: Instant::now(), status: StatusCode::OK, counters, notes: None }
    }

    /// Takes down what will be told, where somebody wants to know.
    pub(crate) fn take_down(&mut self, observers: &Observers, from: SocketAddr, lines: &Lines) {
        if !observers.are_any() {
            return;
        }
        let is_watched = self.direction == Direction::Inbound && observers.taps.are_any();
        let (method, target) = lines.asked();
        let is_host_told = |log: &AccessLog| log.fields().has(Field::Authority);
        let authority = observers.access_log.as_ref().is_some_and(is_host_told).then(|| lines.asked_host()).flatten();
        self.notes = Some(Box::new(Notes {
            log: observers.access_log.clone(),
            span: None,
            taps: is_watched.then(|| Arc::clone(&observers.taps)),
            headers: BTreeMap::new(),
            from,
            method,
            target,
            authority,
            user_agent: None,
            request_id: None,
            trace: None,
            decided: None,
        }));
    }

    /// Takes down by which names the request goes on, and begins its span; `begins_trace` says that it came with none.
    pub(crate) fn name(&mut self, observers: &Observers, headers: &mut HeaderMap, begins_trace: bool) {
        let Some(notes) = &mut self.notes else { return };
        if let Some(spans) = &observers.spans {
            notes.span = spans.begin(self.direction, headers, begins_trace);
        }
        if let Some(taps) = &notes.taps {
            notes.headers = taps
                .headers()
                .into_iter()
                .filter_map(|name| {
                    let shown = shown_header(&name, headers.get(&name)?.as_bytes());
                    Some((name, shown))
                })
                .collect();
        }
        notes.request_id = headers.get(REQUEST_ID).cloned();
        notes.trace = headers.get(TRACE_PARENT).cloned();
        if notes.log.as_ref().is_some_and(|log| log.fields().has(Field::UserAgent)) {
            notes.user_agent = headers.get(USER_AGENT).cloned();
        }
    }

    /// Takes down what the rules say.
    pub(crate) fn decided(&mut self, verdict: &RequestVerdict<'_>) {
        if let Some(notes) = &mut self.notes {
            let decision = match (verdict.decision, verdict.audit) {
                (Action::Allow, _) => "allow",
                (Action::Deny, Some(_)) => "audit",
                (Action::Deny, None) => "deny",
            };
            notes.decided = Some(Decided { decision, rule: verdict.rule.to_string() });
        }
    }

    /// Takes down what the request was answered with.
    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.status = status;
    }

    /// Tells of the request.
    pub(crate) fn tell(self, reason: &'static str, bytes_sent: u64, bytes_recv: u64) {
        let took = self.started.elapsed();
        self.counters.answered(self.status, took);
        let Some(notes) = self.notes else { return };
        let duration_ms = took.as_secs_f64() * 1000.0;
        let end = End { status: self.status, reason, bytes_sent, bytes_recv, duration_ms };
        notes.tell(self.direction, &self.counters, &end);
    }
}

impl Notes {
    fn tell(mut self, direction: Direction, counters: &PairCounters, end: &End) {
        let span = self.span.take();
        if let Some(log) = self.log.as_ref().filter(|log| end.is_notable() || log.draws()) {
            match serde_json::to_vec(&line::Line { notes: &self, direction, counters, end, fields: log.fields() }) {
                Ok(text) => log.write(text),
                Err(error) => tracing::debug!(%error, "a line of the access log cannot be written"),
            }
        }
        if let Some(taps) = self.taps.take() {
            taps.tell(&self.seen(counters, end));
        }
        if let Some(span) = span {
            span.end(self.about(direction, counters, end));
        }
    }

    /// Writes what whoever watches is told.
    fn seen(&self, counters: &PairCounters, end: &End) -> TapEvent {
        let text =
            |value: &Option<HeaderValue>| value.as_ref().and_then(|value| value.to_str().ok().map(str::to_owned));
        let trace = text(&self.trace).unwrap_or_default();
        TapEvent {
            time: wire::crypto::now(),
            node: None,
            source: counters.source.clone(),
            destination: counters.destination.clone(),
            method: self.method.as_str().to_owned(),
            path: self.target.as_ref().map_or("", PathAndQuery::path).to_owned(),
            status: end.status.as_u16(),
            reason: end.reason.to_owned(),
            decision: self.decided.as_ref().map_or("", |decided| decided.decision).to_owned(),
            rule: self.decided.as_ref().map_or_else(String::new, |decided| decided.rule.clone()),
            duration_ms: end.duration_ms,
            bytes_sent: end.bytes_sent,
            bytes_recv: end.bytes_recv,
            request_id: text(&self.request_id).unwrap_or_default(),
            trace_id: trace.split('-').nth(1).unwrap_or_default().to_owned(),
            headers: self.headers.clone(),
        }
    }

    /// Writes what a span tells, in the words of the semantic conventions where they have them.
    fn about(self, direction: Direction, counters: &PairCounters, end: &End) -> About {
        let is_inbound = direction == Direction::Inbound;
        let status = end.status.as_u16();
        let path = self.target.as_ref().map_or("/", PathAndQuery::path).to_owned();
        let mut attributes = vec![
            KeyValue::new("http.request.method", self.method.as_str().to_owned()),
            KeyValue::new("http.response.status_code", i64::from(status)),
            KeyValue::new("url.path", path),
            KeyValue::new("url.scheme", "http"),
            KeyValue::new("server.address", counters.destination.clone()),
            KeyValue::new("weft.source", counters.source.clone()),
            KeyValue::new("weft.destination", counters.destination.clone()),
            KeyValue::new("weft.reason", end.reason),
        ];
        if is_inbound {
            attributes.push(KeyValue::new("client.address", self.from.ip().to_canonical().to_string()));
        }
        if let Some(id) = self.request_id.as_ref().and_then(|id| id.to_str().ok()) {
            attributes.push(KeyValue::new("weft.request_id", id.to_owned()));
        }
        if let Some(Decided { decision, rule }) = self.decided {
            attributes.extend([KeyValue::new("weft.decision", decision), KeyValue::new("weft.rule", rule)]);
        }
        // What the caller did wrong is no failure of the server's.
        let is_error = status >= if is_inbound { 500 } else { 400 } || end.reason != "done" && status < 400;
        if is_error {
            let kind = if status >= 400 { status.to_string() } else { end.reason.to_owned() };
            attributes.push(KeyValue::new("error.type", kind));
        }
        let own = if is_inbound { &counters.destination } else { &counters.source };
        About { service: Arc::from(own.as_str()), attributes, name: self.method.as_str().to_owned().into(), is_error }
    }
}
