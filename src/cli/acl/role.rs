//! `weft acl role`: named sets of links that tokens share.

use catalog::{AclName, RoleId};
use clap::{Args, Subcommand};
use wire::acl::{RoleRequest, RoleView};

use super::links::{self, Links, joined};
use crate::cli::{
    ApiOptions,
    api::Api,
    output::{self, Output, pairs, table},
};

/// Write the roles that tokens are linked to.
#[derive(Debug, Subcommand)]
pub(crate) enum Role {
    /// Make a role
    Create(Create),
    /// Show a role
    Read(Read),
    /// Change a role; every token that is linked to it follows
    Update(Update),
    /// Remove a role; what is linked to it loses what it granted
    Delete(Delete),
    /// List the roles that the caller may see
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
    #[command(flatten)]
    links: Links,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Read {
    /// Which, by its name or id
    role: String,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Update {
    /// Which, by its name or id
    role: String,
    /// What to call it from now on
    #[arg(long)]
    name: Option<AclName>,
    /// What to note about it; what was noted before where nothing is said
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    #[command(flatten)]
    links: Links,
    /// Keep what it is linked to, and add what is named
    #[arg(long)]
    append: bool,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// Which, by its name or id
    role: String,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(verb: Role, api: &Api, options: &ApiOptions) -> anyhow::Result<()> {
    match verb {
        Role::Create(create) => {
            let request = RoleRequest {
                name: create.name,
                description: create.description,
                links: create.links.texts(),
                namespace: Some(options.namespace.clone()),
                datacenters: Vec::new(),
            };
            let role: RoleView = api.put("/v1/acl/role", &[], &request).await?;
            create.output.print(&role, text)
        }
        Role::Read(read) => {
            let role = find(api, options, &read.role).await?;
            read.output.print(&role, text)
        }
        Role::Update(update) => {
            let held = find(api, options, &update.role).await?;
            let links = match (update.links.is_empty(), update.append) {
                (true, _) => held.links,
                (false, true) => joined(held.links, update.links.texts()),
                (false, false) => update.links.texts(),
            };
            let request = RoleRequest {
                name: update.name.unwrap_or(held.name),
                description: update.description.unwrap_or(held.description),
                links,
                namespace: None,
                datacenters: Vec::new(),
            };
            let role: RoleView = api.put(&format!("/v1/acl/role/{}", held.id), &[], &request).await?;
            update.output.print(&role, text)
        }
        Role::Delete(delete) => {
            let held = find(api, options, &delete.role).await?;
            api.delete(&format!("/v1/acl/role/{}", held.id), &[]).await?;
            output::line(&format!("Deleted: {}", held.name))
        }
        Role::List(list) => {
            let roles: Vec<RoleView> = api.get("/v1/acl/roles", &[]).await?;
            list.output.print(&roles, |roles| {
                let row = |role: &RoleView| {
                    let (id, linked) = (role.id.to_string(), links::text(&role.links));
                    vec![role.name.to_string(), role.namespace.to_string(), id, linked]
                };
                table(&["Name", "Namespace", "ID", "Linked to"], roles.iter().map(row).collect(), "no roles")
            })
        }
    }
}

/// Finds a role by its name within the namespace, or by its id.
async fn find(api: &Api, options: &ApiOptions, which: &str) -> anyhow::Result<RoleView> {
    if let Ok(id) = which.parse::<RoleId>() {
        return api.get(&format!("/v1/acl/role/{id}"), &[]).await;
    }
    let name: AclName = which.parse()?;
    api.get(&format!("/v1/acl/role/name/{name}"), &[("ns", options.namespace.as_str())]).await
}

fn text(role: &RoleView) -> String {
    pairs(&[
        ("Name:", role.name.to_string()),
        ("ID:", role.id.to_string()),
        ("Namespace:", role.namespace.to_string()),
        ("Description:", role.description.clone()),
        ("Linked to:", links::text(&role.links)),
    ])
}
