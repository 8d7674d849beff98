//! `weft login` and `weft logout`: a token by the word of a platform, and its end.

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode};

use anyhow::Context;
use catalog::AuthMethodName;
use clap::Args;
use wire::{
    acl::TokenView,
    consul::TokenLogin,
    crypto::{Secret, read_secret_file},
    login::BEARER_BYTES_MAX,
};

use super::{
    ApiOptions,
    api::Api,
    error::hinted,
    output::{self, Output, pairs},
};

/// Get a token by the word of a platform.
///
/// The token ends by itself after the time that the auth method sets, and with `weft logout` before that. With
/// --token-sink-file, its secret goes to that file alone, of mode 0600, for --token-file of later calls.
#[derive(Debug, Args)]
pub(super) struct Login {
    /// The auth method that judges the credential
    #[arg(long, value_name = "NAME")]
    method: AuthMethodName,
    /// The file that holds what the platform gave to log in with, of mode 0600
    #[arg(long, value_name = "FILE")]
    bearer_token_file: PathBuf,
    /// The file to write the token's secret to
    #[arg(long, value_name = "FILE")]
    token_sink_file: Option<PathBuf>,
    /// What to note about the token, as KEY=VALUE; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    meta: Vec<(String, String)>,
    #[command(flatten)]
    output: Output,
}

/// End the token that a login made.
///
/// It is the one that the call is made with: WEFT_HTTP_TOKEN, or the file that --token-file names.
#[derive(Debug, Args)]
pub(super) struct Logout {}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is no KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

pub(super) async fn log_in(login: Login, options: &ApiOptions) -> anyhow::Result<ExitCode> {
    let bearer = read_secret_file(&login.bearer_token_file, BEARER_BYTES_MAX).context("reading the credential")?;
    let request = TokenLogin {
        auth_method: login.method,
        bearer_token: Secret::new(bearer.expose().trim()),
        meta: login.meta.into_iter().collect::<BTreeMap<_, _>>(),
    };
    let mut token: TokenView = Api::new(options)?.post("/v1/acl/login", &request).await?;
    if let Some(path) = &login.token_sink_file {
        let secret = token
            .secret
            .take()
            .ok_or_else(|| hinted("the server sent no secret", "log in again; a secret is in the first answer only"))?;
        wire::replace_file(path, secret.expose().as_bytes(), 0o600, None)
            .with_context(|| format!("writing the token to `{}`", path.display()))?;
    }
    login.output.print(&token, |token| {
        let mut rows = vec![("Accessor:", token.accessor.to_string())];
        if let Some(secret) = &token.secret {
            rows.push(("Secret:", secret.expose().to_owned()));
        }
        rows.push(("Ends:", token.expires_at.map_or_else(|| "never".to_owned(), output::instant)));
        pairs(&rows)
    })?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn log_out(options: &ApiOptions) -> anyhow::Result<ExitCode> {
    let _: bool = Api::new(options)?.post("/v1/acl/logout", &()).await?;
    output::line("Logged out")?;
    Ok(ExitCode::SUCCESS)
}
