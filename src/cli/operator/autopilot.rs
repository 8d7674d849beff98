//! `weft operator autopilot`: how the servers do, and how they look after themselves.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;
use wire::consul::{AutopilotConfiguration, AutopilotState};

use crate::cli::ApiOptions;
use crate::cli::api::Api;
use crate::cli::error::hinted;
use crate::cli::output::{Output, pairs, table};

const CONFIGURATION: &str = "/v1/operator/autopilot/configuration";

/// Show how the servers do, and set how they look after themselves.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Autopilot {
    /// Show the settings
    GetConfig(GetConfig),
    /// Change settings; what is not named stays
    SetConfig(SetConfig),
    /// Show how the servers do, as the leader sees them; exit status 1 where not all are healthy
    State(State),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct GetConfig {
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct SetConfig {
    /// Whether voters that are gone for long are taken out where that makes the group survive more
    #[arg(long, value_name = "BOOL")]
    cleanup_dead_servers: Option<bool>,
    /// How long a server may be silent and still count as healthy
    #[arg(long, value_name = "DURATION", value_parser = wire::decode::parse_duration)]
    last_contact_threshold: Option<Duration>,
    /// How many entries a server may be behind and still count as healthy
    #[arg(long, value_name = "COUNT")]
    max_trailing_logs: Option<u64>,
    /// How many voters are left at least when dead ones are taken out
    #[arg(long, value_name = "COUNT")]
    min_quorum: Option<u64>,
    /// How long a newcomer must be healthy before it votes; sixty times as long, and a silent voter counts as dead
    #[arg(long, value_name = "DURATION", value_parser = wire::decode::parse_duration)]
    server_stabilization_time: Option<Duration>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct State {
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(verb: Autopilot, options: &ApiOptions) -> anyhow::Result<ExitCode> {
    let api = Api::new(options)?;
    match verb {
        Autopilot::GetConfig(get) => {
            let found: AutopilotConfiguration = api.get(CONFIGURATION, &[]).await?;
            get.output.print(&found, |found| {
                pairs(&[
                    ("Cleanup dead servers", found.cleanup_dead_servers.to_string()),
                    ("Last contact threshold", found.last_contact_threshold.clone()),
                    ("Max trailing logs", found.max_trailing_logs.to_string()),
                    ("Min quorum", found.min_quorum.to_string()),
                    ("Server stabilization time", found.server_stabilization_time.clone()),
                ])
            })?;
        }
        Autopilot::SetConfig(set) => set_config(&api, set).await?,
        Autopilot::State(state) => {
            let found: AutopilotState = api.get("/v1/operator/autopilot/state", &[]).await?;
            state.output.print(&found, shown)?;
            return Ok(if found.healthy { ExitCode::SUCCESS } else { ExitCode::from(1) });
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Changes what is named, unless somebody else changed the settings in between.
async fn set_config(api: &Api, set: SetConfig) -> anyhow::Result<()> {
    let before: AutopilotConfiguration = api.get(CONFIGURATION, &[]).await?;
    let written = |asked: Option<Duration>, before: &str| {
        asked.map_or_else(|| before.to_owned(), |duration| format!("{}ms", duration.as_millis()))
    };
    let body = json!({
        "CleanupDeadServers": set.cleanup_dead_servers.unwrap_or(before.cleanup_dead_servers),
        "LastContactThreshold": written(set.last_contact_threshold, &before.last_contact_threshold),
        "MaxTrailingLogs": set.max_trailing_logs.unwrap_or(before.max_trailing_logs),
        "MinQuorum": set.min_quorum.unwrap_or(before.min_quorum),
        "ServerStabilizationTime": written(set.server_stabilization_time, &before.server_stabilization_time),
    });
    let cas = before.modify_index.to_string();
    let is_written: bool = api.put(CONFIGURATION, &[("cas", &cas)], &body).await?;
    if is_written { Ok(()) } else { Err(hinted("somebody else changed the settings meanwhile", "run it again")) }
}

fn shown(found: &AutopilotState) -> String {
    let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
    let rows = found.servers.values().map(|server| {
        vec![
            server.name.to_string(),
            yes(server.leader),
            yes(server.voter),
            yes(server.healthy),
            server.last_contact.clone(),
            server.last_index.to_string(),
            server.version.clone(),
            server.stable_since.clone(),
        ]
    });
    let header = ["Server", "Leads", "Votes", "Healthy", "Last contact", "Last index", "Version", "Since"];
    let servers = table(&header, rows.collect(), "no servers");
    let mut facts =
        vec![("Healthy", yes(found.healthy)), ("More failures survived", found.failure_tolerance.to_string())];
    facts.extend(found.held.as_ref().map(|held| ("Waits", held.clone())));
    format!("{}\n\n{servers}", pairs(&facts))
}
