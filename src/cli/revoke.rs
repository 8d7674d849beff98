//! `weft revoke`: taking back what lets an agent or a service in.

use std::process::ExitCode;

use catalog::{AccessorId, AuthMethodName, ServiceKey};
use clap::{Args, Subcommand};
use wire::api_types::{RevocationView, Revoked};

use super::{
    ApiOptions,
    api::Api,
    error::hinted,
    output::{self, Output, table},
};

/// Revoke agents and services.
///
/// What is revoked gets no certificate any more, the ones that it holds are refused everywhere, and what it has open is
/// closed. It stays out: an agent that is to come back needs a new join token, or `weft revoke lift` where a platform
/// vouches for it.
#[derive(Debug, Subcommand)]
pub(super) enum Revoke {
    /// Revoke one agent
    Agent(Agent),
    /// Refuse a service's certificates to all agents that are enrolled now; those enrolled later may serve it
    Service(Service),
    /// End a join token, and revoke the agent that it let in
    JoinToken(JoinToken),
    /// Revoke the agents and API tokens that an auth method let in, and keep out whom it vouches for
    Login(Login),
    /// Let in again who was kept out; certificates that were revoked stay so
    #[command(subcommand)]
    Lift(Lift),
    /// List what is revoked
    List(List),
}

#[derive(Debug, Args)]
pub(super) struct Agent {
    /// The agent's node, or its id
    agent: String,
}

#[derive(Debug, Args)]
pub(super) struct Service {
    /// The service
    service: String,
}

#[derive(Debug, Args)]
pub(super) struct JoinToken {
    /// Which, as `weft join-token list` shows it
    accessor: AccessorId,
}

#[derive(Debug, Args)]
pub(super) struct Login {
    /// The auth method
    method: AuthMethodName,
    /// Only those of whom the method says this
    #[arg(long, value_name = "SUBJECT")]
    subject: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Lift {
    /// Let the key of a revoked agent in again, by its node or the key
    Agent(Agent),
    /// Let in again whom an auth method vouches for
    Login(Login),
}

#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(verb: Revoke, options: &ApiOptions) -> anyhow::Result<ExitCode> {
    let api = Api::new(options)?;
    let (what, path, name, query) = match verb {
        Revoke::List(list) => {
            let all: Vec<RevocationView> = api.get("/v1/revocations", &[]).await?;
            list.output
                .print(&all, |all| table(&["Kind", "Name", "Node", "Since"], rows(all), "nothing is revoked"))?;
            return Ok(ExitCode::SUCCESS);
        }
        Revoke::Agent(Agent { agent }) => (format!("agent {agent}"), "/v1/revoke/agent", agent.to_string(), Vec::new()),
        Revoke::Lift(lift) => return let_in_again(&api, lift).await,
        Revoke::Service(Service { service }) => {
            let ServiceKey { namespace, name } = exact(&service, options)?;
            let query = vec![("ns", namespace.to_string())];
            (format!("service {namespace}/{name}"), "/v1/revoke/service", name.to_string(), query)
        }
        Revoke::JoinToken(JoinToken { accessor }) => {
            (format!("join token {accessor}"), "/v1/revoke/join-token", accessor.to_string(), Vec::new())
        }
        Revoke::Login(Login { method, subject }) => {
            let query = subject.into_iter().map(|subject| ("subject", subject)).collect();
            (format!("logins by {method}"), "/v1/revoke/login", method.to_string(), query)
        }
    };
    let query: Vec<(&str, &str)> = query.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let Revoked { agents } = api.act_on(path, &name, &query).await?;
    output::line(&format!("Revoked: {what} (agents: {agents})"))?;
    Ok(ExitCode::SUCCESS)
}

async fn let_in_again(api: &Api, lift: Lift) -> anyhow::Result<ExitCode> {
    let what = match lift {
        Lift::Agent(Agent { agent }) => {
            api.delete_in::<bool>("/v1/revoke/agent", &agent.to_string(), &[]).await?;
            format!("agent {agent}")
        }
        Lift::Login(Login { method, subject }) => {
            let query: Vec<(&str, &str)> = subject.iter().map(|subject| ("subject", subject.as_str())).collect();
            api.delete_in::<bool>("/v1/revoke/login", method.as_ref(), &query).await?;
            format!("logins by {method}")
        }
    };
    output::line(&format!("Let in again: {what}"))?;
    Ok(ExitCode::SUCCESS)
}

fn exact(name: &str, options: &ApiOptions) -> anyhow::Result<ServiceKey> {
    match catalog::ServicePattern::parse(name, &options.namespace)? {
        catalog::ServicePattern::Exact(service) => Ok(service),
        _ => Err(hinted(format!("`{name}` is not one service"), "name each service that is to be revoked")),
    }
}

fn rows(all: &[RevocationView]) -> Vec<Vec<String>> {
    let since = |one: &RevocationView| one.revoked_at.map_or_else(|| "unknown".to_owned(), output::instant);
    all.iter()
        .map(|one| vec![one.kind.clone(), one.name.clone(), one.node.clone().unwrap_or_default(), since(one)])
        .collect()
}
