//! What API tokens may do: rules as Consul writes them, and the built-in ones of identities.
//!
//! Rules only ever grant what they name. Where several speak of one thing, the most specific decides: an exact name before
//! a prefix, a longer prefix before a shorter one; of equally specific ones a deny wins, then a write, then a read.

mod authority;
mod objects;
mod required;
#[cfg(test)]
mod tests;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

pub use authority::Authority;
pub use objects::{AclChange, AclPolicy, AclRole, Links};
pub use required::Lack;

use crate::{Namespace, NodeName, ServiceName, UnknownWord, node::words};

/// Says what a rule grants on what it names.
///
/// The order is the one in which equally specific rules overrule each other: later wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Looking at it.
    Read,
    /// Looking at it and changing it.
    Write,
    /// Nothing.
    Deny,
}

impl Access {
    /// Reports whether looking is granted.
    #[must_use]
    pub fn reads(self) -> bool {
        matches!(self, Self::Read | Self::Write)
    }

    /// Reports whether changing is granted.
    #[must_use]
    pub fn writes(self) -> bool {
        self == Self::Write
    }
}

words!(Access, "access", "`read`, `write` or `deny`", { Read = "read", Write = "write", Deny = "deny" });

/// Names what a rule speaks of: one name, or all that begin alike.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NamePattern {
    /// This name.
    Exact(String),
    /// Every name that begins like this; the empty text begins every name.
    Prefix(String),
}

/// Grants access to the nodes, or to the agents of nodes, that it names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NameRule {
    /// Which.
    pub name: NamePattern,
    /// What is granted.
    pub access: Access,
}

/// Grants access to services, and to the intentions toward them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceRule {
    /// Which.
    pub name: NamePattern,
    /// What is granted on the service, its instances and their checks.
    pub access: Access,
    /// What is granted on the intentions that have it as destination; where there is none, what [`ServiceRule::on_intentions`]
    /// says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intentions: Option<Access>,
}

impl ServiceRule {
    /// Returns what is granted on intentions: as written, or else reading where the service may be read (Consul's rule).
    #[must_use]
    pub fn on_intentions(&self) -> Access {
        self.intentions.unwrap_or(if self.access == Access::Deny { Access::Deny } else { Access::Read })
    }
}

/// Is what one policy grants within the namespaces that it names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamespaceRules {
    /// Which namespaces.
    pub namespace: NamePattern,
    /// What is granted on their tokens, policies and roles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acl: Option<Access>,
    /// What is granted on nodes, as far as services of these namespaces are on them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NameRule>,
    /// What is granted on their services.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<ServiceRule>,
}

/// Is what one policy grants, as it was read from its text.
///
/// What stands outside a namespace's block and has a namespace is of the policy's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// What is granted on tokens, policies and roles; of the whole mesh, if the policy is in `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acl: Option<Access>,
    /// What is granted on the servers themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<Access>,
    /// What is granted on settings of the whole mesh; as `operator` where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh: Option<Access>,
    /// What is granted on agents themselves, by their nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub agents: Vec<NameRule>,
    /// What is granted on nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NameRule>,
    /// What is granted on services.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<ServiceRule>,
    /// What is granted within other namespaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<NamespaceRules>,
}

impl Rules {
    /// Returns what a service needs for itself: to be registered, and to find others of its namespace.
    #[must_use]
    pub fn of_service(service: &ServiceName) -> Self {
        Self {
            nodes: vec![NameRule { name: NamePattern::Prefix(String::new()), access: Access::Read }],
            services: vec![
                ServiceRule { name: NamePattern::Exact(service.to_string()), access: Access::Write, intentions: None },
                ServiceRule { name: NamePattern::Prefix(String::new()), access: Access::Read, intentions: None },
            ],
            ..Self::default()
        }
    }

    /// Returns what a node needs for itself: to be registered, and to find the services of its namespace.
    #[must_use]
    pub fn of_node(node: &NodeName) -> Self {
        Self {
            nodes: vec![NameRule { name: NamePattern::Exact(node.to_string()), access: Access::Write }],
            services: vec![ServiceRule {
                name: NamePattern::Prefix(String::new()),
                access: Access::Read,
                intentions: None,
            }],
            ..Self::default()
        }
    }

    /// Returns what answering names needs: to find every service and node of the namespace.
    #[must_use]
    pub fn of_dns() -> Self {
        let all = NamePattern::Prefix(String::new());
        Self {
            nodes: vec![NameRule { name: all.clone(), access: Access::Read }],
            services: vec![ServiceRule { name: all, access: Access::Read, intentions: None }],
            ..Self::default()
        }
    }

    /// Reports whether everything in it is of namespaces, so that a policy outside `default` may hold it.
    #[must_use]
    pub fn is_within(&self, namespace: &Namespace) -> bool {
        *namespace == Namespace::default_namespace()
            || (self.operator.is_none()
                && self.mesh.is_none()
                && self.agents.is_empty()
                && self.namespaces.is_empty()
                && self.nodes.iter().all(|rule| rule.access != Access::Write))
    }
}
