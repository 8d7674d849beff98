//! `weft connector`: what keeps the catalog in step with a platform.

mod aws;
mod kubernetes;

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use anyhow::Context;
use catalog::{CONNECTOR_LEASE_MAX, CONNECTOR_LEASE_MIN, ConnectorName, ServicePattern};
use clap::{Args, Subcommand};
use connectors::{Caution, keeper, servers::Access, shell};
use wire::{api_types::ConnectorView, decode::parse_duration};

use super::{
    ApiOptions,
    api::{self, Api},
    daemon::{self, LogOptions},
    output::{self, Output, table},
    share::Share,
};

/// Keep the catalog in step with a platform.
///
/// A connector registers what it finds on its platform under a name of its own, and touches nothing that others registered.
/// Several processes may run under one name: one at a time holds the lease, the others stand by.
#[derive(Debug, Subcommand)]
pub(super) enum Connector {
    /// Keep the catalog in step with AWS Cloud Map, and chosen services of the mesh there
    Aws(Box<aws::Aws>),
    Kubernetes(Box<kubernetes::Kubernetes>),
    /// List the connectors, who runs each, and what keeps it from its work
    List(List),
    /// Let a connector remove as many nodes at once as it holds back
    Confirm(Confirm),
    /// Remove a connector that nobody runs, with its nodes
    Remove(Remove),
}

#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(super) struct Confirm {
    /// The connector
    name: ConnectorName,
    /// How many nodes may go at most, as the connector's problem says it
    #[arg(long, value_name = "COUNT")]
    removals: u64,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(super) struct Remove {
    /// The connector
    name: ConnectorName,
    #[command(flatten)]
    output: Output,
}

/// Says how any connector runs.
#[derive(Debug, Args)]
pub(super) struct RunOptions {
    /// The connector's name, under which it keeps what it finds [default: its platform's]
    #[arg(long, value_name = "NAME")]
    name: Option<ConnectorName>,
    /// Another address of the API, asked where the one before does not answer; may be given several times
    #[arg(long, value_name = "ADDRESS")]
    or_http_addr: Vec<String>,
    /// Services to which it may add instances although others serve them; may be given several times
    #[arg(long = "share", value_name = "SERVICE")]
    shares: Vec<ServicePattern>,
    /// The share of its nodes that may go at once without an operator's word, 0 to 1
    #[arg(long, value_name = "SHARE", default_value = "0.3")]
    removals_max: Share,
    /// How long another process waits before it takes over from one that has died, 5s to 10m
    #[arg(long, value_name = "DURATION", value_parser = lease, default_value = "30s")]
    lease: Duration,
    /// Where to serve /live, /ready and /metrics
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:19002")]
    admin: SocketAddr,
    /// Serve no /live, /ready and /metrics
    #[arg(long, conflicts_with = "admin")]
    no_admin: bool,
    #[command(flatten)]
    log: LogOptions,
}

/// Reads how long a lease lasts, which the servers would refuse over and over.
fn lease(text: &str) -> Result<Duration, String> {
    let lease = parse_duration(text).map_err(|error| error.to_string())?;
    let (least, most) = (CONNECTOR_LEASE_MIN, CONNECTOR_LEASE_MAX);
    if (least..=most).contains(&lease) { Ok(lease) } else { Err(format!("a lease lasts {least:?} to {most:?}")) }
}

impl RunOptions {
    /// Prepares this process for running long: first of all, for then there are tokens in memory.
    pub(super) fn prepare(&self) -> anyhow::Result<()> {
        daemon::prepare(&self.log)
    }

    /// Returns how a connector of this kind runs.
    pub(super) fn config(&self, kind: &str, options: &ApiOptions) -> anyhow::Result<shell::Config> {
        let name = match &self.name {
            Some(name) => name.clone(),
            None => kind.parse().context("naming the connector after its platform")?,
        };
        let addresses = std::iter::once(&options.http_addr).chain(&self.or_http_addr).cloned().collect();
        let token = if options.token_file.is_none() { api::token(options)? } else { None };
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Ok(shell::Config {
            settings: keeper::Settings {
                name,
                kind: kind.to_owned(),
                holder: format!("{host}-{}", wire::crypto::uuid_v4()).chars().take(128).collect(),
                lease: self.lease,
                shares: self.shares.clone(),
                caution: Caution { share_max: self.removals_max.0, ..Caution::default() },
            },
            access: Access { addresses, token, token_file: options.token_file.clone(), cacert: options.cacert.clone() },
            admin: (!self.no_admin).then_some(self.admin),
        })
    }

    /// Runs a connector until the process is told to stop.
    pub(super) async fn run<W, F, E>(&self, config: shell::Config, watch: W) -> anyhow::Result<ExitCode>
    where
        W: FnOnce(shell::Post) -> F,
        F: Future<Output = Result<(), E>>,
        E: std::fmt::Display,
    {
        shell::run(config, watch, stop()).await.context("cannot run the connector")?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Waits until the process is told to stop.
async fn stop() {
    // Where signals cannot be listened for, stopping is the supervisor's matter.
    if let Err(error) = daemon::stop_signal().await {
        tracing::error!(error = format!("{error:#}"), "signals are not heard");
        std::future::pending::<()>().await;
    }
}

pub(super) async fn run(verb: Connector, options: &ApiOptions) -> anyhow::Result<ExitCode> {
    match verb {
        Connector::Aws(aws) => return Box::pin(aws::run(*aws, options)).await,
        Connector::Kubernetes(arguments) => return Box::pin(kubernetes::run(*arguments, options)).await,
        Connector::List(list) => {
            let views: Vec<ConnectorView> = Api::new(options)?.get("/v1/connectors", &[]).await?;
            list.output.print(&views, |views| text(views))?;
        }
        Connector::Confirm(confirm) => {
            let (path, removals) = (format!("/v1/connector/{}/confirm", confirm.name), confirm.removals.to_string());
            let done = Api::new(options)?.act::<bool>(&path, &[("removals", &removals)]).await?;
            confirm
                .output
                .print(&done, |_| format!("Confirmed: {} may remove {removals} nodes at once.", confirm.name))?;
        }
        Connector::Remove(remove) => {
            let done = Api::new(options)?.delete_in::<bool>("/v1/connector", remove.name.as_str(), &[]).await?;
            remove.output.print(&done, |_| format!("Removed: {}, with its nodes.", remove.name))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn text(views: &[ConnectorView]) -> String {
    let rows = views.iter().map(|view| {
        let synced = view.synced_at.map_or_else(|| "never".to_owned(), output::instant);
        let holder = view.holder.clone().unwrap_or_else(|| "nobody".to_owned());
        let problems = view.problems.len() as u64 + view.problems_beyond;
        vec![view.name.to_string(), view.platform.clone(), holder, view.nodes.to_string(), synced, problems.to_string()]
    });
    let header = ["Name", "Platform", "Run by", "Nodes", "In step at", "Problems"];
    let list = table(&header, rows.collect(), "no connectors");
    let problems = views.iter().flat_map(|view| {
        view.problems
            .iter()
            .map(|one| vec![view.name.to_string(), one.kind.to_string(), one.subject.clone(), one.reason.clone()])
    });
    let problems: Vec<Vec<String>> = problems.collect();
    if problems.is_empty() {
        return list;
    }
    format!("{list}\n\n{}", table(&["Name", "Problem", "Of", "Why"], problems, ""))
}
