//! The form of auth methods, binding rules and logins.

use std::time::Duration;

use super::bounded;
use crate::{
    AuthConfig, AuthMethod, AwsIamConfig, BindingRule, JwtConfig, JwtKeys, KubernetesConfig, LoginChange,
    NETWORK_BYTES_MAX, Origin, Refusal, Rights, Selector, Variable, login::is_variable_name,
};

const TEXT_MAX: usize = 512;
const NAMES_MAX: usize = 16;
const CLAIMS_MAX: usize = 64;
const KEYS_MAX: usize = 16;
const PRINCIPALS_MAX: usize = 256;
const KEYS_BYTES_MAX: usize = 64 * 1024;
const TOKEN_TTL_MIN: Duration = Duration::from_secs(60);
const TOKEN_TTL_MAX: Duration = Duration::from_secs(24 * 3600);
const SKEW_MAX: Duration = Duration::from_secs(300);

pub(super) fn check(change: &LoginChange) -> Result<(), Refusal> {
    match change {
        LoginChange::WriteMethod { method, .. } => check_method(method),
        LoginChange::WriteRule { rule, .. } => check_rule(rule),
        LoginChange::GrantToken { token, .. } => {
            if token.rights == Rights::Management {
                return Err(Refusal::invalid("token", "nobody logs in as management: bind a role or a policy"));
            }
            bounded("subject", token.login_subject.as_deref().unwrap_or_default(), TEXT_MAX)?;
            bounded("description", &token.description, TEXT_MAX)
        }
        LoginChange::Admit { admission } => {
            if admission.services.is_empty() && admission.gateway.is_none() {
                return Err(Refusal::LoginNoService {
                    method: admission.method.clone(),
                    subject: admission.subject.clone(),
                });
            }
            bounded("gateway", admission.gateway.as_deref().unwrap_or_default(), NETWORK_BYTES_MAX)?;
            bounded("subject", &admission.subject, TEXT_MAX)
        }
        LoginChange::DeleteMethod { .. } | LoginChange::DeleteRule { .. } | LoginChange::RevokeProvisional { .. } => {
            Ok(())
        }
    }
}

fn check_method(method: &AuthMethod) -> Result<(), Refusal> {
    bounded("DisplayName", &method.display_name, TEXT_MAX)?;
    bounded("Description", &method.description, TEXT_MAX)?;
    if !(TOKEN_TTL_MIN..=TOKEN_TTL_MAX).contains(&method.token_ttl) {
        let problem = format!("{:?} is not between {TOKEN_TTL_MIN:?} and {TOKEN_TTL_MAX:?}", method.token_ttl);
        return Err(Refusal::invalid("MaxTokenTTL", problem));
    }
    match &method.config {
        AuthConfig::Jwt(jwt) => check_jwt(jwt),
        AuthConfig::AwsIam(aws) => check_aws(aws),
        AuthConfig::Kubernetes(kubernetes) => check_kubernetes(kubernetes),
    }
}

fn check_aws(aws: &AwsIamConfig) -> Result<(), Refusal> {
    if aws.principals.is_empty() || aws.principals.len() > PRINCIPALS_MAX {
        let problem = format!("there are {}: name 1 to {PRINCIPALS_MAX} roles or users", aws.principals.len());
        return Err(Refusal::invalid("BoundIAMPrincipalARNs", problem));
    }
    let Some(endpoint) = &aws.sts_endpoint else { return Ok(()) };
    let origin = check_origin("STSEndpoint", endpoint)?;
    let wrong = |problem: &str| Err(Refusal::invalid("STSEndpoint", format!("`{endpoint}` {problem}")));
    // It is compared letter by letter with the one that an agent has signed for.
    if endpoint.bytes().any(|b| b.is_ascii_uppercase()) {
        return wrong("is not in lower case");
    }
    // Without TLS anybody on the way could answer in the service's place; on this machine there is no way.
    if !origin.is_tls && !origin.is_loopback() {
        return wrong("is without TLS: whoever is on the way could answer in its place; write https://");
    }
    Ok(())
}

/// Checks that a text is the address of a server of the web, with nothing behind it.
fn check_origin<'t>(field: &str, text: &'t str) -> Result<Origin<'t>, Refusal> {
    bounded(field, text, TEXT_MAX)?;
    Origin::read(text).ok_or_else(|| {
        Refusal::invalid(field, format!("`{text}` is no https://HOST or https://HOST:PORT, with nothing behind it"))
    })
}

fn check_kubernetes(kubernetes: &KubernetesConfig) -> Result<(), Refusal> {
    if kubernetes.audiences.is_empty() || kubernetes.audiences.len() > NAMES_MAX {
        return Err(Refusal::invalid("BoundAudiences", format!("name 1 to {NAMES_MAX} audiences")));
    }
    for audience in &kubernetes.audiences {
        bounded("BoundAudiences", audience, TEXT_MAX)?;
        if audience.starts_with("https://kubernetes.default") {
            let problem = "it is the API server's own: every token of every pod would count; take one for weft alone";
            return Err(Refusal::invalid("BoundAudiences", problem));
        }
        if audience.is_empty() {
            return Err(Refusal::invalid(
                "BoundAudiences",
                "one is empty: a token for nobody in particular is for anybody",
            ));
        }
    }
    let Some(host) = &kubernetes.host else { return Ok(()) };
    if !check_origin("Host", host)?.is_tls {
        let problem = "is without TLS: whoever is on the way could answer in its place; write https://";
        return Err(Refusal::invalid("Host", format!("`{host}` {problem}")));
    }
    Ok(())
}

