//! `weft acl binding-rule`: what an identity that an auth method vouches for is here.

use catalog::{AuthMethodName, BindKind, BindingRuleId, CatalogIndex, NameTemplate};
use clap::{Args, Subcommand};
use wire::consul::BindingRuleEntry;

use super::{
    api::Api,
    output::{self, Output, pairs, table},
};

/// Say what an identity that an auth method vouches for is here.
///
/// A rule selects identities by what their method knows of them, and names a service, a node, a gateway's network, a role or a policy:
///
///   weft acl binding-rule create --method k8s --bind-type service --bind-name '${value.namespace}/${value.name}' \
///     --selector 'value.namespace in ["shop", "pay"]'
///
/// An agent may stand before the services that rules give it, and be on the nodes that they give it, or on any free one
/// where they give none. A token stands for the services and nodes, and holds the roles and policies.
#[derive(Debug, Subcommand)]
#[command(verbatim_doc_comment)]
pub(super) enum BindingRule {
    /// Make a rule
    Create(Create),
    /// Change a rule; what is not given stays
    Update(Update),
    /// Show a rule
    Read(Read),
    /// Remove a rule; what came of it stays
    Delete(Delete),
    /// List all rules, or those of one method
    List(List),
}

#[derive(Debug, Args)]
pub(super) struct Create {
    /// Whose identities it judges
    #[arg(long, value_name = "NAME")]
    method: AuthMethodName,
    /// What it makes of them: service, node, gateway, role or policy
    #[arg(long, value_name = "TYPE")]
    bind_type: BindKind,
    /// The name of that, with variables such as ${value.name}
    #[arg(long, value_name = "NAME")]
    bind_name: NameTemplate,
    /// Which identities it is for; all where nothing is said
    #[arg(long, default_value = "", value_name = "SELECTOR")]
    selector: String,
    /// What to note about it
    #[arg(long, default_value = "", value_name = "TEXT")]
    description: String,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(super) struct Update {
    /// Which
    id: BindingRuleId,
    /// What it makes of identities: service, node, gateway, role or policy
    #[arg(long, value_name = "TYPE")]
    bind_type: Option<BindKind>,
    /// The name of that, with variables such as ${value.name}
    #[arg(long, value_name = "NAME")]
    bind_name: Option<NameTemplate>,
    /// Which identities it is for
    #[arg(long, value_name = "SELECTOR")]
    selector: Option<String>,
    /// What to note about it
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(super) struct Read {
    /// Which
    id: BindingRuleId,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(super) struct Delete {
    /// Which
    id: BindingRuleId,
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Only the rules of this method
    #[arg(long, value_name = "NAME")]
    method: Option<AuthMethodName>,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(verb: BindingRule, api: &Api) -> anyhow::Result<()> {
    let at = |id: &BindingRuleId| format!("/v1/acl/binding-rule/{id}");
    match verb {
        BindingRule::Create(create) => {
            let rule = BindingRuleEntry {
                id: None,
                description: create.description,
                auth_method: create.method,
                selector: create.selector,
                bind_type: create.bind_type,
                bind_name: create.bind_name,
                create_index: CatalogIndex::default(),
                modify_index: CatalogIndex::default(),
            };
            let made: BindingRuleEntry = api.put("/v1/acl/binding-rule", &[], &rule).await?;
            create.output.print(&made, text)
        }
        BindingRule::Update(update) => {
            let before: BindingRuleEntry = api.get(&at(&update.id), &[]).await?;
            let rule = BindingRuleEntry {
                description: update.description.unwrap_or(before.description),
                selector: update.selector.unwrap_or(before.selector),
                bind_type: update.bind_type.unwrap_or(before.bind_type),
                bind_name: update.bind_name.unwrap_or(before.bind_name),
                ..before
            };
            let made: BindingRuleEntry = api.put(&at(&update.id), &[], &rule).await?;
            update.output.print(&made, text)
        }
        BindingRule::Read(read) => {
            let rule: BindingRuleEntry = api.get(&at(&read.id), &[]).await?;
            read.output.print(&rule, text)
        }
        BindingRule::Delete(delete) => {
            api.delete(&at(&delete.id), &[]).await?;
            output::line(&format!("Deleted: {}", delete.id))
        }
        BindingRule::List(list) => {
            let only = list.method.as_ref().map(|method| ("authmethod", method.as_str()));
            let query: Vec<(&str, &str)> = only.into_iter().collect();
            let rules: Vec<BindingRuleEntry> = api.get("/v1/acl/binding-rules", &query).await?;
            list.output.print(&rules, |rules| {
                let rows = rules.iter().map(|rule| {
                    let (id, binds) = (id(rule), format!("{} {}", rule.bind_type, rule.bind_name));
                    vec![id, rule.auth_method.to_string(), binds, rule.selector.clone()]
                });
                table(&["ID", "Method", "Binds", "Selector"], rows.collect(), "no binding rules")
            })
        }
    }
}

fn id(rule: &BindingRuleEntry) -> String {
    rule.id.as_ref().map(ToString::to_string).unwrap_or_default()
}

fn text(rule: &BindingRuleEntry) -> String {
    pairs(&[
        ("ID:", id(rule)),
        ("Method:", rule.auth_method.to_string()),
        ("Binds:", format!("{} {}", rule.bind_type, rule.bind_name)),
        ("Selector:", if rule.selector.is_empty() { "(everybody)".to_owned() } else { rule.selector.clone() }),
        ("Description:", rule.description.clone()),
    ])
}
