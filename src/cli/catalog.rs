//! `weft catalog`: what the servers know.

use std::{collections::BTreeMap, process::ExitCode};

use clap::{Args, Subcommand};
use serde_json::Value;

use super::{
    ApiOptions,
    api::Api,
    output::{Output, table},
};

/// Look into the catalog.
#[derive(Debug, Subcommand)]
pub(super) enum Catalog {
    /// List the nodes
    Nodes(Listing),
    /// List the services of a namespace with their tags
    Services(Listing),
}

#[derive(Debug, Args)]
pub(super) struct Listing {
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(verb: Catalog, options: &ApiOptions) -> anyhow::Result<ExitCode> {
    let api = Api::new(options)?;
    match verb {
        Catalog::Nodes(listing) => {
            let nodes: Vec<Value> = api.get("/v1/catalog/nodes", &[]).await?;
            listing.output.print(&nodes, |nodes| {
                let field = |node: &Value, name: &str| node[name].as_str().unwrap_or_default().to_owned();
                let rows = nodes
                    .iter()
                    .map(|node| ["Node", "Address", "Platform", "Owner"].map(|name| field(node, name)).into());
                table(&["Node", "Address", "Platform", "Owner"], rows.collect(), "no nodes")
            })?;
        }
        Catalog::Services(listing) => {
            let namespace = options.namespace.as_str();
            let services: BTreeMap<String, Vec<String>> = api.get("/v1/catalog/services", &[("ns", namespace)]).await?;
            listing.output.print(&services, |services| {
                let rows = services.iter().map(|(name, tags)| vec![format!("{namespace}/{name}"), tags.join(", ")]);
                table(&["Service", "Tags"], rows.collect(), "no services")
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
