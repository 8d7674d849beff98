//! Who somebody is, told by tables of rules and claims, and which methods and rules may be written.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::{Catalog, Command, Refusal};

fn method() -> AuthMethod {
    let jwt = JwtConfig {
        issuer: "https://issuer.example".to_owned(),
        audiences: vec!["weft".to_owned()],
        algorithms: vec![JwtAlgorithm::ES256],
        keys: JwtKeys::Pem(vec!["(pem)".to_owned()]),
        claims: BTreeMap::from(["team", "name", "ns"].map(|claim| (claim.to_owned(), claim.to_owned()))),
        list_claims: BTreeMap::from([("groups".to_owned(), "groups".to_owned())]),
        clock_skew: Duration::from_secs(30),
    };
    AuthMethod {
        name: "jwt".parse().unwrap(),
        display_name: String::new(),
        description: String::new(),
        namespace: "shop".parse().unwrap(),
        token_ttl: LOGIN_TOKEN_TTL,
        config: AuthConfig::Jwt(Box::new(jwt)),
        rules_modified: CatalogIndex(0),
        created: CatalogIndex(0),
        modified: CatalogIndex(0),
    }
}

fn rule(number: usize, bind: BindKind, name: &str, selector: &str) -> BindingRule {
    BindingRule {
        id: format!("00000000-0000-0000-0000-0000000000{number:02x}").parse().unwrap(),
        description: String::new(),
        method: "jwt".parse().unwrap(),
        selector: selector.to_owned(),
        bind,
        name: name.parse().unwrap(),
        created: CatalogIndex(0),
        modified: CatalogIndex(0),
    }
}

fn bind(rules: &[(BindKind, &str, &str)], values: &[(&str, &str)], groups: &[&str]) -> Result<Bound, Refusal> {
    let mut catalog = Catalog::default();
    catalog.auth_methods.insert("jwt".parse().unwrap(), Arc::new(method()));
    for (number, (kind, name, selector)) in rules.iter().enumerate() {
        let rule = rule(number, *kind, name, selector);
        catalog.binding_rules.insert(rule.id.clone(), Arc::new(rule));
    }
    let claims = LoginClaims {
        subject: "somebody".to_owned(),
        values: values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        lists: BTreeMap::from([("groups".to_owned(), groups.iter().map(|group| (*group).to_owned()).collect())]),
        facts: BTreeMap::new(),
    };
    catalog.bind(&"jwt".parse().unwrap(), &claims)
}

fn texts<T: ToString>(set: &std::collections::BTreeSet<T>) -> Vec<String> {
    set.iter().map(ToString::to_string).collect()
}

#[test]
fn somebody_is_what_all_rules_that_select_them_say() {
    let rules = [
        (BindKind::Service, "${value.team}-web", ""),
        (BindKind::Service, "${value.ns}/api", "value.ns is not empty"),
        (BindKind::Node, "pod-${value.name}", ""),
        (BindKind::Role, "ops", "\"ops\" in list.groups"),
        (BindKind::Policy, "read-${value.team}", "value.team matches `^[a-z]+$`"),
        (BindKind::Role, "nobody", "value.team == \"other\""),
    ];
    let bound = bind(&rules, &[("team", "blue"), ("name", "7"), ("ns", "prod")], &["ops", "dev"]).unwrap();
    assert_eq!(texts(&bound.services), ["prod/api", "shop/blue-web"]);
    assert_eq!(texts(&bound.nodes), ["pod-7"]);
    assert_eq!(texts(&bound.roles), ["ops"]);
    assert_eq!(texts(&bound.policies), ["read-blue"]);
}

#[test]
fn whom_no_rule_selects_is_nobody() {
    let rules =
        [(BindKind::Service, "web", "value.team == \"blue\""), (BindKind::Role, "ops", "value.team in list.groups")];
    for values in [&[][..], &[("team", "red")], &[("team", "")]] {
        let refusal = bind(&rules, values, &[]).unwrap_err();
        assert!(matches!(refusal, Refusal::LoginUnbound { .. }), "{refusal}");
    }
    assert!(bind(&[], &[("team", "blue")], &[]).is_err());
}

#[test]
fn a_selector_that_cannot_be_answered_selects_nobody() {
    // `list.groups` is a list: it has no equal and no pattern, and "not" makes no yes of that.
    for selector in ["list.groups == \"ops\"", "not list.groups == \"ops\"", "list.groups matches `.*`", "value.team ="]
    {
        assert!(bind(&[(BindKind::Service, "web", selector)], &[("team", "blue")], &["ops"]).is_err(), "{selector}");
    }
}

#[test]
fn c10_a_claim_reaches_no_further_than_its_place_in_the_name() {
    let rules = [(BindKind::Service, "${value.team}", "")];
    assert!(bind(&rules, &[("team", "web")], &[]).is_ok());
    for team in ["", "prod/web", "*", "${value.name}", "../web", ".", "..", "web\n", "we b", "wéb", "Web", "a.b", "a\0"]
    {
        let refusal = bind(&rules, &[("team", team)], &[]).unwrap_err();
        assert!(matches!(refusal, Refusal::LoginName { .. }), "{team:?}: {refusal}");
    }
    // One rule that cannot be carried out denies the whole login.
    let rules = [(BindKind::Service, "web", ""), (BindKind::Node, "${value.name}", "")];
    assert!(bind(&rules, &[("name", "a/b")], &[]).is_err());
}

