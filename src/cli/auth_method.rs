//! `weft acl auth-method`: whose word about an identity counts.

use std::{path::PathBuf, time::Duration};

use catalog::AuthMethodName;
use clap::{Args, Subcommand};
use serde_json::json;
use wire::{
    consul::{AuthConfigEntry, AuthMethodEntry, AwsIamConfigEntry, JwtConfigEntry, KubernetesConfigEntry},
    decode::parse_duration,
};

use super::{
    ApiOptions,
    api::Api,
    config_file::ConfigFile,
    output::{self, Output, pairs, table},
};

/// Say whose word about an identity counts.
///
/// A method of type jwt takes JSON Web Tokens of one issuer. Its configuration is a file with Consul's fields, as JSON or HCL:
///
///   BoundIssuer    = "https://kubernetes.default.svc"
///   BoundAudiences = ["weft"]
///   JWKSURL        = "https://10.0.0.1/openid/v1/jwks"   # or OIDCDiscoveryURL, JWKS, JWTValidationPubKeys
///   ClaimMappings  = { "sub" = "name", "/kubernetes.io/namespace" = "namespace" }
///
/// A method of type aws-iam takes whoever signs a request with the credentials of an AWS role or user, such as a task's:
///
///   BoundIAMPrincipalARNs = ["arn:aws:iam::123456789012:role/web", "arn:aws:iam::123456789012:role/shop-*"]
///
/// A method of type kubernetes takes the tokens of pods' service accounts, by the word of their API server. Without a Host that is
/// the cluster that the servers run in; for any other one each server is given a token (weft server --kubernetes-token-file):
///
///   Host = "https://10.0.0.1:6443"
///
/// What an identity is here, binding rules say: `weft acl binding-rule`.
#[derive(Debug, Subcommand)]
#[command(verbatim_doc_comment)]
pub(super) enum AuthMethod {
    /// Make a method
    Create(Write),
    /// Change a method; what is not given again is what it is for a new one
    Update(Write),
    /// Show a method
    Read(Read),
    /// Remove a method, its rules and the tokens that its logins made
    Delete(Delete),
    /// List all methods
    List(List),
}

#[derive(Debug, Args)]
pub(super) struct Write {
    /// The method's name
    name: AuthMethodName,
    /// The method's type
    #[arg(long = "type", default_value = "jwt", value_name = "TYPE")]
    kind: String,
    /// The file with the type's configuration, JSON or HCL
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// What to note about it
    #[arg(long, default_value = "", value_name = "TEXT")]
    description: String,
    /// Its name for people
    #[arg(long, default_value = "", value_name = "TEXT")]
    display_name: String,
    /// How long the tokens live that its logins make, at most 24h
    #[arg(long, default_value = "1h", value_name = "DURATION", value_parser = parse_duration)]
    max_token_ttl: Duration,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(super) struct Read {
    /// Which
    name: AuthMethodName,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(super) struct Delete {
    /// Which
    name: AuthMethodName,
}

#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(verb: AuthMethod, options: &ApiOptions, api: &Api) -> anyhow::Result<()> {
    match verb {
        AuthMethod::Create(write) => put(&write, "/v1/acl/auth-method", options, api).await,
        AuthMethod::Update(write) => put(&write, &format!("/v1/acl/auth-method/{}", write.name), options, api).await,
        AuthMethod::Read(read) => {
            let method: AuthMethodEntry = api.get(&format!("/v1/acl/auth-method/{}", read.name), &[]).await?;
            read.output.print(&method, text)
        }
        AuthMethod::Delete(delete) => {
            api.delete(&format!("/v1/acl/auth-method/{}", delete.name), &[]).await?;
            output::line(&format!("Deleted: {}", delete.name))
        }
        AuthMethod::List(list) => {
            let methods: Vec<AuthMethodEntry> = api.get("/v1/acl/auth-methods", &[]).await?;
            list.output.print(&methods, |methods| {
                let rows = methods.iter().map(|method| {
                    let name = method.name.as_ref().map(ToString::to_string).unwrap_or_default();
                    let vouches = match &method.config {
                        AuthConfigEntry::Jwt(jwt) => jwt.bound_issuer.clone(),
                        AuthConfigEntry::AwsIam(aws) => aws.bound_iam_principal_arns.join(", "),
                        AuthConfigEntry::Kubernetes(kubernetes) => cluster(kubernetes).to_owned(),
                    };
                    vec![name, method.config.kind().to_owned(), vouches, method.description.clone()]
                });
                table(&["Name", "Type", "Of", "Description"], rows.collect(), "no auth methods")
            })
        }
    }
}

async fn put(write: &Write, path: &str, options: &ApiOptions, api: &Api) -> anyhow::Result<()> {
    let config = ConfigFile::read(&write.config)?.into_value();
    let body = json!({
        "Name": write.name,
        "Type": write.kind,
        "Description": write.description,
        "DisplayName": write.display_name,
        "MaxTokenTTL": format!("{}s", write.max_token_ttl.as_secs()),
        "Namespace": options.namespace,
        "Config": config,
    });
    let method: AuthMethodEntry = api.put(path, &[], &body).await?;
    write.output.print(&method, text)
}

fn text(method: &AuthMethodEntry) -> String {
    let mut rows = vec![
        ("Name:", method.name.as_ref().map(ToString::to_string).unwrap_or_default()),
        ("Type:", method.config.kind().to_owned()),
        ("Description:", method.description.clone()),
        ("Namespace:", method.namespace.to_string()),
        ("Token TTL:", method.max_token_ttl.clone()),
    ];
    rows.extend(match &method.config {
        AuthConfigEntry::Jwt(jwt) => jwt_rows(jwt),
        AuthConfigEntry::AwsIam(aws) => aws_rows(aws),
        AuthConfigEntry::Kubernetes(kubernetes) => {
            vec![("Cluster:", cluster(kubernetes).to_owned()), ("Audiences:", kubernetes.bound_audiences.join(", "))]
        }
    });
    pairs(&rows)
}

fn cluster(config: &KubernetesConfigEntry) -> &str {
    if config.host.is_empty() { "the servers' own" } else { &config.host }
}

fn aws_rows(config: &AwsIamConfigEntry) -> Vec<(&'static str, String)> {
    let endpoint = if config.sts_endpoint.is_empty() { "AWS's own" } else { &config.sts_endpoint };
    vec![("Principals:", config.bound_iam_principal_arns.join(", ")), ("STS:", endpoint.to_owned())]
}

fn jwt_rows(config: &JwtConfigEntry) -> Vec<(&'static str, String)> {
    let keys = match (&config.jwks_url, &config.oidc_discovery_url) {
        (url, _) if !url.is_empty() => url.clone(),
        (_, url) if !url.is_empty() => format!("as {url} says"),
        _ if !config.jwks.is_empty() => "a key set".to_owned(),
        _ => format!("{} public keys", config.jwt_validation_pub_keys.len()),
    };
    let mapped = |prefix: &str, claims: &std::collections::BTreeMap<String, String>| -> Vec<String> {
        claims.iter().map(|(claim, variable)| format!("{claim} => {prefix}.{variable}")).collect()
    };
    let claims = [mapped("value", &config.claim_mappings), mapped("list", &config.list_claim_mappings)].concat();
    vec![
        ("Issuer:", config.bound_issuer.clone()),
        ("Audiences:", config.bound_audiences.join(", ")),
        ("Algorithms:", config.jwt_supported_algs.join(", ")),
        ("Keys:", keys),
        ("Claims:", claims.join(", ")),
    ]
}
