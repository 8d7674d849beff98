//! `weft acl`: who may use the API, and for what.

mod links;
mod policy;
mod role;
mod token;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context;
use clap::{Args, Subcommand};
use http::StatusCode;
use wire::{
    acl::TokenView,
    api_types::{BootstrapChallenge, BootstrapProof},
    client::ApiError,
    cluster_key::ClusterKey,
    crypto::{Secret, random_hex},
};

use super::{
    ApiOptions,
    api::Api,
    auth_method, binding_rule, ca,
    output::{self, Output},
};

/// A secret of 256 bits.
const SECRET_BYTES: usize = 32;
/// How long a token whose making was not answered may take to be there.
const ANSWER_PATIENCE: Duration = Duration::from_secs(15);
/// How often that is looked at.
const ANSWER_PAUSE: Duration = Duration::from_millis(500);

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
/// The key is not sent: a MAC over the server's challenge shows that the caller has it. A server at an https address is
/// recognised by the key, too, so no certificate has to be known before; --roots-file keeps those of the mesh for later calls:
///
///   weft acl bootstrap --http-addr https://weft-1.weft.internal:8501 --cluster-key-file cluster.key --roots-file roots.pem
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Bootstrap {
    /// The file that holds the servers' cluster key
    #[arg(long, value_name = "FILE")]
    cluster_key_file: PathBuf,
    /// Where to write the roots of the mesh, for --cacert and WEFT_CACERT
    #[arg(long, value_name = "FILE")]
    roots_file: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(verb: Acl, options: &ApiOptions) -> anyhow::Result<ExitCode> {
    let api = Api::new(options)?;
    match verb {
        Acl::Bootstrap(bootstrap) => found(&bootstrap, options).await?,
        Acl::AuthMethod(verb) => auth_method::run(verb, options, &api).await?,
        Acl::BindingRule(verb) => binding_rule::run(verb, &api).await?,
        Acl::Token(token) => token::run(token, &api, options).await?,
        Acl::Policy(policy) => policy::run(policy, &api, options).await?,
        Acl::Role(role) => role::run(role, &api, options).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes the first management token, and keeps the roots where that was asked for.
async fn found(bootstrap: &Bootstrap, options: &ApiOptions) -> anyhow::Result<()> {
    let key = ClusterKey::load(&bootstrap.cluster_key_file)?;
    let api = Api::of_key_holder(options, &key)?;
    let token = prove(&api, &key).await?;
    // It is shown once, so whatever fails after that fails later.
    bootstrap.output.print(&token, token::text)?;
    if let (Some(path), Some(secret)) = (&bootstrap.roots_file, token.secret) {
        let roots = ca::roots_pem(&api.with_token(secret)).await.context("asking for the roots of the mesh")?;
        std::fs::write(path, roots).with_context(|| format!("writing the roots to `{}`", path.display()))?;
    }
    Ok(())
}

/// Makes the first management token with a cluster key.
///
/// Its secret is drawn here, so that an answer that is lost loses no token: whether it was made is asked under that secret.
pub(super) async fn prove(api: &Api, key: &ClusterKey) -> anyhow::Result<TokenView> {
    let BootstrapChallenge { challenge, .. } = api.get("/v1/acl/bootstrap", &[]).await?;
    let secret = Secret::new(random_hex(SECRET_BYTES));
    let proof = key.acl_bootstrap_mac(&challenge).to_vec();
    let proof = BootstrapProof { proof, challenge, bootstrap_secret: Some(secret.clone()) };
    let failed = match api.put("/v1/acl/bootstrap", &[], &proof).await {
        Ok(token) => return Ok(token),
        Err(error) if !is_outcome_unknown(&error) => return Err(error),
        Err(error) => error,
    };
    output::note("no answer came: asking whether the token was made all the same")?;
    let own = api.clone().with_token(secret.clone());
    let deadline = tokio::time::Instant::now() + ANSWER_PATIENCE;
    loop {
        if let Ok(token) = own.get::<TokenView>("/v1/acl/token/self", &[]).await {
            return Ok(TokenView { secret: Some(secret), ..token });
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(failed);
        }
        tokio::time::sleep(ANSWER_PAUSE).await;
    }
}

/// Reports whether a write that failed may have been carried out all the same.
fn is_outcome_unknown(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<ApiError>() {
        Some(ApiError::OutcomeUnknown { .. }) => true,
        Some(error) => error.status() == Some(StatusCode::GATEWAY_TIMEOUT),
        None => false,
    }
}
