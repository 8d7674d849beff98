//! Checks, as the `health/...` paths answer with them.

use ::catalog::{Catalog, CatalogIndex, Check, CheckId, CheckStatus, Instance, Namespace, NodeName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{AgentService, Node};

/// Shows a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct HealthCheck {
    /// The node that it is on.
    #[schema(value_type = String)]
    pub node: NodeName,
    /// The check's id.
    #[serde(rename = "CheckID")]
    #[schema(value_type = String)]
    pub check_id: CheckId,
    /// The name that people see.
    pub name: String,
    /// What it said last.
    #[schema(value_type = String)]
    pub status: CheckStatus,
    /// What the operator noted about it.
    pub notes: String,
    /// What it printed last.
    pub output: String,
    /// The instance that it checks; empty for the node.
    #[serde(rename = "ServiceID")]
    pub service_id: String,
    /// The service of that instance; empty for the node.
    pub service_name: String,
    /// The labels of that instance.
    pub service_tags: Vec<String>,
    /// How it is made: `http`, `tcp`, `ttl`, or empty where somebody else makes it.
    #[serde(rename = "Type")]
    pub kind: String,
    /// The namespace of the instance.
    #[schema(value_type = String)]
    pub namespace: Namespace,
    /// The index at which it was first registered.
    #[schema(value_type = u64)]
    pub create_index: CatalogIndex,
    /// The index of the last change.
    #[schema(value_type = u64)]
    pub modify_index: CatalogIndex,
}

impl HealthCheck {
    /// Shows `check`, and looks its instance up in `catalog`.
    pub fn new(check: &Check, catalog: &Catalog) -> Self {
        let instance = check.instance_key();
        Self::of(check, instance.and_then(|key| catalog.instance(&key)))
    }

    /// Shows `check`, which is of `instance`, or of the node where there is none.
    pub fn of(check: &Check, instance: Option<&Instance>) -> Self {
        Self {
            node: check.key.node.clone(),
            check_id: check.key.id.clone(),
            name: check.name.clone(),
            status: check.status,
            notes: check.notes.clone(),
            output: check.output.clone(),
            service_id: check.instance.as_ref().map(ToString::to_string).unwrap_or_default(),
            service_name: instance.map(|instance| instance.service.to_string()).unwrap_or_default(),
            service_tags: instance.map(|instance| instance.tags.clone()).unwrap_or_default(),
            kind: check.kind.clone(),
            namespace: check.key.namespace.clone(),
            create_index: check.created,
            modify_index: check.modified,
        }
    }
}

/// Is one element of the answer to `health/service/:service`: an instance, its node, and the checks of both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct HealthEntry {
    /// The node.
    pub node: Node,
    /// The instance.
    pub service: AgentService,
    /// The checks that bear on it: its node's and its own.
    pub checks: Vec<HealthCheck>,
}

impl HealthEntry {
    /// Shows an instance with its node; `checks` are those that bear on it.
    pub fn new(node: &::catalog::Node, instance: &Instance, checks: &[&Check], datacenter: &str) -> Self {
        let shown = |check: &&Check| HealthCheck::of(check, check.instance.as_ref().map(|_| instance));
        Self {
            node: Node::new(node, datacenter),
            service: AgentService::new(instance, datacenter),
            checks: checks.iter().map(shown).collect(),
        }
    }

    /// Returns the worst status of the checks; passing where there are none.
    pub fn status(&self) -> CheckStatus {
        self.checks.iter().map(|check| check.status).max().unwrap_or(CheckStatus::Passing)
    }
}
