//! Requests that are sent again under their id: a client that lost the answer learns what became of the first one.

use wire::pki::{LocalRoot, LocalSigner};

use super::*;
use crate::login::testing::{AUDIENCE, ISSUER, Issuer};

/// Sends the same request twice under one id.
async fn twice(api: &Api, id: &str, method: Method, path: &str, body: &Value) -> [Answer; 2] {
    let send = async || {
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let request =
            api.request(method.clone(), path, Some(&api.token)).header("x-weft-request-id", id).body(body).unwrap();
        api.call(request).await
    };
    [send().await, send().await]
}

#[tokio::test]
async fn p13_a13_whatever_is_made_under_a_request_id_is_made_once_and_told_again() {
    let (api, issuer) = (Api::start().await, Issuer::new());
    let method = json!({"Name": "jwt", "Type": "jwt", "Config": {
        "BoundIssuer": ISSUER, "BoundAudiences": [AUDIENCE], "JWTSupportedAlgs": ["ES256"],
        "JWTValidationPubKeys": [issuer.public_pem()], "ClaimMappings": {"team": "team"}}});
    let rows = [
        ("/v1/acl/auth-method", "/v1/acl/auth-methods", 1, method),
        ("/v1/acl/policy", "/v1/acl/policies", 3, json!({"Name": "readers", "Rules": "operator = \"read\""})),
        ("/v1/acl/role", "/v1/acl/roles", 1, json!({"Name": "readers", "Policies": [{"Name": "readers"}]})),
        (
            "/v1/acl/binding-rule",
            "/v1/acl/binding-rules",
            1,
            json!({"AuthMethod": "jwt", "BindType": "service", "BindName": "${value.team}"}),
        ),
    ];
    for (path, listed, count, body) in rows {
        let id = path.rsplit('/').next().unwrap();
        let [first, again] = twice(&api, id, Method::PUT, path, &body).await;
        assert_eq!((first.status, again.status), (StatusCode::OK, StatusCode::OK), "{path}: {}", again.text);
        assert_eq!(first.text, again.text, "{path}");
        assert_eq!(api.get(listed).await.json().as_array().unwrap().len(), count, "{listed}");
        // Under the same id, something else is refused and not swallowed.
        let mut other = body.clone();
        other["Description"] = json!("another one");
        let [other, _] = twice(&api, id, Method::PUT, path, &other).await;
        assert_eq!(other.status, StatusCode::CONFLICT, "{path}: {}", other.text);
        assert!(other.text.contains("request id"), "{}", other.text);
    }
    // A request id marks one request of the whole mesh: under one that somebody else has used, nothing is swallowed either.
    let token = api.put("/v1/acl/token", json!({"Policies": [{"Name": "global-management"}]})).await.json();
    let request = api
        .request(Method::PUT, "/v1/acl/policy", token["SecretID"].as_str())
        .header("x-weft-request-id", "policy")
        .body(Body::from(json!({"Name": "writers", "Rules": "operator = \"write\""}).to_string()))
        .unwrap();
    let answer = api.call(request).await;
    assert_eq!(answer.status, StatusCode::CONFLICT, "{}", answer.text);
    assert!(answer.text.contains("request id `policy` was used for something else"), "{}", answer.text);
    assert_eq!(api.get("/v1/acl/policies").await.json().as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn p13_a_secret_is_told_once_and_a_repeat_says_that_it_is_gone() {
    let api = Api::start().await;
    let made = api.put("/v1/acl/token", json!({})).await.json();
    let copied = format!("/v1/acl/token/{}/clone", made["AccessorID"].as_str().unwrap());
    for (id, path, body) in [
        ("token", "/v1/acl/token", json!({})),
        ("clone", copied.as_str(), json!({})),
        ("join", "/v1/join-token", json!({"Services": ["api"]})),
    ] {
        let [first, again] = twice(&api, id, Method::PUT, path, &body).await;
        assert_eq!((first.status, again.status), (StatusCode::OK, StatusCode::CONFLICT), "{path}: {}", again.text);
        assert!(again.text.contains("secret was handed out then"), "{path}: {}", again.text);
    }
    assert_eq!(api.get("/v1/join-tokens").await.json().as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn p13_a_rotation_is_begun_once_and_told_again() {
    let api = Api::start().await;
    let path = "/v1/connect/ca/rotate";
    let [first, again] = twice(&api, "rotate", Method::PUT, path, &json!({})).await;
    assert_eq!((first.status, again.status), (StatusCode::OK, StatusCode::OK), "{}", again.text);
    assert!(first.json()["Rotation"]["RootID"].is_string());
    assert_eq!(first.json()["Rotation"]["RootID"], again.json()["Rotation"]["RootID"]);
    let [other, _] = twice(&api, "rotate", Method::PUT, path, &json!({"DistrustOld": true})).await;
    assert_eq!(other.status, StatusCode::CONFLICT, "{}", other.text);
    let [other, _] = twice(&api, "rotate-2", Method::PUT, path, &json!({})).await;
    assert_eq!(other.status, StatusCode::CONFLICT, "another request is not that one: {}", other.text);

    let api = Api::start().await;
    let (now, domain) = (wire::crypto::now(), api.consensus().catalog().mesh().unwrap().trust_domain.clone());
    let year = Duration::from_secs(365 * 24 * 3600);
    let root = LocalRoot::create(&domain, now, year * 9).unwrap();
    let signer = root.create_intermediate(now, year).unwrap();
    let given = json!({
        "RootCert": root.certificate_pem(),
        "IntermediateCert": LocalSigner::certificate_pem(&signer),
        "PrivateKey": signer.key_pem().expose(),
    });
    let [first, again] = twice(&api, "own", Method::PUT, "/v1/connect/ca/intermediate", &given).await;
    assert_eq!((first.status, again.status), (StatusCode::OK, StatusCode::OK), "{}", again.text);
    assert_eq!(again.json()["Rotation"]["RootID"], root.id());
}

#[tokio::test]
async fn p13_a_revocation_is_told_again_of_the_agent_that_it_ended_and_of_no_other() {
    let api = Api::start().await;
    let token = api.put("/v1/join-token", json!({"Services": ["api"]})).await.json();
    let accessor = token["AccessorID"].as_str().unwrap().parse().unwrap();
    let secret = api.consensus().catalog().join_tokens().find(|one| one.accessor == accessor).unwrap().secret.clone();
    let enrol = ::catalog::Command::Enrol {
        secret,
        key: ::catalog::KeyFingerprint("key-1".to_owned()),
        node: "vm-1".parse().unwrap(),
        platform: ::catalog::Platform::Vm,
    };
    api.consensus().propose_as_server(enrol).await.unwrap();
    let agent = api.consensus().catalog().agent_on(&"vm-1".parse().unwrap()).unwrap().id.to_string();
    let [first, again] = twice(&api, "gone", Method::PUT, "/v1/revoke/agent/vm-1", &Value::Null).await;
    assert_eq!((first.status, again.status), (StatusCode::OK, StatusCode::OK), "{}", again.text);
    assert_eq!(first.text, again.text);
    let [by_id, _] = twice(&api, "gone", Method::PUT, &format!("/v1/revoke/agent/{agent}"), &Value::Null).await;
    assert_eq!(by_id.status, StatusCode::OK, "{}", by_id.text);
    for other in ["node", "of", "agent", "vm-2"] {
        let [answer, _] = twice(&api, "gone", Method::PUT, &format!("/v1/revoke/agent/{other}"), &Value::Null).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{other}: {}", answer.text);
    }
    let [another, _] = twice(&api, "gone-2", Method::PUT, "/v1/revoke/agent/vm-1", &Value::Null).await;
    assert_eq!(another.status, StatusCode::NOT_FOUND, "another request is not that one: {}", another.text);
}

#[tokio::test]
async fn no_request_for_matches_has_more_than_a_few_names() {
    let api = Api::start().await;
    assert_eq!(
        api.put("/v1/connect/intentions/exact?source=web&destination=api", json!({"Action": "allow"})).await.status,
        StatusCode::OK
    );
    let asked = |count: usize| {
        let names: String = (0..count).map(|number| format!("&name=api{number}")).collect();
        format!("/v1/connect/intentions/match?by=destination&name=api{names}")
    };
    let answer = api.get(&asked(63)).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    assert_eq!(answer.json()["api"].as_array().unwrap().len(), 1);
    let answer = api.get(&asked(64)).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert!(answer.text.contains("`name`") && answer.text.contains("at most 64"), "{}", answer.text);
}
