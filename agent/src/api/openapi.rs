//! `/v1/agent/openapi.json`: what the agent answers itself, described by its own routes and the manual.

use axum::response::Response;
use http::Method;
use wire::openapi::{Operation, document};

use super::error::ApiError;
use super::rights::Right;
use super::route::{Call, Route, route};
use super::table;

/// The manual, which has a sentence on every route.
pub(super) const MANUAL: &str = include_str!("../../../docs/api.md");

pub(super) fn routes() -> Vec<Route> {
    vec![route(Method::GET, "/v1/agent/openapi.json", Right::AnyToken, openapi).answers("object")]
}

/// Answers with the description of every route of the agent's own.
async fn openapi(call: Call) -> Result<Response, ApiError> {
    call.json(&document("weft agent", MANUAL, "agents", &operations()))
}

fn operations() -> Vec<Operation> {
    let described = table();
    let operation = |route: &Route| {
        let (method, path, _) = route.describe();
        let (reads, takes, answers) = route.describe_content();
        Operation {
            method: method.to_string(),
            path,
            right: "a token whose policies grant it".to_owned(),
            is_public: false,
            body: takes,
            query: ["ns", "pretty"].into_iter().chain(reads.iter().copied()).collect(),
            answer: answers,
        }
    };
    described.iter().map(operation).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use wire::openapi::{dangling, listed};

    use super::*;

    #[test]
    fn the_manual_has_every_route_of_the_agent_and_no_other() {
        let written: BTreeSet<(String, &str)> =
            listed(MANUAL, "agents").into_iter().map(|(method, path)| (method.to_owned(), path)).collect();
        let routes = table();
        let served: BTreeSet<(String, &str)> =
            routes.iter().map(Route::describe).map(|(method, path, _)| (method.to_string(), path)).collect();
        assert_eq!(written, served, "complete the table of agents in docs/api.md");
    }

    #[test]
    fn the_description_is_sound() {
        let document = document("weft agent", MANUAL, "agents", &operations());
        assert_eq!(dangling(&document), Vec::<String>::new());
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                assert!(operation["summary"].as_str().is_some_and(|it| it.len() > 4), "{method} {path}: {operation}");
            }
        }
    }
}
