//! Policies and roles as they are written and shown.

use catalog::{AclName, AclPolicy, AclRole, Catalog, CatalogIndex, Namespace, PolicyId, Rights, RoleId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::LinkTexts;
use crate::decode::{DecodeError, Fields, Shape};

/// Asks `PUT /v1/acl/policy` for a policy, or `PUT /v1/acl/policy/:id` for a change of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct PolicyRequest {
    /// What people call it.
    #[schema(value_type = String)]
    pub name: AclName,
    /// What is noted about it.
    pub description: String,
    /// The rules.
    pub rules: String,
    /// The namespace that it belongs to; the query's where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub namespace: Option<Namespace>,
    /// The only datacenters where it counts; the server's own, if any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub datacenters: Vec<String>,
}

/// What answers carry and writers may send back.
const SHOWN_ONLY: [&str; 4] = ["ID", "Hash", "CreateIndex", "ModifyIndex"];

impl Shape for PolicyRequest {
    fn read(fields: &mut Fields) -> Result<Self, DecodeError> {
        let request = Self {
            name: fields.required("Name")?,
            description: fields.text("Description")?,
            rules: fields.text("Rules")?,
            namespace: fields.parsed("Namespace")?,
            datacenters: fields.texts("Datacenters")?,
        };
        fields.ignored(&SHOWN_ONLY);
        fields.unsupported(&["Partition"])?;
        Ok(request)
    }
}

/// Shows a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct PolicyView {
    /// Its name for good.
    #[serde(rename = "ID")]
    #[schema(value_type = String)]
    pub id: PolicyId,
    /// What people call it.
    #[schema(value_type = String)]
    pub name: AclName,
    /// What was noted about it.
    pub description: String,
    /// The rules as they were written; lists leave them out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<String>,
    /// The namespace that it belongs to.
    #[schema(value_type = String)]
    pub namespace: Namespace,
    /// The index at which it was made; 0 for one that weft comes with.
    #[schema(value_type = u64)]
    pub create_index: CatalogIndex,
    /// The index of the last change.
    #[schema(value_type = u64)]
    pub modify_index: CatalogIndex,
}

impl PolicyView {
    /// Shows `policy` with its rules.
    pub fn new(policy: &AclPolicy) -> Self {
        Self { rules: Some(policy.text.clone()), ..Self::listed(policy) }
    }

    /// Shows `policy` as a list has it.
    pub fn listed(policy: &AclPolicy) -> Self {
        Self {
            id: policy.id.clone(),
            name: policy.name.clone(),
            description: policy.description.clone(),
            rules: None,
            namespace: policy.namespace.clone(),
            create_index: policy.created,
            modify_index: policy.modified,
        }
    }
}

/// Asks `PUT /v1/acl/role` for a role, or `PUT /v1/acl/role/:id` for a change of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct RoleRequest {
    /// What people call it.
    #[schema(value_type = String)]
    pub name: AclName,
    /// What is noted about it.
    pub description: String,
    /// What it is linked to.
    #[serde(flatten)]
    pub links: LinkTexts,
    /// The namespace that it belongs to; the query's where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub namespace: Option<Namespace>,
    /// The datacenters that links are limited to.
    #[serde(skip)]
    pub datacenters: Vec<String>,
}

impl Shape for RoleRequest {
    fn read(fields: &mut Fields) -> Result<Self, DecodeError> {
        let mut datacenters = Vec::new();
        let request = Self {
            name: fields.required("Name")?,
            description: fields.text("Description")?,
            links: LinkTexts::read(fields, &mut datacenters)?,
            namespace: fields.parsed("Namespace")?,
            datacenters,
        };
        fields.ignored(&SHOWN_ONLY);
        fields.unsupported(&["Partition"])?;
        Ok(request)
    }
}

/// Shows a role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct RoleView {
    /// Its name for good.
    #[serde(rename = "ID")]
    #[schema(value_type = String)]
    pub id: RoleId,
    /// What people call it.
    #[schema(value_type = String)]
    pub name: AclName,
    /// What was noted about it.
    pub description: String,
    /// What it is linked to.
    #[serde(flatten)]
    pub links: LinkTexts,
    /// The namespace that it belongs to.
    #[schema(value_type = String)]
    pub namespace: Namespace,
    /// The index at which it was made.
    #[schema(value_type = u64)]
    pub create_index: CatalogIndex,
    /// The index of the last change.
    #[schema(value_type = u64)]
    pub modify_index: CatalogIndex,
}

impl RoleView {
    /// Shows `role`, with the names of what it is linked to.
    pub fn new(role: &AclRole, catalog: &Catalog) -> Self {
        Self {
            id: role.id.clone(),
            name: role.name.clone(),
            description: role.description.clone(),
            links: LinkTexts::of(&role.links, &Rights::Rules, Some(catalog)),
            namespace: role.namespace.clone(),
            create_index: role.created,
            modify_index: role.modified,
        }
    }
}
