use kube::runtime::watcher::Event;
use serde_json::json;

use super::super::{ServiceDefaults, ServiceIntentions};
use super::*;
use crate::kubernetes::mirror::Mirror;

pub(crate) fn intentions(namespace: &str, name: &str, destination: &str, sources: &Value) -> Value {
    json!({
        "apiVersion": "weft.dev/v1alpha1", "kind": "ServiceIntentions",
        "metadata": {"name": name, "namespace": namespace, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"destination": {"name": destination}, "sources": sources},
    })
}

fn defaults(namespace: &str, name: &str, protocol: &str) -> Value {
    json!({
        "apiVersion": "weft.dev/v1alpha1", "kind": "ServiceDefaults",
        "metadata": {"name": name, "namespace": namespace}, "spec": {"protocol": protocol},
    })
}

fn documents(resources: &[Value]) -> Documents {
    let (mut all, mut others) = (Mirror::<ServiceIntentions>::default(), Mirror::<ServiceDefaults>::default());
    for (number, resource) in (1u64..).zip(resources) {
        let mut resource = resource.clone();
        resource["metadata"]["resourceVersion"] = json!(number.to_string());
        if resource["kind"] == "ServiceIntentions" {
            all.take(Event::Apply(serde_json::from_value(resource).unwrap()));
        } else {
            others.take(Event::Apply(serde_json::from_value(resource).unwrap()));
        }
    }
    Documents::read("k8s", &all, &others)
}

/// What the API shows after these were written by the connector.
fn actual(documents: &Documents) -> Actual {
    let bodies = documents.wanted.values().map(|document| {
        let mut body = document.body.clone();
        body["ModifyIndex"] = json!(7);
        let owner = body["Owner"].take();
        body.as_object_mut().unwrap().remove("Owner");
        if body["Kind"] == INTENTIONS {
            for source in body["Sources"].as_array_mut().unwrap() {
                source["Owner"] = owner.clone();
            }
        }
        body
    });
    Actual::read(bodies).unwrap()
}

fn allow(source: &str) -> Value {
    json!({"name": source, "action": "allow"})
}

/// Writes a plan as lines.
fn lines(plan: &EntryPlan) -> Vec<String> {
    let writes = plan.writes.iter().map(|write| match write {
        EntryWrite::Put { key, compare, .. } => format!("put {key} at {}", compare.0),
        EntryWrite::Delete { key, compare } => format!("delete {key} at {}", compare.0),
    });
    let verdicts = plan.verdicts.iter().map(|((_, name), verdict)| format!("{name}: {verdict:?}"));
    writes.chain(verdicts).collect()
}

#[track_caller]
fn check(documents: &Documents, actual: &Actual, removals: Removals, want: &[&str]) {
    let found = lines(&plan("k8s", documents, actual, removals));
    assert_eq!(found.len(), want.len(), "{found:#?}");
    for (found, want) in found.iter().zip(want) {
        assert!(found.starts_with(want), "{want}: {found:#?}");
    }
}

const ALL_SEEN: Removals = Removals { all_seen: true, caution: Caution { share_max: 0.3, least: 3, confirmed: None } };

#[test]
fn a_plan_writes_what_is_missing_then_rests_then_removes_what_nobody_asks_for() {
    let both = documents(&[
        intentions("shop", "api", "api", &json!([allow("web"), {"name": "*", "action": "deny"}])),
        defaults("shop", "api", "http"),
    ]);
    let none = Actual::default();
    let puts = ["put service-defaults shop/api at 0", "put service-intentions shop/api at 0"];
    check(&both, &none, ALL_SEEN, &puts);
    let written = actual(&both);
    check(&both, &written, ALL_SEEN, &["shop/api: Synced", "shop/api: Synced"]);
    let changed =
        documents(&[intentions("shop", "api", "api", &json!([allow("web")])), defaults("shop", "api", "http")]);
    let want = ["put service-intentions shop/api at 7", "shop/api: Synced"];
    check(&changed, &written, ALL_SEEN, &want);
    let one = documents(&[defaults("shop", "api", "http")]);
    check(&one, &written, Removals::default(), &["shop/api: Synced"]);
    check(&one, &written, ALL_SEEN, &["delete service-intentions shop/api at 7", "shop/api: Synced"]);
}

