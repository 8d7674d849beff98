//! Tokens as they are written and shown.

use std::time::Duration;

use catalog::{AccessorId, Authority, Catalog, CatalogIndex, Namespace, Rights, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::LinkTexts;
use crate::api_types::{TOKEN_TTL_MAX, TtlError, end_of, nanoseconds};
use crate::crypto::Secret;
use crate::decode::{DecodeError, Fields, Shape};
use crate::rfc3339;

/// Asks `PUT /v1/acl/token` for a new token, or `PUT /v1/acl/token/:accessor` for a change of one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct TokenRequest {
    /// The public name to give it; a random one where there is none.
    #[serde(rename = "AccessorID", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub accessor: Option<AccessorId>,
    /// What the operator notes about it.
    pub description: String,
    /// How long it is good for; for ever where there is none. Nanoseconds on the wire, or text such as `"24h"`.
    #[serde(rename = "ExpirationTTL", skip_serializing_if = "Option::is_none", serialize_with = "nanoseconds")]
    #[schema(value_type = Option<u64>)]
    pub expiration_ttl: Option<Duration>,
    /// When it ends; another way to say how long it is good for.
    #[serde(
        rename = "ExpirationTime",
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "rfc3339::optional_text::serialize"
    )]
    #[schema(value_type = Option<String>)]
    pub expiration_time: Option<Timestamp>,
    /// What it is linked to.
    #[serde(flatten)]
    pub links: LinkTexts,
    /// Whether it is of this datacenter only.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub local: bool,
    /// The namespace that it belongs to; the query's where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub namespace: Option<Namespace>,
    /// The datacenters that links are limited to.
    #[serde(skip)]
    pub datacenters: Vec<String>,
    /// Whether the request carries a secret: what is written back after reading may, a new token draws its own.
    #[serde(skip)]
    pub has_secret: bool,
}

impl TokenRequest {
    /// Returns when the token ends, if it ends.
    ///
    /// # Errors
    ///
    /// [`TtlError`] if the lifetime is shorter than [`TTL_MIN`](crate::api_types::TTL_MIN) or longer than
    /// [`TOKEN_TTL_MAX`].
    pub fn expires_at(&self, now: Timestamp) -> Result<Option<Timestamp>, TtlError> {
        let ttl = self.expiration_ttl.or(self.expiration_time.map(|end| end.since(now)));
        ttl.map(|ttl| end_of(ttl, TOKEN_TTL_MAX, now)).transpose()
    }
}

impl Shape for TokenRequest {
    fn read(fields: &mut Fields) -> Result<Self, DecodeError> {
        let mut datacenters = Vec::new();
        let request = Self {
            accessor: fields.parsed("AccessorID")?,
            description: fields.text("Description")?,
            expiration_ttl: fields.duration("ExpirationTTL")?,
            expiration_time: instant(fields, "ExpirationTime")?,
            links: LinkTexts::read(fields, &mut datacenters)?,
            local: fields.flag("Local")?.unwrap_or(false),
            namespace: fields.parsed("Namespace")?,
            datacenters,
            has_secret: !fields.text("SecretID")?.is_empty(),
        };
        if request.expiration_ttl.is_some() && request.expiration_time.is_some() {
            return Err(fields.refuse("ExpirationTime", "send it or `ExpirationTTL`, not both"));
        }
        fields.ignored(&["AuthMethod", "CreateTime", "Hash", "CreateIndex", "ModifyIndex", "Rights"]);
        fields.unsupported(&["Partition", "Legacy"])?;
        Ok(request)
    }
}

fn instant(fields: &mut Fields, name: &str) -> Result<Option<Timestamp>, DecodeError> {
    let text = fields.text(name)?;
    if text.is_empty() {
        return Ok(None);
    }
    let refused = |_| fields.refuse(name, "it is no instant; write it as `2030-01-31T12:00:00Z`");
    rfc3339::parse(&text).map(Some).map_err(refused)
}

/// Asks `PUT /v1/acl/token/:accessor/clone` for a token with the same rights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct CloneRequest {
    /// What is noted about the new one; what was noted about the old one where it is empty.
    pub description: String,
}

