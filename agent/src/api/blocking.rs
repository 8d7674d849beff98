//! Waiting for a change: by hash where the agent answers from itself, as Consul's clients know it, and by index for leaves.

use std::time::Duration;

use axum::response::Response;
use catalog::Selector;
use http::HeaderValue;
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::time::Instant;
use wire::crypto;
use wire::decode::parse_duration;

use super::error::ApiError;
use super::route::{Call, json_bytes};
use crate::core::Status;

const WAIT_DEFAULT: Duration = Duration::from_secs(5 * 60);
const WAIT_MAX: Duration = Duration::from_secs(10 * 60);

impl Call {
    /// Answers like [`Call::answer_hashed`] with an object of entries, of which `filter` selects some.
    pub(super) async fn answer_list<T: Serialize>(
        &self,
        render: impl Fn(&Status) -> Result<T, ApiError>,
    ) -> Result<Response, ApiError> {
        let selector = self.selector()?;
        self.answer_hashed(|status| selected(selector.as_ref(), &render(status)?)).await
    }

    /// Answers with what `render` makes of the agent's status, and its hash in `X-Consul-ContentHash`.
    ///
    /// With `hash` it waits, for as long as `wait` says, until the answer has another hash than that.
    pub(super) async fn answer_hashed<T: Serialize>(
        &self,
        render: impl Fn(&Status) -> Result<T, ApiError>,
    ) -> Result<Response, ApiError> {
        let known = self.query.get("hash").filter(|hash| !hash.is_empty());
        let deadline = self.wait_until()?;
        let mut status = self.state.core.watch();
        loop {
            let shown = status.borrow_and_update().clone();
            let body = self.json_text(&render(&shown)?)?;
            let hash = content_hash(&body);
            let is_news = known != Some(hash.as_str());
            // Whoever waits is answered at the end of its time too, and when the agent stops.
            if is_news || !matches!(tokio::time::timeout_at(deadline, status.changed()).await, Ok(Ok(()))) {
                let mut response = json_bytes(http::StatusCode::OK, body);
                let value =
                    HeaderValue::from_str(&hash).map_err(|error| ApiError::Internal { reason: error.to_string() })?;
                response.headers_mut().insert("x-consul-contenthash", value);
                return Ok(response);
            }
        }
    }

    /// Reads `filter`, which is compiled before anything is looked up for it.
    fn selector(&self) -> Result<Option<Selector>, ApiError> {
        let text = self.query.get("filter").filter(|text| !text.is_empty());
        text.map(|text| Selector::parse(text).map_err(|error| ApiError::Filter { reason: error.to_string() }))
            .transpose()
    }

    /// Reads `wait`: until when a query that blocks may wait.
    pub(super) fn wait_until(&self) -> Result<Instant, ApiError> {
        let limit = match self.query.get("wait").filter(|text| !text.is_empty()) {
            None => WAIT_DEFAULT,
            Some(text) => parse_duration(text).map_err(|_| ApiError::Parameter {
                name: "wait",
                value: text.to_owned(),
                expected: "use a duration such as `30s` or `5m`",
            })?,
        };
        let limit = if limit.is_zero() { WAIT_DEFAULT } else { limit.min(WAIT_MAX) };
        Ok(Instant::now() + limit)
    }
}

/// Returns the entries of an object that a selector selects; all of them where there is none.
fn selected(selector: Option<&Selector>, rendered: &impl Serialize) -> Result<Value, ApiError> {
    let value = serde_json::to_value(rendered).map_err(|error| ApiError::Internal { reason: error.to_string() })?;
    let (Some(selector), Value::Object(entries)) = (selector, &value) else { return Ok(value) };
    let mut kept = Map::new();
    for (id, entry) in entries {
        if selector.selects(entry).map_err(|error| ApiError::Filter { reason: error.to_string() })? {
            kept.insert(id.clone(), entry.clone());
        }
    }
    Ok(Value::Object(kept))
}

/// Tells one answer from another.
fn content_hash(body: &[u8]) -> String {
    let mut hash = crypto::sha256_hex(body);
    hash.truncate(16);
    hash
}
