//! The form of tokens, policies and roles.

use super::{META_TEXT_MAX, bounded, few};
use crate::{
    AclChange, AclPolicy, AclRole, Links, NamePattern, NameRule, Namespace, NodeName, Refusal, Rights, Rules,
    ServiceName, ServiceRule, TemplatedPolicy, Token,
};

const LINKS_MAX: usize = 256;
const RULES_MAX: usize = 1024;
/// How long the text of a policy's rules is at most.
const TEXT_BYTES_MAX: usize = 64 * 1024;

pub(super) fn check(change: &AclChange) -> Result<(), Refusal> {
    match change {
        AclChange::CreateToken { token } => check_token(token),
        AclChange::UpdateToken { description, links, .. } => {
            bounded("description", description, META_TEXT_MAX)?;
            check_links(links)
        }
        AclChange::CreatePolicy { policy } | AclChange::UpdatePolicy { policy } => check_policy(policy),
        AclChange::CreateRole { role } | AclChange::UpdateRole { role } => check_role(role),
        AclChange::DeletePolicy { .. } | AclChange::DeleteRole { .. } | AclChange::ReapTokens => Ok(()),
    }
}

pub(super) fn check_token(token: &Token) -> Result<(), Refusal> {
    bounded("description", &token.description, META_TEXT_MAX)?;
    if token.rights == Rights::Management && token.namespace != Namespace::default_namespace() {
        let problem = "`global-management` is of the whole mesh: no token of a namespace has it";
        return Err(Refusal::invalid("policies", problem));
    }
    check_namespaced(&token.links(), &token.namespace)
}

fn check_role(role: &AclRole) -> Result<(), Refusal> {
    bounded("description", &role.description, META_TEXT_MAX)?;
    if !role.links.roles.is_empty() {
        return Err(Refusal::invalid("roles", "a role has no roles: link policies and identities to it"));
    }
    check_namespaced(&role.links, &role.namespace)
}

pub(crate) fn check_namespaced(links: &Links, namespace: &Namespace) -> Result<(), Refusal> {
    let names_node = |policy: &TemplatedPolicy| matches!(policy, TemplatedPolicy::Node { .. });
    let has_nodes = !links.node_identities.is_empty() || links.templated_policies.iter().any(names_node);
    if has_nodes && *namespace != Namespace::default_namespace() {
        let problem = format!("nodes belong to no namespace, and this is of `{namespace}`: link them in `default`");
        return Err(Refusal::invalid("node_identities", problem));
    }
    check_links(links)
}

fn check_links(links: &Links) -> Result<(), Refusal> {
    fn ordered<T: Ord>(field: &str, list: &[T]) -> Result<(), Refusal> {
        few(field, list.len(), LINKS_MAX)?;
        if list.is_sorted_by(|a, b| a < b) {
            return Ok(());
        }
        Err(Refusal::invalid(field, "they must be sorted, each once"))
    }
    ordered("policies", &links.policies)?;
    ordered("roles", &links.roles)?;
    ordered("service_identities", &links.service_identities)?;
    ordered("node_identities", &links.node_identities)?;
    ordered("templated_policies", &links.templated_policies)
}

fn check_policy(policy: &AclPolicy) -> Result<(), Refusal> {
    bounded("description", &policy.description, META_TEXT_MAX)?;
    bounded("rules", &policy.text, TEXT_BYTES_MAX)?;
    let Rules { agents, nodes, services, namespaces, .. } = &policy.rules;
    let within = namespaces.iter().map(|block| block.nodes.len() + block.services.len() + 1);
    few("rules", agents.len() + nodes.len() + services.len() + within.sum::<usize>(), RULES_MAX)?;
    check_names::<NodeName>("agent", agents.iter().map(|rule| &rule.name))?;
    check_node_rules(nodes)?;
    check_service_rules(services)?;
    for block in namespaces {
        check_names::<Namespace>("namespace", std::iter::once(&block.namespace))?;
        if block.acl.is_some() && block.namespace == NamePattern::Exact("default".to_owned()) {
            let problem = "what is in `default` is the whole mesh's: write `acl` outside of the block";
            return Err(Refusal::invalid("rules: namespace \"default\"", problem));
        }
        if block.nodes.iter().any(|rule| rule.access.writes()) {
            let problem = "nodes belong to no namespace: grant `write` outside of the block";
            return Err(Refusal::invalid("rules: node", problem));
        }
        check_node_rules(&block.nodes)?;
        check_service_rules(&block.services)?;
    }
    Ok(())
}

fn check_node_rules(rules: &[NameRule]) -> Result<(), Refusal> {
    check_names::<NodeName>("node", rules.iter().map(|rule| &rule.name))
}

fn check_service_rules(rules: &[ServiceRule]) -> Result<(), Refusal> {
    check_names::<ServiceName>("service", rules.iter().map(|rule| &rule.name))
}

/// Refuses a rule that could never speak of anything: a deny on a name that nothing has would be none.
fn check_names<'a, T: std::str::FromStr>(
    kind: &str,
    names: impl Iterator<Item = &'a NamePattern>,
) -> Result<(), Refusal> {
    for name in names {
        let is_possible = match name {
            NamePattern::Exact(name) => name.parse::<T>().is_ok(),
            // What every name of the kind may go on with makes a name of the beginning of one.
            NamePattern::Prefix(prefix) => prefix.is_empty() || format!("{prefix}0").parse::<T>().is_ok(),
        };
        if !is_possible {
            let problem =
                "no name is or begins like that: write the whole name, or the beginning of names in a `_prefix` rule";
            return Err(Refusal::invalid(format!("rules: {kind}{}", name_text(name)), problem));
        }
    }
    Ok(())
}

fn name_text(name: &NamePattern) -> String {
    match name {
        NamePattern::Exact(name) => format!(" \"{}\"", name.escape_debug()),
        NamePattern::Prefix(prefix) => format!("_prefix \"{}\"", prefix.escape_debug()),
    }
}
