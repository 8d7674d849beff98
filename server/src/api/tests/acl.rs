//! Tokens, policies and roles, and what each caller sees and may do.

use super::*;

impl Api {
    /// Writes a policy and returns its id.
    async fn policy(&self, name: &str, namespace: &str, rules: &str) -> String {
        let body = json!({"Name": name, "Rules": rules, "Namespace": namespace});
        let answer = self.put("/v1/acl/policy", body).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        answer.json()["ID"].as_str().unwrap().to_owned()
    }

    /// Makes a token and returns its secret and accessor.
    async fn make_token(&self, body: Value) -> (String, String) {
        let answer = self.put("/v1/acl/token", body).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        let token = answer.json();
        (token["SecretID"].as_str().unwrap().to_owned(), token["AccessorID"].as_str().unwrap().to_owned())
    }

    /// Makes a token with rules of its own and returns its secret.
    pub(super) async fn token_with(&self, name: &str, rules: &str) -> String {
        self.policy(name, "default", rules).await;
        self.make_token(json!({"Policies": [{"Name": name}]})).await.0
    }

    async fn get_as(&self, token: &str, path: &str) -> Answer {
        self.send(Method::GET, path, Some(token), Value::Null).await
    }

    async fn put_as(&self, token: &str, path: &str, body: Value) -> Answer {
        self.send(Method::PUT, path, Some(token), body).await
    }

    async fn delete_as(&self, token: &str, path: &str) -> Answer {
        self.send(Method::DELETE, path, Some(token), Value::Null).await
    }

    async fn register_on(&self, node: &str, namespace: &str, service: &str) {
        let body = json!({
            "Node": node, "Address": "10.0.0.1",
            "Service": {"ID": service, "Service": service, "Namespace": namespace, "Port": 80},
            "Checks": [
                {"CheckID": format!("{service}-up"), "Name": "up", "ServiceID": service, "Namespace": namespace, "Status": "passing"},
            ],
        });
        let answer = self.put("/v1/catalog/register", body).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    }

    async fn intend(&self, source: &str, destination: &str) {
        let path = format!("/v1/connect/intentions/exact?source={source}&destination={destination}");
        assert_eq!(self.put(&path, json!({"Action": "allow"})).await.status, StatusCode::OK);
    }

    /// A mesh in which everything that can be listed is there.
    async fn populated() -> Self {
        let api = Self::start().await;
        api.register_on("node-1", "default", "api").await;
        api.register_on("node-2", "team-a", "web").await;
        api.intend("team-a/web", "api").await;
        api.policy("some", "default", "operator = \"read\"").await;
        let role = api.put("/v1/acl/role", json!({"Name": "some", "Policies": [{"Name": "some"}]})).await;
        assert_eq!(role.status, StatusCode::OK, "{}", role.text);
        api
    }
}

