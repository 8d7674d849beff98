//! `weft acl`: who may use the API, and for what.

mod links;
mod policy;
mod role;
mod token;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};
use wire::{
    acl::TokenView,
    api_types::{BootstrapChallenge, BootstrapProof},
    cluster_key::ClusterKey,
};

use super::{ApiOptions, api::Api, auth_method, binding_rule, output::Output};

/// Say who may use the API, and for what.
#[derive(Debug, Subcommand)]
pub(super) enum Acl {
    /// Make the first management token, by proof of the cluster key; works once
    Bootstrap(Bootstrap),
    /// Say whose word about an identity counts
    #[command(subcommand)]
    AuthMethod(auth_method::AuthMethod),
    /// Say what an identity that an auth method vouches for is here
    #[command(subcommand)]
    BindingRule(binding_rule::BindingRule),
    /// Make, show, change and end tokens
    #[command(subcommand)]
    Token(token::Token),
    /// Write the policies that tokens are linked to
    #[command(subcommand)]
    Policy(policy::Policy),
    /// Write the roles that tokens are linked to
    #[command(subcommand)]
    Role(role::Role),
}

/// Make the first management token, by proof of the cluster key; works once.
///
/// The key is not sent: a MAC over the server's challenge shows that the caller has it.
#[derive(Debug, Args)]
pub(super) struct Bootstrap {
    /// The file that holds the servers' cluster key
    #[arg(long, value_name = "FILE")]
    cluster_key_file: PathBuf,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(verb: Acl, options: &ApiOptions) -> anyhow::Result<ExitCode> {
    let api = Api::new(options)?;
    match verb {
        Acl::Bootstrap(bootstrap) => {
            let key = ClusterKey::load(&bootstrap.cluster_key_file)?;
            bootstrap.output.print(&prove(&api, &key).await?, token::text)?;
        }
        Acl::AuthMethod(verb) => auth_method::run(verb, options, &api).await?,
        Acl::BindingRule(verb) => binding_rule::run(verb, &api).await?,
        Acl::Token(token) => token::run(token, &api, options).await?,
        Acl::Policy(policy) => policy::run(policy, &api, options).await?,
        Acl::Role(role) => role::run(role, &api, options).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes the first management token with a cluster key.
pub(super) async fn prove(api: &Api, key: &ClusterKey) -> anyhow::Result<TokenView> {
    let BootstrapChallenge { challenge } = api.get("/v1/acl/bootstrap", &[]).await?;
    let proof = BootstrapProof { proof: key.acl_bootstrap_mac(&challenge).to_vec(), challenge, bootstrap_secret: None };
    api.put("/v1/acl/bootstrap", &[], &proof).await
}
