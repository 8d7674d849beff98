//! Config entries that shape the traffic of services, over the API.

use super::*;

async fn delete(api: &Api, path: &str) -> harness::Answer {
    api.send(Method::DELETE, path, Some(&api.token), Value::Null).await
}

#[tokio::test]
async fn entries_are_written_read_listed_and_removed_in_their_namespace() {
    let api = Api::start().await;
    for body in [
        json!({"Kind": "proxy-defaults", "Name": "global", "Config": {"protocol": "tcp"}}),
        json!({"Kind": "service-defaults", "Name": "api", "Protocol": "http", "Meta": {"team": "api"}}),
        json!({"Kind": "service-defaults", "Name": "api", "Namespace": "shop", "Protocol": "grpc"}),
    ] {
        let answer = api.put("/v1/config", body).await;
        assert_eq!((answer.status, answer.text.as_str()), (StatusCode::OK, "true"));
    }
    let read = api.get("/v1/config/service-defaults/api?ns=shop").await;
    assert_eq!((&read.json()["Protocol"], &read.json()["Namespace"]), (&json!("grpc"), &json!("shop")));
    assert!(read.index() > 0);
    let names = |listed: Value| -> Vec<String> {
        listed.as_array().unwrap().iter().map(|one| format!("{}/{}", one["Namespace"], one["Name"])).collect()
    };
    let all = names(api.get("/v1/config/service-defaults").await.json());
    assert_eq!(all, [r#""default"/"api""#, r#""shop"/"api""#]);
    assert_eq!(names(api.get("/v1/config/service-defaults?ns=shop").await.json()), [r#""shop"/"api""#]);
    let filtered = api.get("/v1/config/service-defaults?filter=Protocol%20%3D%3D%20http").await.json();
    assert_eq!(names(filtered), [r#""default"/"api""#]);
    assert_eq!(api.get("/v1/config/proxy-defaults/global").await.json()["Config"]["protocol"], "tcp");

    let mut changed = api.get("/v1/config/service-defaults/api").await.json();
    let index = changed["ModifyIndex"].as_u64().unwrap();
    changed["Protocol"] = "http2".into();
    assert_eq!(api.put(&format!("/v1/config?cas={}", index - 1), changed.clone()).await.text, "false");
    assert_eq!(api.put(&format!("/v1/config?cas={index}"), changed).await.text, "true");
    assert_eq!(delete(&api, &format!("/v1/config/service-defaults/api?cas={index}")).await.text, "false");
    assert_eq!(delete(&api, "/v1/config/service-defaults/api").await.text, "true");
    assert_eq!(api.get("/v1/config/service-defaults/api").await.status, StatusCode::NOT_FOUND);
    assert_eq!(api.get("/v1/config/proxy-defaults/web").await.status, StatusCode::BAD_REQUEST);
    let trail = api.get("/v1/audit").await.text;
    assert!(trail.contains("write-config") && trail.contains("service-defaults/shop/api"), "{trail}");
}

#[tokio::test]
async fn a4_an_entry_of_a_service_needs_the_right_on_it_and_one_of_all_the_operators() {
    let api = Api::start().await;
    let token = &api.token_with("api", "service \"api\" { policy = \"write\" }").await;
    let put = async |body: Value| api.send(Method::PUT, "/v1/config", Some(token), body).await;
    let get = async |path: &str| api.send(Method::GET, path, Some(token), Value::Null).await;
    let of = |name: &str| json!({"Kind": "service-defaults", "Name": name, "Protocol": "http"});
    assert_eq!(put(of("api")).await.status, StatusCode::OK);
    let refused = put(of("db")).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert!(refused.text.contains("`service:write` on default/db"), "{}", refused.text);
    let global = json!({"Kind": "proxy-defaults", "Config": {"Protocol": "http"}});
    assert_eq!(put(global.clone()).await.status, StatusCode::FORBIDDEN);
    assert_eq!(api.put("/v1/config", global).await.status, StatusCode::OK);
    assert_eq!(api.put("/v1/config", of("db")).await.status, StatusCode::OK);

    let listed = get("/v1/config/service-defaults").await;
    assert_eq!(listed.json().as_array().unwrap().len(), 1);
    assert_eq!(listed.header("x-consul-results-filtered-by-acls"), Some("true"));
    assert_eq!(get("/v1/config/service-defaults/db").await.status, StatusCode::FORBIDDEN);
    assert_eq!(get("/v1/config/proxy-defaults/global").await.status, StatusCode::FORBIDDEN);
    let path = "/v1/config/service-defaults/db";
    let removed = api.send(Method::DELETE, path, Some(token), Value::Null).await;
    assert_eq!(removed.status, StatusCode::FORBIDDEN);
}