#[test]
fn a_template_is_a_name_with_variables_and_nothing_else() {
    let facts = ["${entity_name}", "${serviceaccount.namespace}/${serviceaccount.name}"];
    for good in ["web", "${value.team}", "a-${value.team}-${ value.name }", "ns/${value.name}"].into_iter().chain(facts)
    {
        assert_eq!(good.parse::<NameTemplate>().unwrap().as_str(), good);
    }
    for bad in [
        "",
        "${value.team",
        "${list.groups}",
        "${list}",
        "${value}",
        "${value.a.b}",
        "${value.}",
        "${a..b}",
        "${}",
        "${value.a b}",
        "${value.${value.a}}",
        &"x".repeat(300),
    ] {
        assert!(bad.parse::<NameTemplate>().is_err(), "{bad}");
    }
    let template: NameTemplate = "a-${value.x}".parse().unwrap();
    assert_eq!(serde_json::to_string(&template).unwrap(), "\"a-${value.x}\"");
    assert_eq!(serde_json::from_str::<NameTemplate>("\"a-${value.x}\"").unwrap(), template);
}

fn aws(principals: &[&str], sts_endpoint: Option<&str>) -> AuthMethod {
    let principals = principals.iter().map(|principal| principal.parse().unwrap()).collect();
    let config = AwsIamConfig { principals, sts_endpoint: sts_endpoint.map(str::to_owned) };
    AuthMethod { name: "aws".parse().unwrap(), config: AuthConfig::AwsIam(Box::new(config)), ..method() }
}

#[test]
fn what_a_type_knows_by_itself_is_named_without_a_mapping() {
    let mut catalog = Catalog::default();
    let method = aws(&["arn:aws:iam::123456789012:role/*"], None);
    catalog.auth_methods.insert(method.name.clone(), Arc::new(method));
    let rules = [
        (BindKind::Service, "${entity_name}", "account_id == \"123456789012\""),
        (BindKind::Node, "${session_name}", ""),
        (BindKind::Role, "ops", "entity_type == \"user\""),
    ];
    for (number, (kind, name, selector)) in rules.into_iter().enumerate() {
        let rule = BindingRule { method: "aws".parse().unwrap(), ..rule(number, kind, name, selector) };
        catalog.binding_rules.insert(rule.id.clone(), Arc::new(rule));
    }
    let facts =
        [("entity_name", "web"), ("account_id", "123456789012"), ("session_name", "0a1b"), ("entity_type", "role")];
    let facts = facts.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let bound = catalog.bind(&"aws".parse().unwrap(), &LoginClaims { facts, ..LoginClaims::default() }).unwrap();
    assert_eq!((texts(&bound.services), texts(&bound.nodes)), (vec!["shop/web".to_owned()], vec!["0a1b".to_owned()]));
    assert!(bound.roles.is_empty());
}

#[test]
fn c11_a_method_of_aws_names_whom_it_takes_and_one_endpoint_that_nobody_can_stand_in_for() {
    let check = |method: AuthMethod| {
        Command::Login { change: LoginChange::WriteMethod { method: Box::new(method), replace: false } }.validate()
    };
    let web = ["arn:aws:iam::123456789012:role/web"];
    assert!(check(aws(&[], None)).unwrap_err().to_string().starts_with("BoundIAMPrincipalARNs"));
    for good in [
        None,
        Some("https://sts.eu-west-1.amazonaws.com"),
        Some("https://vpce-1.internal:8443/"),
        Some("http://127.0.0.1:5555"),
    ] {
        assert_eq!(check(aws(&web, good)), Ok(()), "{good:?}");
    }
    for bad in [
        "http://sts.amazonaws.com",
        "http://127.evil.example",
        "https://a:0",
        "http://localhost.evil.example",
        "sts.amazonaws.com",
        "https://",
        "https://a@b",
        "https://a/path",
        "https://a?b",
        "https://a b",
        "ftp://a",
        "https://A",
    ] {
        assert!(check(aws(&web, Some(bad))).unwrap_err().to_string().starts_with("STSEndpoint"), "{bad}");
    }
}

#[track_caller]
fn refused(change: impl FnOnce(&mut AuthMethod, &mut JwtConfig), field: &str) {
    let mut method = method();
    let AuthConfig::Jwt(jwt) = &method.config else { panic!("it is of type jwt") };
    let mut jwt = jwt.clone();
    change(&mut method, &mut jwt);
    method.config = AuthConfig::Jwt(jwt);
    let command = Command::Login { change: LoginChange::WriteMethod { method: Box::new(method), replace: false } };
    let refusal = command.validate().unwrap_err();
    assert!(refusal.to_string().starts_with(field), "{refusal}");
}

