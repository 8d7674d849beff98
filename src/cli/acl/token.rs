//! `weft acl token`: credentials for the API.

use std::time::Duration;

use catalog::AccessorId;
use clap::{Args, Subcommand};
use wire::{
    acl::{CloneRequest, LinkTexts, TokenRequest, TokenView},
    decode::parse_duration,
};

use super::links::{self, Links, joined, named};
use crate::cli::{
    ApiOptions,
    api::Api,
    error::hinted,
    output::{self, Output, pairs, table},
};

/// Make, show, change and end tokens.
///
/// A token may do what its policies, roles and identities grant, and nothing without them. The policy `global-management`
/// grants everything.
#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Make a token; its secret is shown this once
    Create(Create),
    /// Show a token, or the one that this call is made with
    Read(Read),
    /// Change what a token is linked to; its secret stays
    Update(Update),
    /// Make another token with the same rights
    Clone(Clone),
    /// End a token
    Delete(Delete),
    /// List the tokens that the caller may see
    List(List),
}

/// Names what a token is linked to.
#[derive(Debug, Args)]
struct TokenLinks {
    #[command(flatten)]
    links: Links,
    /// A role to link, by its name; may be given several times
    #[arg(long, value_name = "NAME")]
    role_name: Vec<String>,
    /// A role to link, by its id; may be given several times
    #[arg(long, value_name = "ID")]
    role_id: Vec<String>,
}

impl TokenLinks {
    fn is_empty(&self) -> bool {
        self.links.is_empty() && self.role_name.is_empty() && self.role_id.is_empty()
    }

    fn texts(self) -> LinkTexts {
        LinkTexts { roles: named(self.role_name, self.role_id), ..self.links.texts() }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// What to note about it
    #[arg(long, default_value = "", value_name = "TEXT")]
    description: String,
    /// How long it is good for, such as 24h; for ever where nothing is said
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    ttl: Option<Duration>,
    #[command(flatten)]
    links: TokenLinks,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Read {
    /// Which; this call's own where nothing is said
    accessor: Option<AccessorId>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Update {
    /// Which
    accessor: AccessorId,
    /// What to note about it; what was noted before where nothing is said
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    #[command(flatten)]
    links: TokenLinks,
    /// Keep what it is linked to, and add what is named
    #[arg(long)]
    append: bool,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Clone {
    /// Which
    accessor: AccessorId,
    /// What to note about the new one; the same as before where nothing is said
    #[arg(long, default_value = "", value_name = "TEXT")]
    description: String,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// Which
    accessor: AccessorId,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(verb: Token, api: &Api, options: &ApiOptions) -> anyhow::Result<()> {
    let namespace = [("ns", options.namespace.as_str())];
    match verb {
        Token::Create(create) => {
            if create.links.is_empty() {
                return Err(hinted(
                    "a token that is linked to nothing may do nothing",
                    "name what it may do with --policy-name, --role-name, --service-identity or --node-identity; \
                     --policy-name global-management grants everything",
                ));
            }
            let request = TokenRequest {
                description: create.description,
                expiration_ttl: create.ttl,
                links: create.links.texts(),
                ..TokenRequest::default()
            };
            let token: TokenView = api.put("/v1/acl/token", &namespace, &request).await?;
            create.output.print(&token, text)
        }
        Token::Read(read) => {
            let which = read.accessor.as_ref().map_or("self", AccessorId::as_str);
            let token: TokenView = api.get(&format!("/v1/acl/token/{which}"), &[]).await?;
            read.output.print(&token, text)
        }
        Token::Update(update) => {
            let path = format!("/v1/acl/token/{}", update.accessor);
            let held: TokenView = api.get(&path, &[]).await?;
            let links = match (update.links.is_empty(), update.append) {
                (true, _) => held.links,
                (false, true) => joined(held.links, update.links.texts()),
                (false, false) => update.links.texts(),
            };
            let description = update.description.unwrap_or(held.description);
            let token: TokenView =
                api.put(&path, &[], &TokenRequest { description, links, ..TokenRequest::default() }).await?;
            update.output.print(&token, text)
        }
        Token::Clone(clone) => {
            let path = format!("/v1/acl/token/{}/clone", clone.accessor);
            let token: TokenView = api.put(&path, &[], &CloneRequest { description: clone.description }).await?;
            clone.output.print(&token, text)
        }
        Token::Delete(delete) => {
            api.delete(&format!("/v1/acl/token/{}", delete.accessor), &[]).await?;
            output::line(&format!("Deleted: {}", delete.accessor))
        }
        Token::List(list) => {
            let tokens: Vec<TokenView> = api.get("/v1/acl/tokens", &[]).await?;
            list.output.print(&tokens, |tokens| {
                let row = |token: &TokenView| {
                    let description = token.description.clone();
                    vec![token.accessor.to_string(), ends(token), links::text(&token.links), description]
                };
                table(&["Accessor", "Ends", "Linked to", "Description"], tokens.iter().map(row).collect(), "no tokens")
            })
        }
    }
}

fn ends(token: &TokenView) -> String {
    token.expires_at.map_or_else(|| "never".to_owned(), output::instant)
}

pub(super) fn text(token: &TokenView) -> String {
    let mut rows = vec![("Accessor:", token.accessor.to_string())];
    if let Some(secret) = &token.secret {
        rows.push(("Secret:", secret.expose().to_owned()));
    }
    rows.push(("Description:", token.description.clone()));
    rows.push(("Namespace:", token.namespace.to_string()));
    rows.push(("Linked to:", links::text(&token.links)));
    rows.push(("Ends:", ends(token)));
    let mut text = pairs(&rows);
    if token.secret.is_some() {
        text += "\nThe secret is not shown again. Use it as WEFT_HTTP_TOKEN, or from a file with --token-file.";
    }
    text
}
