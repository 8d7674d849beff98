//! `weft acl policy`: named sets of rules.

use std::{io::Read as _, path::PathBuf};

use anyhow::Context;
use catalog::{AclName, PolicyId};
use clap::{Args, Subcommand};
use wire::acl::{PolicyRequest, PolicyView, parse_rules};

use crate::cli::{
    ApiOptions,
    api::Api,
    output::{self, Output, pairs, table},
};

/// Rules are no longer than a server takes.
const RULES_BYTES_MAX: u64 = 64 * 1024;

const EXAMPLES: &str = "\
A file of rules:
  service_prefix \"\" { policy = \"read\" }
  service \"payments\" {
    policy     = \"write\"
    intentions = \"write\"
  }
  namespace \"team-a\" {
    acl = \"write\"
    service_prefix \"\" {
      policy     = \"write\"
      intentions = \"write\"
    }
  }

docs/acl.md has the whole language.";

/// Write the policies that tokens are linked to.
#[derive(Debug, Subcommand)]
#[command(after_long_help = EXAMPLES)]
pub(crate) enum Policy {
    /// Make a policy
    #[command(after_long_help = EXAMPLES)]
    Create(Create),
    /// Show a policy with its rules
    Read(Read),
    /// Change a policy; every token that is linked to it follows
    #[command(after_long_help = EXAMPLES)]
    Update(Update),
    /// Remove a policy; what is linked to it loses what it granted
    Delete(Delete),
    /// List the policies that the caller may see
    List(List),
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// What to call it
    #[arg(long)]
    name: AclName,
    /// What to note about it
    #[arg(long, default_value = "", value_name = "TEXT")]
    description: String,
    /// The file that holds its rules; - for standard input
    #[arg(long, value_name = "FILE")]
    rules_file: PathBuf,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Read {
    /// Which, by its name or id
    policy: String,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Update {
    /// Which, by its name or id
    policy: String,
    /// What to call it from now on
    #[arg(long)]
    name: Option<AclName>,
    /// What to note about it; what was noted before where nothing is said
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// The file that holds its new rules; - for standard input
    #[arg(long, value_name = "FILE")]
    rules_file: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// Which, by its name or id
    policy: String,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(verb: Policy, api: &Api, options: &ApiOptions) -> anyhow::Result<()> {
    match verb {
        Policy::Create(create) => {
            let request = PolicyRequest {
                name: create.name,
                description: create.description,
                rules: rules(&create.rules_file)?,
                namespace: Some(options.namespace.clone()),
                datacenters: Vec::new(),
            };
            let policy: PolicyView = api.put("/v1/acl/policy", &[], &request).await?;
            create.output.print(&policy, text)
        }
        Policy::Read(read) => {
            let policy = find(api, options, &read.policy).await?;
            read.output.print(&policy, text)
        }
        Policy::Update(update) => {
            let held = find(api, options, &update.policy).await?;
            let request = PolicyRequest {
                name: update.name.unwrap_or(held.name),
                description: update.description.unwrap_or(held.description),
                rules: match &update.rules_file {
                    Some(file) => rules(file)?,
                    None => held.rules.unwrap_or_default(),
                },
                namespace: None,
                datacenters: Vec::new(),
            };
            let policy: PolicyView = api.put(&format!("/v1/acl/policy/{}", held.id), &[], &request).await?;
            update.output.print(&policy, text)
        }
        Policy::Delete(delete) => {
            let held = find(api, options, &delete.policy).await?;
            api.delete(&format!("/v1/acl/policy/{}", held.id), &[]).await?;
            output::line(&format!("Deleted: {}", held.name))
        }
        Policy::List(list) => {
            let policies: Vec<PolicyView> = api.get("/v1/acl/policies", &[]).await?;
            list.output.print(&policies, |policies| {
                let row = |policy: &PolicyView| {
                    let (id, description) = (policy.id.to_string(), policy.description.clone());
                    vec![policy.name.to_string(), policy.namespace.to_string(), id, description]
                };
                table(&["Name", "Namespace", "ID", "Description"], policies.iter().map(row).collect(), "no policies")
            })
        }
    }
}

/// Finds a policy by its name within the namespace, or by its id.
async fn find(api: &Api, options: &ApiOptions, which: &str) -> anyhow::Result<PolicyView> {
    if let Ok(id) = which.parse::<PolicyId>() {
        return api.get(&format!("/v1/acl/policy/{id}"), &[]).await;
    }
    let name: AclName = which.parse()?;
    api.get(&format!("/v1/acl/policy/name/{name}"), &[("ns", options.namespace.as_str())]).await
}

/// Reads rules, and reads them through: what is wrong with them is told with the file's name.
fn rules(path: &PathBuf) -> anyhow::Result<String> {
    let reading = || format!("reading the rules in {}", path.display());
    let mut text = String::new();
    if path.as_os_str() == "-" {
        std::io::stdin().take(RULES_BYTES_MAX + 1).read_to_string(&mut text).with_context(reading)?;
    } else {
        let file = std::fs::File::open(path).with_context(reading)?;
        file.take(RULES_BYTES_MAX + 1).read_to_string(&mut text).with_context(reading)?;
    }
    anyhow::ensure!(text.len() as u64 <= RULES_BYTES_MAX, "the rules in {} are too long", path.display());
    parse_rules(&text).with_context(reading)?;
    Ok(text)
}

fn text(policy: &PolicyView) -> String {
    let rows = [
        ("Name:", policy.name.to_string()),
        ("ID:", policy.id.to_string()),
        ("Namespace:", policy.namespace.to_string()),
        ("Description:", policy.description.clone()),
    ];
    let rules = policy.rules.as_deref().unwrap_or_default();
    let rules: Vec<String> = rules.lines().map(|line| format!("  {}", output::printable(line))).collect();
    format!("{}\nRules:\n{}", pairs(&rows), rules.join("\n"))
}
