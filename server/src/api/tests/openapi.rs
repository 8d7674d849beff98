//! The API describes itself, and the manual leaves nothing out.

use std::collections::BTreeMap;

use wire::openapi::{dangling, listed, said_of};

use super::*;
use crate::api::openapi::MANUAL;

/// Returns what the manual's table should say that a route needs.
fn needs(right: Right) -> &'static str {
    match right {
        Right::Public => "nothing",
        Right::AnyToken => "any token",
        Right::Management => "management",
        Right::AclRead => "`acl:read`",
        Right::AclWrite => "`acl:write`",
        Right::OperatorRead => "`operator:read`",
        Right::OperatorWrite => "`operator:write`",
        Right::MeshRead => "`mesh:read`",
        Right::MeshWrite => "`mesh:write`",
        Right::Judged => "judged",
    }
}

#[test]
fn the_manual_has_every_route_and_no_other() {
    let written: BTreeSet<(String, String)> =
        listed(MANUAL, "servers").into_iter().map(|(method, path)| (method.to_owned(), path.to_owned())).collect();
    let mut rows = Vec::new();
    for (method, path, right) in super::super::routes() {
        let said = said_of(MANUAL, "servers", method.as_str(), path).unwrap_or_default();
        let row = format!("| {method} | `{path}` | {} | {said} |", needs(right));
        if !MANUAL.contains(&row) || said.len() < 5 {
            rows.push(row);
        }
    }
    assert!(
        rows.is_empty(),
        "docs/api.md lacks these rows, or says another right; complete them:\n{}",
        rows.join("\n")
    );
    let served: BTreeSet<(String, String)> =
        super::super::routes().iter().map(|(method, path, _)| (method.to_string(), (*path).to_owned())).collect();
    let gone: Vec<_> = written.difference(&served).collect();
    assert!(gone.is_empty(), "docs/api.md has rows of routes that are gone: {gone:?}");
}

#[tokio::test]
async fn the_description_is_sound_and_has_every_route() {
    let api = Api::start().await;
    let document = api.get("/v1/openapi.json").await.json();
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(dangling(&document), Vec::<String>::new());
    let mut ids = BTreeMap::new();
    for (method, path, _) in super::super::routes() {
        let operation = &document["paths"][path.replace("{*", "{")][method.as_str().to_lowercase()];
        assert!(operation["summary"].as_str().is_some_and(|summary| summary.len() > 4), "{method} {path}: {operation}");
        for parameter in operation["parameters"].as_array().unwrap() {
            let name = parameter["name"].as_str().unwrap();
            assert!(!name.contains('*'), "{method} {path} has the parameter {name}");
        }
        let id = operation["operationId"].as_str().unwrap().to_owned();
        assert_eq!(ids.insert(id.clone(), path), None, "two operations are called {id}");
    }
    let health = &document["paths"]["/v1/health/service/{service}"]["get"];
    let names: Vec<&str> =
        health["parameters"].as_array().unwrap().iter().map(|parameter| parameter["name"].as_str().unwrap()).collect();
    for name in ["service", "index", "wait", "stale", "ns", "filter", "near", "tag", "passing"] {
        assert!(names.contains(&name), "{name} is not among {names:?}");
    }
}

/// Checks that an answer has the fields that its schema requires, all the way down.
fn conforms(value: &Value, schema: &Value, document: &Value, at: &str) {
    if let Some(reference) = schema["$ref"].as_str() {
        return conforms(value, document.pointer(reference.trim_start_matches('#')).unwrap(), document, at);
    }
    if let (Some(items), Some(values)) = (schema.get("items"), value.as_array()) {
        values.iter().for_each(|value| conforms(value, items, document, at));
    }
    for required in schema["required"].as_array().into_iter().flatten() {
        let name = required.as_str().unwrap();
        assert!(value.get(name).is_some(), "{at} has no `{name}`: {value}");
    }
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        if let Some(value) = value.get(name).filter(|value| !value.is_null()) {
            conforms(value, schema, document, &format!("{at}.{name}"));
        }
    }
}

#[tokio::test]
async fn answers_have_the_shape_that_the_description_promises() {
    let api = Api::start().await;
    api.established().await;
    let body = json!({
        "Node": "node-1", "Address": "10.0.0.1", "Service": {"ID": "api", "Service": "api", "Port": 80},
        "Check": {"CheckID": "up", "Name": "up", "ServiceID": "api", "Status": "passing"},
    });
    assert_eq!(api.put("/v1/catalog/register", body).await.status, StatusCode::OK);
    let allow = json!({"Action": "allow"});
    api.put("/v1/connect/intentions/exact?source=web&destination=api", allow).await;
    let document = api.get("/v1/openapi.json").await.json();
    let mut checked = 0;
    for (method, path, _) in super::super::routes() {
        let schema = &document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"];
        if method != Method::GET || schema.is_null() {
            continue;
        }
        let query = if path.contains("/intentions/") { "?source=web&destination=api" } else { "" };
        let answer = api.get(&format!("{}{query}", example(path))).await;
        assert!(answer.status == StatusCode::OK || path.contains("/ca/"), "{path}: {}", answer.text);
        if answer.status == StatusCode::OK {
            conforms(&answer.json(), schema, &document, path);
            checked += 1;
        }
    }
    assert!(checked > 15, "checked only {checked}");
}
