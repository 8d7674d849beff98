//! Auth methods, binding rules and logins, as Consul's API has them.

use std::collections::BTreeMap;
use std::time::Duration;

use ::catalog::{
    AuthConfig, AuthMethod, AuthMethodName, AwsIamConfig, BindKind, BindingRule, BindingRuleId, CatalogIndex,
    JwtAlgorithm, JwtConfig, JwtKeys, KubernetesConfig, LOGIN_TOKEN_TTL, NameTemplate, Namespace,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::default_partition;
use crate::crypto::Secret;
use crate::decode::{DecodeError, Fields, Shape};

/// How far an issuer's clock may be away where nobody says otherwise.
const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// Writes or shows an auth method.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct AuthMethodEntry {
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub name: Option<AuthMethodName>,
    /// Its name for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub display_name: String,
    /// What the operator noted about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// How long its tokens live, as text such as `3600s`.
    #[serde(rename = "MaxTokenTTL")]
    pub max_token_ttl: String,
    /// Always `local`: there is one datacenter.
    pub token_locality: String,
    /// The namespace of the services that its rules name without one.
    #[schema(value_type = String)]
    pub namespace: Namespace,
    /// Its type, and how identities are checked.
    #[serde(flatten)]
    pub config: AuthConfigEntry,
    /// The index at which it was made.
    #[schema(value_type = u64)]
    pub create_index: CatalogIndex,
    /// The index of the last change.
    #[schema(value_type = u64)]
    pub modify_index: CatalogIndex,
}

/// Writes or shows how identities are checked, by the fields of its type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "Type", content = "Config", rename_all = "kebab-case")]
pub enum AuthConfigEntry {
    /// By the signature on a JSON Web Token.
    Jwt(Box<JwtConfigEntry>),
    /// By a request that is signed with the credentials of an AWS role or user.
    AwsIam(AwsIamConfigEntry),
    /// By the word of a Kubernetes API server on the token of a pod's service account.
    Kubernetes(KubernetesConfigEntry),
}

impl AuthConfigEntry {
    /// Returns the type's name.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Jwt(_) => "jwt",
            Self::AwsIam(_) => "aws-iam",
            Self::Kubernetes(_) => "kubernetes",
        }
    }
}

/// Writes or shows how the `aws-iam` type checks identities.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct AwsIamConfigEntry {
    /// The roles and users that count, by their ARNs; a `*` at the end of a name stands for any rest of it.
    #[serde(rename = "BoundIAMPrincipalARNs")]
    pub bound_iam_principal_arns: Vec<String>,
    /// The one endpoint of the Security Token Service that is asked; AWS's own where there is none.
    #[serde(rename = "STSEndpoint", default, skip_serializing_if = "String::is_empty")]
    pub sts_endpoint: String,
}

/// Writes or shows how the `kubernetes` type checks identities.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct KubernetesConfigEntry {
    /// The API server's address; empty for that of the cluster that the servers run in.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// The audiences of which a token must be for one.
    pub bound_audiences: Vec<String>,
}

/// Writes or shows how the `jwt` type checks identities.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct JwtConfigEntry {
    /// The one issuer that counts.
    pub bound_issuer: String,
    /// The audiences of which a token must name one.
    pub bound_audiences: Vec<String>,
    /// The algorithms that a signature may have; `RS256` and `ES256` where nobody says otherwise.
    #[serde(rename = "JWTSupportedAlgs")]
    pub jwt_supported_algs: Vec<String>,
    /// Public keys, PEM.
    #[serde(rename = "JWTValidationPubKeys", default, skip_serializing_if = "Vec::is_empty")]
    pub jwt_validation_pub_keys: Vec<String>,
    /// A JSON Web Key Set, as text.
    #[serde(rename = "JWKS", default, skip_serializing_if = "String::is_empty")]
    pub jwks: String,
    /// Where a JSON Web Key Set is.
    #[serde(rename = "JWKSURL", default, skip_serializing_if = "String::is_empty")]
    pub jwks_url: String,
    /// The CA of that, PEM; the system's where there is none.
    #[serde(rename = "JWKSCACert", default, skip_serializing_if = "String::is_empty")]
    pub jwks_ca_cert: String,
    /// Where the issuer's OpenID configuration is.
    #[serde(rename = "OIDCDiscoveryURL", default, skip_serializing_if = "String::is_empty")]
    pub oidc_discovery_url: String,
    /// The CA of that, PEM; the system's where there is none.
    #[serde(rename = "OIDCDiscoveryCACert", default, skip_serializing_if = "String::is_empty")]
    pub oidc_discovery_ca_cert: String,
    /// Which claims become which `value.` variable; a name, or a JSON pointer.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub claim_mappings: BTreeMap<String, String>,
    /// Which claims become which `list.` variable.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub list_claim_mappings: BTreeMap<String, String>,
    /// How far the issuer's clock may be away, as text such as `60s`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub clock_skew_leeway: String,
}

