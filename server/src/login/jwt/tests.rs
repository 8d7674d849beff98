use catalog::{JwtAlgorithm, JwtKeys};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::json;
use wire::jwt::TOKEN_BYTES_MAX;

use super::super::testing::{AUDIENCE, ISSUER, Issuer, Website, claims, config, ok};
use super::*;

fn method(issuer: &Issuer) -> JwtMethod {
    JwtMethod::new(config(JwtKeys::Pem(vec![issuer.public_pem()]))).unwrap()
}

async fn verify(method: &JwtMethod, token: &str) -> Result<VerifiedIdentity, LoginError> {
    let credential = Credential { bearer: Secret::new(token) };
    let context = LoginContext { cluster_id: "c1", key: None, now: wire::crypto::now() };
    method.verify(&credential, context).await
}

#[track_caller]
fn is_rejected(result: Result<VerifiedIdentity, LoginError>, want: &str) {
    match result {
        Err(LoginError::Rejected { reason }) => assert!(reason.contains(want), "{reason} has no {want}"),
        other => panic!("wanted {want}: {other:?}"),
    }
}

#[tokio::test]
async fn a_good_token_says_who_somebody_is() {
    let issuer = Issuer::new();
    let more = json!({"team": "blue", "groups": ["ops", "dev"], "a": {"b": 7}, "aud": ["other", AUDIENCE]});
    let found = verify(&method(&issuer), &issuer.token(&more)).await.unwrap();
    assert_eq!(found.claims.subject, "web-7");
    assert_eq!(
        found.claims.values,
        [("deep", "7"), ("team", "blue")].map(|(k, v)| (k.to_owned(), v.to_owned())).into()
    );
    assert_eq!(found.claims.lists["groups"], ["ops", "dev"]);
    let one = verify(&method(&issuer), &issuer.token(&json!({"groups": "ops", "sub": "a\nb"}))).await.unwrap();
    assert_eq!(
        (one.claims.lists["groups"].as_slice(), one.claims.subject.as_str()),
        (&["ops".to_owned()][..], "a\\nb")
    );
    // A new line at the end, as files have it.
    assert!(verify(&method(&issuer), &format!("{}\n", issuer.token(&json!({})))).await.is_ok());
}

#[tokio::test]
async fn j1_no_other_algorithm_and_no_other_key_counts() {
    let issuer = Issuer::new();
    let method = method(&issuer);
    let part = |value: &Value| data_encoding::BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let none = format!("{}.{}.", part(&json!({"alg": "none", "typ": "JWT"})), part(&claims(&json!({}))));
    is_rejected(verify(&method, &none).await, "its header cannot be read");

    // The public key as the secret of a MAC: whoever knows it, that is everybody, could sign.
    let secret = EncodingKey::from_secret(issuer.public_pem().as_bytes());
    for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
        let token = encode(&Header::new(algorithm), &claims(&json!({})), &secret).unwrap();
        is_rejected(verify(&method, &token).await, "this method takes ES256");
    }
    is_rejected(verify(&method, &Issuer::new().token(&json!({}))).await, "none of the issuer's keys");

    let good = issuer.token(&json!({"team": "blue"}));
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let (header, _) = signed.split_once('.').unwrap();
    let other = part(&claims(&json!({"team": "red"})));
    is_rejected(verify(&method, &format!("{header}.{other}.{signature}")).await, "none of the issuer's keys");
    is_rejected(verify(&method, &format!("{signed}.")).await, "");
}

#[tokio::test]
async fn j1_a_key_is_never_taken_for_one_of_another_kind() {
    wire::crypto::install_provider();
    let rsa = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let mut config = config(JwtKeys::Pem(vec![rsa.public_key_pem()]));
    config.algorithms = JwtAlgorithm::ALL.to_vec();
    let method = JwtMethod::new(config).unwrap();
    let key = EncodingKey::from_rsa_pem(rsa.serialize_pem().as_bytes()).unwrap();
    for algorithm in [Algorithm::RS256, Algorithm::RS384, Algorithm::RS512, Algorithm::PS256, Algorithm::PS512] {
        let token = encode(&Header::new(algorithm), &claims(&json!({})), &key).unwrap();
        assert!(verify(&method, &token).await.is_ok(), "{algorithm:?}");
    }
    let secret = EncodingKey::from_secret(rsa.public_key_pem().as_bytes());
    let mac = encode(&Header::new(Algorithm::HS256), &claims(&json!({})), &secret).unwrap();
    is_rejected(verify(&method, &mac).await, "this method takes");
    is_rejected(verify(&method, &Issuer::new().token(&json!({}))).await, "none of the issuer's keys");
}

