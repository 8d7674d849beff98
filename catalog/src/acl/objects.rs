//! What tokens are linked to: policies, roles and identities, and the commands that change them.

use serde::{Deserialize, Serialize};

use super::{Access, NamePattern, NameRule, NamespaceRules, Rules, ServiceRule};
use crate::{
    AccessorId, AclName, CatalogIndex, Namespace, NodeName, PolicyId, Rights, RoleId, ServiceName, TemplatedPolicy,
    Token,
};

/// Is a named set of rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AclPolicy {
    /// The policy's name for good.
    pub id: PolicyId,
    /// What people call it; unique within its namespace.
    pub name: AclName,
    /// What was noted about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The namespace that it belongs to; those of `default` may speak of the whole mesh.
    #[serde(default)]
    pub namespace: Namespace,
    /// The rules as they were written.
    pub text: String,
    /// The rules as they were read.
    pub rules: Rules,
    /// The index at which it was made; 0 for one that weft comes with.
    #[serde(default)]
    pub created: CatalogIndex,
    /// The index of the last change.
    #[serde(default)]
    pub modified: CatalogIndex,
}

const GLOBAL_MANAGEMENT: &str = r#"acl = "write"
operator = "write"
mesh = "write"
agent_prefix "" {
  policy = "write"
}
node_prefix "" {
  policy = "write"
}
namespace_prefix "" {
  acl = "write"
  service_prefix "" {
    policy     = "write"
    intentions = "write"
  }
}
"#;

const GLOBAL_READ_ONLY: &str = r#"acl = "read"
operator = "read"
mesh = "read"
agent_prefix "" {
  policy = "read"
}
node_prefix "" {
  policy = "read"
}
namespace_prefix "" {
  acl = "read"
  service_prefix "" {
    policy     = "read"
    intentions = "read"
  }
}
"#;

impl AclPolicy {
    /// Returns the policies that weft comes with: one that grants everything, and one that lets everything be seen.
    #[must_use]
    pub fn builtin() -> [Self; 2] {
        let built = |number: u8, name: &str, description: &str, text: &str, access: Access| Self {
            id: format!("00000000-0000-0000-0000-{number:012}").parse().expect("it is written as a UUID"),
            name: name.parse().expect("it is a policy's name"),
            description: description.to_owned(),
            namespace: Namespace::default_namespace(),
            text: text.to_owned(),
            rules: Rules::of_everything(access),
            created: CatalogIndex::default(),
            modified: CatalogIndex::default(),
        };
        [
            built(1, "global-management", "Grants everything", GLOBAL_MANAGEMENT, Access::Write),
            built(2, "global-read-only", "Lets everything be seen", GLOBAL_READ_ONLY, Access::Read),
        ]
    }

    /// Returns the one that weft comes with under this id.
    #[must_use]
    pub fn builtin_by_id(id: &PolicyId) -> Option<Self> {
        Self::builtin().into_iter().find(|policy| policy.id == *id)
    }

    /// Reports whether this is the policy that grants everything.
    #[must_use]
    pub fn is_global_management(id: &PolicyId) -> bool {
        id.as_str() == "00000000-0000-0000-0000-000000000001"
    }
}

impl Rules {
    /// Returns rules that grant the same on everything.
    fn of_everything(access: Access) -> Self {
        let all = || NamePattern::Prefix(String::new());
        let names = || vec![NameRule { name: all(), access }];
        Self {
            acl: Some(access),
            operator: Some(access),
            mesh: Some(access),
            agents: names(),
            nodes: names(),
            services: Vec::new(),
            namespaces: vec![NamespaceRules {
                namespace: all(),
                acl: Some(access),
                nodes: Vec::new(),
                services: vec![ServiceRule { name: all(), access, intentions: Some(access) }],
            }],
        }
    }
}

/// Is what a token or a role is linked to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Links {
    /// Policies; sorted, unique.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<PolicyId>,
    /// Roles; sorted, unique. A role has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<RoleId>,
    /// Services of the same namespace; sorted, unique.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub service_identities: Vec<ServiceName>,
    /// Nodes; sorted, unique, none outside `default`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub node_identities: Vec<NodeName>,
    /// Templated policies; sorted, unique.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub templated_policies: Vec<TemplatedPolicy>,
}

impl Links {
    /// Puts every list in order and drops what stands twice.
    #[must_use]
    pub fn sorted(mut self) -> Self {
        fn tidy<T: Ord>(list: &mut Vec<T>) {
            list.sort();
            list.dedup();
        }
        tidy(&mut self.policies);
        tidy(&mut self.roles);
        tidy(&mut self.service_identities);
        tidy(&mut self.node_identities);
        tidy(&mut self.templated_policies);
        self
    }
}

impl Token {
    /// Returns what the token is linked to.
    #[must_use]
    pub fn links(&self) -> Links {
        Links {
            policies: self.policies.clone(),
            roles: self.roles.clone(),
            service_identities: self.service_identities.clone(),
            node_identities: self.node_identities.clone(),
            templated_policies: self.templated_policies.clone(),
        }
    }

    /// Returns the token with other links.
    #[must_use]
    pub fn with_links(self, links: Links) -> Self {
        let Links { policies, roles, service_identities, node_identities, templated_policies } = links;
        Self { policies, roles, service_identities, node_identities, templated_policies, ..self }
    }
}

/// Is a named set of links that several tokens share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AclRole {
    /// The role's name for good.
    pub id: RoleId,
    /// What people call it; unique within its namespace.
    pub name: AclName,
    /// What was noted about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The namespace that it belongs to.
    #[serde(default)]
    pub namespace: Namespace,
    /// What it is linked to; no roles.
    pub links: Links,
    /// The index at which it was made.
    #[serde(default)]
    pub created: CatalogIndex,
    /// The index of the last change.
    #[serde(default)]
    pub modified: CatalogIndex,
}

/// Is a change of tokens, policies or roles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum AclChange {
    /// Makes a token; refused where its accessor or secret is there already.
    CreateToken {
        /// The token.
        token: Box<Token>,
    },
    /// Gives a token another description and other links; everything else of it stays.
    UpdateToken {
        /// Which.
        accessor: AccessorId,
        /// What is noted about it.
        description: String,
        /// What it may do.
        rights: Rights,
        /// What it is linked to.
        links: Links,
    },
    /// Makes a policy; refused where its id or name is there already.
    CreatePolicy {
        /// The policy.
        policy: Box<AclPolicy>,
    },
    /// Changes a policy; its namespace stays.
    UpdatePolicy {
        /// The policy.
        policy: Box<AclPolicy>,
    },
    /// Removes a policy; what is linked to it loses what it granted.
    DeletePolicy {
        /// Which.
        id: PolicyId,
    },
    /// Makes a role; refused where its id or name is there already.
    CreateRole {
        /// The role.
        role: Box<AclRole>,
    },
    /// Changes a role; its namespace stays.
    UpdateRole {
        /// The role.
        role: Box<AclRole>,
    },
    /// Removes a role; what is linked to it loses what it granted.
    DeleteRole {
        /// Which.
        id: RoleId,
    },
    /// Removes the tokens whose time is over.
    ReapTokens,
}