fn seconds(duration: Duration) -> String {
    format!("{}s", duration.as_secs())
}

/// Reads an auth method as [`AuthMethod`], without the name that may stand in the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthMethodRequest {
    name: Option<AuthMethodName>,
    display_name: String,
    description: String,
    namespace: Namespace,
    token_ttl: Duration,
    config: AuthConfig,
}

impl Shape for AuthMethodRequest {
    fn read(fields: &mut Fields) -> Result<Self, DecodeError> {
        let kind: String = fields.required("Type")?;
        let read: fn(&mut Fields) -> Result<AuthConfig, DecodeError> = match kind.as_str() {
            "jwt" => |fields| read_jwt(fields).map(|jwt| AuthConfig::Jwt(Box::new(jwt))),
            "aws-iam" => |fields| read_aws(fields).map(|aws| AuthConfig::AwsIam(Box::new(aws))),
            "kubernetes" => |fields| read_kubernetes(fields).map(|one| AuthConfig::Kubernetes(Box::new(one))),
            _ => {
                let kind = kind.escape_debug();
                let reason =
                    format!("weft has no auth method of type `{kind}`; there are `jwt`, `aws-iam` and `kubernetes`");
                return Err(fields.refuse("Type", reason));
            }
        };
        match fields.text("TokenLocality")?.as_str() {
            "" | "local" | "global" => {}
            _ => return Err(fields.refuse("TokenLocality", "write `local`, or leave it out: there is one datacenter")),
        }
        default_partition(fields, "Partition")?;
        let request = Self {
            name: fields.parsed("Name")?,
            display_name: fields.text("DisplayName")?,
            description: fields.text("Description")?,
            namespace: fields.parsed("Namespace")?.unwrap_or_default(),
            token_ttl: fields.duration("MaxTokenTTL")?.filter(|ttl| !ttl.is_zero()).unwrap_or(LOGIN_TOKEN_TTL),
            config: fields
                .object("Config", read)?
                .ok_or_else(|| DecodeError::Missing { path: fields.path_to("Config") })?,
        };
        fields.ignored(&["CreateIndex", "ModifyIndex"]);
        fields.unsupported(&["NamespaceRules", "TokenNameFormat"])?;
        Ok(request)
    }
}

fn read_jwt(fields: &mut Fields) -> Result<JwtConfig, DecodeError> {
    let mut algorithms: Vec<JwtAlgorithm> = fields.parsed_list("JWTSupportedAlgs")?;
    if algorithms.is_empty() {
        algorithms = vec![JwtAlgorithm::RS256, JwtAlgorithm::ES256];
    }
    algorithms.sort();
    algorithms.dedup();
    let config = JwtConfig {
        issuer: fields.text("BoundIssuer")?,
        audiences: fields.texts("BoundAudiences")?,
        algorithms,
        keys: read_keys(fields)?,
        claims: fields.text_map("ClaimMappings")?,
        list_claims: fields.text_map("ListClaimMappings")?,
        clock_skew: fields.duration("ClockSkewLeeway")?.unwrap_or(CLOCK_SKEW),
    };
    fields.unsupported(&[
        "ExpirationLeeway",
        "NotBeforeLeeway",
        "OIDCClientID",
        "OIDCClientSecret",
        "OIDCScopes",
        "OIDCACRValues",
        "AllowedRedirectURIs",
        "VerboseOIDCLogging",
    ])?;
    // Without an issuer in it, the keys' own place says which it is.
    match &config.keys {
        JwtKeys::Discovery { url, .. } if config.issuer.is_empty() => Ok(JwtConfig { issuer: url.clone(), ..config }),
        _ => Ok(config),
    }
}

