//! `weft mesh callers` and `weft mesh plaintext`: who calls whom, and over what.

use std::process::ExitCode;

use wire::api_types::{CallersView, WatchedView};
use wire::report::Link;

use super::super::api::Api;
use super::super::output::{instant, note, table};
use super::Seen;

/// Prints who calls whom; of those that speak plaintext alone, also whether there are any.
pub(super) async fn run(api: &Api, seen: &Seen, plaintext: bool) -> anyhow::Result<ExitCode> {
    let mut view: CallersView = api.get("/v1/mesh/callers", &[]).await?;
    if let Some(since) = seen.since {
        let now = wire::crypto::now();
        view.pairs.retain(|pair| pair.last >= now.saturating_sub(since));
    }
    if plaintext {
        view.pairs.retain(|pair| matches!(pair.link, Link::Plaintext | Link::Outside));
    }
    seen.output.print(&view, |view| text(view, plaintext))?;
    for server in &view.silent_servers {
        note(&format!("server {server} did not answer: what its agents have seen is missing"))?;
    }
    if view.left_out > 0 {
        note(&format!("{} more are not told of one by one", view.left_out))?;
    }
    // What is outside is so by the operator's own word, and shown; no caller of it can be moved in.
    let is_spoken = view.pairs.iter().any(|pair| pair.link == Link::Plaintext);
    Ok(if plaintext && is_spoken { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn text(view: &CallersView, plaintext: bool) -> String {
    let rows = view.pairs.iter().map(|pair| {
        let nodes: Vec<String> = pair.nodes.iter().map(ToString::to_string).collect();
        let (destination, link) = (pair.destination.to_string(), pair.link.to_string());
        vec![pair.source.clone(), nodes.join(", "), destination, link, pair.opened.to_string(), instant(pair.last)]
    });
    let nobody = if plaintext { "nobody was seen to speak plaintext" } else { "nobody was seen to call" };
    let watched = view
        .watched
        .iter()
        .map(|WatchedView { service, agents, since }| vec![service.to_string(), agents.to_string(), instant(*since)]);
    format!(
        "{}\n\nWatched\n{}",
        table(&["Source", "Nodes", "Destination", "Link", "Opened", "Last"], rows.collect(), nobody),
        table(&["Service", "Agents", "Since"], watched.collect(), "nothing: no agent has reported yet"),
    )
}
