//! What is told of a request when it is over: in the metrics, and in the access log where there is one.

use std::net::SocketAddr;
use std::sync::Arc;

use http::header::{HeaderMap, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, StatusCode};
use serde::Serialize;
use tokio::time::Instant;

use super::head::{REQUEST_ID, TRACE_PARENT};
use super::normal::Lines;
use crate::access_log::AccessLog;
use crate::metrics::{Direction, PairCounters};

/// Is what is told of a request when it is over.
#[derive(Debug)]
pub(crate) struct Story {
    direction: Direction,
    started: Instant,
    status: StatusCode,
    counters: Arc<PairCounters>,
    /// What only the access log tells.
    line: Option<Box<Line>>,
}

#[derive(Debug)]
struct Line {
    log: AccessLog,
    from: SocketAddr,
    method: Method,
    target: Option<PathAndQuery>,
    request_id: Option<HeaderValue>,
    trace: Option<HeaderValue>,
}

/// One line of the access log. A query is left out, for it may hold what is nobody's business.
#[derive(Serialize)]
struct Written<'a> {
    time_ms: u64,
    direction: &'static str,
    source: &'a str,
    destination: &'a str,
    from: SocketAddr,
    method: &'a str,
    path: &'a str,
    status: u16,
    /// Why it ended, or was refused: the words of the metrics.
    reason: &'static str,
    bytes_sent: u64,
    bytes_recv: u64,
    duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'a str>,
}

impl Story {
    /// Begins when the request has come.
    pub(crate) fn new(direction: Direction, counters: Arc<PairCounters>) -> Self {
        Self { direction, started: Instant::now(), status: StatusCode::OK, counters, line: None }
    }

    /// Takes down what the access log will tell.
    pub(crate) fn take_down(&mut self, log: Option<&AccessLog>, from: SocketAddr, lines: &Lines) {
        self.line = log.map(|log| {
            let (method, target) = lines.asked();
            Box::new(Line { log: log.clone(), from, method, target, request_id: None, trace: None })
        });
    }

    /// Takes down by which names the request goes on.
    pub(crate) fn name(&mut self, headers: &HeaderMap) {
        if let Some(line) = &mut self.line {
            line.request_id = headers.get(REQUEST_ID).cloned();
            line.trace = headers.get(TRACE_PARENT).cloned();
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
        let Some(line) = self.line else { return };
        let trace = line.trace.as_ref().and_then(|trace| trace.to_str().ok());
        let written = Written {
            time_ms: wire::crypto::now().0,
            direction: self.direction.as_str(),
            source: &self.counters.source,
            destination: &self.counters.destination,
            from: line.from,
            method: line.method.as_str(),
            path: line.target.as_ref().map_or("", PathAndQuery::path),
            status: self.status.as_u16(),
            reason,
            bytes_sent,
            bytes_recv,
            duration_ms: took.as_secs_f64() * 1000.0,
            request_id: line.request_id.as_ref().and_then(|id| id.to_str().ok()),
            trace_id: trace.and_then(|trace| trace.split('-').nth(1)),
        };
        match serde_json::to_vec(&written) {
            Ok(text) => line.log.write(text),
            Err(error) => tracing::debug!(%error, "a line of the access log cannot be written"),
        }
    }
}
