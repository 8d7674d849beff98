//! `/v1/api/...`: what an agent passes on of its local API, answered by this server's own API in the same process.

use axum::body::Body;
use http::uri::{PathAndQuery, Uri};
use http::{Response, header};
use tower::ServiceExt;
use wire::agent_protocol::API_PATH_PREFIX;

use super::refusal::PortError;
use super::route::Call;
use crate::api::SourceAddress;

/// Answers a request of the agent's local API. The agent lends it nothing: its rights are those of its own token.
pub(super) async fn pass_on(call: Call) -> Result<Response<Body>, PortError> {
    call.agent()?;
    let source = call.connection.source();
    let (mut parts, body) = call.request.into_parts();
    parts.uri = api_uri(&parts.uri)?;
    // Connection-level facts of the agent's own HTTP/2 request say nothing about the one that it carries.
    parts.extensions.clear();
    parts.extensions.insert(SourceAddress(source));
    parts.headers.remove(header::HOST);
    let request = http::Request::from_parts(parts, Body::new(body));
    match call.port.api.clone().oneshot(request).await {
        Ok(response) => Ok(response),
        Err(never) => match never {},
    }
}

/// Turns `/v1/api/<rest>` into `/v1/<rest>`.
fn api_uri(uri: &Uri) -> Result<Uri, PortError> {
    let malformed = || PortError::NoSuchPath { path: wire::harmless(uri.path()) };
    let path_and_query = uri.path_and_query().map_or("", PathAndQuery::as_str);
    let rest =
        path_and_query.strip_prefix(API_PATH_PREFIX).filter(|rest| rest.starts_with('/')).ok_or_else(malformed)?;
    format!("/v1{rest}").parse().map_err(|_| malformed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_is_taken_off_and_the_query_stays() {
        let rows = [
            ("https://s1/v1/api/catalog/nodes?stale&ns=a", "/v1/catalog/nodes?stale&ns=a"),
            ("/v1/api/health/service/web", "/v1/health/service/web"),
            ("/v1/api//x", "/v1//x"),
        ];
        for (given, want) in rows {
            assert_eq!(api_uri(&given.parse().unwrap()).unwrap().to_string(), want);
        }
        assert!(api_uri(&"/v1/apix".parse().unwrap()).is_err());
    }
}
