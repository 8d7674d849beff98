//! The audit trail over the API.

use ::catalog::{AuditHead, AuditVerifier};

use super::*;

fn verified(lines: &str, head: &str) -> AuditVerifier {
    let head: AuditHead = head.parse().unwrap();
    let mut verifier = AuditVerifier::new(wire::crypto::sha256, Some(head));
    lines.lines().for_each(|line| verifier.line(line).unwrap());
    assert_eq!(verifier.clone().finish(), Ok(head));
    verifier
}

#[tokio::test]
async fn every_write_stands_in_the_trail_with_who_and_what_and_no_secret() {
    let api = Api::start().await;
    let path = "/v1/connect/intentions/exact?source=web&destination=api";
    assert_eq!(api.put(path, json!({"Action": "allow", "Description": "shop"})).await.status, StatusCode::OK);
    let token = api.put("/v1/acl/token", json!({"Description": "for the pipeline"})).await.json();
    let refused = api.send(Method::DELETE, path.replace("web", "db").as_str(), Some(&api.token), Value::Null).await;
    assert_eq!(refused.status, StatusCode::NOT_FOUND);

    let answer = api.get("/v1/audit").await;
    let trail = answer.json();
    let records = trail["Records"].as_array().unwrap();
    let of_kind = |kind: &str| records.iter().find(|one| one["Kind"] == kind).unwrap_or_else(|| panic!("{kind}"));
    let written = of_kind("write-intention");
    assert_eq!(written["Summary"], "allow default/web => default/api: shop");
    assert!(written["Actor"].as_str().unwrap().starts_with("token:"), "{written}");
    assert_eq!(of_kind("delete-intention")["Refusal"], "not-found");
    assert!(of_kind("create-token")["Summary"].as_str().unwrap().contains("for the pipeline"));
    for secret in [&api.token, token["SecretID"].as_str().unwrap()] {
        assert!(!answer.text.contains(secret));
        assert!(!answer.text.contains(&wire::crypto::sha256_hex(secret.as_bytes())));
    }
    assert_eq!(trail["Head"], answer.header("x-weft-audit-head").unwrap());
}

#[tokio::test]
async fn lines_come_as_they_were_hashed_from_any_index_and_in_pages() {
    let api = Api::start().await;
    for source in ["a", "b", "c"] {
        api.put(&format!("/v1/connect/intentions/exact?source={source}&destination=api"), json!({"Action": "deny"}))
            .await;
    }
    let all = api.get("/v1/audit?format=lines").await;
    assert_eq!(all.header("content-type"), Some("application/x-ndjson"));
    let head = all.header("x-weft-audit-head").unwrap();
    assert_eq!(verified(&all.text, head).first(), Some(1));

    let mut pages = String::new();
    let mut from = 0;
    loop {
        let page = api.get(&format!("/v1/audit?format=lines&limit=2&from={from}")).await.text;
        let Some(last) = page.lines().last() else { break };
        from = serde_json::from_str::<Value>(last).unwrap()["Index"].as_u64().unwrap() + 1;
        pages += &page;
    }
    assert_eq!(pages, all.text);
    let part = api.get(&format!("/v1/audit?format=lines&from={}", from - 1)).await;
    assert!(verified(&part.text, head).first().unwrap() > 1);
    for bad in ["limit=0", "limit=10001", "format=xml", "from=x"] {
        assert_eq!(api.get(&format!("/v1/audit?{bad}")).await.status, StatusCode::BAD_REQUEST, "{bad}");
    }
}

#[tokio::test]
async fn a_blocking_query_on_the_trail_wakes_for_the_next_write() {
    let api = Api::start().await;
    let seen = api.get("/v1/audit").await;
    let waiting = api.spawn_get(&format!("/v1/audit?index={}&wait=60s&from={}", seen.index(), seen.index() + 1));
    api.put("/v1/config", json!({"Kind": "mesh"})).await;
    let woken = waiting.await.unwrap();
    assert_eq!(woken.json()["Records"][0]["Kind"], "write-mesh");
    assert!(woken.index() > seen.index());
}
