//! Custom resources: intentions and defaults of services, written where their teams keep everything else.
//!
//! The fields are those of Consul's resources of the same kinds, so that an object moves over with another `apiVersion`. A
//! resource speaks for services of its own namespace, and for no others.
#![allow(unreachable_pub, reason = "the derived schemas repeat the types where nobody can reach them")]

#[cfg(test)]
mod definitions;
mod documents;
mod intentions;
mod plan;
mod status;

use kube::CustomResource;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(crate) use documents::{DEFAULTS, INTENTIONS, owner_of};
pub use documents::{DocumentKey, Documents, Verdict};
pub use intentions::*;
pub use plan::{Actual, EntryWrite, Removals, plan};
pub use status::ResourceStatus;

/// Says who may call a service, all in one document.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(
    group = "weft.dev",
    version = "v1alpha1",
    kind = "ServiceIntentions",
    plural = "serviceintentions",
    singular = "serviceintentions",
    namespaced,
    status = "ResourceStatus",
    derive = "PartialEq",
    doc = "Says who may call a service of this namespace."
)]
#[serde(rename_all = "camelCase")]
pub struct ServiceIntentionsSpec {
    /// The service that is called.
    pub destination: Destination,
    /// Who calls, and what becomes of it; the most specific source decides.
    #[schemars(length(min = 1, max = 256))]
    pub sources: Vec<Source>,
    /// What the tokens of all requests must say that some source is allowed to send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwt: Option<TokenRequirement>,
}

/// Says how calls to a service are taken, and how it makes its own.
#[derive(CustomResource, JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "weft.dev",
    version = "v1alpha1",
    kind = "ServiceDefaults",
    plural = "servicedefaults",
    singular = "servicedefaults",
    namespaced,
    status = "ResourceStatus",
    derive = "PartialEq",
    doc = "Says how calls to the service of this name are taken, and how it makes its own.",
    printcolumn(name = "Protocol", type_ = "string", json_path = ".spec.protocol")
)]
#[serde(rename_all = "camelCase")]
pub struct ServiceDefaultsSpec {
    /// Whether it is outside the mesh, so that bare instances are called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<bool>,
    /// How its bytes are read: `tcp`, `http`, `http2` or `grpc`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Whether callers without mutual TLS are let in: `strict` or `permissive`.
    #[serde(rename = "mutualTLSMode", default, skip_serializing_if = "Option::is_none")]
    pub mutual_tls_mode: Option<String>,
    /// What holds of the calls that it makes, by the fields of the config entry `service-defaults`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream_config: Option<Free>,
    /// How many requests its instances take, by the fields of the config entry `service-defaults`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limits: Option<Free>,
}

/// Is a part of a resource whose fields the mesh knows, and the API server does not.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(transparent)]
pub struct Free(pub serde_json::Map<String, serde_json::Value>);

impl JsonSchema for Free {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Free".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
    }
}

#[cfg(test)]
mod tests;
