//! What a proxy really does, as its agent tells of itself.

use catalog::{CheckStatus, InstanceKey, Protocol, ServiceKey, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::consul::{DiscoveryChain, IntentionJwt, IntentionPermission};
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
    /// The route in force; none while there is none, or nobody here calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<DiscoveryChain>,
    /// Whether newer entries are known that are not in force: the instances that they lead to are not known yet, or they
    /// make no route.
    #[serde(default)]
    pub is_behind: bool,
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
    /// Whether callers without identity are taken, where what comes to it is redirected.
    pub mtls_mode: String,
    /// How many requests it takes; any number where nothing is said.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub rate_limits: Value,
    /// Whose tokens its rules ask for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub token_providers: Vec<ProxyTokenProvider>,
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

/// Is somebody who vouches for users by tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ProxyTokenProvider {
    /// The name that rules give.
    pub name: String,
    /// The issuer of the tokens.
    pub issuer: String,
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
    /// Its permissions, in the order in which they are tried.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub permissions: Vec<IntentionPermission>,
    /// The token that all of it asks for.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "JWT")]
    pub jwt: Option<IntentionJwt>,
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
    /// Where its listener is; none of one that is called by name only.
    pub address: String,
    /// How many calls there may be at once, which instances are left alone, and how long one may take to be reached.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub settings: Value,
    /// Why it does not listen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
