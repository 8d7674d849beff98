//! `weft intention`: who may call whom.

mod explain;
mod judge;
mod test;
mod usage;

use std::{collections::BTreeMap, process::ExitCode};

use catalog::{IntentionOwner, Namespace, ServicePattern, SourcePattern};
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use super::{
    ApiOptions,
    api::Api,
    error::hinted,
    output::{self, Output, pairs, table},
};

const EXACT: &str = "/v1/connect/intentions/exact";
const TAKE_OVER: (&str, &str) = ("take-over", "true");

/// Say who may call whom.
///
/// SRC and DST are `name`, `namespace/name`, `*` (every service of the current namespace), `namespace/*` or `*/*`. The most
/// specific intention decides: the exact destination before the wildcard, then the exact source. What no intention speaks
/// of gets the mesh's default, which is to deny.
#[derive(Debug, Subcommand)]
pub(super) enum Intention {
    /// Write an intention
    Create(Create),
    /// Remove an intention
    Delete(Delete),
    /// Show one intention
    Get(Get),
    /// List all intentions, in the order in which they are tried
    List(List),
    /// List the intentions that speak of a service
    Match(Match),
    /// Say whether a call is allowed: status 0 if it is, 1 if it is not
    Check(Check),
    /// Say why a call or a request is allowed or refused: the rule that decided, and what became of every other
    Explain(explain::Explain),
    /// Hold expectations against the rules: status 0 if all of them hold, 1 if one does not
    Test(test::Test),
    /// List how often each rule decided something, or those that decide nothing
    Usage(usage::Usage),
}

#[derive(Debug, Args)]
pub(super) struct Pair {
    /// Who calls
    #[arg(value_name = "SRC")]
    source: String,
    /// Who is called
    #[arg(value_name = "DST")]
    destination: String,
}

#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    pair: Pair,
    #[command(flatten)]
    output: Output,
}

impl Pair {
    /// Writes both sides out with their namespaces, so that it is seen what a lone `*` means.
    fn resolve(&self, namespace: &Namespace) -> anyhow::Result<(String, String)> {
        let source = SourcePattern::parse(&self.source, namespace)?;
        let destination = ServicePattern::parse(&self.destination, namespace)?;
        Ok((source.to_string(), destination.to_string()))
    }
}

#[derive(Debug, Args)]
#[group(id = "action", required = true, multiple = false, args = ["allow", "deny"])]
pub(super) struct Create {
    /// Let the source call the destination
    #[arg(long)]
    allow: bool,
    /// Refuse the source's calls to the destination
    #[arg(long)]
    deny: bool,
    /// Write it even if there is one for this pair already
    #[arg(long)]
    replace: bool,
    /// What to note about it
    #[arg(long, default_value = "", value_name = "TEXT")]
    description: String,
    /// Let it end by itself, after this: such as `30d` or `12h`
    #[arg(long, value_name = "DURATION", value_parser = wire::decode::parse_span, conflicts_with = "deny")]
    expires_in: Option<std::time::Duration>,
    /// A fact to keep with it; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    meta: Vec<(String, String)>,
    #[command(flatten)]
    ownership: Ownership,
    #[command(flatten)]
    pair: Pair,
}

#[derive(Debug, Args)]
pub(super) struct Delete {
    #[command(flatten)]
    ownership: Ownership,
    #[command(flatten)]
    pair: Pair,
}

/// Says in whose name an intention is changed.
#[derive(Debug, Args)]
pub(super) struct Ownership {
    /// In whose name: only this owner then changes it
    #[arg(long, value_name = "OWNER")]
    owner: Option<IntentionOwner>,
    /// Change it even if it belongs to another owner
    #[arg(long)]
    take_over: bool,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write it as KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

#[derive(Debug, Args)]
pub(super) struct Get {
    #[command(flatten)]
    pair: Pair,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(super) struct Match {
    /// The service that calls
    #[arg(long, value_name = "SERVICE", conflicts_with = "destination", required_unless_present = "destination")]
    source: Option<String>,
    /// The service that is called
    #[arg(long, value_name = "SERVICE")]
    destination: Option<String>,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Written<'a> {
    action: &'a str,
    description: &'a str,
    meta: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<&'a IntentionOwner>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
}

/// Is an intention as the API shows it, as far as a table needs it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Shown {
    #[serde(rename = "SourceNS", default)]
    source_namespace: String,
    source_name: String,
    #[serde(rename = "DestinationNS")]
    destination_namespace: String,
    destination_name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    action: Option<String>,
    precedence: u8,
    #[serde(default)]
    description: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    #[serde(flatten)]
    rest: BTreeMap<String, serde_json::Value>,
}

impl Shown {
    fn source(&self) -> String {
        if self.source_name.starts_with("spiffe://") {
            self.source_name.clone()
        } else {
            format!("{}/{}", self.source_namespace, self.source_name)
        }
    }

    fn destination(&self) -> String {
        format!("{}/{}", self.destination_namespace, self.destination_name)
    }