#[test]
fn k2_what_goes_all_at_once_is_held() {
    let many: Vec<Value> = (0..10)
        .map(|number| intentions("shop", &format!("i{number}"), &format!("s{number}"), &json!([allow("web")])))
        .collect();
    let written = actual(&documents(&many));
    let few = plan("k8s", &documents(&many[3..]), &written, ALL_SEEN);
    assert_eq!((few.held, few.writes.len()), (0, 3));
    let most = plan("k8s", &documents(&many[4..]), &written, ALL_SEEN);
    assert_eq!((most.held, most.writes.len()), (4, 0));
    let meant = Removals { caution: Caution { share_max: 1.0, ..ALL_SEEN.caution }, ..ALL_SEEN };
    assert_eq!(plan("k8s", &documents(&[]), &written, meant).writes.len(), 10);
}

#[test]
fn what_somebody_else_says_is_a_conflict_with_them() {
    let asked = documents(&[
        intentions("shop", "api", "api", &json!([allow("web")])),
        intentions("shop", "db", "db", &json!([allow("api")])),
        intentions("shop", "cache", "cache", &json!([allow("api")])),
        defaults("shop", "api", "http"),
        defaults("shop", "db", "tcp"),
    ]);
    let source =
        |name: &str, owner: Value| json!({"Name": name, "Namespace": "shop", "Action": "deny", "Owner": owner});
    let entry = |name: &str, sources: Value| json!({"Kind": INTENTIONS, "Name": name, "Namespace": "shop", "ModifyIndex": 9, "Sources": sources});
    let written = |name: &str, meta: Value| json!({"Kind": DEFAULTS, "Name": name, "Namespace": "shop", "Protocol": "grpc", "ModifyIndex": 9, "Meta": meta});
    let actual = Actual::read([
        entry("api", json!([source("web", json!("team-a"))])),
        entry("db", json!([source("api", Value::Null)])),
        // What others say of other sources is no conflict.
        entry("cache", json!([source("web", json!("team-a"))])),
        written("api", json!({})),
        written("db", json!({CONNECTOR_FACT: "east"})),
    ])
    .unwrap();
    check(
        &asked,
        &actual,
        ALL_SEEN,
        &[
            "put service-intentions shop/cache at 9",
            "shop/api: Conflicting(\"service-defaults/shop/api was written through the API",
            "shop/db: Conflicting(\"the service-defaults",
            "shop/api: Conflicting(\"the intention shop/web => shop/api belongs to team-a",
            "shop/db: Conflicting(\"the intention shop/api => shop/db belongs to whoever wrote it",
        ],
    );
}

/// Collects the paths of all fields of a schema.
fn fields_of(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        fields_of(inner, &path, found);
        fields_of(&inner["items"], &path, found);
        found.insert(path);
    }
}

/// Collects the paths of all fields of an object; what lists hold stands under the list's own path.
fn fields_in(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Array(all) => all.iter().for_each(|one| fields_in(one, path, found)),
        Value::Object(fields) => {
            for (name, inner) in fields {
                let path = format!("{path}.{name}");
                fields_in(inner, &path, found);
                found.insert(path);
            }
        }
        _ => {}
    }
}

