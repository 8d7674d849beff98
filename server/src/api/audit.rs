//! The audit trail, as the lines that were hashed.

use ::catalog::{AuditLine, CatalogIndex, WatchKey};
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, Method, header};
use serde_json::Value;
use wire::api_types::{AUDIT_BASE_HEADER, AUDIT_HEAD_HEADER, AuditTrail};

use super::auth::Right;
use super::call::Call;
use super::error::ApiError;
use super::query::parameter;
use super::route::{Route, route};

/// How many lines one answer holds where the caller does not say.
const LINES_DEFAULT: usize = 1000;
/// How many it holds at most.
const LINES_MAX: usize = 10_000;

pub(super) fn routes() -> Vec<Route> {
    vec![
        route(Method::GET, "/v1/audit", Right::OperatorRead, trail)
            .reads(&["from", "limit", "format"])
            .answers("AuditTrail"),
    ]
}

/// Answers with the kept lines from log index `from` on, oldest first: at most `limit` of them.
///
/// `format=lines` gives one line of JSON a record, byte for byte what was hashed. Two headers say where the whole trail ends
/// and after which record the kept part of it begins.
async fn trail(call: Call) -> Result<Response, ApiError> {
    let from = call.query.index("from")?.unwrap_or_default();
    let limit = match call.query.index("limit")? {
        None => LINES_DEFAULT,
        Some(CatalogIndex(wanted)) if (1..=LINES_MAX as u64).contains(&wanted) => {
            usize::try_from(wanted).unwrap_or(LINES_MAX)
        }
        Some(wanted) => return Err(parameter("limit", &wanted.to_string(), format!("send 1 to {LINES_MAX}"))),
    };
    let as_lines = match call.query.get("format") {
        None | Some("json") => false,
        Some("lines") => true,
        Some(other) => return Err(parameter("format", other, "send `json` or `lines`")),
    };
    let reading = call.read(vec![WatchKey::Audit]).await?;
    let (head, base) = (reading.catalog.audit_head(), reading.catalog.audit_base());
    let lines = reading.catalog.audit_lines(from).take(limit);
    let mut response = if as_lines {
        let text: String = lines.flat_map(|line| [&*line.text, "\n"]).collect();
        let mut response = text.into_response();
        let kind = HeaderValue::from_static("application/x-ndjson");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        call.mark(&reading, &mut response);
        response
    } else {
        let records: Vec<Value> = lines.map(record).collect::<Result<_, ApiError>>()?;
        call.answer(&reading, &AuditTrail { head: head.to_string(), base: base.to_string(), records })?
    };
    for (name, value) in [(AUDIT_HEAD_HEADER, head), (AUDIT_BASE_HEADER, base)] {
        let value = HeaderValue::try_from(value.to_string())
            .map_err(|error| ApiError::Internal { reason: error.to_string() })?;
        response.headers_mut().insert(HeaderName::from_static(name), value);
    }
    Ok(response)
}

/// Reads a line back, and adds its hash.
fn record(line: &AuditLine) -> Result<Value, ApiError> {
    let mut value: Value =
        serde_json::from_str(&line.text).map_err(|error| ApiError::Internal { reason: error.to_string() })?;
    if let Value::Object(fields) = &mut value {
        fields.insert("Hash".to_owned(), line.hash.to_string().into());
    }
    Ok(value)
}