    fn action(&self) -> String {
        self.action.clone().unwrap_or_else(|| "permissions".to_owned())
    }

    fn owner(&self) -> String {
        self.owner.clone().unwrap_or_default()
    }
}

fn list_table<'a>(shown: impl IntoIterator<Item = &'a Shown>) -> String {
    let rows = shown.into_iter().map(|one| {
        let (precedence, description) = (one.precedence.to_string(), one.description.clone());
        vec![one.source(), one.action(), one.destination(), precedence, one.owner(), description]
    });
    table(&["Source", "Action", "Destination", "Precedence", "Owner", "Description"], rows.collect(), "no intentions")
}

pub(super) async fn run(verb: Intention, options: &ApiOptions) -> anyhow::Result<ExitCode> {
    // Some need no server, and so no token, where files are named.
    let api = Api::new(options);
    let namespace = &options.namespace;
    match verb {
        Intention::Create(create) => self::create(&api?, &create, namespace).await?,
        Intention::Delete(delete) => {
            let (source, destination) = delete.pair.resolve(namespace)?;
            let mut query = vec![("source", source.as_str()), ("destination", destination.as_str())];
            query.extend(delete.ownership.owner.as_ref().map(|owner| ("owner", owner.as_str())));
            query.extend(delete.ownership.take_over.then_some(TAKE_OVER));
            api?.delete(EXACT, &query).await?;
            output::line(&format!("Deleted: {source} => {destination}"))?;
        }
        Intention::Get(get) => {
            let (source, destination) = get.pair.resolve(namespace)?;
            let found: Option<Shown> = api?.find(EXACT, &[("source", &source), ("destination", &destination)]).await?;
            get.output.print(&found, |found| match found {
                None => format!("No intention {source} => {destination}"),
                Some(one) => pairs(&[
                    ("Source:", one.source()),
                    ("Destination:", one.destination()),
                    ("Action:", one.action()),
                    ("Precedence:", one.precedence.to_string()),
                    ("Owner:", one.owner()),
                    ("Ends:", one.expires_at.clone().unwrap_or_else(|| "never".to_owned())),
                    ("Description:", one.description.clone()),
                ]),
            })?;
            return Ok(ExitCode::from(u8::from(found.is_none())));
        }
        Intention::List(list) => {
            let found: Vec<Shown> = api?.get("/v1/connect/intentions", &[]).await?;
            list.output.print(&found, |found| list_table(found))?;
        }
        Intention::Match(find) => {
            let (by, name) = match (&find.source, &find.destination) {
                (Some(source), _) => ("source", source),
                (None, Some(destination)) => ("destination", destination),
                (None, None) => return Err(hinted("no service is named", "name one with --source or --destination")),
            };
            let query = [("by", by), ("name", name.as_str()), ("ns", namespace.as_str())];
            let found: BTreeMap<String, Vec<Shown>> = api?.get("/v1/connect/intentions/match", &query).await?;
            find.output.print(&found, |found| list_table(found.values().flatten()))?;
        }
        Intention::Check(asked) => return check(&api?, &asked, namespace).await,
        Intention::Explain(explain) => return explain::run(&explain, options).await,
        Intention::Test(test) => return test::run(&test, options).await,
        Intention::Usage(usage) => return usage::run(&api?, &usage).await,
    }
    Ok(ExitCode::SUCCESS)
}

async fn create(api: &Api, create: &Create, namespace: &Namespace) -> anyhow::Result<()> {
    let (source, destination) = create.pair.resolve(namespace)?;
    let action = if create.allow { "allow" } else { "deny" };
    let meta = create.meta.iter().cloned().collect();
    let owner = create.ownership.owner.as_ref();
    let ends = create.expires_in.map(|lasts| output::instant(wire::crypto::now().saturating_add(lasts)));
    let body = Written { action, description: &create.description, meta: &meta, owner, expires_at: ends };
    let mut query = vec![("source", source.as_str()), ("destination", destination.as_str())];
    query.extend(create.ownership.take_over.then_some(TAKE_OVER));
    if !create.replace && !create.ownership.take_over {
        let there: Option<Shown> = api.find(EXACT, &query).await?;
        if let Some(there) = there {
            return Err(hinted(
                format!("intention {source} => {destination} exists already: it says {}", there.action()),
                "replace it with --replace, or delete it first",
            ));
        }
        // Between the look and the write somebody else may have written it; then the server refuses.
        query.push(("cas", "0"));
    }
    api.write(EXACT, &query, &body).await?;
    output::line(&format!("Created: {source} => {destination} ({action})"))
}

async fn check(api: &Api, check: &Check, namespace: &Namespace) -> anyhow::Result<ExitCode> {
    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        allowed: bool,
    }
    let (source, destination) = check.pair.resolve(namespace)?;
    let query = [("source", source.as_str()), ("destination", destination.as_str())];
    let answer: Answer = api.get("/v1/connect/intentions/check", &query).await?;
    check.output.print(&answer, |answer| if answer.allowed { "Allowed" } else { "Denied" }.to_owned())?;
    Ok(if answer.allowed { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
