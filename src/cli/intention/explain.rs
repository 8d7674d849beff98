//! `weft intention explain`: why a call is allowed or refused, by the servers' rules or by those in files.

use std::{path::PathBuf, process::ExitCode};

use catalog::{CandidateOutcome, Decision, Namespace};
use clap::Args;
use wire::{
    api_types::{ExplainedRequest, Explanation},
    asked_request::AskedRequest,
};

use super::{
    Pair,
    judge::{Judge, service},
};
use crate::cli::{
    ApiOptions,
    output::{self, Output, printable, table},
};

#[derive(Debug, Args)]
pub(in crate::cli) struct Explain {
    #[command(flatten)]
    pair: Pair,
    #[command(flatten)]
    request: RequestOptions,
    /// Ask the config entries in this file, and no server; may be given several times
    #[arg(long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    output: Output,
}

/// Describes a request; without any of these a connection is asked about.
#[derive(Debug, Args)]
struct RequestOptions {
    /// The request's method
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// The request's path
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    /// The host that the request names
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// A header of the request; may be given several times
    #[arg(long, value_name = "NAME: VALUE")]
    header: Vec<String>,
    /// What a token says that the request carries, taken as verified; may be given several times
    #[arg(long, value_name = "PROVIDER={CLAIMS}")]
    jwt: Vec<String>,
    /// What the caller runs on, as its certificate says: vm, ecs or kubernetes
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
}

impl RequestOptions {
    fn asked(&self) -> anyhow::Result<Option<AskedRequest>> {
        let single =
            [("method", &self.method), ("path", &self.path), ("host", &self.host), ("platform", &self.platform)];
        let single = single.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)));
        let headers = self.header.iter().map(|header| ("header", header.as_str()));
        let tokens = self.jwt.iter().map(|token| ("jwt", token.as_str()));
        Ok(AskedRequest::from_parameters(single.chain(headers).chain(tokens))?)
    }
}

pub(super) async fn run(explain: &Explain, options: &ApiOptions) -> anyhow::Result<ExitCode> {
    let namespace: &Namespace = &options.namespace;
    let pair = (service(&explain.pair.source, namespace)?, service(&explain.pair.destination, namespace)?);
    let asked = explain.request.asked()?;
    let judge = Judge::new(&explain.files, options)?;
    let found = judge.explain(&pair, asked.as_ref()).await?;
    explain.output.print(&found, text)?;
    Ok(ExitCode::SUCCESS)
}

fn text(explanation: &Explanation) -> String {
    let call = format!("{} => {}", explanation.source, explanation.destination);
    let mut text = match &explanation.request {
        Some(request) => request_text(&call, request),
        None => printable(&format!("{call}: {}, by {}", explanation.decision, explanation.reason)),
    };
    if explanation.request.is_none() && explanation.audited {
        text += &printable(&format!(" (only logged and counted: {})", explanation.audited_by));
    }
    for guardrail in explanation.guardrails.iter().filter(|guardrail| guardrail.matches) {
        let line = format!("guardrail `{}`: {} => {}", guardrail.name, guardrail.source, guardrail.destination);
        text += &format!("\n{}", printable(&line));
    }
    for relaxation in &explanation.relaxations {
        let scope = relaxation.namespace.as_ref().map_or("the whole mesh".to_owned(), ToString::to_string);
        let until = output::instant(relaxation.ends_at);
        text += &format!("\n{}", printable(&format!("relaxed until {until} ({scope}): {}", relaxation.reason)));
    }
    if !explanation.candidates.is_empty() {
        let rows = explanation.candidates.iter().map(|one| {
            let owner = one.owner.as_ref().map(ToString::to_string).unwrap_or_default();
            let precedence = one.precedence.to_string();
            let outcome = one.outcome.as_str().to_owned();
            vec![one.source.clone(), one.action.clone(), one.destination.clone(), precedence, owner, outcome]
        });
        let rows = table(&["Source", "Action", "Destination", "Precedence", "Owner", "Outcome"], rows.collect(), "");
        text += &format!("\n{rows}");
    }
    if let Some(advice) = advice(explanation) {
        text += &format!("\n{}", printable(&advice));
    }
    text
}

/// Says how a call that is denied can be allowed, where an intention would do it.
fn advice(explanation: &Explanation) -> Option<String> {
    let is_guarded = explanation.guardrails.iter().any(|guardrail| guardrail.matches);
    if explanation.decision != Decision::Deny || explanation.audited || explanation.request.is_some() || is_guarded {
        return None;
    }
    let Explanation { source, destination, .. } = explanation;
    let allow = format!("weft intention create --allow {source} {destination}");
    Some(match explanation.candidates.iter().find(|one| one.outcome == CandidateOutcome::Decided) {
        Some(one) if one.source == *source && one.destination == *destination => {
            format!("to allow it: weft intention delete {source} {destination} && {allow}")
        }
        Some(_) | None => format!("to allow it: {allow}"),
    })
}

/// Tells of a request: what is decided, what would be by the next rule, and why the others did not decide.
fn request_text(call: &str, request: &ExplainedRequest) -> String {
    let mut lines =
        vec![format!("{call} {} {}: {}, by {}", request.method, request.path, request.decision, request.reason)];
    if !request.audited_by.is_empty() {
        lines.push(format!("only logged and counted: {}", request.audited_by));
    }
    if !request.runner_up.is_empty() {
        lines.push(format!("without it, by {}", request.runner_up));
    }
    for rule in &request.intentions {
        for permission in &rule.permissions {
            lines.push(format!("{} => {} {permission}", rule.source, rule.destination));
        }
    }
    let lines: Vec<String> = lines.iter().map(|line| printable(line)).collect();
    lines.join("\n")
}
