//! What `ServiceIntentions` is made of: what an API server and `kubectl explain` know of it.
//!
//! These are schemas and no second model. What a resource says is read by the one decoder of config entries, as JSON; a test
//! holds every field that stands here against it.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Names the service that is called.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Destination {
    /// Its name, or `*` for every service of the namespace.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// The resource's own namespace, where it is said at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// Says what becomes of the calls of one source.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.action) != has(self.permissions)").message("say either action or permissions"))]
pub struct Source {
    /// The service that calls, `*` for every one of the namespace, or a SPIFFE ID.
    #[schemars(length(min = 1, max = 2048))]
    pub name: String,
    /// Its namespace, `*` for all; the resource's own where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// What becomes of all its calls: `allow` or `deny`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<Verb>,
    /// What becomes of its requests, by what they say; the first that is meant decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub permissions: Option<Vec<Permission>>,
    /// What every request's token must say besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwt: Option<TokenRequirement>,
    /// What its author noted about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub description: Option<String>,
    /// Free facts about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta: Option<BTreeMap<String, String>>,
    /// When an allow ends, as RFC 3339 writes times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
}

/// Is what becomes of a call.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// It is let through.
    Allow,
    /// It is refused.
    Deny,
}

/// Says what becomes of requests that say something.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Permission {
    /// What becomes of them.
    pub action: Verb,
    /// Which they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpMatch>,
    /// What their token must say besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwt: Option<TokenRequirement>,
    /// The platforms that they may come from: `vm`, `ecs`, `kubernetes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 3))]
    pub source_platforms: Option<Vec<String>>,
}

/// Says which requests are meant: all that is said must hold.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "[has(self.pathExact), has(self.pathPrefix), has(self.pathRegex)].filter(x, x).size() <= 1"
).message("say at most one of pathExact, pathPrefix and pathRegex"))]
pub struct HttpMatch {
    /// The whole path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_exact: Option<String>,
    /// How the path begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_prefix: Option<String>,
    /// A pattern that the whole path fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_regex: Option<String>,
    /// The methods; all where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub methods: Option<Vec<String>>,
    /// What headers must say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub header: Option<Vec<HeaderMatch>>,
}

/// Says what one header must be; exactly one test is said.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HeaderMatch {
    /// The header.
    pub name: String,
    /// Whether it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub present: Option<bool>,
    /// Its whole value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exact: Option<String>,
    /// How its value begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// How its value ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suffix: Option<String>,
    /// What stands in its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contains: Option<String>,
    /// A pattern that its whole value fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
    /// Whether the test must fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invert: Option<bool>,
    /// Whether capitals count as small letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ignore_case: Option<bool>,
}

/// Says whose tokens count, and what they must say.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TokenRequirement {
    /// The issuers, of which one is enough, by the names of their `jwt-provider` entries.
    #[schemars(length(min = 1, max = 16))]
    pub providers: Vec<TokenProvider>,
}

/// Says what the tokens of one issuer must say.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TokenProvider {
    /// The name of the issuer's entry.
    pub name: String,
    /// The claims that must hold, all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub verify_claims: Option<Vec<VerifyClaim>>,
}

/// Says what one claim must be.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct VerifyClaim {
    /// Where it stands.
    pub path: Vec<String>,
    /// Its value, or one among its values.
    pub value: String,
}