/// Every field that the API server lets through is one that the mesh reads.
#[test]
fn every_field_of_an_intentions_schema_is_read_by_the_one_decoder() {
    let jwt = json!({"providers": [{"name": "okta", "verifyClaims": [{"path": ["role"], "value": "admin"}]}]});
    let header = |test: &str, value: Value| json!({"name": "x-a", test: value});
    let mut inverted = header("exact", json!("v"));
    inverted["invert"] = json!(true);
    inverted["ignoreCase"] = json!(true);
    let headers = json!([
        inverted,
        header("present", json!(true)),
        header("prefix", json!("v")),
        header("suffix", json!("v")),
        header("contains", json!("v")),
        header("regex", json!("v.*")),
    ]);
    let permission = |http: Value| json!({"action": "allow", "http": http});
    let mut whole = permission(json!({"pathPrefix": "/", "methods": ["GET"], "header": headers}));
    whole["jwt"] = jwt.clone();
    whole["sourcePlatforms"] = json!(["ecs"]);
    let sources = json!([
        {"name": "a", "namespace": "shop", "description": "d", "meta": {"a": "b"}, "jwt": jwt,
            "permissions": [whole, permission(json!({"pathExact": "/a"})), permission(json!({"pathRegex": "/a"}))]},
        {"name": "b", "action": "allow", "expiresAt": "2099-01-01T00:00:00Z"},
    ]);
    let mut resource = intentions("shop", "api", "api", &sources);
    resource["spec"]["destination"]["namespace"] = json!("shop");
    // What tokens must say stands once: with a source, or for all of them.
    let mut other = intentions("shop", "db", "db", &json!([{"name": "a", "action": "allow"}]));
    other["spec"]["jwt"] = jwt;
    let (mut known, mut said) = (BTreeSet::new(), BTreeSet::new());
    let (_, written) = super::super::definitions::definitions().pop().unwrap();
    let definition: Value = serde_saphyr::from_str(&written).unwrap();
    fields_of(&definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"], "", &mut known);
    [&resource, &other].into_iter().for_each(|one| fields_in(&one["spec"], "", &mut said));
    said.remove(".sources.meta.a");
    assert_eq!(said, known, "the two say everything that there is");
    let documents = documents(&[resource, other]);
    assert_eq!(documents.refused, BTreeMap::new());
    let Some(Content::Intentions(change)) = documents.wanted.values().next().map(|one| &one.content) else {
        panic!("{documents:?}")
    };
    assert_eq!(super::intentions(change).len(), 2);
}

#[test]
fn k3_a_resource_speaks_for_its_own_namespace_and_in_names_that_services_have() {
    let mut foreign = intentions("shop", "a", "api", &json!([allow("web")]));
    foreign["spec"]["destination"]["namespace"] = json!("bank");
    let mut own = intentions("shop", "b", "api", &json!([{"name": "web", "namespace": "bank", "action": "allow"}]));
    own["spec"]["destination"]["namespace"] = json!("shop");
    let asked = documents(&[
        foreign,
        own,
        intentions("shop", "c", "../api", &json!([allow("web")])),
        intentions("shop", "d", "all", &json!([{"name": "web"}])),
        intentions("shop", "e", "big", &json!([{"name": "web", "action": "deny", "meta": {"a": "x".repeat(200_000)}}])),
        defaults("shop", "..", "http"),
        defaults("shop", "api", "smtp"),
    ]);
    check(
        &asked,
        &Actual::default(),
        ALL_SEEN,
        &[
            "put service-intentions shop/api at 0",
            "shop/..: Refused(",
            "shop/api: Refused(",
            "shop/a: Refused(\"its destination is of the namespace `bank`",
            "shop/c: Refused(",
            "shop/d: Refused(",
            "shop/e: Refused(\"it has 200",
        ],
    );
}

#[test]
fn of_two_that_ask_for_the_same_the_older_one_has_it_and_a_refused_change_leaves_what_was() {
    let mut younger = intentions("shop", "a-young", "api", &json!([allow("cart")]));
    younger["metadata"]["creationTimestamp"] = json!("2026-02-01T00:00:00Z");
    let older = intentions("shop", "old", "api", &json!([allow("web")]));
    let asked = documents(&[younger, older.clone()]);
    let want = ["put service-intentions shop/api at 0", "shop/a-young: Conflicting(\"the resource shop/old asks"];
    check(&asked, &Actual::default(), ALL_SEEN, &want);
    let written = actual(&documents(std::slice::from_ref(&older)));
    let mut broken = older;
    broken["spec"]["sources"][0]["action"] = Value::Null;
    check(&documents(&[broken.clone()]), &written, ALL_SEEN, &["shop/old: Refused("]);
    broken["metadata"]["deletionTimestamp"] = json!("2026-03-01T00:00:00Z");
    check(&documents(&[broken]), &written, ALL_SEEN, &["delete service-intentions shop/api at 7"]);
}
