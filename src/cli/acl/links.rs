//! What tokens and roles are linked to, as flags and as text.

use catalog::{NodeName, ServiceName};
use clap::Args;
use wire::acl::{
    AclLink, LinkTexts, NodeIdentity, ServiceIdentity, TemplateName, TemplateVariables, TemplatedPolicyView,
};

/// Names what a token or role is linked to.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Links {
    /// A policy to link, by its name; may be given several times
    #[arg(long, value_name = "NAME")]
    policy_name: Vec<String>,
    /// A policy to link, by its id; may be given several times
    #[arg(long, value_name = "ID")]
    policy_id: Vec<String>,
    /// A service that it stands for: may register it and find the others; may be given several times
    #[arg(long, value_name = "SERVICE")]
    service_identity: Vec<ServiceName>,
    /// A node that it stands for: may register it and find services; may be given several times
    #[arg(long, value_name = "NODE")]
    node_identity: Vec<NodeName>,
    /// A policy that weft writes itself: builtin/service:NAME, builtin/node:NAME or builtin/dns
    #[arg(long, value_name = "TEMPLATE", value_parser = template)]
    templated_policy: Vec<TemplatedPolicyView>,
}

fn template(text: &str) -> Result<TemplatedPolicyView, String> {
    let (template, name) = match text.split_once(':') {
        Some((template, name)) => (template, Some(name)),
        None => (text, None),
    };
    let template_name: TemplateName = template.parse()?;
    let template_variables = name.map(|name| TemplateVariables { name: name.to_owned() });
    let view = TemplatedPolicyView { template_name, template_variables };
    view.policy().map_err(|error| format!("{error}; write {template}:NAME"))?;
    Ok(view)
}

impl Links {
    /// Reports whether nothing is named.
    pub(super) fn is_empty(&self) -> bool {
        self.clone().texts() == LinkTexts::default()
    }

    /// Returns them as requests have them.
    pub(super) fn texts(self) -> LinkTexts {
        LinkTexts {
            policies: named(self.policy_name, self.policy_id),
            roles: Vec::new(),
            service_identities: self
                .service_identity
                .into_iter()
                .map(|service_name| ServiceIdentity { service_name })
                .collect(),
            node_identities: self.node_identity.into_iter().map(|node_name| NodeIdentity { node_name }).collect(),
            templated_policies: self.templated_policy,
        }
    }
}

/// Returns links to what is named and to what is given by id.
pub(super) fn named(names: Vec<String>, ids: Vec<String>) -> Vec<AclLink> {
    let by_name = names.into_iter().map(|name| AclLink { id: String::new(), name });
    by_name.chain(ids.into_iter().map(|id| AclLink { id, name: String::new() })).collect()
}

/// Adds links to others.
pub(super) fn joined(mut held: LinkTexts, added: LinkTexts) -> LinkTexts {
    held.policies.extend(added.policies);
    held.roles.extend(added.roles);
    held.service_identities.extend(added.service_identities);
    held.node_identities.extend(added.node_identities);
    held.templated_policies.extend(added.templated_policies);
    held
}

/// Writes links in one line.
pub(super) fn text(links: &LinkTexts) -> String {
    let link = |kind: &str, link: &AclLink| {
        if link.name.is_empty() { format!("{kind} {} (gone)", link.id) } else { format!("{kind} {}", link.name) }
    };
    let templated = links.templated_policies.iter().map(|policy| {
        let name = policy.template_variables.as_ref().map(|variables| format!(":{}", variables.name));
        format!("{}{}", policy.template_name.as_str(), name.unwrap_or_default())
    });
    let all: Vec<String> = links
        .policies
        .iter()
        .map(|policy| link("policy", policy))
        .chain(links.roles.iter().map(|role| link("role", role)))
        .chain(links.service_identities.iter().map(|one| format!("service {}", one.service_name)))
        .chain(links.node_identities.iter().map(|one| format!("node {}", one.node_name)))
        .chain(templated)
        .collect();
    if all.is_empty() { "nothing".to_owned() } else { all.join(", ") }
}
