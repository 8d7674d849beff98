//! Ownership of intentions, the entry of a destination, audit mode and relaxations.

use super::*;

fn pair(source: &str) -> String {
    format!("/v1/connect/intentions/exact?source={source}&destination=api")
}

async fn sources(api: &Api) -> Vec<(String, String)> {
    let entry = api.get("/v1/config/service-intentions/api").await.json();
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    entry["Sources"].as_array().unwrap().iter().map(|one| (text(&one["Name"]), text(&one["Owner"]))).collect()
}

fn owned(name: &str, owner: &str) -> (String, String) {
    (name.to_owned(), owner.to_owned())
}

async fn delete(api: &Api, path: &str) -> harness::Answer {
    api.send(Method::DELETE, path, Some(&api.token), Value::Null).await
}

#[tokio::test]
async fn two_teams_own_their_lines_and_a_conflict_is_refused_by_name() {
    let api = Api::start().await;
    for (source, owner) in [("web", "team-web"), ("billing", "team-billing")] {
        let answer = api.put(&pair(source), json!({"Action": "allow", "Owner": owner})).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    }
    for body in [json!({"Action": "deny"}), json!({"Action": "deny", "Owner": "team-billing"})] {
        let answer = api.put(&pair("web"), body).await;
        assert_eq!(answer.status, StatusCode::CONFLICT, "{}", answer.text);
        assert!(answer.text.contains("default/web => default/api belongs to `team-web`"), "{}", answer.text);
    }
    assert_eq!(delete(&api, &pair("web")).await.status, StatusCode::CONFLICT);
    assert_eq!(delete(&api, &format!("{}&owner=team-billing", pair("web"))).await.status, StatusCode::CONFLICT);
    assert_eq!(delete(&api, &format!("{}&owner=team-web", pair("web"))).await.status, StatusCode::OK);
    let taken = api.put(&format!("{}&take-over", pair("billing")), json!({"Action": "deny", "Owner": "team-x"})).await;
    assert_eq!(taken.status, StatusCode::OK, "{}", taken.text);
    assert_eq!(api.get(&pair("billing")).await.json()["Owner"], "team-x");
    assert_eq!(delete(&api, &format!("{}&take-over", pair("billing"))).await.status, StatusCode::OK);
    let answer = delete(&api, &format!("{}&owner=Team%20X", pair("billing"))).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.text);
}

#[tokio::test]
async fn the_entry_of_a_destination_reads_all_lines_and_writes_its_own_at_once() {
    let api = Api::start().await;
    api.put(&pair("web"), json!({"Action": "allow", "Owner": "team-web"})).await;
    let entry = |owner: &str, sources: Value| json!({"Kind": "service-intentions", "Name": "api", "Owner": owner, "Sources": sources});
    let body = entry("team-api", json!([{"Name": "a", "Action": "allow"}, {"Name": "*", "Action": "deny"}]));
    let answer = api.put("/v1/config", body).await;
    assert_eq!((answer.status, answer.text.as_str()), (StatusCode::OK, "true"));
    assert_eq!(sources(&api).await, [owned("a", "team-api"), owned("web", "team-web"), owned("*", "team-api")]);

    // What was read can be changed and sent back, also by who knows nothing of owners of the others.
    let mut read = api.get("/v1/config/service-intentions/api").await.json();
    read["Owner"] = "team-api".into();
    read["Sources"].as_array_mut().unwrap().retain(|one| one["Name"] != "*");
    let modified = read["ModifyIndex"].as_u64().unwrap();
    let overtaken = api.put(&format!("/v1/config?cas={}", modified - 1), read.clone()).await;
    assert_eq!((overtaken.status, overtaken.text.as_str()), (StatusCode::OK, "false"));
    let answer = api.put(&format!("/v1/config?cas={modified}"), read).await;
    assert_eq!(answer.text, "true");
    assert_eq!(sources(&api).await, [owned("a", "team-api"), owned("web", "team-web")]);

    let body = entry("team-api", json!([{"Name": "b", "Action": "allow"}, {"Name": "web", "Action": "deny"}]));
    let answer = api.put("/v1/config", body).await;
    assert_eq!(answer.status, StatusCode::CONFLICT, "{}", answer.text);
    assert!(answer.text.contains("belongs to `team-web`"), "{}", answer.text);
    assert_eq!(sources(&api).await.len(), 2, "nothing of a refused entry is written");

    let listed = api.get("/v1/config/service-intentions").await.json();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["Namespace"]), (1, &json!("default")));
    assert_eq!(api.get("/v1/config/service-intentions?ns=shop").await.json(), json!([]));

    assert_eq!(delete(&api, "/v1/config/service-intentions/api").await.status, StatusCode::CONFLICT);
    assert_eq!(delete(&api, "/v1/config/service-intentions/api?owner=team-api").await.text, "true");
    assert_eq!(sources(&api).await, [owned("web", "team-web")]);
    assert_eq!(delete(&api, "/v1/config/service-intentions/api?owner=team-web").await.text, "true");
    assert_eq!(api.get("/v1/config/service-intentions/api").await.status, StatusCode::NOT_FOUND);
    assert_eq!(delete(&api, "/v1/config/service-intentions/api").await.text, "true", "it is gone already");
}