fn check_jwt(jwt: &JwtConfig) -> Result<(), Refusal> {
    if jwt.issuer.is_empty() {
        return Err(Refusal::invalid("BoundIssuer", "it is empty: name the issuer whose tokens count"));
    }
    bounded("BoundIssuer", &jwt.issuer, TEXT_MAX)?;
    if jwt.audiences.is_empty() || jwt.audiences.len() > NAMES_MAX {
        return Err(Refusal::invalid(
            "BoundAudiences",
            format!("there are {}: name 1 to {NAMES_MAX}, for a token is made for somebody", jwt.audiences.len()),
        ));
    }
    for audience in &jwt.audiences {
        if audience.is_empty() {
            return Err(Refusal::invalid("BoundAudiences", "one is empty: leave it out"));
        }
        bounded("BoundAudiences", audience, TEXT_MAX)?;
    }
    if jwt.algorithms.is_empty() {
        return Err(Refusal::invalid("JWTSupportedAlgs", "there are none: name at least one, such as ES256"));
    }
    if jwt.clock_skew > SKEW_MAX {
        let problem = format!("{:?} is more than {SKEW_MAX:?}: set the clocks instead", jwt.clock_skew);
        return Err(Refusal::invalid("ClockSkewLeeway", problem));
    }
    if jwt.claims.len() + jwt.list_claims.len() > CLAIMS_MAX {
        return Err(Refusal::invalid("ClaimMappings", format!("there are more than {CLAIMS_MAX}: name fewer")));
    }
    for (field, mapped) in [("ClaimMappings", &jwt.claims), ("ListClaimMappings", &jwt.list_claims)] {
        for (claim, variable) in mapped {
            bounded(field, claim, TEXT_MAX)?;
            if claim.is_empty() || !is_variable_name(variable) {
                let problem =
                    format!("`{claim}` = `{variable}`: a variable has letters, digits and `_`, a letter first");
                return Err(Refusal::invalid(field, problem));
            }
        }
        let mut variables: Vec<&String> = mapped.values().collect();
        variables.sort();
        if let Some(twice) = variables.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Refusal::invalid(field, format!("two claims become `{}`: give each its own", twice[0])));
        }
    }
    check_keys(&jwt.keys)
}

fn check_keys(keys: &JwtKeys) -> Result<(), Refusal> {
    match keys {
        JwtKeys::Pem(keys) => {
            if keys.is_empty() || keys.len() > KEYS_MAX {
                let problem = format!("there are {}: give 1 to {KEYS_MAX}", keys.len());
                return Err(Refusal::invalid("JWTValidationPubKeys", problem));
            }
            keys.iter().try_for_each(|key| bounded("JWTValidationPubKeys", key, KEYS_BYTES_MAX / KEYS_MAX))
        }
        JwtKeys::Set(set) => bounded("JWKS", set, KEYS_BYTES_MAX),
        JwtKeys::Url { url, ca_pem } => check_address("JWKSURL", url, "JWKSCACert", ca_pem.as_deref()),
        JwtKeys::Discovery { url, ca_pem } => {
            check_address("OIDCDiscoveryURL", url, "OIDCDiscoveryCACert", ca_pem.as_deref())
        }
    }
}

/// Checks that keys can be fetched from an address. What it leads to is judged by whoever dials it.
pub(crate) fn check_address(field: &str, url: &str, ca_field: &str, ca_pem: Option<&str>) -> Result<(), Refusal> {
    bounded(field, url, TEXT_MAX)?;
    match Origin::split(url) {
        None => {
            return Err(Refusal::invalid(field, format!("`{url}` is no https://HOST/PATH or https://HOST:PORT/PATH")));
        }
        Some((origin, _)) if !origin.is_tls => {
            return Err(Refusal::invalid(field, format!("`{url}` does not begin with https://")));
        }
        Some(_) if !url.bytes().all(|b| b.is_ascii_graphic()) || url.contains('#') => {
            return Err(Refusal::invalid(field, "it has spaces, a fragment or characters beyond ASCII: encode them"));
        }
        Some(_) => {}
    }
    bounded(ca_field, ca_pem.unwrap_or_default(), KEYS_BYTES_MAX)
}

fn check_rule(rule: &BindingRule) -> Result<(), Refusal> {
    bounded("Description", &rule.description, TEXT_MAX)?;
    if rule.selector.is_empty() {
        return Ok(());
    }
    let selector = Selector::parse(&rule.selector).map_err(|error| Refusal::invalid("Selector", error.to_string()))?;
    for path in selector.paths() {
        if Variable::of_path(path).is_none() {
            let problem = format!(
                "`{}` is no variable: write `value.name`, `list.name`, or what the method's type knows by itself",
                path.join(".")
            );
            return Err(Refusal::invalid("Selector", problem));
        }
    }
    Ok(())
}
