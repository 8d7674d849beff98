//! The certificate authority through the API.

use wire::api_types::{CaRotationView, CertificateAge, RekeyView};
use wire::pki::{LocalRoot, LocalSigner};

use super::*;
use crate::consensus::testing::Alone;

fn view(answer: &harness::Answer) -> CaRotationView {
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    serde_json::from_str(&answer.text).unwrap()
}

#[tokio::test]
async fn a_mesh_that_is_being_born_shows_its_roots_as_soon_as_there_are_any() {
    let api = Api::over(Alone::newborn().await).await;
    let roots = api.get("/v1/connect/ca/roots").await;
    assert_eq!(roots.status, StatusCode::OK, "{}", roots.text);
    assert_eq!(roots.json()["Roots"][0]["ID"], view(&api.get("/v1/connect/ca/rotation").await).active_root.as_str());
}

#[tokio::test]
async fn p6_a_rotation_is_planned_begun_and_taken_back() {
    let api = Api::start().await;
    let before = view(&api.get("/v1/connect/ca/rotation").await);
    assert!(before.safe && before.rotation.is_none() && before.reasons.is_empty(), "{before:?}");
    let begun = view(&api.put("/v1/connect/ca/rotate", json!({ "DistrustOld": true })).await);
    let status = begun.rotation.unwrap();
    assert_eq!((status.step.as_str(), status.distrust_old, status.waiting_for), ("distributing", true, 0));
    assert_eq!(status.replaces, before.active_root);
    assert!(!begun.safe && begun.reasons[0].contains("under way"), "{:?}", begun.reasons);
    let again = api.put("/v1/connect/ca/rotate", json!({})).await;
    assert_eq!(again.status, StatusCode::CONFLICT, "{}", again.text);
    let roots = api.get("/v1/connect/ca/roots").await.json();
    assert_eq!(roots["Roots"].as_array().unwrap().len(), 2);
    assert_eq!(roots["ActiveRootID"], before.active_root.as_str());
    let distrusted = api.put(&format!("/v1/connect/ca/distrust/{}", before.active_root), Value::Null).await;
    assert_eq!(distrusted.status, StatusCode::BAD_REQUEST, "{}", distrusted.text);
    assert!(distrusted.text.contains("rotate first"), "{}", distrusted.text);
    let cancel = api.send(Method::DELETE, "/v1/connect/ca/rotation", Some(&api.token), Value::Null).await;
    assert_eq!(cancel.status, StatusCode::OK, "{}", cancel.text);
    assert!(view(&api.get("/v1/connect/ca/rotation").await).safe);
    assert_eq!(api.get("/v1/connect/ca/roots").await.json()["Roots"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn an_operators_intermediate_comes_in_and_its_key_is_seen_nowhere() {
    let api = Api::start().await;
    let (now, domain) = (wire::crypto::now(), api.consensus().catalog().mesh().unwrap().trust_domain.clone());
    let year = Duration::from_secs(365 * 24 * 3600);
    let root = LocalRoot::create(&domain, now, year * 9).unwrap();
    let signer = root.create_intermediate(now, year).unwrap();
    let given = |intermediate: &str| {
        json!({
            "RootCert": root.certificate_pem(),
            "IntermediateCert": intermediate,
            "PrivateKey": signer.key_pem().expose(),
        })
    };
    let wrong = api.put("/v1/connect/ca/intermediate", given(root.certificate_pem())).await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST, "{}", wrong.text);
    let begun = view(&api.put("/v1/connect/ca/intermediate", given(LocalSigner::certificate_pem(&signer))).await);
    assert_eq!(begun.rotation.unwrap().root, root.id());
    let snapshot = String::from_utf8(api.consensus().catalog().snapshot()).unwrap();
    let key = signer.key_pem();
    let line = key.expose().lines().nth(1).unwrap();
    assert!(!snapshot.contains(line) && !snapshot.contains("PRIVATE KEY"));
}

#[tokio::test]
async fn settings_are_written_in_consuls_shape_and_unknown_ones_are_refused_by_name() {
    let api = Api::start().await;
    let shown = api.get("/v1/connect/ca/configuration").await.json();
    assert_eq!(shown["Provider"], "consul");
    assert_eq!(shown["Config"]["LeafCertTTL"], "24h");
    let body = json!({ "Provider": "consul", "Config": { "LeafCertTTL": "72h", "IntermediateCertTTL": "8760h" } });
    assert_eq!(api.put("/v1/connect/ca/configuration", body).await.status, StatusCode::OK);
    let shown = api.get("/v1/connect/ca/configuration").await.json();
    assert_eq!((&shown["Config"]["LeafCertTTL"], &shown["Config"]["RootCertTTL"]), (&json!("72h"), &json!("87600h")));
    for (body, says) in [
        (json!({ "Provider": "vault" }), "vault"),
        (json!({ "Config": { "PrivateKey": "x" } }), "PrivateKey"),
        (json!({ "Config": { "LeafCertTTL": "1ms" } }), "LeafCertTTL"),
        (json!({ "Config": { "Nonsense": 1 } }), "Nonsense"),
    ] {
        let answer = api.put("/v1/connect/ca/configuration", body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.text);
        assert!(answer.text.contains(says), "{}", answer.text);
    }
    let late = api.put("/v1/connect/ca/configuration?cas=1", json!({ "Config": {} })).await;
    assert_eq!(late.status, StatusCode::CONFLICT, "{}", late.text);
}

#[tokio::test]
async fn secrets_are_sealed_anew_once_and_then_there_is_nothing_to_do() {
    let api = Api::start().await;
    let shown: RekeyView = serde_json::from_value(api.get("/v1/operator/rekey").await.json()).unwrap();
    assert_eq!((shown.left, shown.sealed_with.values().sum::<usize>()), (0, 2));
    let before = api.consensus().catalog().index_of(&[WatchKey::Roots]);
    let done: RekeyView = serde_json::from_value(api.put("/v1/operator/rekey", Value::Null).await.json()).unwrap();
    assert_eq!(done, shown);
    assert_eq!(api.consensus().catalog().index_of(&[WatchKey::Roots]), before);
    let ages: Vec<CertificateAge> = serde_json::from_value(api.get("/v1/status/certificates").await.json()).unwrap();
    assert!(ages.iter().all(|age| age.status == ::catalog::CheckStatus::Passing), "{ages:?}");
}
