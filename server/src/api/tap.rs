//! `/v1/tap/{service}`: the requests to a service, while they happen.

use std::time::Duration;

use ::catalog::ServiceKey;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use tokio::time::Instant;
use wire::decode::parse_duration;
use wire::tap::{StatusFilter, TAP_DEFAULT, TAP_HEADERS_MAX, TAP_MAX, TapFilter, TapLine, TapOrder};

use super::auth::Right;
use super::call::Call;
use super::error::ApiError;
use super::query::parameter;
use super::route::{Route, route};
use crate::taps::Watching;

/// Whether the caller still may is looked at this often.
const JUDGED_EVERY: Duration = Duration::from_secs(2);

pub(super) fn routes() -> Vec<Route> {
    vec![
        route(Method::GET, "/v1/tap/{service}", Right::Judged, tap)
            .reads(&["for", "method", "path", "status", "source", "headers"]),
    ]
}

/// Streams a line of JSON for each request to the service that any agent sees, for as long as is asked for.
async fn tap(call: Call) -> Result<Response, ApiError> {
    let service = call.service()?;
    if !may(&call, &service)? {
        return Err(call.denied(format!("`service:write` on `{service}`")));
    }
    let wanted = wanted(&call)?;
    let lasts = match call.query.get("for") {
        None => TAP_DEFAULT,
        Some(text) => parse_duration(text).map_err(|error| parameter("for", text, error.to_string()))?.min(TAP_MAX),
    };
    let consensus = call.state.consensus().clone();
    let watching = consensus.taps().open(service.clone())?;
    let lasts_ms = u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX);
    let server = consensus.agent_addresses().into_iter().next().unwrap_or_default();
    let order = TapOrder { id: watching.id.clone(), service: service.clone(), wanted, lasts_ms, server };
    // The answer begins at once; servers that are slow to hear of it do not hold it up.
    tokio::spawn(async move { consensus.order_tap(order).await });
    let state = Watch { call, service, watching, ends_at: Instant::now() + lasts };
    let lines = futures_util::stream::unfold(state, |mut state| async move {
        let line = state.next().await?;
        Some((Ok::<_, std::convert::Infallible>(line), state))
    });
    let kind = HeaderValue::from_static("application/x-ndjson");
    Ok((StatusCode::OK, [(header::CONTENT_TYPE, kind)], Body::from_stream(lines)).into_response())
}

/// Reports whether the caller may watch a service: whoever may change it, for paths and headers may tell much.
fn may(call: &Call, service: &ServiceKey) -> Result<bool, ApiError> {
    let catalog = call.state.consensus().catalog();
    Ok(call.caller.judge_again(&catalog)?.service_write(service))
}

fn wanted(call: &Call) -> Result<TapFilter, ApiError> {
    let text = |name: &'static str| call.query.get(name).filter(|text| !text.is_empty()).map(str::to_owned);
    let status = match call.query.get("status").filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => {
            let status: StatusFilter = text
                .parse()
                .map_err(|error: wire::tap::StatusFilterError| parameter("status", text, error.to_string()))?;
            Some(status)
        }
    };
    let headers: Vec<String> = text("headers")
        .into_iter()
        .flat_map(|names| {
            names
                .split(',')
                .map(|name| name.trim().to_ascii_lowercase())
                .filter(|name| !name.is_empty())
                .collect::<Vec<_>>()
        })
        .collect();
    if headers.len() > TAP_HEADERS_MAX {
        return Err(parameter("headers", &headers.join(","), format!("name at most {TAP_HEADERS_MAX}")));
    }
    let source = text("source").map(|source| if source.contains('/') { source } else { format!("default/{source}") });
    let method = text("method").map(|method| method.to_ascii_uppercase());
    Ok(TapFilter { method, path: text("path"), status, source, headers })
}

/// Is one who watches, for as long as he reads.
struct Watch {
    call: Call,
    service: ServiceKey,
    watching: Watching,
    ends_at: Instant,
}

impl Watch {
    /// Waits for the next line; none when the time is over, or the caller may watch no longer.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if Instant::now() >= self.ends_at || !may(&self.call, &self.service).unwrap_or(false) {
                return None;
            }
            let until = (Instant::now() + JUDGED_EVERY).min(self.ends_at);
            if let Ok(line) = tokio::time::timeout_at(until, self.watching.lines.recv()).await {
                return line.as_ref().and_then(written);
            }
        }
    }
}

fn written(line: &TapLine) -> Option<Bytes> {
    let mut text = serde_json::to_vec(line).ok()?;
    text.push(b'\n');
    Some(text.into())
}