impl Shape for CloneRequest {
    fn read(fields: &mut Fields) -> Result<Self, DecodeError> {
        let description = fields.text("Description")?;
        fields.ignored(&["AccessorID", "Namespace"]);
        Ok(Self { description })
    }
}

/// Answers `GET /v1/acl/token/self/rights`: what the holder of a token may do, merged from all that it is linked to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct OwnRights {
    /// What it may do.
    #[schema(value_type = Object)]
    pub authority: Authority,
    /// When the token ends.
    #[serde(
        rename = "ExpirationTime",
        default,
        skip_serializing_if = "Option::is_none",
        with = "rfc3339::optional_text"
    )]
    #[schema(value_type = Option<String>)]
    pub expires_at: Option<Timestamp>,
}

/// Shows a token, in Consul's names. The secret is there once: in the answer to its creation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct TokenView {
    /// The token's public name.
    #[serde(rename = "AccessorID")]
    #[schema(value_type = String)]
    pub accessor: AccessorId,
    /// What to send in `X-Consul-Token`.
    #[serde(rename = "SecretID", default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub secret: Option<Secret>,
    /// What the operator noted about it.
    pub description: String,
    /// Whether it may do everything, or what it is linked to grants.
    #[schema(value_type = String)]
    pub rights: Rights,
    /// What it is linked to; a management token to the policy `global-management`.
    #[serde(flatten)]
    pub links: LinkTexts,
    /// Whether it is of this datacenter only.
    #[serde(default)]
    pub local: bool,
    /// The auth method by which somebody logged in to get it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_method: Option<String>,
    /// The namespace that it belongs to.
    #[serde(default)]
    #[schema(value_type = String)]
    pub namespace: Namespace,
    /// When it was made.
    #[serde(rename = "CreateTime", with = "rfc3339::text")]
    #[schema(value_type = String)]
    pub created_at: Timestamp,
    /// When it ends.
    #[serde(
        rename = "ExpirationTime",
        default,
        skip_serializing_if = "Option::is_none",
        with = "rfc3339::optional_text"
    )]
    #[schema(value_type = Option<String>)]
    pub expires_at: Option<Timestamp>,
    /// The index at which it was made.
    #[schema(value_type = u64)]
    pub create_index: CatalogIndex,
    /// The index of the last change.
    #[schema(value_type = u64)]
    pub modify_index: CatalogIndex,
}

impl TokenView {
    /// Shows `token`, with its secret where that has just been drawn.
    pub fn new(token: &catalog::Token, secret: Option<Secret>) -> Self {
        Self {
            accessor: token.accessor.clone(),
            secret,
            description: token.description.clone(),
            rights: token.rights.clone(),
            links: LinkTexts::of(&token.links(), &token.rights, None),
            local: token.local,
            auth_method: token.auth_method.clone(),
            namespace: token.namespace.clone(),
            created_at: token.created_at,
            expires_at: token.expires_at,
            create_index: token.created,
            modify_index: token.modified,
        }
    }

