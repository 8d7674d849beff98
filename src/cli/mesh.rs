//! `weft mesh`: how strictly the mesh takes its own rules.

mod callers;

use std::{process::ExitCode, time::Duration};

use anyhow::Context;
use catalog::Namespace;
use clap::{Args, Subcommand};
use serde::Serialize;
use wire::{
    api_types::{RelaxRequest, RelaxationView},
    consul::{CONFIG_KINDS, MESH},
    decode::{parse_duration, parse_span},
};

use super::{
    ApiOptions,
    api::Api,
    output::{self, Output, pairs, table},
};

const RELAXATION: &str = "/v1/mesh/relaxation";
const RELAXATIONS: &str = "/v1/mesh/relaxations";

/// See and relax how strictly the mesh takes its own rules.
#[derive(Debug, Subcommand)]
pub(super) enum Mesh {
    /// Let calls pass that rules deny, for a limited time; they are logged and counted
    Relax(Relax),
    /// Show the default, the guardrails, and what is in audit mode
    Status(Status),
    /// List who calls whom, and how each pair agreed on its keys
    Callers(Seen),
    /// List who still speaks plaintext to whom; ends with 1 where somebody does
    Plaintext(Seen),
}

/// Let calls pass that rules deny, for a limited time; they are logged and counted.
///
/// It ends by itself, by the clock of every agent, also where no server can be reached. A caller without an identity of this
/// mesh, a revoked one, and one whom a guardrail names stay out all the same. Needs the operator's right, and stands in the
/// audit trail.
#[derive(Debug, Args)]
pub(super) struct Relax {
    /// Concern every destination
    #[arg(long, conflicts_with = "in_namespace", required_unless_present = "in_namespace")]
    whole_mesh: bool,
    /// Concern the services of this namespace
    #[arg(long, value_name = "NAMESPACE")]
    in_namespace: Option<Namespace>,
    /// For how long, 1s to 24h
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration, required_unless_present = "end")]
    lasts: Option<Duration>,
    /// Why
    #[arg(long, value_name = "TEXT", required_unless_present = "end")]
    reason: Option<String>,
    /// End the relaxation now instead
    #[arg(long, conflicts_with_all = ["lasts", "reason"])]
    end: bool,
}

#[derive(Debug, Args)]
pub(super) struct Status {
    #[command(flatten)]
    output: Output,
}

/// Says which of those that agents saw are listed.
#[derive(Debug, Args)]
pub(super) struct Seen {
    /// Only those that were seen within this time, such as `10m`; agents tell what they saw every five minutes, unless their
    /// `report_interval` says otherwise
    #[arg(long, value_name = "DURATION", value_parser = parse_span)]
    since: Option<Duration>,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Shown {
    entry: Option<serde_json::Value>,
    relaxations: Vec<RelaxationView>,
}

pub(super) async fn run(verb: Mesh, options: &ApiOptions) -> anyhow::Result<ExitCode> {
    let api = Api::new(options)?;
    match verb {
        Mesh::Relax(relax) if relax.end => {
            let scope = match &relax.in_namespace {
                Some(namespace) => ("namespace", namespace.as_str()),
                None => ("whole-mesh", "true"),
            };
            api.delete(RELAXATION, &[scope]).await?;
            output::line("Ended.")?;
        }
        Mesh::Relax(relax) => {
            let request = RelaxRequest {
                namespace: relax.in_namespace,
                whole_mesh: relax.whole_mesh,
                lasts: relax.lasts.context("for how long is not said")?,
                reason: relax.reason.context("why is not said")?,
            };
            let scope = request.scope();
            let made: Option<RelaxationView> = api.put(RELAXATION, &[], &request).await?;
            let until = made.map_or_else(String::new, |made| format!(" until {}", output::instant(made.ends_at)));
            output::line(&format!("Relaxed: {scope}{until}"))?;
        }
        Mesh::Callers(how) => return callers::run(&api, &how, false).await,
        Mesh::Plaintext(how) => return callers::run(&api, &how, true).await,
        Mesh::Status(status) => {
            debug_assert!(CONFIG_KINDS.contains(&MESH));
            let shown = Shown {
                entry: api.find(&format!("/v1/config/{MESH}/{MESH}"), &[]).await?,
                relaxations: api.get(RELAXATIONS, &[]).await?,
            };
            status.output.print(&shown, text)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn text(shown: &Shown) -> String {
    let entry = shown.entry.clone().unwrap_or_default();
    let audit = match (&entry["Audit"]["Mesh"], entry["Audit"]["Namespaces"].as_array()) {
        (serde_json::Value::Bool(true), _) => "the whole mesh".to_owned(),
        (_, Some(namespaces)) if !namespaces.is_empty() => {
            namespaces.iter().filter_map(serde_json::Value::as_str).collect::<Vec<_>>().join(", ")
        }
        _ => "nothing".to_owned(),
    };
    let word = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let guardrails: Vec<Vec<String>> = entry["Guardrails"].as_array().map_or_else(Vec::new, |all| {
        all.iter().map(|one| vec![word(&one["Name"]), word(&one["Source"]), word(&one["Destination"])]).collect()
    });
    let relaxations = shown.relaxations.iter().map(|one| {
        let scope =
            one.namespace.as_ref().map_or("the whole mesh".to_owned(), |namespace| format!("namespace {namespace}"));
        let by = one.accessor.as_ref().map_or_else(String::new, ToString::to_string);
        vec![scope, output::instant(one.ends_at), one.reason.clone(), by]
    });
    let default = entry["DefaultIntentionPolicy"].as_str().unwrap_or("deny").to_owned();
    format!(
        "{}\n\nGuardrails\n{}\n\nRelaxations\n{}",
        pairs(&[("Default:", default), ("In audit mode:", audit)]),
        table(&["Name", "Source", "Destination"], guardrails, "none"),
        table(&["Scope", "Ends", "Reason", "By"], relaxations.collect(), "none"),
    )
}
