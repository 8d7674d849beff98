//! `weft ca`: the certificate authority.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use super::{
    ApiOptions,
    api::Api,
    output::{Output, printable, table},
};

/// Look at the certificate authority.
#[derive(Debug, Subcommand)]
pub(super) enum Ca {
    /// List the roots that the mesh trusts
    Roots(Roots),
}

#[derive(Debug, Args)]
pub(super) struct Roots {
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Shown {
    #[serde(rename = "ActiveRootID")]
    active: String,
    trust_domain: String,
    roots: Vec<Root>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Root {
    #[serde(rename = "ID")]
    id: String,
    name: String,
    not_after: String,
    active: bool,
    #[serde(flatten)]
    rest: std::collections::BTreeMap<String, serde_json::Value>,
}

pub(super) async fn run(verb: Ca, options: &ApiOptions) -> anyhow::Result<ExitCode> {
    let Ca::Roots(roots) = verb;
    let found: Shown = Api::new(options)?.get("/v1/connect/ca/roots", &[]).await?;
    roots.output.print(&found, |shown| {
        let rows = shown.roots.iter().map(|root| {
            let active = if root.active { "yes" } else { "no" };
            vec![root.id.clone(), root.name.clone(), root.not_after.clone(), active.to_owned()]
        });
        let rows = table(&["ID", "Name", "Ends", "Active"], rows.collect(), "no roots");
        format!("Trust domain: {}\n\n{rows}", printable(&shown.trust_domain))
    })?;
    Ok(ExitCode::SUCCESS)
}