fn read_aws(fields: &mut Fields) -> Result<AwsIamConfig, DecodeError> {
    let config = AwsIamConfig {
        principals: fields.parsed_list("BoundIAMPrincipalARNs")?,
        sts_endpoint: Some(fields.text("STSEndpoint")?).filter(|endpoint| !endpoint.is_empty()),
    };
    if !fields.text("ServerIDHeaderValue")?.is_empty() {
        let reason = "every login is signed for one mesh, by its cluster id in the header X-Weft-Cluster: leave it out";
        return Err(fields.refuse("ServerIDHeaderValue", reason));
    }
    if fields.flag("EnableIAMEntityDetails")?.unwrap_or(false) {
        let reason = "weft asks no more of AWS than who has signed: name each role, and bind by entity_name";
        return Err(fields.refuse("EnableIAMEntityDetails", reason));
    }
    fields.unsupported(&["IAMEntityTags", "IAMEndpoint", "STSRegion", "AllowedSTSHeaderValues", "MaxRetries"])?;
    Ok(config)
}

fn read_kubernetes(fields: &mut Fields) -> Result<KubernetesConfig, DecodeError> {
    let given = |text: String| (!text.is_empty()).then_some(text);
    let audiences = fields.texts("BoundAudiences")?;
    let config = KubernetesConfig { host: given(fields.text("Host")?), audiences };
    if !fields.text("CACert")?.is_empty() {
        let reason = "it decides to whom a server shows its token: leave it out, and give each server the authority in a \
                      file, with --kubernetes-ca-file HOST=FILE";
        return Err(fields.refuse("CACert", reason));
    }
    if !fields.text("ServiceAccountJWT")?.is_empty() {
        let reason = "a secret has no place in the catalog: leave it out, and give each server the token in a file, \
                      with --kubernetes-token-file HOST=FILE";
        return Err(fields.refuse("ServiceAccountJWT", reason));
    }
    fields.unsupported(&["MapNamespaces", "ConsulNamespacePrefix", "ConsulNamespaceOverrides"])?;
    Ok(config)
}

fn read_keys(fields: &mut Fields) -> Result<JwtKeys, DecodeError> {
    let pems = fields.texts("JWTValidationPubKeys")?;
    let set = fields.text("JWKS")?;
    let (jwks, jwks_ca) = (fields.text("JWKSURL")?, fields.text("JWKSCACert")?);
    let (discovery, discovery_ca) = (fields.text("OIDCDiscoveryURL")?, fields.text("OIDCDiscoveryCACert")?);
    let given = |text: String| (!text.is_empty()).then_some(text);
    let found = [
        (!pems.is_empty()).then_some(JwtKeys::Pem(pems)),
        given(set).map(JwtKeys::Set),
        given(jwks).map(|url| JwtKeys::Url { url, ca_pem: given(jwks_ca) }),
        given(discovery).map(|url| JwtKeys::Discovery { url, ca_pem: given(discovery_ca) }),
    ];
    let mut found = found.into_iter().flatten();
    match (found.next(), found.next()) {
        (Some(keys), None) => Ok(keys),
        _ => Err(fields.refuse(
            "JWTValidationPubKeys",
            "give exactly one of JWTValidationPubKeys, JWKS, JWKSURL and OIDCDiscoveryURL",
        )),
    }
}

impl AuthMethodRequest {
    /// Returns the method that is asked for, under the name in the path or in the body, in the mesh of that id.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if there is no name, or two that differ.
    pub fn into_method(self, path: Option<AuthMethodName>, cluster_id: &str) -> Result<AuthMethod, DecodeError> {
        let name = match (path, self.name) {
            (Some(path), Some(body)) if path != body => {
                let reason = format!("it is `{body}` and the path says `{path}`; a method keeps its name");
                return Err(DecodeError::Value { path: "Name".to_owned(), reason });
            }
            (Some(name), _) | (None, Some(name)) => name,
            (None, None) => return Err(DecodeError::Missing { path: "Name".to_owned() }),
        };
        let mut config = self.config;
        if let AuthConfig::Kubernetes(kubernetes) = &mut config
            && kubernetes.audiences.is_empty()
        {
            kubernetes.audiences.push(KubernetesConfig::own_audience(cluster_id));
        }
        Ok(AuthMethod {
            name,
            display_name: self.display_name,
            description: self.description,
            namespace: self.namespace,
            token_ttl: self.token_ttl,
            config,
            rules_modified: CatalogIndex::default(),
            created: CatalogIndex::default(),
            modified: CatalogIndex::default(),
        })
    }
}

