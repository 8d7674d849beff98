//! Logins: auth methods say whose word about an identity counts, binding rules say what such an identity is here.

mod aws;
mod bind;
mod kubernetes;
mod template;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    AuthMethodName, BindingRuleId, CatalogIndex, KeyFingerprint, Namespace, NodeName, Platform, SecretHash, ServiceKey,
    Timestamp, Token,
};

pub use aws::{AwsIamConfig, AwsKind, AwsPattern, AwsPrincipal};
pub use bind::{BindingRules, Bound, LoginClaims};
pub use kubernetes::KubernetesConfig;
pub(crate) use template::is_variable_name;
pub use template::{NameTemplate, NameTemplateError, Variable};

/// How long a token lives that a login makes, where its method does not say.
pub const LOGIN_TOKEN_TTL: Duration = Duration::from_secs(3600);

/// Is one way of logging in: it names who vouches for an identity, and how that is checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthMethod {
    /// Its name, which logins and binding rules give.
    pub name: AuthMethodName,
    /// Its name for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub display_name: String,
    /// What the operator noted about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The namespace of the services that its rules name without one.
    #[serde(default)]
    pub namespace: Namespace,
    /// How long the tokens live that its logins make.
    pub token_ttl: Duration,
    /// How its identities are checked.
    pub config: AuthConfig,
    /// The index at which one of its rules changed last; a login that was judged before that is judged again.
    #[serde(default)]
    pub rules_modified: CatalogIndex,
    /// The index at which it was made.
    #[serde(default)]
    pub created: CatalogIndex,
    /// The index of the last change.
    #[serde(default)]
    pub modified: CatalogIndex,
}

/// Says how a method checks identities, and so of which type it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum AuthConfig {
    /// By the signature on a JSON Web Token.
    Jwt(Box<JwtConfig>),
    /// By a request that is signed with the credentials of an AWS role or user.
    AwsIam(Box<AwsIamConfig>),
    /// By the word of a Kubernetes API server on the token of a pod's service account.
    Kubernetes(Box<KubernetesConfig>),
}

/// Says which JSON Web Tokens count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JwtConfig {
    /// The one issuer, compared letter by letter.
    pub issuer: String,
    /// The audiences of which a token must name one; never empty.
    pub audiences: Vec<String>,
    /// The algorithms that a signature may have; sorted, unique, never empty.
    pub algorithms: Vec<JwtAlgorithm>,
    /// The keys that sign.
    pub keys: JwtKeys,
    /// Which claims become which `value.` variable.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub claims: BTreeMap<String, String>,
    /// Which claims become which `list.` variable.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub list_claims: BTreeMap<String, String>,
    /// How far the issuer's clock may be from a server's.
    pub clock_skew: Duration,
}

impl AuthConfig {
    /// Returns its type's name in the API.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Jwt(_) => "jwt",
            Self::AwsIam(_) => "aws-iam",
            Self::Kubernetes(_) => "kubernetes",
        }
    }

    /// Returns the variables that its identities have: those with one value, and those with a list.
    #[must_use]
    pub fn variables(&self) -> Vec<Variable> {
        match self {
            Self::Jwt(jwt) => {
                let values = jwt.claims.values().cloned().map(Variable::Value);
                values.chain(jwt.list_claims.values().cloned().map(Variable::List)).collect()
            }
            Self::AwsIam(_) => AwsIamConfig::FACTS.map(|fact| Variable::Fact(fact.to_owned())).to_vec(),
            Self::Kubernetes(_) => KubernetesConfig::FACTS.map(|fact| Variable::Fact(fact.to_owned())).to_vec(),
        }
    }
}

/// Says where the keys come from that sign tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JwtKeys {
    /// They are these public keys, PEM.
    Pem(Vec<String>),
    /// They are in this JSON Web Key Set.
    Set(String),
    /// They are in the key set at this address.
    Url {
        /// The address, `https` only.
        url: String,
        /// The roots that its certificate must lead to, PEM; the system's where there are none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ca_pem: Option<String>,
    },
    /// They are where the issuer's OpenID configuration says.
    Discovery {
        /// The issuer's address, `https` only.
        url: String,
        /// The roots that its certificate must lead to, PEM; the system's where there are none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ca_pem: Option<String>,
    },
}

/// Is how a token may be signed: by a private key only, never by a secret that both sides share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum JwtAlgorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    RS256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    RS384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    RS512,
    /// RSASSA-PSS with SHA-256.
    PS256,
    /// RSASSA-PSS with SHA-384.
    PS384,
    /// RSASSA-PSS with SHA-512.
    PS512,
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// ECDSA on P-384 with SHA-384.
    ES384,
    /// Ed25519.
    EdDSA,
}

impl JwtAlgorithm {
    /// All there are.
    pub const ALL: [Self; 9] = [
        Self::RS256,
        Self::RS384,
        Self::RS512,
        Self::PS256,
        Self::PS384,
        Self::PS512,
        Self::ES256,
        Self::ES384,
        Self::EdDSA,
    ];

