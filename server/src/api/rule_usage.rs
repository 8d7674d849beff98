//! Which rules decide anything, by what agents have seen.

use ::catalog::{Intention, WatchKey};
use axum::response::Response;
use http::Method;
use wire::api_types::RuleUsageView;

use super::auth::Right;
use super::call::Call;
use super::error::ApiError;
use super::route::{Route, route};

pub(super) fn routes() -> Vec<Route> {
    vec![route(Method::GET, "/v1/connect/intentions/usage", Right::Judged, usage).answers("RuleUsageView")]
}

/// Answers with every intention that the caller may read, and how often it decided something, as far as servers could be
/// asked.
async fn usage(call: Call) -> Result<Response, ApiError> {
    let reading = call.read(vec![WatchKey::Intentions]).await?;
    let told = call.state.consensus().seen_by_all().await;
    let intentions: Vec<&Intention> =
        reading.catalog.intentions().filter(|intention| reading.shows(intention)).collect();
    // Who may read no rule learns nothing of the servers either.
    let silent = if intentions.is_empty() { Vec::new() } else { told.silent };
    call.answer(&reading, &RuleUsageView::new(intentions, &told.seen, silent))
}