#[test]
fn j2_a_method_names_its_issuer_its_audience_and_its_algorithms() {
    let good = Command::Login { change: LoginChange::WriteMethod { method: Box::new(method()), replace: false } };
    assert_eq!(good.validate(), Ok(()));
    refused(|_, jwt| jwt.issuer.clear(), "BoundIssuer");
    refused(|_, jwt| jwt.audiences.clear(), "BoundAudiences");
    refused(|_, jwt| jwt.audiences.push(String::new()), "BoundAudiences");
    refused(|_, jwt| jwt.algorithms.clear(), "JWTSupportedAlgs");
    refused(|_, jwt| jwt.keys = JwtKeys::Pem(Vec::new()), "JWTValidationPubKeys");
    refused(|_, jwt| jwt.clock_skew = Duration::from_secs(3600), "ClockSkewLeeway");
    refused(|method, _| method.token_ttl = Duration::from_secs(1), "MaxTokenTTL");
    refused(|_, jwt| drop(jwt.claims.insert("x".to_owned(), "no name".to_owned())), "ClaimMappings");
    refused(|_, jwt| drop(jwt.claims.insert("x".to_owned(), "team".to_owned())), "ClaimMappings");
    for name in ["HS256", "none", "ES512", "es256", ""] {
        assert!(name.parse::<JwtAlgorithm>().is_err(), "{name}");
    }
    for algorithm in JwtAlgorithm::ALL {
        assert_eq!(algorithm.name().parse(), Ok(algorithm));
    }
}

#[test]
fn a9_keys_are_fetched_by_https_from_a_named_host_only() {
    for url in [
        "http://issuer.example/keys",
        "file:///etc/passwd",
        "https://",
        "https:///keys",
        "https://a@b/",
        "https://a/ b",
        "https://a/#b",
        "ftp://a",
    ] {
        let keys = || JwtKeys::Url { url: url.to_owned(), ca_pem: None };
        refused(|_, jwt| jwt.keys = keys(), "JWKSURL");
        refused(|_, jwt| jwt.keys = JwtKeys::Discovery { url: url.to_owned(), ca_pem: None }, "OIDCDiscoveryURL");
    }
}

#[test]
fn nobody_logs_in_as_management() {
    assert!("management".parse::<BindKind>().unwrap_err().to_string().contains("nobody logs in as management"));
    let secret = crate::SecretHash("x".to_owned());
    let accessor = "00000000-0000-0000-0000-000000000001".parse().unwrap();
    let token = Token::new(accessor, secret, crate::Rights::Management, Timestamp(1));
    let change =
        LoginChange::GrantToken { token: Box::new(token), method: "jwt".parse().unwrap(), judged_at: CatalogIndex(1) };
    assert!(Command::Login { change }.validate().is_err());
}

#[test]
fn a_rules_selector_is_read_before_it_is_stored() {
    for selector in
        ["value.team ==", "value == \"a\"", "value.a.b == \"x\"", "list.a.b == \"x\"", "value[\"a b\"] == \"x\""]
    {
        let rule = Box::new(rule(1, BindKind::Service, "web", selector));
        let refusal =
            Command::Login { change: LoginChange::WriteRule { rule, replace: false } }.validate().unwrap_err();
        assert!(refusal.to_string().starts_with("Selector"), "{refusal}");
    }
}

#[test]
fn c10_a_method_of_kubernetes_names_audiences_and_an_address_that_nobody_can_stand_in_for() {
    let check = |host: Option<&str>, audiences: &[&str]| {
        let config = KubernetesConfig {
            host: host.map(str::to_owned),
            audiences: audiences.iter().map(|audience| (*audience).to_owned()).collect(),
        };
        let method = AuthMethod { config: AuthConfig::Kubernetes(Box::new(config)), ..method() };
        let change = LoginChange::WriteMethod { method: Box::new(method), replace: false };
        crate::Command::Login { change }.validate()
    };
    for host in [
        "https://kubernetes.default.svc",
        "https://10.0.0.1:6443",
        "https://[fd00::1]:6443/",
        "https://ABC.eks.amazonaws.com",
    ] {
        assert_eq!(check(Some(host), &["weft"]), Ok(()), "{host}");
    }
    assert_eq!(check(None, &["weft", "weft/east"]), Ok(()));
    for (host, audiences, field) in [
        (Some("http://10.0.0.1"), &["weft"][..], "Host"),
        (Some("http://127.0.0.1"), &["weft"], "Host"),
        (Some("https://a/path"), &["weft"], "Host"),
        (Some("https://a@b"), &["weft"], "Host"),
        (Some("https://a:0"), &["weft"], "Host"),
        (Some("10.0.0.1"), &["weft"], "Host"),
        (None, &["https://kubernetes.default.svc.cluster.local"], "BoundAudiences"),
        (None, &[], "BoundAudiences"),
        (None, &[""], "BoundAudiences"),
    ] {
        let refusal = check(host, audiences).unwrap_err().to_string();
        assert!(refusal.starts_with(field), "{host:?} {audiences:?}: {refusal}");
    }
}
