//! What tokens and roles are linked to, as requests and answers write it.

use catalog::{AclPolicy, Catalog, Links, NodeName, Rights, ServiceName, TemplatedPolicy};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::template::{TemplatedPolicyView, read_template};
use crate::decode::{DecodeError, Fields};

/// Names a policy or role by its id, or by its name within the namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct AclLink {
    /// The id; empty where only the name is known.
    #[serde(rename = "ID", default)]
    pub id: String,
    /// The name; empty where only the id is known, and in answers where what is linked to is gone.
    #[serde(default)]
    pub name: String,
}

/// Stands for the service that a token is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct ServiceIdentity {
    /// The service.
    #[schema(value_type = String)]
    pub service_name: ServiceName,
}

/// Stands for the node that a token is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct NodeIdentity {
    /// The node.
    #[schema(value_type = String)]
    pub node_name: NodeName,
}

/// Is what a token or a role is linked to, before names are looked up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct LinkTexts {
    /// Policies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<AclLink>,
    /// Roles.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<AclLink>,
    /// Services of the same namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub service_identities: Vec<ServiceIdentity>,
    /// Nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub node_identities: Vec<NodeIdentity>,
    /// Templated policies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub templated_policies: Vec<TemplatedPolicyView>,
}

impl LinkTexts {
    /// Takes the links out of a request. Datacenters that the links are limited to are gathered in `datacenters`: the
    /// server checks that each is its own.
    pub(super) fn read(fields: &mut Fields, datacenters: &mut Vec<String>) -> Result<Self, DecodeError> {
        let link = |fields: &mut Fields| {
            let link = AclLink { id: fields.text("ID")?, name: fields.text("Name")? };
            if link.id.is_empty() && link.name.is_empty() {
                return Err(fields.refuse("ID", "name the policy or role by `ID` or by `Name`"));
            }
            Ok(link)
        };
        Ok(Self {
            policies: fields.objects("Policies", link)?,
            roles: fields.objects("Roles", link)?,
            service_identities: fields.objects("ServiceIdentities", |fields| {
                datacenters.extend(fields.texts("Datacenters")?);
                Ok(ServiceIdentity { service_name: fields.required("ServiceName")? })
            })?,
            node_identities: fields.objects("NodeIdentities", |fields| {
                datacenters.extend(Some(fields.text("Datacenter")?).filter(|name| !name.is_empty()));
                Ok(NodeIdentity { node_name: fields.required("NodeName")? })
            })?,
            templated_policies: fields.objects("TemplatedPolicies", |fields| {
                datacenters.extend(fields.texts("Datacenters")?);
                read_template(fields).map(|policy| TemplatedPolicyView::of(&policy))
            })?,
        })
    }

    /// Shows links, with the names of what is still there.
    pub fn of(links: &Links, rights: &Rights, catalog: Option<&Catalog>) -> Self {
        let [management, _] = AclPolicy::builtin();
        let everything = (*rights == Rights::Management)
            .then(|| AclLink { id: management.id.to_string(), name: management.name.to_string() });
        let policies = links.policies.iter().map(|id| AclLink {
            id: id.to_string(),
            name: catalog
                .and_then(|catalog| catalog.policy(id))
                .map(|policy| policy.name.to_string())
                .unwrap_or_default(),
        });
        let roles = links.roles.iter().map(|id| AclLink {
            id: id.to_string(),
            name: catalog.and_then(|catalog| catalog.role(id)).map(|role| role.name.to_string()).unwrap_or_default(),
        });
        Self {
            policies: everything.into_iter().chain(policies).collect(),
            roles: roles.collect(),
            service_identities: links
                .service_identities
                .iter()
                .map(|service_name| ServiceIdentity { service_name: service_name.clone() })
                .collect(),
            node_identities: links
                .node_identities
                .iter()
                .map(|node_name| NodeIdentity { node_name: node_name.clone() })
                .collect(),
            templated_policies: links.templated_policies.iter().map(TemplatedPolicyView::of).collect(),
        }
    }

    /// Returns the links whose names need no looking up.
    pub fn named(&self) -> Result<Links, DecodeError> {
        let templated = self.templated_policies.iter().map(TemplatedPolicyView::policy);
        Ok(Links {
            service_identities: self.service_identities.iter().map(|one| one.service_name.clone()).collect(),
            node_identities: self.node_identities.iter().map(|one| one.node_name.clone()).collect(),
            templated_policies: templated.collect::<Result<Vec<TemplatedPolicy>, DecodeError>>()?,
            ..Links::default()
        })
    }
}