    /// Shows `token` without its secret, with the names of what it is linked to.
    pub fn with_names(token: &catalog::Token, catalog: &Catalog) -> Self {
        Self { links: LinkTexts::of(&token.links(), &token.rights, Some(catalog)), ..Self::new(token, None) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::acl::{AclLink, PolicyRequest, RoleRequest};
    use crate::decode::{from_json, from_value};

    fn token(rights: Rights) -> catalog::Token {
        catalog::Token {
            description: "ci".into(),
            created: CatalogIndex(3),
            modified: CatalogIndex(4),
            ..catalog::Token::new(
                "0b1f3c52-9f7e-4c1b-8a52-3f2f0c6f0a11".parse().unwrap(),
                catalog::SecretHash("ab".repeat(32)),
                rights,
                Timestamp(0),
            )
        }
    }

    #[test]
    fn a6_a_tokens_secret_is_shown_only_where_it_was_drawn() {
        let shown = serde_json::to_value(TokenView::new(&token(Rights::Rules), None)).unwrap();
        assert_eq!(
            shown,
            json!({
                "AccessorID": "0b1f3c52-9f7e-4c1b-8a52-3f2f0c6f0a11", "Description": "ci", "Rights": "rules",
                "Local": false, "Namespace": "default",
                "CreateTime": "1970-01-01T00:00:00Z", "CreateIndex": 3, "ModifyIndex": 4,
            })
        );
        let fresh = TokenView::new(&token(Rights::Management), Some(Secret::new("s3cret")));
        assert!(!format!("{fresh:?}").contains("s3cret"));
        let text = serde_json::to_string(&fresh).unwrap();
        assert!(text.contains(r#""SecretID":"s3cret""#) && text.contains("global-management"), "{text}");
        assert_eq!(serde_json::from_str::<TokenView>(&text).unwrap(), fresh);
    }

    #[test]
    fn what_a_client_writes_is_what_a_server_reads() {
        let links = json!({
            "Policies": [{ "Name": "web-team" }, { "ID": "00000000-0000-0000-0000-000000000002" }],
            "Roles": [{ "Name": "deployers", "ID": "" }],
            "ServiceIdentities": [{ "ServiceName": "web", "Datacenters": ["dc1"] }],
            "NodeIdentities": [{ "NodeName": "n1", "Datacenter": "dc1" }],
            "TemplatedPolicies": [{ "TemplateName": "builtin/service", "TemplateVariables": { "Name": "api" } }],
        });
        let mut whole = json!({ "Description": "ci", "ExpirationTTL": "1m", "Local": true, "Namespace": "team-a" });
        whole.as_object_mut().unwrap().extend(links.as_object().unwrap().clone());
        let mut request = from_value::<TokenRequest>(whole, "").unwrap();
        assert_eq!(request.datacenters, ["dc1", "dc1"]);
        assert_eq!(request.links.policies[0], AclLink { id: String::new(), name: "web-team".to_owned() });
        assert_eq!(request.expires_at(Timestamp(5)).unwrap(), Some(Timestamp(60_005)));
        let named = request.links.named().unwrap();
        assert_eq!(named.service_identities, ["web".parse().unwrap()]);
        assert_eq!(named.templated_policies.len(), 1);
        request.datacenters.clear();
        assert_eq!(from_value::<TokenRequest>(serde_json::to_value(&request).unwrap(), "").unwrap(), request);
        let mut role = json!({ "Name": "deployers" });
        role.as_object_mut().unwrap().extend(links.as_object().unwrap().clone());
        let role = RoleRequest { datacenters: Vec::new(), ..from_value(role, "").unwrap() };
        assert_eq!(from_value::<RoleRequest>(serde_json::to_value(&role).unwrap(), "").unwrap(), role);
    }

    #[test]
    fn what_was_read_may_be_written_back() {
        let shown = serde_json::to_value(TokenView::new(&token(Rights::Management), None)).unwrap();
        let request = from_value::<TokenRequest>(shown, "").unwrap();
        assert_eq!(request.links.policies[0].name, "global-management");
        let [policy, _] = catalog::AclPolicy::builtin();
        let shown = serde_json::to_value(crate::acl::PolicyView::new(&policy)).unwrap();
        assert_eq!(from_value::<PolicyRequest>(shown, "").unwrap().rules, policy.text);
    }

    #[test]
    fn what_cannot_be_granted_is_refused_by_name() {
        for (body, says) in [
            (r#"{"Policies": [{}]}"#, "`Policies[0].ID`: name the policy or role"),
            (r#"{"Policies": ["web"]}"#, "Policies"),
            (r#"{"ServiceIdentities": [{"ServiceName": "*"}]}"#, "ServiceIdentities[0].ServiceName"),
            (
                r#"{"TemplatedPolicies": [{"TemplateName": "builtin/nomad-client"}]}"#,
                "no template `builtin/nomad-client`",
            ),
            (r#"{"TemplatedPolicies": [{"TemplateName": "builtin/service"}]}"#, "TemplateVariables.Name"),
            (r#"{"ExpirationTTL": "1h", "ExpirationTime": "2030-01-31T12:00:00Z"}"#, "not both"),
            (r#"{"ExpirationTime": "soon"}"#, "2030-01-31T12:00:00Z"),
            (r#"{"Polices": []}"#, "unknown field `Polices`"),
        ] {
            let error = from_json::<TokenRequest>(body.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(says), "{body}: {error}");
        }
    }
}
