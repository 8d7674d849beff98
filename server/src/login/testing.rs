//! Auth methods of an issuer for tests.

use std::collections::BTreeMap;
use std::time::Duration;

use catalog::{AuthConfig, AuthMethod, CatalogIndex, JwtAlgorithm, JwtConfig, JwtKeys, Namespace};

pub(crate) use issuer::{AUDIENCE, ISSUER, Issuer, Website, claims, ok};

#[allow(dead_code, reason = "other crates' tests use all of it")]
#[path = "../../../wire/src/jwt/testing.rs"]
mod issuer;

pub(crate) fn config(keys: JwtKeys) -> JwtConfig {
    JwtConfig {
        issuer: ISSUER.to_owned(),
        audiences: vec![AUDIENCE.to_owned()],
        algorithms: vec![JwtAlgorithm::ES256],
        keys,
        claims: BTreeMap::from([("team".to_owned(), "team".to_owned()), ("/a/b".to_owned(), "deep".to_owned())]),
        list_claims: BTreeMap::from([("groups".to_owned(), "groups".to_owned())]),
        clock_skew: Duration::from_secs(30),
    }
}

/// Returns the method `jwt` that takes the issuer's tokens.
pub(crate) fn method(issuer: &Issuer) -> AuthMethod {
    AuthMethod {
        name: "jwt".parse().unwrap(),
        display_name: String::new(),
        description: String::new(),
        namespace: Namespace::default_namespace(),
        token_ttl: catalog::LOGIN_TOKEN_TTL,
        config: AuthConfig::Jwt(Box::new(config(JwtKeys::Pem(vec![issuer.public_pem()])))),
        rules_modified: CatalogIndex::default(),
        created: CatalogIndex::default(),
        modified: CatalogIndex::default(),
    }
}
