//! `weft join-token`: what lets an agent join.

use std::{process::ExitCode, time::Duration};

use catalog::{AccessorId, NodeName, Platform, ServiceKey};
use clap::{Args, Subcommand};
use wire::{
    api_types::{JoinTokenRequest, JoinTokenView},
    crypto::Secret,
    decode::parse_duration,
};

use super::{
    ApiOptions,
    api::Api,
    error::hinted,
    output::{self, Output, table},
};

/// Make and end the tokens with which agents join.
///
/// A join token works once: the agent that comes with it is enrolled for the services that it names, and from then on its
/// own key is enough. Write the token to a file of mode 0600 on the agent's machine.
#[derive(Debug, Subcommand)]
pub(super) enum JoinToken {
    /// Make a join token; it is shown this once
    Create(Create),
    /// End a join token that nobody has used yet
    Delete(Delete),
    /// List join tokens
    List(List),
}

#[derive(Debug, Args)]
pub(super) struct Create {
    /// A service that the agent may stand before; may be given several times
    #[arg(long, required_unless_present = "gateway", value_name = "NAME")]
    service: Vec<String>,
    /// Let the agent be a gateway: other networks reach the services of its own through it
    #[arg(long)]
    gateway: bool,
    /// The network that it may be a gateway into [default: the one without a name]
    #[arg(long, requires = "gateway", value_name = "NAME")]
    network: Option<String>,
    /// How long it is good for, at most 24h
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "1h")]
    ttl: Duration,
    /// The only node that may use it
    #[arg(long)]
    node: Option<NodeName>,
    /// The only platform that may use it
    #[arg(long)]
    platform: Option<Platform>,
    /// Let it take over a node name that an agent with another key holds
    #[arg(long)]
    replace_node: bool,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(super) struct Delete {
    /// Which
    accessor: AccessorId,
}

#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(verb: JoinToken, options: &ApiOptions) -> anyhow::Result<ExitCode> {
    let api = Api::new(options)?;
    match verb {
        JoinToken::Create(create) => {
            let services = create.service.iter().map(|name| service(name, options)).collect::<anyhow::Result<_>>()?;
            let request = JoinTokenRequest {
                services,
                ttl: Some(create.ttl),
                node: create.node,
                platform: create.platform,
                replace_node: create.replace_node,
                gateway: create.gateway,
                network: create.network.unwrap_or_default(),
            };
            let token: JoinTokenView = api.put("/v1/join-token", &[], &request).await?;
            // The text alone, so that it can go straight into a file.
            create
                .output
                .print(&token, |token| token.token.as_ref().map(Secret::expose).unwrap_or_default().to_owned())?;
        }
        JoinToken::Delete(delete) => {
            api.delete(&format!("/v1/join-token/{}", delete.accessor), &[]).await?;
            output::line(&format!("Deleted: {}", delete.accessor))?;
        }
        JoinToken::List(list) => {
            let tokens: Vec<JoinTokenView> = api.get("/v1/join-tokens", &[]).await?;
            list.output.print(&tokens, |tokens| {
                table(&["Accessor", "Services", "Ends", "Used by"], rows(tokens), "no join tokens")
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn service(name: &str, options: &ApiOptions) -> anyhow::Result<ServiceKey> {
    match catalog::ServicePattern::parse(name, &options.namespace)? {
        catalog::ServicePattern::Exact(service) => Ok(service),
        _ => Err(hinted(format!("`{name}` is not one service"), "name each service that the agent may stand before")),
    }
}

fn rows(tokens: &[JoinTokenView]) -> Vec<Vec<String>> {
    tokens
        .iter()
        .map(|token| {
            let used = token.agent.as_ref().map_or_else(|| "nobody yet".to_owned(), ToString::to_string);
            let gateway = token.gateway.then(|| format!("gateway into `{}`", token.network));
            let services: Vec<String> = token.services.iter().cloned().chain(gateway).collect();
            vec![token.accessor.to_string(), services.join(", "), output::instant(token.expires_at), used]
        })
        .collect()
}
