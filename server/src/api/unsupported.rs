//! What Consul has and weft has not: answered with 404 and a sentence that says so.

use axum::response::{IntoResponse, Response};
use http::Uri;

use super::error::ApiError;

/// First path segments under `/v1/`, and what to say of them. The first match counts.
const ABSENT: [(&str, &str); 17] = [
    ("kv", "weft has no key-value store; keep such data elsewhere"),
    ("session", "weft has no sessions and no locks; use a service made for them"),
    ("txn", "weft has no transactions on a key-value store; send single writes"),
    ("event", "weft has no gossip and so no user events; use a message queue"),
    ("query", "weft has no prepared queries; ask /v1/health/service/<name>"),
    ("operator/keyring", "weft has no gossip and so no keyring; see `weft keygen` for the cluster key"),
    ("coordinate", "weft has no gossip and so no network coordinates"),
    ("peering", "weft has no peering yet"),
    ("peerings", "weft has no peering yet"),
    ("exported-services", "weft has no exported services yet"),
    ("imported-services", "weft has no imported services yet"),
    ("internal", "weft has no internal endpoints of Consul's UI"),
    ("operator", "weft has no such operator endpoint; see /v1/operator/raft and /v1/operator/autopilot"),
    ("agent/join", "weft has no gossip: servers find each other by retry_join, agents are given --server"),
    ("agent/connect/ca/leaf", "a server makes no leaf certificates for others; ask the agent beside the workload"),
    ("agent", "this is a server; local services, checks and certificates belong to agents: ask one of them"),
    ("acl", "weft has no such ACL endpoint; docs/api.md lists those that there are"),
];

/// Answers a path that no route takes.
pub(crate) async fn answer(uri: Uri) -> Response {
    ApiError::NoSuchPath { reason: reason(uri.path()) }.into_response()
}

/// Answers a known path that was asked with another method.
pub(crate) async fn method_not_allowed() -> Response {
    ApiError::MethodNotAllowed.into_response()
}

fn reason(path: &str) -> String {
    let absent = path.strip_prefix("/v1/").and_then(|rest| {
        let is_below =
            |prefix: &str| rest.strip_prefix(prefix).is_some_and(|after| after.is_empty() || after.starts_with('/'));
        ABSENT.iter().find(|(prefix, _)| is_below(prefix))
    });
    match absent {
        Some((_, reason)) => format!("{path}: {reason}"),
        None => format!("{path}: weft has no such path; the API's paths start with /v1/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn says(path: &str, part: &str) {
        let reason = reason(path);
        assert!(reason.contains(part), "{reason}");
    }

    #[test]
    fn names_what_weft_does_not_have() {
        says("/v1/kv/some/key", "no key-value store");
        says("/v1/kv", "no key-value store");
        says("/v1/session/create", "no sessions");
        says("/v1/query/abc/execute", "no prepared queries");
        says("/v1/operator/keyring", "no keyring");
        says("/v1/operator/segment", "/v1/operator/raft");
        says("/v1/agent/join/10.0.0.1", "no gossip");
        says("/v1/agent/service/register", "agents");
    }

    #[test]
    fn nothing_that_is_served_is_said_to_be_absent() {
        for (_, path, _) in crate::api::routes() {
            let is_it = |(prefix, _): &&(&str, &str)| path == format!("/v1/{prefix}");
            assert_eq!(ABSENT.iter().find(is_it), None, "{path} is served");
        }
    }

    #[test]
    fn does_not_take_a_longer_word_for_a_known_one() {
        says("/v1/kvx", "no such path");
        says("/", "no such path");
    }
}