    /// Returns its name in a token's header (RFC 7518 §3.1, RFC 8037 §3.1).
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RS256 => "RS256",
            Self::RS384 => "RS384",
            Self::RS512 => "RS512",
            Self::PS256 => "PS256",
            Self::PS384 => "PS384",
            Self::PS512 => "PS512",
            Self::ES256 => "ES256",
            Self::ES384 => "ES384",
            Self::EdDSA => "EdDSA",
        }
    }
}

impl std::fmt::Display for JwtAlgorithm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for JwtAlgorithm {
    type Err = crate::NameError;

    fn from_str(text: &str) -> Result<Self, crate::NameError> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == text).ok_or_else(|| {
            crate::NameError::new(
                "signing algorithm",
                text,
                "use RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 or EdDSA",
            )
        })
    }
}

/// Says what an identity that a method vouches for is here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BindingRule {
    /// Its name for good.
    pub id: BindingRuleId,
    /// What the operator noted about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Whose identities it judges.
    pub method: AuthMethodName,
    /// Which of them it is for, in the selector language; all where it is empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub selector: String,
    /// What it makes of them.
    pub bind: BindKind,
    /// The name of that, with the identity's variables in it.
    pub name: NameTemplate,
    /// The index at which it was made.
    #[serde(default)]
    pub created: CatalogIndex,
    /// The index of the last change.
    #[serde(default)]
    pub modified: CatalogIndex,
}

/// Says what a binding rule makes of an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BindKind {
    /// A service: an agent may stand before it, a token stands for it.
    Service,
    /// A node: an agent may be on it, and on no other; a token stands for it.
    Node,
    /// The holder of a role; for tokens.
    Role,
    /// Who a policy is for; for tokens.
    Policy,
    /// A gateway into the network of that name; for agents.
    Gateway,
}

impl BindKind {
    /// Returns its name in the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Node => "node",
            Self::Role => "role",
            Self::Policy => "policy",
            Self::Gateway => "gateway",
        }
    }
}

impl std::fmt::Display for BindKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for BindKind {
    type Err = crate::NameError;

    fn from_str(text: &str) -> Result<Self, crate::NameError> {
        let all = [Self::Service, Self::Node, Self::Role, Self::Policy, Self::Gateway];
        all.into_iter().find(|kind| kind.name() == text).ok_or_else(|| {
            let rule = "use service, node, role, policy or gateway; nobody logs in as management";
            crate::NameError::new("bind type", text, rule)
        })
    }
}

/// Remembers who used a bearer credential to enrol, so that nobody else does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UsedBearer {
    pub(crate) bearer: SecretHash,
    pub(crate) key: KeyFingerprint,
    pub(crate) ends: Timestamp,
    /// Whose it is; none of what was remembered before this was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) whose: Option<(AuthMethodName, String)>,
}

/// Is a login of an agent, once a server has checked the credential and asked the binding rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admission {
    /// Who vouches.
    pub method: AuthMethodName,
    /// Whom for, in the method's own words.
    pub subject: String,
    /// The index of the state by which it was judged.
    pub judged_at: CatalogIndex,
    /// The services that the agent may stand before; sorted, unique.
    pub services: Vec<ServiceKey>,
    /// The network that the agent may be a gateway into; none where it may be none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// The only nodes that it may be on; any that is free where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeName>,
    /// The index in the serials of the certificates that a server gave the agent alone, before the mesh could be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provisional: Option<CatalogIndex>,
    /// The hash of the credential.
    pub bearer: SecretHash,
    /// When the credential ends.
    pub bearer_ends: Timestamp,
    /// Whether the credential is worth nothing under any other key, so that nobody has to remember it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_of_one_key: bool,
    /// The agent's key.
    pub key: KeyFingerprint,
    /// The agent's node.
    pub node: NodeName,
    /// What the node runs on.
    pub platform: Platform,
}

/// Is one change of who may log in, or one login.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case", deny_unknown_fields)]
pub enum LoginChange {
    /// Makes a method, or changes one that is there.
    WriteMethod {
        /// The method.
        method: Box<AuthMethod>,
        /// Whether it must be there already; otherwise it must not.
        replace: bool,
    },
    /// Removes a method, its rules and the tokens that its logins made.
    DeleteMethod {
        /// Which.
        name: AuthMethodName,
    },
    /// Makes a rule, or changes one that is there.
    WriteRule {
        /// The rule.
        rule: Box<BindingRule>,
        /// Whether it must be there already; otherwise it must not.
        replace: bool,
    },
    /// Removes a rule. What came of it stays.
    DeleteRule {
        /// Which.
        id: BindingRuleId,
    },
    /// Makes the token of somebody who has logged in.
    GrantToken {
        /// The token.
        token: Box<Token>,
        /// Who vouched.
        method: AuthMethodName,
        /// The index of the state by which it was judged.
        judged_at: CatalogIndex,
    },
    /// Makes the record of an agent that has logged in.
    Admit {
        /// The login.
        admission: Box<Admission>,
    },
    /// Revokes the certificates of agents that were admitted while there was no quorum, and that do not hold now.
    RevokeProvisional {
        /// The index that their serials carry; no record was ever enrolled at it.
        enrolled: CatalogIndex,
    },
}
