//! `weft config`: config entries.

use std::{
    io::Read,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use catalog::IntentionOwner;
use clap::{Args, Subcommand};
use serde_json::Value;
use wire::consul::CONFIG_KINDS;

use super::{
    ApiOptions,
    api::Api,
    config_file::ConfigFile,
    error::hinted,
    output::{self, Output, table},
};

/// No entry from standard input is longer.
const INPUT_BYTES_MAX: u64 = 1 << 20;

/// Write, read, list and delete config entries.
///
/// The kinds are `mesh` (one entry of that name: the default, guardrails, audit mode), `service-intentions` (one entry a
/// destination: all intentions toward it), `service-defaults` (one entry a service: its protocol), `proxy-defaults` (one
/// entry named `global`: the protocol of services that say none), and of a service `service-router` (where requests go by what
/// they say), `service-splitter` (by weight) and `service-resolver` (what its name stands for), and `jwt-provider` (whose tokens
/// count, and where their keys are).
#[derive(Debug, Subcommand)]
pub(super) enum Config {
    /// Write an entry from a file of HCL or JSON
    Write(Write),
    /// Show one entry: status 1 if there is none
    Read(Show),
    /// List the entries of a kind
    List(List),
    /// Delete an entry; of service-intentions, what belongs to the owner
    Delete(Delete),
}

#[derive(Debug, Args)]
pub(super) struct Write {
    /// The file, or `-` for JSON from standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Write only if the entry was last changed at this index; 0 is "only if there is none"
    #[arg(long, value_name = "INDEX")]
    cas: Option<u64>,
}

#[derive(Debug, Args)]
pub(super) struct Named {
    /// The kind
    #[arg(value_name = "KIND", value_parser = CONFIG_KINDS)]
    kind: String,
    /// The name; of service-intentions, the destination's: a name, or `*`
    #[arg(value_name = "NAME")]
    name: String,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    #[command(flatten)]
    entry: Named,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// The kind
    #[arg(value_name = "KIND", value_parser = CONFIG_KINDS)]
    kind: String,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(super) struct Delete {
    #[command(flatten)]
    entry: Named,
    /// In whose name; without it, what has no owner goes
    #[arg(long, value_name = "OWNER")]
    owner: Option<IntentionOwner>,
    /// Delete only if the entry was last changed at this index
    #[arg(long, value_name = "INDEX")]
    cas: Option<u64>,
}

pub(super) async fn run(verb: Config, options: &ApiOptions) -> anyhow::Result<ExitCode> {
    let api = Api::new(options)?;
    let namespace = options.namespace.as_str();
    match verb {
        Config::Write(write) => {
            let document = document(&write.file)?;
            let cas = write.cas.map(|index| index.to_string());
            let mut query = vec![("ns", namespace)];
            query.extend(cas.as_deref().map(|cas| ("cas", cas)));
            let is_written: bool = api.put("/v1/config", &query, &document).await?;
            told(is_written, "Written.")
        }
        Config::Read(read) => {
            let path = format!("/v1/config/{}", read.entry.kind);
            let found: Option<Value> = api.find_in(&path, &read.entry.name, &[("ns", namespace)]).await?;
            match &found {
                // An entry has one form for people and programs: the one that it is written in.
                Some(entry) => read.output.print(entry, |entry| format!("{entry:#}"))?,
                None => output::line(&format!("No entry {}/{}", read.entry.kind, read.entry.name))?,
            }
            Ok(ExitCode::from(u8::from(found.is_none())))
        }
        Config::List(list) => {
            let entries: Vec<Value> = api.get(&format!("/v1/config/{}", list.kind), &[]).await?;
            list.output.print(&entries, |entries| {
                let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let rows = entries.iter().map(|entry| {
                    vec![
                        word(&entry["Kind"]),
                        word(&entry["Namespace"]),
                        word(&entry["Name"]),
                        entry["ModifyIndex"].to_string(),
                    ]
                });
                table(&["Kind", "Namespace", "Name", "Index"], rows.collect(), "no entries")
            })?;
            Ok(ExitCode::SUCCESS)
        }
        Config::Delete(delete) => {
            let cas = delete.cas.map(|index| index.to_string());
            let mut query = vec![("ns", namespace)];
            query.extend(cas.as_deref().map(|cas| ("cas", cas)));
            query.extend(delete.owner.as_ref().map(|owner| ("owner", owner.as_str())));
            let path = format!("/v1/config/{}", delete.entry.kind);
            let is_deleted: bool = api.delete_in(&path, &delete.entry.name, &query).await?;
            told(is_deleted, "Deleted.")
        }
    }
}

/// Tells whether a write with `--cas` was in time.
fn told(is_done: bool, done: &str) -> anyhow::Result<ExitCode> {
    output::line(if is_done { done } else { "Nothing was changed: the entry has another index by now." })?;
    Ok(ExitCode::from(u8::from(!is_done)))
}

fn document(path: &Path) -> anyhow::Result<Value> {
    if path != Path::new("-") {
        return Ok(ConfigFile::read(path)?.into_value());
    }
    let mut text = Vec::new();
    std::io::stdin().take(INPUT_BYTES_MAX + 1).read_to_end(&mut text).context("reading standard input")?;
    if text.len() as u64 > INPUT_BYTES_MAX {
        return Err(hinted("standard input has more than 1 MiB", "write one entry at a time"));
    }
    wire::decode::Format::Json.read(&text).context("reading standard input as JSON")
}
