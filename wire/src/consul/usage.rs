//! How much a datacenter holds, as `operator/usage` answers with it.

use std::collections::{BTreeMap, BTreeSet};

use ::catalog::{Catalog, ServiceKey};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Answers `operator/usage`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct UsageAnswer {
    /// What each datacenter holds.
    pub usage: BTreeMap<String, Usage>,
}

/// Counts what a datacenter holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct Usage {
    /// Nodes.
    pub nodes: usize,
    /// Services.
    pub services: usize,
    /// Instances of services.
    pub service_instances: usize,
    /// Instances with an agent before them, under `connect-proxy`, the nearest of Consul's kinds.
    pub connect_service_instances: BTreeMap<String, usize>,
}

impl Usage {
    /// Counts what is in `catalog`.
    pub fn new(catalog: &Catalog) -> Self {
        let (mut usage, mut services) = (Self::default(), BTreeSet::<ServiceKey>::new());
        let mut with_agent = 0;
        for node in catalog.nodes() {
            usage.nodes += 1;
            for instance in catalog.instances_on(&node.name) {
                usage.service_instances += 1;
                with_agent += usize::from(instance.mesh_port.is_some());
                services.insert(instance.service_key());
            }
        }
        usage.services = services.len();
        usage.connect_service_instances.insert("connect-proxy".to_owned(), with_agent);
        usage
    }
}
