//! What an audit line says of changes of tokens, policies and roles.

use super::describe::{Content, Description, bounded, noted};
use crate::{AclChange, Links, Namespace, Rights, TemplatedPolicy};

/// Describes a change; none for the removal of what had ended by itself.
pub(super) fn describe(change: &AclChange) -> Option<Description<'_>> {
    let (kind, summary) = summary(change)?;
    let content = match change {
        AclChange::CreatePolicy { policy } | AclChange::UpdatePolicy { policy } => Some(Content::Policy(policy)),
        _ => None,
    };
    Some(Description { kind, summary: bounded(summary), content })
}

fn summary(change: &AclChange) -> Option<(&'static str, String)> {
    Some(match change {
        AclChange::CreateToken { token } => {
            let until = token.expires_at.map(|end| format!(" until {end}")).unwrap_or_default();
            let what = format!("token {}{}{until}", token.accessor, within(&token.namespace));
            ("create-token", noted(linked(what, &token.rights, &token.links()), &token.description))
        }
        AclChange::UpdateToken { accessor, description, rights, links } => {
            let what = format!("token {accessor}");
            ("update-token", noted(linked(what, rights, links), description))
        }
        AclChange::CreatePolicy { policy } => {
            ("create-policy", format!("policy {} ({}){}", policy.name, policy.id, within(&policy.namespace)))
        }
        AclChange::UpdatePolicy { policy } => ("update-policy", format!("policy {} ({})", policy.name, policy.id)),
        AclChange::DeletePolicy { id } => ("delete-policy", format!("policy {id}")),
        AclChange::CreateRole { role } => {
            let what = format!("role {} ({}){}", role.name, role.id, within(&role.namespace));
            ("create-role", linked(what, &Rights::Rules, &role.links))
        }
        AclChange::UpdateRole { role } => {
            let what = format!("role {} ({})", role.name, role.id);
            ("update-role", linked(what, &Rights::Rules, &role.links))
        }
        AclChange::DeleteRole { id } => ("delete-role", format!("role {id}")),
        AclChange::ReapTokens => return None,
    })
}

fn within(namespace: &Namespace) -> String {
    if *namespace == Namespace::default_namespace() { String::new() } else { format!(" of {namespace}") }
}

fn linked(what: String, rights: &Rights, links: &Links) -> String {
    let Links { policies, roles, service_identities, node_identities, templated_policies } = links;
    let templated = templated_policies.iter().map(|policy| match policy {
        TemplatedPolicy::Service { name } => format!("builtin/service {name}"),
        TemplatedPolicy::Node { name } => format!("builtin/node {name}"),
        TemplatedPolicy::Dns => "builtin/dns".to_owned(),
    });
    let everything = (*rights == Rights::Management).then(|| "management".to_owned());
    let named: Vec<String> = everything
        .into_iter()
        .chain(policies.iter().map(|id| format!("policy {id}")))
        .chain(roles.iter().map(|id| format!("role {id}")))
        .chain(service_identities.iter().map(|name| format!("service {name}")))
        .chain(node_identities.iter().map(|name| format!("node {name}")))
        .chain(templated)
        .collect();
    if named.is_empty() { what } else { format!("{what} with {}", named.join(", ")) }
}
