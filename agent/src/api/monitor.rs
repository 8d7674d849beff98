//! `/v1/agent/monitor`: this process's log as it is written.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, Method, StatusCode, header};
use wire::log_monitor::{LineForm, level_named, listen};

use super::error::ApiError;
use super::rights::Right;
use super::route::{Call, Route, route};

/// The token is judged again, before a line is sent, when this has passed since it was.
const JUDGED_EVERY: Duration = Duration::from_secs(30);

pub(super) fn routes() -> Vec<Route> {
    vec![route(Method::GET, "/v1/agent/monitor", Right::AgentRead, monitor).reads(&["loglevel", "logjson"])]
}

/// Streams the log from now on, for as long as the caller reads it and its token holds.
async fn monitor(call: Call) -> Result<Response, ApiError> {
    let name = call.query.get("loglevel");
    let level = level_named(name).map_err(|_| ApiError::Parameter {
        name: "loglevel",
        value: name.unwrap_or_default().to_owned(),
        expected: "use `trace`, `debug`, `info`, `warn` or `error`",
    })?;
    let form = if call.query.flag("logjson")?.unwrap_or(false) { LineForm::Json } else { LineForm::Text };
    let lines = listen(form, level).map_err(ApiError::TooManyListeners)?;
    let caller = Arc::new((call, Mutex::new(Instant::now())));
    let lines = lines.while_allowed(move || {
        let caller = Arc::clone(&caller);
        async move {
            let (call, judged) = &*caller;
            let last = || judged.lock().unwrap_or_else(PoisonError::into_inner);
            if last().elapsed() < JUDGED_EVERY {
                return true;
            }
            let may_go_on = call.may_still(Right::AgentRead).await;
            *last() = Instant::now();
            may_go_on
        }
    });
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    Ok((StatusCode::OK, [(header::CONTENT_TYPE, text)], Body::from_stream(lines)).into_response())
}
