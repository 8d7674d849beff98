//! Auth methods, binding rules, and logging in for a token.

use super::*;
use crate::login::testing::{AUDIENCE, ISSUER, Issuer};

fn method(issuer: &Issuer) -> Value {
    json!({"Name": "jwt", "Type": "jwt", "Description": "of the cluster", "Config": {
        "BoundIssuer": ISSUER, "BoundAudiences": [AUDIENCE], "JWTSupportedAlgs": ["ES256"],
        "JWTValidationPubKeys": [issuer.public_pem()], "ClaimMappings": {"team": "team"},
        "ListClaimMappings": {"groups": "groups"}}})
}

fn rule(kind: &str, name: &str, selector: &str) -> Value {
    json!({"AuthMethod": "jwt", "BindType": kind, "BindName": name, "Selector": selector})
}

async fn made(api: &Api, path: &str, body: Value) -> Value {
    let answer = api.put(path, body).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    answer.json()
}

async fn log_in(api: &Api, bearer: &str) -> super::harness::Answer {
    let body = json!({"AuthMethod": "jwt", "BearerToken": bearer, "Meta": {"pod": "web-7"}});
    api.send(Method::POST, "/v1/acl/login", None, body).await
}

#[tokio::test]
async fn methods_and_rules_are_made_read_changed_and_removed() {
    let (api, issuer) = (Api::start().await, Issuer::new());
    let made_method = made(&api, "/v1/acl/auth-method", method(&issuer)).await;
    assert_eq!((&made_method["Name"], &made_method["MaxTokenTTL"]), (&json!("jwt"), &json!("3600s")));
    assert_eq!(api.put("/v1/acl/auth-method", method(&issuer)).await.status, StatusCode::CONFLICT);
    let mut changed = method(&issuer);
    changed["MaxTokenTTL"] = json!("5m");
    assert_eq!(made(&api, "/v1/acl/auth-method/jwt", changed).await["MaxTokenTTL"], "300s");
    assert_eq!(api.get("/v1/acl/auth-method/jwt").await.json()["Description"], "of the cluster");
    assert_eq!(api.get("/v1/acl/auth-methods").await.json().as_array().unwrap().len(), 1);
    assert_eq!(api.get("/v1/acl/auth-method/none").await.status, StatusCode::NOT_FOUND);
    let mut broken = method(&issuer);
    broken["Config"]["JWTValidationPubKeys"] = json!(["nonsense"]);
    broken["Name"] = json!("broken");
    let answer = api.put("/v1/acl/auth-method", broken).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert!(answer.text.contains("key 1 is no PEM public key"), "{}", answer.text);

    let made_rule = made(&api, "/v1/acl/binding-rule", rule("service", "${value.team}", "value.team != \"\"")).await;
    let at = format!("/v1/acl/binding-rule/{}", made_rule["ID"].as_str().unwrap());
    let mut changed = made_rule.clone();
    changed["Description"] = json!("for teams");
    assert_eq!(made(&api, &at, changed).await["Description"], "for teams");
    assert_eq!(api.get(&at).await.json()["Selector"], "value.team != \"\"");
    assert_eq!(api.get("/v1/acl/binding-rules?authmethod=jwt").await.json().as_array().unwrap().len(), 1);
    assert_eq!(api.get("/v1/acl/binding-rules?authmethod=other").await.json(), json!([]));
    for (body, want) in [
        (rule("management", "x", ""), "nobody logs in as management"),
        (rule("service", "${value.nope}", ""), "has no `value.nope`"),
        (rule("service", "web", "value.team =="), "cannot be read"),
    ] {
        let answer = api.put("/v1/acl/binding-rule", body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.text);
        assert!(answer.text.contains(want), "{}", answer.text);
    }
    let answer = api.send(Method::DELETE, &at, Some(&api.token), Value::Null).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    assert_eq!(api.get(&at).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_login_makes_a_token_that_stands_for_what_the_rules_say_and_logout_ends_it() {
    let (api, issuer) = (Api::start().await, Issuer::new());
    made(&api, "/v1/acl/auth-method", method(&issuer)).await;
    made(&api, "/v1/acl/binding-rule", rule("service", "${value.team}", "value.team is not empty")).await;
    made(&api, "/v1/acl/binding-rule", rule("policy", "global-read-only", "\"ops\" in list.groups")).await;

    let answer = log_in(&api, &issuer.token(&json!({"team": "web", "groups": ["ops"]}))).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    let token = answer.json();
    assert_eq!(token["Description"], "token created via login: {\"pod\":\"web-7\"}");
    assert!(token["ExpirationTime"].is_string(), "{token}");
    let secret = token["SecretID"].as_str().unwrap().to_owned();
    let stored = api.consensus().catalog();
    let stored = stored.tokens().find(|token| token.auth_method.as_deref() == Some("jwt")).unwrap();
    assert_eq!((stored.service_identities.len(), stored.policies.len()), (1, 1));
    let own = api.send(Method::GET, "/v1/acl/token/self", Some(&secret), Value::Null).await;
    assert_eq!(own.status, StatusCode::OK, "{}", own.text);
    let sees = api.send(Method::GET, "/v1/acl/tokens", Some(&secret), Value::Null).await;
    assert_eq!(sees.status, StatusCode::OK, "{}", sees.text);
    let lacks = api.send(Method::PUT, "/v1/acl/token", Some(&secret), json!({})).await;
    assert_eq!(lacks.status, StatusCode::FORBIDDEN, "a login gives no more than the rules say");

    let out = api.send(Method::POST, "/v1/acl/logout", Some(&secret), Value::Null).await;
    assert_eq!(out.status, StatusCode::OK, "{}", out.text);
    let after = api.send(Method::GET, "/v1/acl/token/self", Some(&secret), Value::Null).await;
    assert_eq!(after.status, StatusCode::FORBIDDEN);
    let kept = api.send(Method::POST, "/v1/acl/logout", Some(&api.token), Value::Null).await;
    assert_eq!(kept.status, StatusCode::FORBIDDEN, "only a login's token is ended by logging out");
}

#[tokio::test]
async fn a_login_that_does_not_count_gets_no_token() {
    let (api, issuer) = (Api::start().await, Issuer::new());
    made(&api, "/v1/acl/auth-method", method(&issuer)).await;
    made(&api, "/v1/acl/binding-rule", rule("policy", "${value.team}", "value.team is not empty")).await;
    let mut answers = Vec::new();
    for bearer in [
        "nonsense".to_owned(),
        Issuer::new().token(&json!({"team": "x"})),
        issuer.token(&json!({})),
        // Whoever may choose a claim must not choose to be everything.
        issuer.token(&json!({"team": "global-management"})),
    ] {
        answers.push(log_in(&api, &bearer).await);
    }
    let unknown = json!({"AuthMethod": "other", "BearerToken": "x"});
    answers.push(api.send(Method::POST, "/v1/acl/login", None, unknown).await);
    for answer in answers {
        // Which methods there are, and what a credential lacks, is nobody's business who has none that counts.
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{}", answer.text);
        assert_eq!(answer.text, format!("Permission denied: {}", crate::login::DENIED));
    }
    assert_eq!(api.consensus().catalog().tokens().count(), 1);
}

#[tokio::test]
async fn a_login_is_linked_to_what_is_of_its_own_namespace_and_to_nothing_else() {
    let (api, issuer) = (Api::start().await, Issuer::new());
    made(&api, "/v1/acl/auth-method", method(&issuer)).await;
    made(&api, "/v1/acl/binding-rule", rule("service", "shop/${value.team}", "value.team is not empty")).await;
    made(&api, "/v1/acl/binding-rule", rule("policy", "readers", "\"readers\" in list.groups")).await;
    made(&api, "/v1/acl/binding-rule", rule("role", "ops", "\"ops\" in list.groups")).await;
    made(&api, "/v1/acl/binding-rule", rule("node", "n1", "\"nodes\" in list.groups")).await;
    let (policy, role) = (json!({"Name": "readers", "Rules": ""}), json!({"Name": "ops"}));
    made(&api, "/v1/acl/policy", policy.clone()).await;
    made(&api, "/v1/acl/role", role).await;
    let with = |group: &str| issuer.token(&json!({"team": "web", "groups": [group]}));
    // Rights stay in their namespace: all of these would be tokens that promise more than they do.
    for group in ["readers", "ops", "nodes"] {
        let answer = log_in(&api, &with(group)).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{group}: {}", answer.text);
    }
    let own = made(&api, "/v1/acl/policy?ns=shop", policy).await;
    let answer = log_in(&api, &with("readers")).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    assert_eq!(answer.json()["Policies"][0]["ID"], own["ID"]);
    // What is nowhere grants nothing.
    assert_eq!(log_in(&api, &with("nobody")).await.status, StatusCode::OK);
}