impl From<&AuthMethod> for AuthMethodEntry {
    fn from(method: &AuthMethod) -> Self {
        Self {
            name: Some(method.name.clone()),
            display_name: method.display_name.clone(),
            description: method.description.clone(),
            max_token_ttl: seconds(method.token_ttl),
            token_locality: "local".to_owned(),
            namespace: method.namespace.clone(),
            config: AuthConfigEntry::from(&method.config),
            create_index: method.created,
            modify_index: method.modified,
        }
    }
}

impl From<&AuthConfig> for AuthConfigEntry {
    fn from(config: &AuthConfig) -> Self {
        match config {
            AuthConfig::Jwt(jwt) => Self::Jwt(Box::new(JwtConfigEntry::from(&**jwt))),
            AuthConfig::AwsIam(aws) => Self::AwsIam(AwsIamConfigEntry {
                bound_iam_principal_arns: aws.principals.iter().map(ToString::to_string).collect(),
                sts_endpoint: aws.sts_endpoint.clone().unwrap_or_default(),
            }),
            AuthConfig::Kubernetes(kubernetes) => Self::Kubernetes(KubernetesConfigEntry {
                host: kubernetes.host.clone().unwrap_or_default(),
                bound_audiences: kubernetes.audiences.clone(),
            }),
        }
    }
}

impl From<&JwtConfig> for JwtConfigEntry {
    fn from(jwt: &JwtConfig) -> Self {
        let mut entry = Self {
            bound_issuer: jwt.issuer.clone(),
            bound_audiences: jwt.audiences.clone(),
            jwt_supported_algs: jwt.algorithms.iter().map(ToString::to_string).collect(),
            claim_mappings: jwt.claims.clone(),
            list_claim_mappings: jwt.list_claims.clone(),
            clock_skew_leeway: seconds(jwt.clock_skew),
            ..Self::default()
        };
        match &jwt.keys {
            JwtKeys::Pem(pems) => entry.jwt_validation_pub_keys = pems.clone(),
            JwtKeys::Set(set) => entry.jwks = set.clone(),
            JwtKeys::Url { url, ca_pem } => {
                entry.jwks_url = url.clone();
                entry.jwks_ca_cert = ca_pem.clone().unwrap_or_default();
            }
            JwtKeys::Discovery { url, ca_pem } => {
                entry.oidc_discovery_url = url.clone();
                entry.oidc_discovery_ca_cert = ca_pem.clone().unwrap_or_default();
            }
        }
        entry
    }
}

/// Writes or shows a binding rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct BindingRuleEntry {
    /// Its name for good; drawn where there is none.
    #[serde(rename = "ID", default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub id: Option<BindingRuleId>,
    /// What the operator noted about it.
    #[serde(default)]
    pub description: String,
    /// Whose identities it judges.
    #[schema(value_type = String)]
    pub auth_method: AuthMethodName,
    /// Which of them it is for; all where it is empty.
    #[serde(default)]
    pub selector: String,
    /// What it makes of them: `service`, `node`, `role` or `policy`.
    #[schema(value_type = String)]
    pub bind_type: BindKind,
    /// The name of that, with `${value.…}` in it.
    #[schema(value_type = String)]
    pub bind_name: NameTemplate,
    /// The index at which it was made.
    #[serde(default)]
    #[schema(value_type = u64)]
    pub create_index: CatalogIndex,
    /// The index of the last change.
    #[serde(default)]
    #[schema(value_type = u64)]
    pub modify_index: CatalogIndex,
}

impl Shape for BindingRuleEntry {
    fn read(fields: &mut Fields) -> Result<Self, DecodeError> {
        default_partition(fields, "Partition")?;
        let entry = Self {
            id: fields.parsed("ID")?,
            description: fields.text("Description")?,
            auth_method: fields.required("AuthMethod")?,
            selector: fields.text("Selector")?,
            bind_type: fields.required("BindType")?,
            bind_name: fields.required("BindName")?,
            create_index: CatalogIndex::default(),
            modify_index: CatalogIndex::default(),
        };
        fields.ignored(&["CreateIndex", "ModifyIndex"]);
        fields.unsupported(&["BindVars", "Namespace"])?;
        Ok(entry)
    }
}

