use wire::crypto::Secret;
use wire::login::CredentialFor;

use super::super::sign::signed;
use super::super::testing::{SECRET, SESSION, Sts, credentials, identity};
use super::*;

const REGION: &str = "eu-west-1";
const CLUSTER: &str = "11111111-2222-3333-4444-555555555555";

fn key(text: &str) -> KeyFingerprint {
    KeyFingerprint(wire::crypto::sha256_hex(text.as_bytes()))
}

fn method(sts: &Sts, principals: &[&str]) -> AwsIam {
    wire::crypto::install_provider();
    let principals = principals.iter().map(|principal| principal.parse().unwrap()).collect();
    AwsIam::new(AwsIamConfig { principals, sts_endpoint: Some(sts.endpoint.clone()) }, Reach::Loopback).unwrap()
}

fn web(sts: &Sts) -> AwsIam {
    method(sts, &["arn:aws:iam::123456789012:role/web"])
}

/// Signs as an agent with the key `agent` does, now.
fn sign(endpoint: &str) -> Signed {
    sign_for(endpoint, CLUSTER, &key("agent"), wire::crypto::now())
}

fn sign_for(endpoint: &str, cluster_id: &str, key: &KeyFingerprint, now: Timestamp) -> Signed {
    signed(&credentials(), endpoint, REGION, CredentialFor { cluster_id, key, now }).unwrap()
}

fn bearer(signed: &Signed) -> Credential {
    Credential { bearer: Secret::new(serde_json::to_string(signed).unwrap()) }
}

async fn login(method: &AwsIam, signed: &Signed) -> Result<VerifiedIdentity, LoginError> {
    let credential = bearer(signed);
    method.glance(&credential)?;
    let key = key("agent");
    let context = LoginContext { cluster_id: CLUSTER, key: Some(&key), now: wire::crypto::now() };
    method.verify(&credential, context).await
}

#[track_caller]
fn is_rejected(result: Result<VerifiedIdentity, LoginError>, want: &str) {
    match result {
        Err(LoginError::Rejected { reason }) => {
            assert!(reason.contains(want), "{reason} has no {want}");
            assert!(!reason.contains(SESSION) && !reason.contains(SECRET), "{reason}");
        }
        other => panic!("wanted {want}: {other:?}"),
    }
}