#[tokio::test]
async fn policies_roles_and_tokens_are_made_read_changed_and_removed() {
    let api = Api::start().await;
    let rules = "service \"web\" {\n  policy = \"write\"\n}\n";
    let id = api.policy("web", "default", rules).await;
    let read = api.get(&format!("/v1/acl/policy/{id}")).await.json();
    assert_eq!((read["Name"].as_str(), read["Rules"].as_str()), (Some("web"), Some(rules)));
    assert_eq!(api.get("/v1/acl/policy/name/web").await.json(), read);
    let change = json!({"ID": id, "Name": "web-team", "Rules": "service \"api\" { policy = \"read\" }"});
    assert_eq!(api.put(&format!("/v1/acl/policy/{id}"), change).await.json()["Name"], "web-team");
    let listed = api.get("/v1/acl/policies").await.json();
    let names: Vec<&str> = listed.as_array().unwrap().iter().map(|one| one["Name"].as_str().unwrap()).collect();
    assert_eq!(names, ["global-management", "global-read-only", "web-team"]);
    assert!(listed[2].get("Rules").is_none());

    let body = json!({"Name": "deployers", "Policies": [{"ID": id}], "ServiceIdentities": [{"ServiceName": "db"}]});
    let role = api.put("/v1/acl/role", body).await.json();
    assert_eq!(role["Policies"], json!([{"ID": id, "Name": "web-team"}]));
    let role_id = role["ID"].as_str().unwrap();
    assert_eq!(api.get("/v1/acl/role/name/deployers").await.json(), role);
    assert_eq!(api.get(&format!("/v1/acl/roles?policy={id}")).await.json(), json!([role]));
    assert_eq!(api.get("/v1/acl/roles?policy=none").await.json(), json!([]));

    let body = json!({"Description": "ci", "Roles": [{"Name": "deployers"}], "ExpirationTTL": "1h", "Local": true});
    let (secret, accessor) = api.make_token(body).await;
    let own = api.get_as(&secret, "/v1/acl/token/self").await.json();
    assert_eq!(own["Roles"], json!([{"ID": role_id, "Name": "deployers"}]));
    assert_eq!((own["Local"].as_bool(), own["Rights"].as_str()), (Some(true), Some("rules")));
    let path = format!("/v1/acl/token/{accessor}");
    let read = api.get(&path).await;
    assert!(!read.text.contains(&secret), "the secret is shown once");
    let copy = api.put(&format!("{path}/clone"), json!({"Description": "copy"})).await.json();
    assert_ne!(copy["SecretID"], secret.as_str());
    assert_eq!((&copy["Roles"], &copy["ExpirationTime"]), (&own["Roles"], &own["ExpirationTime"]));
    let mut change = read.json();
    change["Roles"] = json!([]);
    change["Policies"] = json!([{"Name": "web-team"}]);
    let changed = api.put(&path, change).await.json();
    assert_eq!(changed["Policies"], json!([{"ID": id, "Name": "web-team"}]));
    assert_eq!(changed["ExpirationTime"], own["ExpirationTime"], "its end stays");
    assert_eq!(api.get(&format!("/v1/acl/tokens?policy={id}")).await.json().as_array().unwrap().len(), 1);
    assert_eq!(api.get(&format!("/v1/acl/tokens?role={role_id}")).await.json().as_array().unwrap().len(), 1);

    for path in [path, format!("/v1/acl/role/{role_id}"), format!("/v1/acl/policy/{id}")] {
        assert_eq!(api.delete_as(&api.token, &path).await.text, "true");
        assert_eq!(api.get(&path).await.status, StatusCode::NOT_FOUND, "{path}");
        assert_eq!(api.delete_as(&api.token, &path).await.status, StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn a_token_that_asks_for_what_cannot_be_is_refused_by_name() {
    let api = Api::start().await;
    let own = "00000000-0000-4000-8000-000000000001";
    for (path, body, status, says) in [
        ("/v1/acl/token", json!({"SecretID": own}), 400, "weft draws the secret"),
        ("/v1/acl/token", json!({"Policies": [{"Name": "none"}]}), 400, "no policy `none`"),
        ("/v1/acl/token", json!({"Policies": [{"ID": own}]}), 404, "no policy"),
        (
            "/v1/acl/token",
            json!({"ServiceIdentities": [{"ServiceName": "a", "Datacenters": ["dc9"]}]}),
            500,
            "No path to datacenter",
        ),
        (
            "/v1/acl/token",
            json!({"Namespace": "team-a", "Policies": [{"ID": "00000000-0000-0000-0000-000000000001"}]}),
            400,
            "rights stay in theirs",
        ),
        (
            "/v1/acl/token",
            json!({"Namespace": "team-a", "NodeIdentities": [{"NodeName": "n1"}]}),
            400,
            "nodes belong to no namespace",
        ),
        ("/v1/acl/policy", json!({"Name": "a", "Rules": "service \"web\" { policy = \"lsit\" }"}), 400, "`Rules`"),
        ("/v1/acl/policy", json!({"Name": "a b", "Rules": ""}), 400, "Name"),
        (
            "/v1/acl/policy",
            json!({"Name": "a", "Namespace": "team-a", "Rules": "operator = \"read\""}),
            400,
            "reach beyond the namespace",
        ),
        ("/v1/acl/policy", json!({"Name": "global-management", "Rules": ""}), 409, "exists already"),
        (
            "/v1/acl/policy/00000000-0000-0000-0000-000000000001",
            json!({"Name": "a", "Rules": ""}),
            400,
            "stays as it is",
        ),
        ("/v1/acl/role", json!({"Name": "a", "Roles": [{"ID": own}]}), 400, "a role has no roles"),
    ] {
        let answer = api.put(path, body.clone()).await;
        assert_eq!(answer.status.as_u16(), status, "{path} {body}: {}", answer.text);
        assert!(answer.text.contains(says), "{path} {body}: {}", answer.text);
    }
    let (_, accessor) = api.make_token(json!({"AccessorID": own})).await;
    assert_eq!(accessor, own);
    assert_eq!(api.put("/v1/acl/token", json!({"AccessorID": own})).await.status, StatusCode::CONFLICT);
}

#[tokio::test]
async fn a3_a_token_without_rights_sees_nothing_and_changes_nothing_on_any_route() {
    let api = Api::populated().await;
    let (nobody, _) = api.make_token(json!({"Description": "nothing"})).await;
    let before = api.consensus().catalog();
    for (method, path, right) in crate::api::routes() {
        if matches!(right, Right::Public | Right::AnyToken) {
            continue;
        }
        let path = example(path);
        let path = match path.as_str() {
            "/v1/connect/intentions/exact" => {
                "/v1/connect/intentions/exact?source=team-a/web&destination=api".to_owned()
            }
            "/v1/connect/intentions/match" => "/v1/connect/intentions/match?by=destination&name=api".to_owned(),
            "/v1/connect/intentions/check" | "/v1/connect/intentions/explain" => {
                format!("{path}?source=web&destination=api")
            }
            _ => path,
        };
        let answer = api.send(method.clone(), &path, Some(&nobody), Value::Null).await;
        if method == Method::GET && answer.status == StatusCode::OK {
            // Of the use of rules it is told that there are none that it may see.
            let nothing = ["[]", "{}", "null", r#"{"Rules":[],"LeftOut":0,"SilentServers":[]}"#];
            assert!(nothing.contains(&answer.text.as_str()), "{method} {path}: {}", answer.text);
        } else {
            assert!(answer.status.is_client_error(), "{method} {path}: {} {}", answer.status, answer.text);
        }
    }
    let after = api.consensus().catalog();
    for key in before.watch_keys().filter(|key| **key != WatchKey::Audit) {
        assert_eq!(before.index_of(std::slice::from_ref(key)), after.index_of(std::slice::from_ref(key)), "{key:?}");
    }
}

#[tokio::test]
async fn a4_lists_leave_out_what_the_caller_may_not_see_and_say_so() {
    let api = Api::populated().await;
    let rules = "node_prefix \"\" { policy = \"read\" }\nservice \"api\" { policy = \"read\" }";
    let reader = api.token_with("reader", rules).await;
    let team = "namespace \"team-a\" {\n service_prefix \"\" { policy = \"read\" }\n node_prefix \"\" { policy = \"read\" }\n}";
    let team = api.token_with("team", team).await;
    let header = "x-consul-results-filtered-by-acls";
    let count =
        |answer: &Answer| answer.json().as_array().map_or_else(|| answer.json().as_object().unwrap().len(), Vec::len);
    for (token, path, want, filtered) in [
        (&reader, "/v1/catalog/services", 1, false),
        (&team, "/v1/catalog/services", 0, true),
        (&team, "/v1/catalog/services?ns=team-a", 1, false),
        (&reader, "/v1/catalog/services?ns=team-a", 0, true),
        (&reader, "/v1/catalog/nodes", 2, false),
        (&team, "/v1/catalog/nodes", 0, true),
        (&reader, "/v1/catalog/service/api", 1, false),
        (&team, "/v1/catalog/service/web?ns=team-a", 1, false),
        (&team, "/v1/health/service/web?ns=team-a", 1, false),
        (&reader, "/v1/health/service/web?ns=team-a", 0, true),
        (&reader, "/v1/health/checks/api", 1, false),
        (&reader, "/v1/health/node/node-2", 0, true),
        (&team, "/v1/health/node/node-2", 1, false),
        (&reader, "/v1/health/state/any", 1, true),
        (&reader, "/v1/connect/intentions", 1, false),
        (&team, "/v1/connect/intentions", 1, false),
        (&reader, "/v1/acl/policies", 0, true),
        (&reader, "/v1/acl/tokens", 0, true),
    ] {
        let answer = api.get_as(token, path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text);
        assert_eq!(count(&answer), want, "{path}: {}", answer.text);
        assert_eq!(answer.header(header), filtered.then_some("true"), "{path}");
    }
    let both = api.get_as(&reader, "/v1/catalog/node/node-2").await;
    assert_eq!(both.json()["Services"], json!({}), "the node is visible, and what runs on it is not");
    assert_eq!(api.get_as(&team, "/v1/catalog/node/node-2").await.json(), Value::Null);
}

#[tokio::test]
async fn a4_a_team_writes_what_concerns_its_own_services_and_nothing_else() {
    let api = Api::populated().await;
    let rules = "namespace \"team-a\" {\n acl = \"write\"\n service_prefix \"\" {\n policy = \"write\"\n intentions = \"write\"\n }\n}";
    let team = api.token_with("team-a", rules).await;
    let exact = |from: &str, to: &str| format!("/v1/connect/intentions/exact?source={from}&destination={to}");
    let allow = || json!({"Action": "allow"});
    for (from, to, status) in [
        ("api", "team-a/web", 200),
        ("team-b/x", "team-a/*", 200),
        ("team-a/web", "api", 403),
        ("team-a/web", "team-b/x", 403),
        ("team-a/web", "*/*", 403),
    ] {
        let answer = api.put_as(&team, &exact(from, to), allow()).await;
        assert_eq!(answer.status.as_u16(), status, "{from} => {to}: {}", answer.text);
    }
    assert_eq!(api.delete_as(&team, &exact("team-a/web", "api")).await.status, StatusCode::FORBIDDEN);
    assert_eq!(api.delete_as(&team, &exact("api", "team-a/web")).await.status, StatusCode::OK);

    // It makes tokens for its own people, within its namespace.
    let policy = |namespace: &str, rules: &str| json!({"Name": "ops", "Namespace": namespace, "Rules": rules});
    let own = "service_prefix \"\" { policy = \"write\" }";
    assert_eq!(api.put_as(&team, "/v1/acl/policy", policy("default", own)).await.status, StatusCode::FORBIDDEN);
    assert_eq!(api.put_as(&team, "/v1/acl/policy", policy("team-b", own)).await.status, StatusCode::FORBIDDEN);
    let beyond = policy("team-a", "namespace \"team-b\" { acl = \"write\" }");
    assert_eq!(api.put_as(&team, "/v1/acl/policy", beyond).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(api.put_as(&team, "/v1/acl/policy", policy("team-a", own)).await.status, StatusCode::OK);
    let token = |namespace: &str| json!({"Namespace": namespace, "Policies": [{"Name": "ops"}]});
    let made = api.put_as(&team, "/v1/acl/token", token("team-a")).await;
    assert_eq!(made.status, StatusCode::OK, "{}", made.text);
    let ops = made.json()["SecretID"].as_str().unwrap().to_owned();
    let management = json!({"Policies": [{"Name": "global-management"}]});
    assert_eq!(api.put_as(&team, "/v1/acl/token", management).await.status, StatusCode::FORBIDDEN);
    let first = api.get("/v1/acl/token/self").await.json()["AccessorID"].as_str().unwrap().to_owned();
    for path in [format!("/v1/acl/token/{first}"), format!("/v1/acl/token/{first}/clone")] {
        assert_eq!(api.put_as(&team, &path, json!({})).await.status, StatusCode::FORBIDDEN, "{path}");
    }
    assert_eq!(api.get_as(&team, &format!("/v1/acl/token/{first}")).await.status, StatusCode::FORBIDDEN);
    assert_eq!(api.delete_as(&team, &format!("/v1/acl/token/{first}")).await.status, StatusCode::FORBIDDEN);
    assert_eq!(api.get_as(&team, "/v1/acl/tokens").await.json().as_array().unwrap().len(), 1);

    // And what that token writes ends at the namespace too.
    let entry = |namespace: &str| json!({"Node": "node-2", "Address": "10.0.0.1", "Service": {"ID": "w2", "Service": "web", "Namespace": namespace}});
    assert_eq!(api.put_as(&ops, "/v1/catalog/register", entry("team-a")).await.status, StatusCode::OK);
    assert_eq!(api.put_as(&ops, "/v1/catalog/register", entry("default")).await.status, StatusCode::FORBIDDEN);
    let moved = json!({"Node": "node-2", "Address": "10.9.9.9"});
    assert_eq!(api.put_as(&ops, "/v1/catalog/register", moved).await.status, StatusCode::FORBIDDEN);
    let node = json!({"Node": "node-2"});
    assert_eq!(api.put_as(&ops, "/v1/catalog/deregister", node).await.status, StatusCode::FORBIDDEN);
    assert_eq!(api.put_as(&ops, &exact("api", "team-a/web"), allow()).await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn c14_a_right_that_is_taken_away_ends_what_waits_by_it() {
    let api = Api::populated().await;
    let reader = api.token_with("reader", "acl = \"read\"\noperator = \"read\"").await;
    let index = api.get_as(&reader, "/v1/acl/policies").await.index();
    let waiting = api.spawn_get_as(&reader, &format!("/v1/acl/policies?index={index}&wait=60s"));
    let id = api.get("/v1/acl/policy/name/reader").await.json()["ID"].as_str().unwrap().to_owned();
    let change = json!({"Name": "reader", "Rules": "operator = \"read\""});
    assert_eq!(api.put(&format!("/v1/acl/policy/{id}"), change).await.status, StatusCode::OK);
    assert_eq!(waiting.await.unwrap().json(), json!([]), "what woke it is judged by the rights that are left");
    assert_eq!(api.get_as(&reader, "/v1/status/peers").await.status, StatusCode::OK);
    assert_eq!(api.delete_as(&api.token, &format!("/v1/acl/policy/{id}")).await.status, StatusCode::OK);
    let answer = api.get_as(&reader, "/v1/status/peers").await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert!(answer.text.contains("operator = \"read\""), "{}", answer.text);
}

#[tokio::test]
async fn the_baseline_of_everybodys_policy_is_the_operators() {
    let api = Api::start().await;
    let mesh = api.token_with("mesh", "mesh = \"write\"").await;
    let operator = api.token_with("operator", "operator = \"write\"").await;
    let entry = || json!({"Kind": "mesh", "DefaultIntentionPolicy": "deny", "Guardrails": [{"Name": "g", "Source": "dev/*", "Destination": "prod/*"}]});
    assert_eq!(api.put_as(&mesh, "/v1/config", entry()).await.status, StatusCode::FORBIDDEN);
    assert_eq!(api.put_as(&operator, "/v1/config", entry()).await.text, "true");
    assert_eq!(api.get_as(&mesh, "/v1/config/mesh").await.json().as_array().unwrap().len(), 1);
    assert_eq!(api.delete_as(&mesh, "/v1/config/mesh/mesh").await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_join_token_needs_the_right_on_what_it_lets_in() {
    let api = Api::start().await;
    let team = api
        .token_with("team", "service \"web\" { policy = \"write\" }\nnode_prefix \"team-\" { policy = \"write\" }")
        .await;
    for (body, status) in [
        (json!({"Services": ["web"], "Node": "team-1"}), 200),
        (json!({"Services": ["web"]}), 403),
        (json!({"Services": ["web"], "Node": "other"}), 403),
        (json!({"Services": ["web", "api"], "Node": "team-1"}), 403),
    ] {
        let answer = api.put_as(&team, "/v1/join-token", body.clone()).await;
        assert_eq!(answer.status.as_u16(), status, "{body}: {}", answer.text);
    }
    assert_eq!(api.put("/v1/join-token", json!({"Services": ["api"]})).await.status, StatusCode::OK);
    assert_eq!(api.get_as(&team, "/v1/join-tokens").await.json().as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn templates_are_shown_and_tried() {
    let api = Api::start().await;
    let all = api.get("/v1/acl/templated-policies").await.json();
    assert_eq!(all.as_object().unwrap().len(), 3);
    let one = api.get("/v1/acl/templated-policy/name/builtin/service").await.json();
    assert_eq!(one, all["builtin/service"]);
    let preview = api.put("/v1/acl/templated-policy/preview/builtin/service", json!({"Name": "web"})).await.json();
    assert!(preview["Rules"].as_str().unwrap().contains("service \"web\""));
    for (name, body) in
        [("builtin/service", json!({})), ("builtin/service", json!({"Name": "*"})), ("other", json!({}))]
    {
        let answer = api.put(&format!("/v1/acl/templated-policy/preview/{name}"), body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{name}");
    }
    let web = json!({"TemplatedPolicies": [{"TemplateName": "builtin/service", "TemplateVariables": {"Name": "web"}}]});
    let (token, _) = api.make_token(web).await;
    let rights = api.get_as(&token, "/v1/acl/token/self/rights").await.json();
    let authority: ::catalog::Authority = serde_json::from_value(rights["Authority"].clone()).unwrap();
    assert!(authority.service_write(&"web".parse().unwrap()) && !authority.service_write(&"api".parse().unwrap()));
}

#[tokio::test]
async fn a_right_that_is_taken_away_in_the_middle_ends_what_consists_of_several_writes() {
    let api = Api::start().await;
    let made = api.put("/v1/acl/token", json!({"Policies": [{"Name": "global-management"}]})).await.json();
    let (secret, accessor) = (made["SecretID"].as_str().unwrap(), made["AccessorID"].as_str().unwrap());
    let call = api.call_as(secret, "/v1/snapshot", Right::Management).await;
    let step =
        || ::catalog::Command::Backup { step: ::catalog::BackupStep::Saved { index: ::catalog::CatalogIndex(1) } };
    assert!(call.write_part(step()).await.is_ok());
    let gone = api.send(Method::DELETE, &format!("/v1/acl/token/{accessor}"), Some(&api.token), Value::Null).await;
    assert_eq!(gone.status, StatusCode::OK, "{}", gone.text);
    let refused = call.write_part(step()).await.unwrap_err();
    assert_eq!(refused.status(), StatusCode::FORBIDDEN, "{refused}");
}
