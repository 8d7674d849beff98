//! Permissions: rules of an intention on HTTP requests and tokens. What they mean for one, [`http`](crate::http) decides.

use serde::{Deserialize, Serialize};

use crate::{Action, Platform, TimeWindow};

/// Is one rule of an intention on HTTP requests. The first whose fields match a request decides it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Permission {
    /// What happens to a request that matches.
    pub action: Action,
    /// Which requests match.
    pub http: HttpMatch,
    /// What the caller runs on; any where there is none. Requests of callers that do not prove it cannot be decided.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub source_platforms: Vec<Platform>,
    /// When it counts, by the clock of whoever decides; always where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<TimeWindow>,
    /// What the request's token must say besides, for an allow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwt: Option<JwtRequirement>,
}

impl Permission {
    /// Makes a permission on requests alone.
    #[must_use]
    pub fn new(action: Action, http: HttpMatch) -> Self {
        Self { action, http, source_platforms: Vec::new(), times: None, jwt: None }
    }
}

/// Selects requests; all the fields that are set must match.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpMatch {
    /// The request's path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathMatch>,
    /// The request's method, upper case; any where there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// The request's headers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderMatch>,
}

/// Selects a path, after normalisation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathMatch {
    /// The whole path.
    Exact(String),
    /// The start of the path.
    Prefix(String),
    /// A regular expression over the whole path.
    Regex(String),
}

/// Selects requests by one header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderMatch {
    /// The header's name, lower case.
    pub name: String,
    /// What its values are held against.
    pub test: HeaderTest,
    /// Whether the test must fail instead.
    #[serde(default)]
    pub invert: bool,
    /// Whether letter case does not count.
    #[serde(default)]
    pub ignore_case: bool,
}

/// Says what a header's values are held against.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeaderTest {
    /// The header is there.
    Present,
    /// The whole value.
    Exact(String),
    /// The start of the value.
    Prefix(String),
    /// The end of the value.
    Suffix(String),
    /// A part of the value.
    Contains(String),
    /// A regular expression over the whole value.
    Regex(String),
}

/// Asks for a token of one of several providers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JwtRequirement {
    /// The providers; one of them must have issued the token, and all its claims must hold.
    pub providers: Vec<JwtProvider>,
}

/// Names a provider of tokens, and what its token must say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JwtProvider {
    /// The name of a `jwt-provider` config entry.
    pub name: String,
    /// What the token must say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verify_claims: Vec<VerifyClaim>,
}

/// Asks that a claim equals a value, or is a list that holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifyClaim {
    /// Where the claim stands in the token.
    pub path: Vec<String>,
    /// What it must be.
    pub value: String,
}