#[tokio::test]
async fn the_entry_of_a_wildcard_destination_and_of_another_namespace_are_entries_of_their_own() {
    let api = Api::start().await;
    for (name, namespace) in [("*", "default"), ("api", "shop"), ("*", "*")] {
        let body = json!({"Kind": "service-intentions", "Name": name, "Namespace": namespace,
            "Sources": [{"Name": "web", "Action": "allow"}]});
        assert_eq!(api.put("/v1/config", body).await.text, "true");
        let encoded = name.replace('*', "%2A");
        let read = api.get(&format!("/v1/config/service-intentions/{encoded}?ns={namespace}")).await;
        assert_eq!(read.status, StatusCode::OK, "{}", read.text);
        assert_eq!((&read.json()["Name"], &read.json()["Namespace"]), (&json!(name), &json!(namespace)));
    }
    assert_eq!(api.get("/v1/config/service-intentions").await.json().as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn a_relaxation_is_listed_explained_recorded_and_ends() {
    let api = Api::start().await;
    let explain = "/v1/connect/intentions/explain?source=web&destination=shop/api";
    assert_eq!(api.get(explain).await.json()["Audited"], false);
    let body = json!({"Namespace": "shop", "For": "30m", "Reason": "a broken rollout"});
    let made = api.put("/v1/mesh/relaxation", body).await;
    assert_eq!((made.status, &made.json()["Namespace"]), (StatusCode::OK, &json!("shop")), "{}", made.text);

    let explained = api.get(explain).await.json();
    assert_eq!((&explained["Decision"], &explained["Audited"]), (&json!("deny"), &json!(true)));
    assert!(explained["AuditedBy"].as_str().unwrap().starts_with("namespace shop is relaxed until 2"), "{explained}");
    assert_eq!(explained["Relaxations"][0]["Reason"], "a broken rollout");
    let elsewhere = api.get("/v1/connect/intentions/explain?source=web&destination=api").await.json();
    assert_eq!(elsewhere["Audited"], false);
    let check = "/v1/connect/intentions/check?source=web&destination=shop/api";
    assert_eq!(api.get(check).await.json()["Allowed"], false, "a rule says no, whoever lets it pass on trial");

    let listed = api.get("/v1/mesh/relaxations").await.json();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["WholeMesh"]), (1, &json!(false)));
    assert!(listed[0]["AccessorID"].is_string());
    let trail = api.get("/v1/audit").await.text;
    assert!(trail.contains("namespace shop for 1800 s: a broken rollout"), "{trail}");

    assert_eq!(delete(&api, "/v1/mesh/relaxation?whole-mesh").await.status, StatusCode::NOT_FOUND);
    assert_eq!(delete(&api, "/v1/mesh/relaxation").await.status, StatusCode::BAD_REQUEST);
    assert_eq!(delete(&api, "/v1/mesh/relaxation?namespace=shop").await.text, "true");
    assert_eq!(api.get("/v1/mesh/relaxations").await.json(), json!([]));
    for body in [
        json!({"Namespace": "shop", "For": "25h", "Reason": "x"}),
        json!({"Namespace": "shop", "For": "30m", "Reason": ""}),
        json!({"For": "30m", "Reason": "x"}),
    ] {
        let answer = api.put("/v1/mesh/relaxation", body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.text);
    }
}

#[tokio::test]
async fn audit_mode_of_a_namespace_stands_in_the_mesh_entry() {
    let api = Api::start().await;
    let entry = json!({"Kind": "mesh", "Audit": {"Namespaces": ["shop"]},
        "Guardrails": [{"Name": "no-dev", "Source": "dev/*", "Destination": "shop/*"}]});
    assert_eq!(api.put("/v1/config", entry).await.text, "true");
    assert_eq!(api.get("/v1/config/mesh/mesh").await.json()["Audit"]["Namespaces"], json!(["shop"]));
    let explain = |source: &str| format!("/v1/connect/intentions/explain?source={source}&destination=shop/api");
    let explained = api.get(&explain("web")).await.json();
    assert_eq!((&explained["Audited"], &explained["Guardrails"][0]["Matches"]), (&json!(true), &json!(false)));
    let guarded = api.get(&explain("dev/web")).await.json();
    assert_eq!((&guarded["Audited"], &guarded["Guardrails"][0]["Matches"]), (&json!(false), &json!(true)));
    assert_eq!(guarded["Reason"], "guardrail `no-dev`");
}