#[tokio::test]
async fn j1_a_header_that_brings_its_own_keys_or_rules_is_refused() {
    let issuer = Issuer::new();
    let method = method(&issuer);
    let own: Jwk = serde_json::from_value(issuer.jwks("k1")["keys"][0].clone()).unwrap();
    let text = || Some("https://evil.example/keys".to_owned());
    let plain = || Header::new(Algorithm::ES256);
    for (header, name) in [
        (Header { jku: text(), ..plain() }, "jku"),
        (Header { x5u: text(), ..plain() }, "x5u"),
        (Header { jwk: Some(own), ..plain() }, "jwk"),
        (Header { x5c: Some(vec!["AA==".to_owned()]), ..plain() }, "x5c"),
        (Header { crit: Some(vec!["b64".to_owned()]), ..plain() }, "crit"),
    ] {
        is_rejected(verify(&method, &issuer.sign(&header, &claims(&json!({})))).await, name);
    }
    // A key id is compared and nothing else, whatever path or query it looks like.
    for kid in ["../../../../dev/null", "' OR 1=1 --", "k\u{0}", ""] {
        let header = Header { kid: Some(kid.to_owned()), ..plain() };
        assert!(verify(&method, &issuer.sign(&header, &claims(&json!({})))).await.is_ok(), "{kid}");
    }
}

#[tokio::test]
async fn j1_what_is_no_token_is_refused() {
    let issuer = Issuer::new();
    let method = method(&issuer);
    let good = issuer.token(&json!({}));
    for text in
        ["", ".", "..", "a.b.c", "a.b", "a.b.c.d", "{}.{}.{}", "\u{e9}.\u{e9}.\u{e9}", &good[1..], &format!("{good}=")]
    {
        assert!(matches!(verify(&method, text).await, Err(LoginError::Rejected { .. })), "{text}");
    }
    let giant = issuer.token(&json!({"team": "x".repeat(TOKEN_BYTES_MAX)}));
    is_rejected(verify(&method, &giant).await, "at most 8192 are read");
    is_rejected(verify(&method, &"a.b.c".repeat(400_000)).await, "at most 8192 are read");
}

#[tokio::test]
async fn j2_times_issuer_and_audience_are_of_their_types_and_right() {
    let issuer = Issuer::new();
    let method = method(&issuer);
    let now = wire::crypto::now().0 / 1000;
    for (more, want) in [
        (json!({"exp": null}), "`exp`"),
        (json!({"exp": now - 31}), "expired"),
        (json!({"exp": (now + 600).to_string()}), "`exp`"),
        (json!({"exp": (now + 600) as f64 + 0.5}), "`exp`"),
        (json!({"exp": 1e300}), "`exp`"),
        (json!({"exp": 1e15}), "`exp`"),
        (json!({"exp": -1}), "`exp`"),
        (json!({"exp": true}), "`exp`"),
        (json!({"exp": u64::MAX}), "`exp`"),
        (json!({"nbf": now + 600}), "time has not come"),
        (json!({"nbf": "soon"}), "`nbf`"),
        (json!({"nbf": 1e300}), "`nbf`"),
        (json!({"iat": now + 600}), "`iat`"),
        (json!({"iat": "now"}), "`iat`"),
        (json!({"iss": null}), "`iss`"),
        (json!({"iss": "https://issuer.example/"}), "another issuer"),
        (json!({"iss": "https://ISSUER.example"}), "another issuer"),
        (json!({"iss": [ISSUER]}), "another issuer"),
        (json!({"iss": 7}), "`iss`"),
        (json!({"aud": null}), "`aud`"),
        (json!({"aud": "WEFT"}), "another audience"),
        (json!({"aud": []}), "another audience"),
        (json!({"aud": ["a", "b"]}), "another audience"),
        (json!({"aud": {"weft": true}}), "`aud`"),
        (json!({"team": ["a"]}), "`team`"),
        (json!({"team": "x".repeat(CLAIM_BYTES_MAX + 1)}), "`team`"),
        (json!({"groups": [["a"]]}), "`groups`"),
        (json!({"groups": vec!["a"; LIST_MAX + 1]}), "`groups`"),
    ] {
        is_rejected(verify(&method, &issuer.token(&more)).await, want);
    }
    for more in [json!({"exp": now - 5}), json!({"nbf": now + 20}), json!({"nbf": null, "iat": null, "sub": null})] {
        assert!(verify(&method, &issuer.token(&more)).await.is_ok(), "within the allowed skew: {more}");
    }
}