#[tokio::test]
async fn c11_whoever_signs_with_a_roles_credentials_is_that_role() {
    let sts = Sts::start().await;
    let found = login(&web(&sts), &sign(&sts.endpoint)).await.unwrap();
    assert_eq!(found.claims.subject, "arn:aws:iam::123456789012:role/web");
    let facts: Vec<(&str, &str)> =
        found.claims.facts.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(
        facts,
        [
            ("account_id", "123456789012"),
            ("entity_id", "AROAEXAMPLE"),
            ("entity_name", "web"),
            ("entity_type", "role"),
            ("session_name", "0a1b"),
        ]
    );
    assert!(found.ends.since(wire::crypto::now()) <= AGE_MAX);
    // Every variable that a rule may name is there, and no other.
    let known = AuthConfig::AwsIam(Box::new(web(&sts).config.clone())).variables();
    assert_eq!(
        known.iter().map(ToString::to_string).collect::<Vec<_>>(),
        facts.iter().map(|fact| fact.0).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn c11_a_signature_is_worth_nothing_for_another_mesh_or_another_key() {
    let sts = Sts::start().await;
    let (method, now) = (web(&sts), wire::crypto::now());
    // Whoever sees a login cannot use it: the server puts in the key and the mesh that it knows, and the signature breaks.
    let stolen = sign_for(&sts.endpoint, CLUSTER, &key("victim"), now);
    is_rejected(login(&method, &stolen).await, "SignatureDoesNotMatch");
    let elsewhere = sign_for(&sts.endpoint, "another-mesh", &key("agent"), now);
    is_rejected(login(&method, &elsewhere).await, "SignatureDoesNotMatch");
    assert_eq!(sts.asked(), 2);
    // Nobody logs in for a token with what is bound to no key.
    let context = LoginContext { cluster_id: CLUSTER, key: None, now };
    is_rejected(method.verify(&bearer(&sign(&sts.endpoint)), context).await, "are for agents");
}

#[tokio::test]
async fn c11_what_a_caller_sends_decides_nothing_about_the_question() {
    let sts = Sts::start().await;
    let method = web(&sts);
    let good = sign(&sts.endpoint);
    let with = |change: &dyn Fn(&mut Signed)| {
        let mut signed = good.clone();
        change(&mut signed);
        signed
    };
    let authorization = |from: &str, to: &str| {
        assert!(good.authorization.contains(from), "{}", good.authorization);
        with(&|signed| signed.authorization = signed.authorization.replace(from, to))
    };
    let covered = good.signed_headers();
    for (signed, want) in [
        // Another endpoint, so that somebody else says who it is.
        (with(&|signed| signed.endpoint = "https://sts.evil.example".to_owned()), "does not ask"),
        (with(&|signed| signed.endpoint = format!("{}/x", signed.endpoint)), "does not ask"),
        (with(&|signed| signed.endpoint = "https://sts.amazonaws.com".to_owned()), "does not ask"),
        // Headers that the signature leaves out, or has besides.
        (authorization(";x-weft-cluster", ""), "must cover"),
        (authorization(";x-weft-key", ""), "must cover"),
        (authorization(";x-amz-security-token", ""), "must cover"),
        (authorization(covered, &format!("{covered};x-weft-more")), "must cover"),
        (authorization(covered, &format!("accept;{covered}")), "must cover"),
        (authorization(covered, "host"), "must cover"),
        (with(&|signed| signed.security_token = None), "must cover"),
        // Another service, another day, and what is no signature at all.
        (authorization("/sts/", "/iam/"), "another service or day"),
        (authorization("/aws4_request", "/aws4_request/x"), "version 4"),
        (authorization("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"), "version 4"),
        (authorization(", Signature=", ", Signature=x"), "version 4"),
        (authorization("Credential=ASIA", "Credential=asia"), "version 4"),
        (authorization("/eu-west-1/", "/eu west/"), "version 4"),
        (with(&|signed| signed.authorization = "Bearer x".to_owned()), "version 4"),
        (with(&|signed| signed.authorization.push_str(", Signature=00")), "version 4"),
        (with(&|signed| signed.date = "2026-11-21T08:00:00Z".to_owned()), "its date"),
        (with(&|signed| signed.security_token = Some("a\r\nx-evil: b".to_owned())), "session token"),
    ] {
        is_rejected(login(&method, &signed).await, want);
    }
    assert_eq!(sts.asked(), 0, "AWS is not asked what cannot count");
    // Unknown fields, and other ways to write the same: what is remembered as used must be one text.
    let text = serde_json::to_string(&good).unwrap();
    for (text, want) in [
        (text.replacen('{', "{\"headers\":{\"host\":\"evil.example\"},", 1), "no signed question"),
        (text.replacen('{', "{\"url\":\"https://sts.amazonaws.com/?Action=AssumeRole\",", 1), "no signed question"),
        (text.replacen("\"endpoint\":", "\"endpoint\": ", 1), "as agents write it"),
        (text.replacen("\"date\"", "\"\\u0064ate\"", 1), "as agents write it"),
        ("{}".to_owned(), "no signed question"),
        (String::new(), "no signed question"),
        ("eyJhbGciOiJub25lIn0.e30.".to_owned(), "no signed question"),
    ] {
        let error = method.glance(&Credential { bearer: Secret::new(text) }).unwrap_err();
        assert!(error.to_string().contains(want), "{error}");
    }
}

#[tokio::test]
async fn c11_a_signature_counts_for_a_quarter_of_an_hour() {
    let sts = Sts::start().await;
    let (method, now) = (web(&sts), wire::crypto::now());
    let second = Duration::from_secs(1);
    for (at, is_good) in [
        (now.saturating_sub(AGE_MAX - 5 * second), true),
        (now.saturating_sub(AGE_MAX + 5 * second), false),
        (now.saturating_add(AHEAD_MAX - 5 * second), true),
        (now.saturating_add(AHEAD_MAX + 5 * second), false),
        (Timestamp(0), false),
    ] {
        let result = login(&method, &sign_for(&sts.endpoint, CLUSTER, &key("agent"), at)).await;
        if is_good {
            let ends = result.unwrap().ends;
            assert!(ends.since(at) <= AGE_MAX && at.saturating_add(AGE_MAX).since(ends) < second, "{at}: {ends}");
        } else {
            is_rejected(result, "clocks");
        }
    }
}

#[tokio::test]
async fn c11_an_identity_of_another_account_or_kind_is_nobody() {
    let sts = Sts::start().await;
    let method = method(&sts, &["arn:aws:iam::123456789012:role/web", "arn:aws:iam::123456789012:role/shop-*"]);
    for (arn, account, want) in [
        ("arn:aws:sts::210987654321:assumed-role/web/0a1b", "210987654321", "not among"),
        ("arn:aws:sts::123456789012:assumed-role/web/0a1b", "210987654321", "of another"),
        ("arn:aws:sts::123456789012:assumed-role/web2/0a1b", "123456789012", "not among"),
        ("arn:aws:iam::123456789012:user/web", "123456789012", "not among"),
        ("arn:aws:iam::123456789012:root", "123456789012", "nobody else"),
        ("arn:aws:sts::123456789012:federated-user/web", "123456789012", "nobody else"),
    ] {
        sts.answers(StatusCode::OK, identity(arn, account));
        is_rejected(login(&method, &sign(&sts.endpoint)).await, want);
    }
    sts.answers(StatusCode::OK, identity("arn:aws:sts::123456789012:assumed-role/shop-api/9", "123456789012"));
    let found = login(&method, &sign(&sts.endpoint)).await.unwrap();
    assert_eq!(found.claims.facts["entity_name"], "shop-api");
}

#[tokio::test]
async fn c11_an_answer_that_is_not_the_services_own_lets_nobody_in() {
    let sts = Sts::start().await;
    let method = web(&sts);
    for body in ["", "<html>arn:aws:sts::123456789012:assumed-role/web/0a1b</html>", r#"{"Arn":"x"}"#] {
        sts.answers(StatusCode::OK, body.to_owned());
        let error = login(&method, &sign(&sts.endpoint)).await.unwrap_err();
        assert!(matches!(error, LoginError::Unavailable { .. }), "{error}");
    }
    // A redirect is not followed.
    sts.answers(StatusCode::FOUND, identity("arn:aws:sts::123456789012:assumed-role/web/0a1b", "123456789012"));
    assert!(matches!(login(&method, &sign(&sts.endpoint)).await, Err(LoginError::Unavailable { .. })));
    for (status, code, is_final) in [
        (StatusCode::FORBIDDEN, "SignatureDoesNotMatch", true),
        (StatusCode::FORBIDDEN, "InvalidClientTokenId", true),
        (StatusCode::BAD_REQUEST, "IncompleteSignature", true),
        // Whoever signs anew, or asks when somebody has changed a policy, may be let in.
        (StatusCode::FORBIDDEN, "ExpiredToken", false),
        (StatusCode::FORBIDDEN, "AccessDenied", false),
        (StatusCode::BAD_REQUEST, "Throttling", false),
        (StatusCode::INTERNAL_SERVER_ERROR, "InternalFailure", false),
        (StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", false),
    ] {
        sts.fails(status, code);
        let error = login(&method, &sign(&sts.endpoint)).await.unwrap_err();
        assert_eq!(matches!(error, LoginError::Rejected { .. }), is_final, "{error}");
        assert!(error.to_string().contains(code), "{error}");
    }
    let endpoint = sts.endpoint.clone();
    drop(sts);
    assert!(matches!(login(&method, &sign(&endpoint)).await, Err(LoginError::Unavailable { .. })));
}

#[test]
fn c11_an_endpoint_on_the_servers_own_machine_is_asked_only_where_the_server_was_started_for_it() {
    wire::crypto::install_provider();
    let make = |endpoint: &str, reach| {
        let principals = vec!["arn:aws:iam::123456789012:role/web".parse().unwrap()];
        AwsIam::new(AwsIamConfig { principals, sts_endpoint: Some(endpoint.to_owned()) }, reach).map(drop)
    };
    for here in [
        "http://127.0.0.1:5555",
        "http://localhost:5555",
        "http://[::1]:5555",
        "https://127.0.0.9",
        "https://localhost",
    ] {
        let error = make(here, Reach::Others).unwrap_err().to_string();
        assert!(error.contains("--sts-on-loopback"), "{error}");
        assert_eq!(make(here, Reach::Loopback), Ok(()), "{here}");
    }
    for other in ["https://localhost.example", "https://127.evil.example"] {
        assert_eq!(make(other, Reach::Others), Ok(()), "{other} is another machine's name");
    }
}

#[tokio::test]
async fn c11_c13_aws_is_asked_about_a_bounded_number_of_logins_at_once() {
    let sts = Sts::start().await;
    let method = web(&sts);
    let turns = method.turns.acquire_many(ASKED_AT_ONCE_MAX as u32).await.unwrap();
    let error = login(&method, &sign(&sts.endpoint)).await.unwrap_err();
    assert!(matches!(error, LoginError::Unavailable { .. }), "{error}");
    assert_eq!(sts.asked(), 0);
    drop(turns);
    login(&method, &sign(&sts.endpoint)).await.unwrap();
}
