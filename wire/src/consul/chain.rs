//! The compiled route to a service, as `discovery-chain/:service` answers with it.

use std::collections::BTreeMap;

use ::catalog::{IdentityScheme, Namespace, ServiceKey, ServiceName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How long an agent waits for a connection to an instance.
const CONNECT_TIMEOUT: &str = "5s";

/// Answers `discovery-chain/:service`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct DiscoveryChainAnswer {
    /// The chain.
    pub chain: DiscoveryChain,
}

/// Shows how calls of a service are routed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct DiscoveryChain {
    /// The service.
    #[schema(value_type = String)]
    pub service_name: ServiceName,
    /// Its namespace.
    #[schema(value_type = String)]
    pub namespace: Namespace,
    /// Its datacenter.
    pub datacenter: String,
    /// `tcp`: connections are routed as a whole.
    pub protocol: String,
    /// Whether nothing but the service's name says where its calls go.
    pub default: bool,
    /// The node at which routing starts.
    pub start_node: String,
    /// The nodes by name.
    pub nodes: BTreeMap<String, ChainNode>,
    /// The targets by id.
    pub targets: BTreeMap<String, ChainTarget>,
}

/// Shows one step of routing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct ChainNode {
    /// `resolver`.
    #[serde(rename = "Type")]
    pub kind: String,
    /// The target that is resolved.
    pub name: String,
    /// What it resolves to.
    pub resolver: ChainResolver,
}

/// Shows what a name resolves to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct ChainResolver {
    /// Whether no entry says otherwise.
    pub default: bool,
    /// How long a connection may take.
    pub connect_timeout: String,
    /// The target's id.
    pub target: String,
}

/// Shows what is called in the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct ChainTarget {
    /// The target's id.
    #[serde(rename = "ID")]
    pub id: String,
    /// The service.
    #[schema(value_type = String)]
    pub service: ServiceName,
    /// Its namespace.
    #[schema(value_type = String)]
    pub namespace: Namespace,
    /// Its datacenter.
    pub datacenter: String,
    /// How long a connection may take.
    pub connect_timeout: String,
    /// The server name by which a caller's TLS asks for it.
    #[serde(rename = "SNI")]
    pub sni: String,
    /// The same name.
    pub name: String,
}

impl DiscoveryChain {
    /// Shows the chain of a service that no config entry routes: its own instances.
    pub fn unrouted(service: &ServiceKey, datacenter: &str, scheme: &IdentityScheme) -> Self {
        let ServiceKey { namespace, name } = service.clone();
        let id = format!("{name}.{namespace}.default.{datacenter}");
        let start_node = format!("resolver:{id}");
        let sni = scheme.sni(service);
        let resolver = ChainResolver { default: true, connect_timeout: CONNECT_TIMEOUT.to_owned(), target: id.clone() };
        let target = ChainTarget {
            id: id.clone(),
            service: name.clone(),
            namespace: namespace.clone(),
            datacenter: datacenter.to_owned(),
            connect_timeout: CONNECT_TIMEOUT.to_owned(),
            name: sni.clone(),
            sni,
        };
        let node = ChainNode { kind: "resolver".to_owned(), name: id.clone(), resolver };
        Self {
            service_name: name,
            namespace,
            datacenter: datacenter.to_owned(),
            protocol: "tcp".to_owned(),
            default: true,
            nodes: BTreeMap::from([(start_node.clone(), node)]),
            start_node,
            targets: BTreeMap::from([(id, target)]),
        }
    }
}
