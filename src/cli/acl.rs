//! `weft acl`: tokens for the API.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use catalog::AccessorId;
use clap::{Args, Subcommand};
use wire::{
    api_types::{BootstrapChallenge, BootstrapProof, TokenRequest, TokenView},
    cluster_key::ClusterKey,
    decode::parse_duration,
};

use super::{
    ApiOptions,
    api::Api,
    output::{self, Output, pairs, table},
};

/// Make and end tokens for the API.
#[derive(Debug, Subcommand)]
pub(super) enum Acl {
    /// Make the first management token, by proof of the cluster key; works once
    Bootstrap(Bootstrap),
    /// Make, show and end tokens
    #[command(subcommand)]
    Token(Token),
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

#[derive(Debug, Subcommand)]
pub(super) enum Token {
    /// Make a token; its secret is shown this once
    Create(Create),
    /// Show a token, or the one that this call is made with
    Read(Read),
    /// End a token
    Delete(Delete),
    /// List all tokens
    List(List),
}

#[derive(Debug, Args)]
pub(super) struct Create {
    /// What to note about it
    #[arg(long, default_value = "", value_name = "TEXT")]
    description: String,
    /// How long it is good for, such as 24h; for ever where nothing is said
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    ttl: Option<Duration>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(super) struct Read {
    /// Which; this call's own where nothing is said
    accessor: Option<AccessorId>,
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

pub(super) async fn run(verb: Acl, options: &ApiOptions) -> anyhow::Result<ExitCode> {
    let api = Api::new(options)?;
    match verb {
        Acl::Bootstrap(bootstrap) => {
            let key = ClusterKey::load(&bootstrap.cluster_key_file)?;
            bootstrap.output.print(&prove(&api, &key).await?, token_text)?;
        }
        Acl::Token(Token::Create(create)) => {
            let request = TokenRequest { description: create.description, expiration_ttl: create.ttl };
            let token: TokenView = api.put("/v1/acl/token", &[], &request).await?;
            create.output.print(&token, token_text)?;
        }
        Acl::Token(Token::Read(read)) => {
            let which = read.accessor.as_ref().map_or("self", AccessorId::as_str);
            let token: TokenView = api.get(&format!("/v1/acl/token/{which}"), &[]).await?;
            read.output.print(&token, token_text)?;
        }
        Acl::Token(Token::Delete(delete)) => {
            api.delete(&format!("/v1/acl/token/{}", delete.accessor), &[]).await?;
            output::line(&format!("Deleted: {}", delete.accessor))?;
        }
        Acl::Token(Token::List(list)) => {
            let tokens: Vec<TokenView> = api.get("/v1/acl/tokens", &[]).await?;
            list.output.print(&tokens, |tokens| {
                let rows =
                    tokens.iter().map(|token| vec![token.accessor.to_string(), ends(token), token.description.clone()]);
                table(&["Accessor", "Ends", "Description"], rows.collect(), "no tokens")
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes the first management token with a cluster key.
pub(super) async fn prove(api: &Api, key: &ClusterKey) -> anyhow::Result<TokenView> {
    let BootstrapChallenge { challenge } = api.get("/v1/acl/bootstrap", &[]).await?;
    let proof = BootstrapProof { proof: key.acl_bootstrap_mac(&challenge).to_vec(), challenge };
    api.put("/v1/acl/bootstrap", &[], &proof).await
}

fn ends(token: &TokenView) -> String {
    token.expires_at.map_or_else(|| "never".to_owned(), output::instant)
}

fn token_text(token: &TokenView) -> String {
    let mut rows = vec![("Accessor:", token.accessor.to_string())];
    if let Some(secret) = &token.secret {
        rows.push(("Secret:", secret.expose().to_owned()));
    }
    rows.push(("Description:", token.description.clone()));
    rows.push(("Ends:", ends(token)));
    let mut text = pairs(&rows);
    if token.secret.is_some() {
        text += "\nThe secret is not shown again. Use it as WEFT_HTTP_TOKEN, or from a file with --token-file.";
    }
    text
}