impl BindingRuleEntry {
    /// Returns the rule as the catalog keeps it, under an id.
    pub fn into_rule(self, id: BindingRuleId) -> BindingRule {
        BindingRule {
            id,
            description: self.description,
            method: self.auth_method,
            selector: self.selector,
            bind: self.bind_type,
            name: self.bind_name,
            created: CatalogIndex::default(),
            modified: CatalogIndex::default(),
        }
    }
}

impl From<&BindingRule> for BindingRuleEntry {
    fn from(rule: &BindingRule) -> Self {
        Self {
            id: Some(rule.id.clone()),
            description: rule.description.clone(),
            auth_method: rule.method.clone(),
            selector: rule.selector.clone(),
            bind_type: rule.bind,
            bind_name: rule.name.clone(),
            create_index: rule.created,
            modify_index: rule.modified,
        }
    }
}

/// Asks `POST /v1/acl/login` for a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct TokenLogin {
    /// The auth method that judges the credential.
    #[schema(value_type = String)]
    pub auth_method: AuthMethodName,
    /// The credential.
    #[schema(value_type = String)]
    pub bearer_token: Secret,
    /// What to note about the token.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub meta: BTreeMap<String, String>,
}

impl Shape for TokenLogin {
    fn read(fields: &mut Fields) -> Result<Self, DecodeError> {
        let login = Self {
            auth_method: fields.required("AuthMethod")?,
            bearer_token: Secret::new(fields.required::<String>("BearerToken")?),
            meta: fields.text_map("Meta")?,
        };
        fields.unsupported(&["Namespace", "Partition"])?;
        Ok(login)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::from_json;

    const METHOD: &str = r#"{"Name": "k8s", "Type": "jwt", "MaxTokenTTL": "5m", "Config": {
        "BoundIssuer": "https://issuer.example", "BoundAudiences": ["weft"], "JWKSURL": "https://issuer.example/keys",
        "claim_mappings": {"/kubernetes.io/namespace": "ns"}, "ListClaimMappings": {"groups": "groups"}}}"#;

    #[test]
    fn a_method_is_read_as_consuls_clients_write_it_and_shown_as_they_read_it() {
        let method = from_json::<AuthMethodRequest>(METHOD.as_bytes()).unwrap().into_method(None, "c1").unwrap();
        assert_eq!((method.name.as_str(), method.token_ttl), ("k8s", Duration::from_secs(300)));
        let AuthConfig::Jwt(jwt) = &method.config else { panic!("{method:?}") };
        assert_eq!(jwt.algorithms, [JwtAlgorithm::RS256, JwtAlgorithm::ES256]);
        assert_eq!(jwt.claims["/kubernetes.io/namespace"], "ns");
        let shown = serde_json::to_string(&AuthMethodEntry::from(&method)).unwrap();
        assert_eq!(from_json::<AuthMethodRequest>(shown.as_bytes()).unwrap().into_method(None, "c1").unwrap(), method);
        let other = from_json::<AuthMethodRequest>(METHOD.as_bytes()).unwrap();
        assert!(other.clone().into_method(Some("k8s".parse().unwrap()), "c1").is_ok());
        assert!(other.into_method(Some("other".parse().unwrap()), "c1").is_err());
    }

    #[test]
    fn what_a_method_cannot_be_is_refused_by_name() {
        for (from, to, want) in [
            ("\"jwt\"", "\"ldap\"", "no auth method of type `ldap`"),
            ("\"JWKSURL\"", "\"JWTValidationPubKeys\": [\"x\"], \"JWKSURL\"", "exactly one of"),
            ("\"JWKSURL\": \"https://issuer.example/keys\",", "", "exactly one of"),
            ("\"BoundIssuer\"", "\"OIDCClientID\": \"x\", \"BoundIssuer\"", "OIDCClientID"),
            ("\"BoundIssuer\"", "\"JWTSupportedAlgs\": [\"HS256\"], \"BoundIssuer\"", "use RS256"),
            ("\"MaxTokenTTL\"", "\"NamespaceRules\": [{\"BindNamespace\": \"x\"}], \"MaxTokenTTL\"", "NamespaceRules"),
        ] {
            let body = METHOD.replacen(from, to, 1);
            let error = from_json::<AuthMethodRequest>(body.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(want), "{want}: {error}");
        }
    }

    const AWS: &str = r#"{"Name": "aws", "Type": "aws-iam", "Config": {
        "BoundIAMPrincipalARNs": ["arn:aws:iam::123456789012:role/web"], "STSEndpoint": "https://sts.eu-west-1.amazonaws.com"}}"#;

    #[test]
    fn a_method_of_aws_is_read_and_shown_with_consuls_fields() {
        let method = from_json::<AuthMethodRequest>(AWS.as_bytes()).unwrap().into_method(None, "c1").unwrap();
        let shown = serde_json::to_string(&AuthMethodEntry::from(&method)).unwrap();
        assert!(shown.contains("\"Type\":\"aws-iam\""), "{shown}");
        assert_eq!(from_json::<AuthMethodRequest>(shown.as_bytes()).unwrap().into_method(None, "c1").unwrap(), method);
        let entry: AuthMethodEntry = serde_json::from_str(&shown).unwrap();
        assert!(matches!(entry.config, AuthConfigEntry::AwsIam(_)), "{entry:?}");
        for (field, want) in [
            (r#""EnableIAMEntityDetails": true"#, "bind by entity_name"),
            (r#""IAMEntityTags": ["a"]"#, "IAMEntityTags"),
            (r#""ServerIDHeaderValue": "x""#, "leave it out"),
        ] {
            let body = AWS.replacen("\"STSEndpoint\"", &format!("{field}, \"STSEndpoint\""), 1);
            let error = from_json::<AuthMethodRequest>(body.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(want), "{want}: {error}");
        }
    }

    #[test]
    fn a_method_of_kubernetes_is_read_and_shown_with_consuls_fields_and_keeps_no_secret() {
        let written = r#"{"Name": "k8s", "Type": "kubernetes", "Config": {"Host": "https://10.0.0.1:6443"}}"#;
        let method = from_json::<AuthMethodRequest>(written.as_bytes()).unwrap().into_method(None, "c1").unwrap();
        let AuthConfig::Kubernetes(config) = &method.config else { panic!("{method:?}") };
        assert_eq!(config.audiences, ["weft/c1"], "one of the mesh alone is asked for where none is named");
        let shown = serde_json::to_string(&AuthMethodEntry::from(&method)).unwrap();
        assert_eq!(from_json::<AuthMethodRequest>(shown.as_bytes()).unwrap().into_method(None, "c1").unwrap(), method);
        let entry: AuthMethodEntry = serde_json::from_str(&shown).unwrap();
        assert!(matches!(entry.config, AuthConfigEntry::Kubernetes(_)), "{entry:?}");
        for (field, want) in [
            (r#""ServiceAccountJWT": "a.b.c""#, "--kubernetes-token-file"),
            (r#""CACert": "pem""#, "--kubernetes-ca-file"),
            (r#""MapNamespaces": true"#, "MapNamespaces"),
        ] {
            let body = written.replacen("\"Host\"", &format!("{field}, \"Host\""), 1);
            let error = from_json::<AuthMethodRequest>(body.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(want) && !error.contains("a.b.c"), "{want}: {error}");
        }
    }

    #[test]
    fn an_issuer_that_is_discovered_is_its_own_name() {
        let body = r#"{"Name": "o", "Type": "jwt", "Config": {"OIDCDiscoveryURL": "https://issuer.example", "BoundAudiences": ["weft"]}}"#;
        let method = from_json::<AuthMethodRequest>(body.as_bytes()).unwrap().into_method(None, "c1").unwrap();
        let AuthConfig::Jwt(jwt) = &method.config else { panic!("{method:?}") };
        assert_eq!(jwt.issuer, "https://issuer.example");
    }

    #[test]
    fn a_rule_binds_no_management_and_a_login_shows_no_secret() {
        let rule = r#"{"AuthMethod": "k8s", "BindType": "service", "BindName": "${value.ns}/web", "Selector": "value.ns == \"a\""}"#;
        assert_eq!(from_json::<BindingRuleEntry>(rule.as_bytes()).unwrap().bind_type, BindKind::Service);
        let error =
            from_json::<BindingRuleEntry>(rule.replace("\"service\"", "\"management\"").as_bytes()).unwrap_err();
        assert!(error.to_string().contains("nobody logs in as management"), "{error}");
        let login = from_json::<TokenLogin>(br#"{"AuthMethod": "k8s", "BearerToken": "hunter2", "Meta": {"a": "b"}}"#);
        assert!(!format!("{:?}", login.unwrap()).contains("hunter2"));
    }
}
