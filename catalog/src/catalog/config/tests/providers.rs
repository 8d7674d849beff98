//! What changes of providers of tokens promise.

use super::*;
use crate::{
    JwtKeys, JwtProvider, JwtRequirement, ProviderName, TokenForwarding, TokenLocation, TokenProvider, VerifyClaim,
};

fn provider(name: &str, issuer: &str) -> TokenProvider {
    let keys = JwtKeys::Url { url: format!("{issuer}/keys"), ca_pem: None };
    TokenProvider::new(name.parse().unwrap(), issuer.to_owned(), keys)
}

pub(super) fn plain(name: &str, issuer: &str) -> ConfigContent {
    ConfigContent::JwtProvider(Box::new(provider(name, issuer)))
}

/// A provider that says everything that one can say.
pub(super) fn full(name: &str) -> ConfigContent {
    let (header, prefix) = ("x-token".to_owned(), "Token ".to_owned());
    ConfigContent::JwtProvider(Box::new(TokenProvider {
        audiences: vec!["api".to_owned()],
        keys: JwtKeys::Url { url: "https://okta.example/keys".to_owned(), ca_pem: Some("a CA".to_owned()) },
        fresh_seconds: 60,
        timeout_ms: 1_000,
        fetch_ahead: true,
        locations: vec![
            TokenLocation::Header { name: header, prefix, forward: true },
            TokenLocation::Query { name: "token".to_owned() },
            TokenLocation::Cookie { name: "token".to_owned() },
        ],
        forwarding: Some(TokenForwarding { header: "x-claims".to_owned(), pad: true }),
        clock_skew_seconds: 5,
        remembered: 16,
        ..provider(name, "https://okta.example")
    }))
}

/// An intention that asks for a token, and one of a permission's own.
pub(super) fn asking(destination: &str, of: &str) -> Command {
    let requirement = |value: &str| JwtRequirement {
        providers: vec![JwtProvider {
            name: of.to_owned(),
            verify_claims: vec![VerifyClaim { path: vec!["role".to_owned()], value: value.to_owned() }],
        }],
    };
    let mut intention = Intention::new("batch".parse().unwrap(), destination.parse().unwrap(), Action::Allow);
    let http = HttpMatch { path: Some(PathMatch::Prefix("/".to_owned())), ..HttpMatch::default() };
    let permission = Permission { jwt: Some(requirement("admin")), ..Permission::new(Action::Allow, http) };
    intention.effect = Effect::Permissions(vec![permission]);
    intention.jwt = Some(requirement("user"));
    Command::WriteIntention { intention: Box::new(intention), mode: WriteMode::Upsert }
}

pub(super) fn key(name: &str) -> ConfigKey {
    ConfigKey::JwtProvider(name.parse::<ProviderName>().unwrap())
}

#[test]
fn j3_rules_name_providers_that_there_are_and_keep_them() {
    let mut log = Log::default();
    log.done(write(defaults("api", Some(Protocol::Http))));
    let refusal = log.refused(asking("api", "okta")).to_string();
    assert!(refusal.contains("there is no jwt-provider `okta`"), "{refusal}");
    assert_eq!(write(full("okta")).validate(), Ok(()));
    log.done(write(full("okta")));
    log.done(asking("api", "okta"));
    let refusal = log.refused(delete(key("okta"))).to_string();
    assert!(
        refusal.starts_with("jwt-provider/okta: ") && refusal.contains("default/batch => default/api"),
        "{refusal}"
    );
    // Others may go, and it may change.
    log.done(write(plain("auth0", "https://auth0.example")));
    log.done(delete(key("auth0")));
    log.done(write(plain("okta", "https://other.example")));
    log.done(Command::DeleteIntention {
        key: crate::IntentionKey { destination: "api".parse().unwrap(), source: "batch".parse().unwrap() },
        compare: None,
    });
    log.done(delete(key("okta")));
}

#[test]
fn j3_agents_are_told_of_the_providers_that_their_rules_name_and_of_no_others() {
    let mut log = Log::default();
    log.done(write(defaults("api", Some(Protocol::Http))));
    log.done(write(plain("okta", "https://okta.example")));
    log.done(write(plain("auth0", "https://auth0.example")));
    log.done(asking("api", "okta"));
    let told = |log: &Log, service_name: &str| -> Vec<String> {
        log.catalog.view(&Topic::Intentions(service(service_name))).into_keys().collect()
    };
    assert_eq!(told(&log, "api"), ["default/batch => default/api", "jwt-provider/okta"]);
    assert!(told(&log, "web").is_empty() && log.catalog.view(&Topic::Config(service("web"))).is_empty());
    let touched = log.done(write(plain("okta", "https://new.example")));
    assert!(Catalog::reads(&Topic::Intentions(service("api"))).iter().any(|key| touched.contains(key)));
    assert!(!touched.contains(&WatchKey::ProxyDefaults), "{touched:?}");
}
