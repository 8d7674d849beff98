//! `weft intention usage`: which rules decide anything.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use wire::api_types::{RuleUsage, RuleUsageView};
use wire::decode::parse_span;

use super::super::api::Api;
use super::super::output::{Output, instant, note, table};

/// List how often each rule decided something, by what agents have seen.
///
/// An agent counts from when it starts and tells its server every few minutes. What it saw before it started is not known:
/// `Watched since` says from when on all agents of a rule's destinations count.
#[derive(Debug, Args)]
pub(in crate::cli) struct Usage {
    /// Only those that decided nothing, and those of which that is not known; status 1 where there is one of the former
    #[arg(long)]
    unused: bool,
    /// What decided nothing within this time is unused, such as `30d` or `12h`; without it, since it is watched
    #[arg(long, value_name = "DURATION", value_parser = parse_span, requires = "unused")]
    since: Option<Duration>,
    #[command(flatten)]
    output: Output,
}

/// Prints the rules.
pub(super) async fn run(api: &Api, usage: &Usage) -> anyhow::Result<ExitCode> {
    let mut view: RuleUsageView = api.get("/v1/connect/intentions/usage", &[]).await?;
    let now = wire::crypto::now();
    let mut status = ExitCode::SUCCESS;
    if usage.unused {
        view.rules.retain(|rule| rule.is_unused(now, usage.since) != Some(false));
        if view.rules.iter().any(|rule| rule.is_unused(now, usage.since) == Some(true)) {
            status = ExitCode::FAILURE;
        }
    }
    let verdict = |rule: &RuleUsage| match rule.is_unused(now, usage.since) {
        Some(true) => "unused",
        Some(false) => "used",
        None if rule.watched_since.is_none() => "not watched",
        None => "not watched for so long",
    };
    usage.output.print(&view, |view| text(view, verdict))?;
    for server in &view.silent_servers {
        note(&format!("server {server} did not answer: what its agents have seen is missing"))?;
    }
    if view.left_out > 0 {
        note(&format!("{} more decided something and are not told of one by one", view.left_out))?;
    }
    Ok(status)
}

fn text(view: &RuleUsageView, verdict: impl Fn(&RuleUsage) -> &'static str) -> String {
    let moment = |at: Option<catalog::Timestamp>| at.map_or_else(|| "-".to_owned(), instant);
    let rows = view.rules.iter().map(|rule| {
        let place = rule.permission.map_or_else(String::new, |place| format!("permissions[{place}]"));
        vec![
            rule.source.clone(),
            rule.action.to_string(),
            rule.destination.clone(),
            place,
            rule.allowed.to_string(),
            rule.denied.to_string(),
            moment(rule.last),
            moment(rule.watched_since),
            verdict(rule).to_owned(),
        ]
    });
    let header =
        ["Source", "Action", "Destination", "Permission", "Allowed", "Denied", "Last", "Watched since", "Verdict"];
    table(&header, rows.collect(), "no rules")
}
