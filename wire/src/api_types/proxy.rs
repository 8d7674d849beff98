//! What a proxy really does, as its agent tells of itself.

use catalog::{CheckStatus, InstanceKey, Protocol, ServiceKey, Timestamp};
use serde::{Deserialize, Serialize};

use crate::consul::DiscoveryChain;
use crate::rfc3339;

/// Answers `GET /v1/agent/proxy/routes/{service}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ProxyRoutes {
    /// The service that is called.
    pub service: ServiceKey,
    /// How its bytes are read.
    pub protocol: Protocol,
    /// Where local services call it.
    pub listeners: Vec<ProxyListener>,
    /// The newest route that the agent was told of; none while it was told of none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<DiscoveryChain>,
    /// What calls end at by the route in force, in the order in which it is tried.
    pub targets: Vec<String>,
}

/// Is a loopback listener through which a local service calls another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ProxyListener {
    /// The service that calls.
    pub owner: ServiceKey,
    /// Where it listens, or was to.
    pub address: String,
    /// Why it does not listen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Answers `GET /v1/agent/proxy/endpoints/{service}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ProxyEndpoints {
    /// The service that is called.
    pub service: ServiceKey,
    /// Whether so many instances are critical that their checks are not believed.
    pub is_panicking: bool,
    /// What may be called, by target.
    pub endpoints: Vec<ProxyEndpoint>,
}

/// Is an instance that may be called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ProxyEndpoint {
    /// The service or subset that it is called as.
    pub target: String,
    /// Which instance.
    pub instance: InstanceKey,
    /// Where its agent is dialled, or the gateways that lead there.
    pub dialled: Vec<String>,
    /// How it is reached: `direct`, `gateway`, or why it is not.
    pub reach: String,
    /// What its checks say.
    pub status: CheckStatus,
    /// The failure zone of its node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Its share beside the others.
    pub weight: u32,
    /// The calls that this agent has open there.
    pub open: usize,
    /// How long it takes to answer, in microseconds, as far as that is known: a peak that is forgotten slowly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_us: Option<u64>,
    /// For how much longer it is put aside, in milliseconds; not at all where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aside_ms: Option<u64>,
}

/// Answers `GET /v1/agent/proxy/config/{service}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ProxyConfigView {
    /// The service.
    pub service: ServiceKey,
    /// How its bytes are read.
    pub protocol: Protocol,
    /// How many changes of configuration the proxy has taken over.
    pub generation: u64,
    /// Where other agents call.
    pub mesh_listener: String,
    /// The weakest key exchange that connections may have.
    pub min_key_exchange: catalog::KeyExchange,
    /// The instances that the agent stands before; none of a service that is only called.
    pub instances: Vec<ProxyInstance>,
    /// The certificate that is shown for it; none while it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<ProxyCertificate>,
    /// The rules that its callers are judged by; none while they are not known, and everybody is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<ProxyRules>,
    /// Where it calls others.
    pub upstreams: Vec<ProxyUpstream>,
}

/// Is an instance that an agent stands before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ProxyInstance {
    /// Which.
    pub instance: InstanceKey,
    /// Where its application is dialled.
    pub address: String,
    /// Its further ports by name.
    pub ports: std::collections::BTreeMap<String, u16>,
}

/// Is the certificate that a service shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ProxyCertificate {
    /// Who it says that the service is.
    pub identity: String,
    /// Its serial number.
    pub serial: String,
    /// When it begins.
    #[serde(with = "rfc3339::text")]
    pub not_before: Timestamp,
    /// When it ends.
    #[serde(with = "rfc3339::text")]
    pub not_after: Timestamp,
}

/// Is the rules for a service, in the order in which they are tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ProxyRules {
    /// What happens where none decides.
    pub default: catalog::Action,
    /// The rules, the strongest first.
    pub rules: Vec<ProxyRule>,
}

/// Is one rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ProxyRule {
    /// Its name, as metrics and logs have it.
    pub rule: String,
    /// What it does: `allow`, `deny`, or how many permissions it has.
    pub effect: String,
    /// How many calls it let pass here.
    pub allowed: u64,
    /// How many it refused here.
    pub denied: u64,
}

/// Is an upstream of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ProxyUpstream {
    /// The service that is called.
    pub destination: ServiceKey,
    /// Where its listener is.
    pub address: String,
    /// Why it does not listen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