#[test]
fn keys_that_cannot_be_used_are_told_before_they_are_stored() {
    let private = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem();
    for keys in [
        JwtKeys::Pem(vec!["nonsense".to_owned()]),
        JwtKeys::Pem(vec![private]),
        JwtKeys::Set("{}".to_owned()),
        JwtKeys::Set(r#"{"keys": []}"#.to_owned()),
        JwtKeys::Set(r#"{"keys": [{"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"}]}"#.to_owned()),
        JwtKeys::Set(r#"{"keys": [{"kty": "EC", "crv": "P-256", "use": "enc", "x": "AA", "y": "AA"}]}"#.to_owned()),
        JwtKeys::Set(format!(r#"{{"keys": [{}]}}"#, vec!["{}"; 65].join(","))),
        JwtKeys::Url { url: "https://issuer.example/keys".to_owned(), ca_pem: Some("nonsense".to_owned()) },
    ] {
        assert!(JwtMethod::new(config(keys.clone())).is_err(), "{keys:?}");
    }
}

#[tokio::test]
async fn a_key_set_gives_each_key_by_its_id_and_for_its_algorithm() {
    let (one, two) = (Issuer::new(), Issuer::new());
    let keys = [one.jwks("k1")["keys"][0].clone(), two.jwks("k2")["keys"][0].clone()];
    let method = JwtMethod::new(config(JwtKeys::Set(json!({"keys": keys}).to_string()))).unwrap();
    let named = |kid: &str| Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::ES256) };
    assert!(verify(&method, &one.sign(&named("k1"), &claims(&json!({})))).await.is_ok());
    assert!(verify(&method, &two.token(&json!({}))).await.is_ok(), "without an id, every key is tried");
    is_rejected(verify(&method, &one.sign(&named("k2"), &claims(&json!({})))).await, "not of the key that it names");
    is_rejected(verify(&method, &one.sign(&named("k3"), &claims(&json!({})))).await, "none of the issuer's keys");
}

#[tokio::test]
async fn keys_are_found_by_discovery_and_a_new_one_when_it_is_used() {
    let issuer = Issuer::new();
    let jwks = issuer.jwks("k1");
    let site = Website::start(move |path, own| match path {
        "/.well-known/openid-configuration" => ok(&json!({"issuer": ISSUER, "jwks_uri": format!("{own}/keys")})),
        _ => ok(&jwks),
    })
    .await;
    let keys = JwtKeys::Discovery { url: site.url.clone(), ca_pem: Some(site.ca_pem.clone()) };
    let method = JwtMethod::reaching(config(keys.clone()), Reach::Loopback).unwrap();
    let token = issuer.token(&json!({}));
    let (one, two) = tokio::join!(verify(&method, &token), verify(&method, &token));
    assert!(one.is_ok() && two.is_ok(), "{one:?} {two:?}");
    assert_eq!(site.asked(), 2, "one asks for all: the configuration and the keys, once");
    let unknown = Header { kid: Some("k9".to_owned()), ..Header::new(Algorithm::ES256) };
    for _ in 0..3 {
        is_rejected(verify(&method, &issuer.sign(&unknown, &claims(&json!({})))).await, "none of the issuer's keys");
    }
    assert_eq!(site.asked(), 2, "whoever sends unknown key ids does not make a server ask each time");

    let production = JwtMethod::new(config(keys)).unwrap();
    match verify(&production, &token).await {
        Err(LoginError::Unavailable { reason }) => assert!(reason.contains("loopback"), "{reason}"),
        other => panic!("{other:?}"),
    }
}
