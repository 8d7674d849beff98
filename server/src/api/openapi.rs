//! `/v1/openapi.json`: the API described by its own routes, the manual and the types of its answers.

use axum::response::Response;
use http::Method;
use wire::openapi::{Operation, document};

use super::auth::Right;
use super::call::Call;
use super::error::ApiError;
use super::route::{Route, route};
use super::{shaping, table};

/// The manual, which has a sentence on every route.
pub(super) const MANUAL: &str = include_str!("../../../docs/api.md");

pub(super) fn routes() -> Vec<Route> {
    vec![route(Method::GET, "/v1/openapi.json", Right::AnyToken, openapi).answers("object")]
}

/// Answers with the description of every route of this server.
async fn openapi(call: Call) -> Result<Response, ApiError> {
    call.json(&document("weft server", MANUAL, "servers", &operations()))
}

/// Describes every route.
pub(super) fn operations() -> Vec<Operation> {
    table().iter().map(operation).collect()
}

fn operation(route: &Route) -> Operation {
    let (method, path, right) = route.describe();
    let (reads, takes, answers) = route.describe_content();
    let is_read = method == Method::GET;
    let mut query: Vec<&'static str> = vec!["ns", "dc", "pretty"];
    if is_read {
        query.extend(["stale", "consistent", "index", "wait"]);
    }
    query.extend(shaping::parameters_of(path));
    query.extend(reads);
    Operation {
        method: method.to_string(),
        path,
        right: right.needs().to_owned(),
        is_public: right == Right::Public,
        body: takes,
        query,
        answer: answers,
    }
}
