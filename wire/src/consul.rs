//! Consul's shapes: what its clients send and its files hold, and what its clients expect to read.
//!
//! Requests are read by the decoder of [`crate::decode`] into plain types. Answers are built from the catalog by pure
//! functions, in exactly Consul's names; what weft adds (`Platform`, `Zone`, `Network`, `Owner`, `Ports`, `MeshPort`) are
//! further fields, which Consul's clients skip.

mod agent;
mod balance_entry;
mod ca;
mod call_settings;
mod catalog;
mod chain;
mod check;
mod config_entry;
mod health;
mod host;
mod intention;
mod login;
mod mesh_entry;
mod metrics;
mod native;
mod operator;
mod permission;
mod register;
mod route_entry;
mod route_extras;
mod service;
mod service_intentions;
mod token_provider;
mod traffic_entry;
mod upstream;
mod usage;

pub use agent::{AgentConfig, AgentMember, AgentSelf, AgentVersion};
pub use ca::{CaRoot, CaRoots, CaRootsError};
pub use call_settings::{shown_rate_limits, shown_settings};
pub use catalog::{
    AgentService, CatalogService, Node, NodeServiceList, NodeServices, ServiceAddress, ServiceProxy, ServiceUpstream,
    ServiceWeights,
};
pub use chain::{
    ChainFailover, ChainNode, ChainResolver, ChainRoute, ChainSplit, ChainTarget, DiscoveryChain, DiscoveryChainAnswer,
};
pub use check::{CheckDefinition, CheckKind};
pub use config_entry::{CONFIG_KINDS, ConfigEntry};
pub use health::{HealthCheck, HealthEntry};
pub use host::{AgentHost, HostCpu, HostMemory, HostSystem};
pub use intention::{CheckAnswer, Intention, IntentionRequest};
pub use login::{
    AuthConfigEntry, AuthMethodEntry, AuthMethodRequest, AwsIamConfigEntry, BindingRuleEntry, JwtConfigEntry,
    KubernetesConfigEntry, TokenLogin,
};
pub use mesh_entry::{AuditModeEntry, GuardrailEntry, MESH, MeshConfigEntry};
pub use metrics::{AgentMetrics, GaugeValue, SampledValue};
pub use native::{AuthorizeAnswer, AuthorizeRequest, LeafCertificate};
pub use operator::{
    AutopilotConfiguration, AutopilotHealth, AutopilotRequest, AutopilotServer, AutopilotState, LeaderTransferred,
    RaftConfiguration, RaftServer,
};
pub use permission::{HttpHeader, HttpPermission, IntentionJwt, IntentionPermission, JwtProvider, VerifyClaim};
pub use register::{CatalogDeregister, CatalogRegister};
pub(crate) use register::{read_check, read_instance};
pub use service::{Definitions, ServiceDefinition};
pub use service_intentions::{IntentionSource, SERVICE_INTENTIONS, ServiceIntentions};
pub use token_provider::JWT_PROVIDER;
pub use traffic_entry::{
    GLOBAL, PROXY_DEFAULTS, SERVICE_DEFAULTS, SERVICE_RESOLVER, SERVICE_ROUTER, SERVICE_SPLITTER, TrafficEntry,
};
pub use usage::{Usage, UsageAnswer};

use crate::decode::{DecodeError, Fields};

/// Takes a field that names Consul's only partition, or none.
fn default_partition(fields: &mut Fields, name: &str) -> Result<(), DecodeError> {
    match fields.text(name)?.as_str() {
        "" | "default" => Ok(()),
        _ => Err(DecodeError::Unsupported { path: fields.path_to(name) }),
    }
}
