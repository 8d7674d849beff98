//! Passing requests on to a server, both bodies streaming, with the caller's own token.

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::header::{self, HeaderName};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue};
use http_body_util::{BodyExt, Limited};
use wire::agent_protocol::API_PATH_PREFIX;
use wire::backup::ARCHIVE_BYTES_MAX;

use super::error::ApiError;
use crate::core::Handle;

/// No request to the API is larger, but for a backup that is restored; the server bounds each route further.
const REQUEST_BYTES_MAX: usize = 8 * 1024 * 1024;
const BACKUP_PATH: &str = "/v1/snapshot";

/// Headers that are about a connection and not about the request that it carries (RFC 9110 §7.6.1).
const CONNECTION_HEADERS: [HeaderName; 8] = [
    header::CONNECTION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
];

/// Sends a request for `/v1/...` to a server and returns its answer as it comes.
pub(super) async fn pass_on(core: &Handle, request: Request) -> Result<Response, ApiError> {
    const PATH: &str = "the request";
    let connection = core
        .connection()
        .await
        .ok_or_else(|| ApiError::NoServer { reason: "the agent is not connected".to_owned() })?;
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("", PathAndQuery::as_str);
    let rest = path.strip_prefix("/v1").ok_or_else(|| ApiError::NoSuchPath { path: path.to_owned() })?;
    let path = format!("{API_PATH_PREFIX}{rest}");
    let bytes_max = if parts.uri.path() == BACKUP_PATH { ARCHIVE_BYTES_MAX } else { REQUEST_BYTES_MAX };
    let headers = carried(parts.headers);
    let body = BodyExt::boxed_unsync(Limited::new(body, bytes_max));
    let answer = connection
        .send(parts.method, &path, headers, body, PATH)
        .await
        .map_err(|error| ApiError::NoServer { reason: wire::one_line(&error) })?;
    let (mut parts, body) = answer.into_parts();
    parts.version = http::Version::HTTP_11;
    parts.headers = carried(parts.headers);
    // The connection must outlive the answer that comes over it.
    let body = body.map_frame(move |frame| {
        let _ = &connection;
        frame
    });
    Ok(Response::from_parts(parts, Body::new(body)))
}

/// Returns the headers without those that are about one connection, also those that `Connection` names.
fn carried(mut headers: HeaderMap) -> HeaderMap {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value: &HeaderValue| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in CONNECTION_HEADERS.iter().chain(&named) {
        headers.remove(name);
    }
    headers.remove(header::HOST);
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_headers_of_the_request_itself_are_carried() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("host", "localhost"),
            ("connection", "keep-alive, X-Hop"),
            ("x-hop", "1"),
            ("transfer-encoding", "chunked"),
            ("x-consul-token", "secret"),
            ("content-type", "application/json"),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        let carried = carried(headers);
        let names: Vec<&str> = carried.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["x-consul-token", "content-type"]);
    }
}
