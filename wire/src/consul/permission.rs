//! Permissions and JWT conditions of an intention, as Consul writes them.

use ::catalog::{Action, HeaderMatch, HeaderTest, JwtRequirement, PathMatch, Permission};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Shows one rule of an intention on HTTP requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct IntentionPermission {
    /// What happens to a request that matches.
    #[schema(value_type = String)]
    pub action: Action,
    /// Which requests match.
    #[serde(rename = "HTTP")]
    pub http: HttpPermission,
    /// What the request's token must say besides.
    #[serde(rename = "JWT", default, skip_serializing_if = "Option::is_none")]
    pub jwt: Option<IntentionJwt>,
}

/// Shows which requests a permission speaks of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct HttpPermission {
    /// The whole path.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path_exact: String,
    /// The path's start.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path_prefix: String,
    /// An expression over the whole path.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path_regex: String,
    /// The methods; any where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// The headers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub header: Vec<HttpHeader>,
}

/// Shows a condition on one header.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct HttpHeader {
    /// The header's name.
    pub name: String,
    /// Whether it only has to be there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub present: bool,
    /// The whole value.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub exact: String,
    /// The value's start.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// The value's end.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub suffix: String,
    /// A part of the value.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub contains: String,
    /// An expression over the whole value.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub regex: String,
    /// Whether the condition must fail instead.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub invert: bool,
    /// Whether letter case does not count.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ignore_case: bool,
}

/// Shows what a request's token must say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct IntentionJwt {
    /// The providers, of which one must have issued it.
    pub providers: Vec<JwtProvider>,
}

/// Shows a provider of tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct JwtProvider {
    /// The provider's name.
    pub name: String,
    /// What its token must say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verify_claims: Vec<VerifyClaim>,
}

/// Shows a condition on one claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct VerifyClaim {
    /// Where the claim stands in the token.
    pub path: Vec<String>,
    /// What it must be.
    pub value: String,
}

impl From<&Permission> for IntentionPermission {
    fn from(permission: &Permission) -> Self {
        let mut http = HttpPermission {
            methods: permission.http.methods.clone(),
            header: permission.http.headers.iter().map(HttpHeader::from).collect(),
            ..HttpPermission::default()
        };
        match permission.http.path.clone() {
            Some(PathMatch::Exact(path)) => http.path_exact = path,
            Some(PathMatch::Prefix(path)) => http.path_prefix = path,
            Some(PathMatch::Regex(path)) => http.path_regex = path,
            None => {}
        }
        Self { action: permission.action, http, jwt: permission.jwt.as_ref().map(IntentionJwt::from) }
    }
}

impl From<&HeaderMatch> for HttpHeader {
    fn from(header: &HeaderMatch) -> Self {
        let mut shown = Self {
            name: header.name.clone(),
            invert: header.invert,
            ignore_case: header.ignore_case,
            ..Self::default()
        };
        match header.test.clone() {
            HeaderTest::Present => shown.present = true,
            HeaderTest::Exact(text) => shown.exact = text,
            HeaderTest::Prefix(text) => shown.prefix = text,
            HeaderTest::Suffix(text) => shown.suffix = text,
            HeaderTest::Contains(text) => shown.contains = text,
            HeaderTest::Regex(text) => shown.regex = text,
        }
        shown
    }
}

impl From<&JwtRequirement> for IntentionJwt {
    fn from(requirement: &JwtRequirement) -> Self {
        let claim =
            |claim: &::catalog::VerifyClaim| VerifyClaim { path: claim.path.clone(), value: claim.value.clone() };
        let provider = |provider: &::catalog::JwtProvider| JwtProvider {
            name: provider.name.clone(),
            verify_claims: provider.verify_claims.iter().map(claim).collect(),
        };
        Self { providers: requirement.providers.iter().map(provider).collect() }
    }
}
