//! `/v1/agent/monitor`: this process's log as it is written.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, Method, StatusCode, header};
use wire::log_monitor::{LineForm, level_named, listen};

use super::auth::Right;
use super::call::Call;
use super::error::ApiError;
use super::query::parameter;
use super::route::{Route, route};

pub(super) fn routes() -> Vec<Route> {
    vec![route(Method::GET, "/v1/agent/monitor", Right::Judged, monitor).reads(&["loglevel", "logjson"])]
}

/// Streams the log from now on, for as long as the caller reads it and its token holds.
async fn monitor(call: Call) -> Result<Response, ApiError> {
    call.may_read_server()?;
    let name = call.query.get("loglevel");
    let level =
        level_named(name).map_err(|error| parameter("loglevel", name.unwrap_or_default(), error.to_string()))?;
    let form = if call.query.flag("logjson")? { LineForm::Json } else { LineForm::Text };
    let lines = listen(form, level)?.while_allowed(move || {
        let may_go_on = call.may_read_server().is_ok();
        async move { may_go_on }
    });
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    Ok((StatusCode::OK, [(header::CONTENT_TYPE, text)], Body::from_stream(lines)).into_response())
}
