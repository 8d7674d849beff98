//! `weft connector aws`: AWS Cloud Map and the mesh, both ways.

use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use anyhow::Context;
use catalog::{ConnectorWrite, Namespace, ServiceKey};
use clap::Args;
use connectors::{
    Metrics,
    aws::cloud_map::{CloudAction, CloudMap, CloudSettings, ExportRule, ImportRule, Shown},
    servers::Servers,
};
use wire::decode::parse_duration;

use super::RunOptions;
use crate::cli::{
    ApiOptions,
    output::{self, Output, table},
    share::{self, Share},
};

/// Whoever looks more often spends what AWS lets the account ask.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Keep the catalog in step with AWS Cloud Map, and chosen services of the mesh there.
///
/// It finds its credentials as AWS's own tools do: in the environment, of the task's role, of the machine. What it brings in
/// it keeps under its own name; what it sends to Cloud Map has its marks, and records without them are never touched.
///
/// The token needs `mesh = "write"`, `node_prefix` and `service_prefix` with `policy = "write"` on what it brings in, and with
/// `policy = "read"` on what it sends.
#[derive(Debug, Args)]
#[command(mut_arg("output", |output| output.requires("plan")))]
pub(in crate::cli) struct Aws {
    /// A namespace of Cloud Map to bring in, and the mesh's namespace that it goes to if that is not `default`; may be given
    /// several times [default: all of them]
    #[arg(long = "import", value_name = "NAMESPACE[=NAMESPACE]", value_parser = import)]
    imports: Vec<(String, Namespace)>,
    /// Bring in nothing
    #[arg(long, conflicts_with = "imports")]
    no_import: bool,
    /// A service of the mesh, and the namespace of Cloud Map that it goes to; may be given several times
    #[arg(long = "export", value_name = "SERVICE=NAMESPACE", value_parser = export)]
    exports: Vec<ExportRule>,
    /// How often to look, 100ms or more
    #[arg(long, value_name = "DURATION", value_parser = interval, default_value = "10s")]
    interval: Duration,
    /// Ask ECS about the tasks behind instances, so that one that is ending is not called
    #[arg(long)]
    ecs_tasks: bool,
    /// The region [default: the environment's]
    #[arg(long, value_name = "REGION")]
    region: Option<String>,
    /// Another address of AWS than the region's own; a stand-in on this machine by a name below localhost, such as
    /// http://aws.localhost:5000, for Cloud Map puts a word before it
    #[arg(long, value_name = "URL")]
    endpoint_url: Option<String>,
    /// Which share of the account's limits on calls to take, above 0 to 1; divide it among all that call
    #[arg(long, value_name = "SHARE", value_parser = share::some, default_value = "0.5")]
    calls_max: Share,
    /// Show what would change, and end
    #[arg(long)]
    plan: bool,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    run: RunOptions,
}

/// Reads how often to look.
fn interval(text: &str) -> Result<Duration, String> {
    let interval = parse_duration(text).map_err(|error| error.to_string())?;
    if interval >= INTERVAL_MIN { Ok(interval) } else { Err(format!("{text} is too often: look every 100ms at most")) }
}

fn import(text: &str) -> Result<(String, Namespace), String> {
    let (from, to) = text.split_once('=').unwrap_or((text, "default"));
    Ok((from.to_owned(), to.parse().map_err(|error: catalog::NameError| error.to_string())?))
}

fn export(text: &str) -> Result<ExportRule, String> {
    let (service, namespace) =
        text.split_once('=').ok_or("write SERVICE=NAMESPACE, such as `shop/api=example.local`")?;
    let service: ServiceKey = service.parse().map_err(|error: catalog::NameError| error.to_string())?;
    Ok(ExportRule { service, namespace: namespace.to_owned() })
}

pub(super) async fn run(aws: Aws, options: &ApiOptions) -> anyhow::Result<ExitCode> {
    if !aws.plan {
        aws.run.prepare()?;
    }
    let config = aws.run.config("aws", options)?;
    let import =
        ImportRule { namespaces: aws.imports.iter().cloned().collect::<BTreeMap<_, _>>(), ..ImportRule::default() };
    let settings = CloudSettings {
        import: (!aws.no_import).then_some(import),
        exports: aws.exports.clone(),
        interval: aws.interval,
        endpoint: aws.endpoint_url.clone(),
        region: aws.region.clone(),
        budget: aws.calls_max.0,
        asks_ecs: aws.ecs_tasks,
        caution: config.settings.caution,
    };
    if aws.plan {
        let servers = Servers::new(config.access)?;
        let mut cloud = CloudMap::new(settings, Metrics::new()).await;
        let plan = cloud.plan(&servers.client(), &config.settings.name).await;
        let shown = plan.context("asking what the connector keeps")?;
        aws.output.print(&shown, text)?;
        return Ok(ExitCode::SUCCESS);
    }
    let watch = async |post: connectors::shell::Post| {
        let cloud = CloudMap::new(settings, post.metrics.clone()).await;
        cloud.watch(post).await
    };
    Box::pin(aws.run.run(config, watch)).await
}

fn text(shown: &Shown) -> String {
    let catalog = shown.catalog.iter().map(|write| {
        let (what, of) = match write {
            ConnectorWrite::Put { node } => {
                let services: Vec<String> = node.instances.iter().map(|one| one.service_key().to_string()).collect();
                ("register", services.join(", "))
            }
            ConnectorWrite::Remove { .. } => ("remove", String::new()),
            ConnectorWrite::Checks { .. } => ("checks", String::new()),
        };
        vec![what.to_owned(), "catalog".to_owned(), write.node().to_string(), of]
    });
    let cloud = shown.cloud_map.iter().map(|action| {
        let (what, on, of) = match action {
            CloudAction::CreateService { service, namespace, .. } => ("create", service.clone(), namespace.clone()),
            CloudAction::Register { service, id, .. } => ("register", id.clone(), service.clone()),
            CloudAction::Deregister { service, id } => ("remove", id.clone(), service.clone()),
            CloudAction::SetHealth { service, id, healthy } => {
                let word = if *healthy { "healthy" } else { "unhealthy" };
                ("health", id.clone(), format!("{service}: {word}"))
            }
        };
        vec![what.to_owned(), "Cloud Map".to_owned(), on, of]
    });
    let changes = table(&["Change", "In", "What", "Of"], catalog.chain(cloud).collect(), "nothing would change");
    if shown.problems.is_empty() {
        return changes;
    }
    let rows = shown.problems.iter().map(|one| vec![one.kind.to_string(), one.subject.clone(), one.reason.clone()]);
    format!("{changes}\n\n{}", output::table(&["Problem", "Of", "Why"], rows.collect(), ""))
}
