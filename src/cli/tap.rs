//! `weft tap`: the requests to a service, while they happen.

use std::process::ExitCode;

use clap::Args;
use wire::tap::{StatusFilter, TapLine};

use super::{
    ApiOptions,
    api::Api,
    output::{self, Form, note, printable},
};

/// Watch the requests to a service while they happen, wherever its instances are.
///
/// Needs `service:write` on the service. Headers are shown only where they are named, and never the values of those that
/// carry secrets. Whoever reads too slowly is cut off rather than have anybody wait.
#[derive(Debug, Args)]
pub(super) struct Tap {
    /// The service, as `name` or `namespace/name`
    service: String,
    /// Show requests of this method only
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// Show requests whose path starts so only
    #[arg(long, value_name = "PREFIX")]
    path: Option<String>,
    /// Show requests that were answered so only, such as 503 or 5xx
    #[arg(long, value_name = "STATUS")]
    status: Option<StatusFilter>,
    /// Show requests of this caller only
    #[arg(long, value_name = "SERVICE")]
    source: Option<String>,
    /// Show this header of each request; may be given several times
    #[arg(long = "header", value_name = "NAME")]
    headers: Vec<String>,
    /// Watch for so long, 10m at most
    #[arg(long = "for", value_name = "DURATION", default_value = "60s")]
    lasts: String,
    /// The form of a line
    #[arg(long, value_enum, default_value_t = Form::Table, value_name = "FORM")]
    output: Form,
}

pub(super) async fn run(tap: Tap, options: &ApiOptions) -> anyhow::Result<ExitCode> {
    let (namespace, name) = tap.service.split_once('/').unwrap_or((options.namespace.as_str(), &tap.service));
    let (status, headers) = (tap.status.map(|status| status.to_string()), tap.headers.join(","));
    let mut query = vec![("ns", namespace), ("for", tap.lasts.as_str()), ("headers", headers.as_str())];
    let filters = [("method", &tap.method), ("path", &tap.path), ("status", &status), ("source", &tap.source)];
    query.extend(filters.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?))));
    let mut pieces = Api::new(options)?.stream_in("/v1/tap", name, &query).await?;
    let mut held = Vec::new();
    while let Some(piece) = pieces.next().await? {
        held.extend_from_slice(&piece);
        while let Some(end) = held.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = held.drain(..=end).collect();
            show(&line, tap.output)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show(line: &[u8], form: Form) -> anyhow::Result<()> {
    let line: TapLine = serde_json::from_slice(line)?;
    match line {
        TapLine::Notice { notice } => note(&printable(&notice)),
        TapLine::Event(event) if form == Form::Json => output::line(&serde_json::to_string(&event)?),
        TapLine::Event(event) => {
            let headers: String = event.headers.iter().map(|(name, value)| format!(" {name}={value}")).collect();
            let decided =
                if event.rule.is_empty() { String::new() } else { format!(" {} by {}", event.decision, event.rule) };
            output::line(&printable(&format!(
                "{} {} => {} on {} {} {} {} {:.1}ms {}{decided}{headers}",
                output::instant(event.time),
                event.source,
                event.destination,
                event.node.as_ref().map_or_else(String::new, ToString::to_string),
                event.method,
                event.path,
                event.status,
                event.duration_ms,
                event.reason,
            )))
        }
    }
}
