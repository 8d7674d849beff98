//! Permissions and JWT conditions of an intention, as Consul writes them; and weft's own conditions beside them.

use ::catalog::{
    Action, Effect, HeaderMatch, HeaderTest, HttpMatch, JwtRequirement, PathMatch, Permission, Platform, TimeWindow,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::decode::{DecodeError, Fields};

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
    /// What the caller runs on: `vm`, `ecs` or `kubernetes`; any where there is none. Consul has no such field.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub source_platforms: Vec<Platform>,
    /// When it counts; always where there is none. Consul has no such field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<PermissionTimes>,
    /// What the request's token must say besides.
    #[serde(rename = "JWT", default, skip_serializing_if = "Option::is_none")]
    pub jwt: Option<IntentionJwt>,
}

/// Shows the hours of the week at which a permission counts, in UTC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct PermissionTimes {
    /// The days on which it begins to; every day where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub days: Vec<String>,
    /// Its first minute, as `HH:MM`.
    pub from: String,
    /// The minute at which it is over, as `HH:MM`; on the next day where that is not after `From`.
    pub until: String,
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
        let times = permission.times.as_ref().map(|window| PermissionTimes {
            days: window.days.iter().map(ToString::to_string).collect(),
            from: window.from.to_string(),
            until: window.until.to_string(),
        });
        Self {
            action: permission.action,
            http,
            source_platforms: permission.source_platforms.clone(),
            times,
            jwt: permission.jwt.as_ref().map(IntentionJwt::from),
        }
    }
}

/// Reads a permission. What its parts mean, and whether they can hold, the catalog says.
fn read_permission(fields: &mut Fields) -> Result<Permission, DecodeError> {
    let action: Action = fields.required("Action")?;
    let http = fields.object("HTTP", read_http)?.unwrap_or_default();
    let source_platforms = fields.parsed_list("SourcePlatforms")?;
    let times = fields.object("Times", |fields| {
        Ok(TimeWindow {
            days: fields.parsed_list("Days")?,
            from: fields.required("From")?,
            until: fields.required("Until")?,
        })
    })?;
    let jwt = fields.object("JWT", read_jwt)?;
    Ok(Permission { action, http, source_platforms, times, jwt })
}

fn read_http(fields: &mut Fields) -> Result<HttpMatch, DecodeError> {
    type Kind = fn(String) -> PathMatch;
    let kinds =
        [("PathExact", PathMatch::Exact as Kind), ("PathPrefix", PathMatch::Prefix), ("PathRegex", PathMatch::Regex)];
    let mut path = None;
    for (name, kind) in kinds {
        let text = fields.text(name)?;
        if text.is_empty() {
            continue;
        }
        if path.replace(kind(text)).is_some() {
            return Err(
                fields.refuse(name, "the path is asked for twice; send one of PathExact, PathPrefix and PathRegex")
            );
        }
    }
    // Consul takes methods in any case and keeps them in capitals.
    let methods = fields.texts("Methods")?.into_iter().map(|method| method.to_ascii_uppercase()).collect();
    Ok(HttpMatch { path, methods, headers: fields.objects("Header", read_header)? })
}

fn read_header(fields: &mut Fields) -> Result<HeaderMatch, DecodeError> {
    let name: String = fields.required("Name")?;
    let mut tests: Vec<HeaderTest> = Vec::new();
    if fields.flag("Present")?.unwrap_or(false) {
        tests.push(HeaderTest::Present);
    }
    type Kind = fn(String) -> HeaderTest;
    let kinds = [
        ("Exact", HeaderTest::Exact as Kind),
        ("Prefix", HeaderTest::Prefix),
        ("Suffix", HeaderTest::Suffix),
        ("Contains", HeaderTest::Contains),
        ("Regex", HeaderTest::Regex),
    ];
    for (field, kind) in kinds {
        let text = fields.text(field)?;
        if !text.is_empty() {
            tests.push(kind(text));
        }
    }
    let [test] = <[HeaderTest; 1]>::try_from(tests).map_err(|tests| {
        let reason = format!(
            "{} conditions stand there; send one of Present, Exact, Prefix, Suffix, Contains and Regex",
            tests.len()
        );
        fields.refuse("Name", reason)
    })?;
    Ok(HeaderMatch {
        name: name.to_ascii_lowercase(),
        test,
        invert: fields.flag("Invert")?.unwrap_or(false),
        ignore_case: fields.flag("IgnoreCase")?.unwrap_or(false),
    })
}

/// Reads a condition on a request's token.
pub(super) fn read_jwt(fields: &mut Fields) -> Result<JwtRequirement, DecodeError> {
    let claim =
        |fields: &mut Fields| Ok(::catalog::VerifyClaim { path: fields.texts("Path")?, value: fields.text("Value")? });
    let providers = fields.objects("Providers", |fields| {
        Ok(::catalog::JwtProvider {
            name: fields.required("Name")?,
            verify_claims: fields.objects("VerifyClaims", claim)?,
        })
    })?;
    Ok(JwtRequirement { providers })
}

/// Reads what an intention does, which is its action or its permissions, and what it asks of every request's token.
pub(super) fn read_rule(fields: &mut Fields) -> Result<(Effect, Option<JwtRequirement>), DecodeError> {
    let permissions = fields.objects("Permissions", read_permission)?;
    // What a client sends that has nothing to say asks for nothing.
    let jwt = fields.object("JWT", read_jwt)?.filter(|jwt| !jwt.providers.is_empty());
    match (fields.parsed("Action")?, permissions.is_empty()) {
        (Some(action), true) => Ok((Effect::Action(action), jwt)),
        (None, false) => Ok((Effect::Permissions(permissions), jwt)),
        (Some(_), false) => Err(fields.refuse("Action", "the permissions say it; send one of Action and Permissions")),
        (None, true) => Err(fields.refuse("Action", "it is missing; send `allow` or `deny`, or Permissions")),
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
