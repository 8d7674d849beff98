//! The API describes itself, and the manual leaves nothing out.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use wire::openapi::{Operation, dangling, document, listed, said_of};

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

/// Checks an answer against what the description promises of the route that gives it. Every answer of every test comes by here.
#[track_caller]
pub(super) fn is_as_promised(method: &Method, path: &str, answer: &Answer) {
    static DOCUMENT: LazyLock<Value> =
        LazyLock::new(|| document("weft server", MANUAL, "servers", &crate::api::openapi::operations()));
    let is_json = answer.header("content-type").is_some_and(|kind| kind.starts_with("application/json"));
    let Some(route) = route_of(method, path).filter(|_| answer.status == StatusCode::OK) else { return };
    let operation = &DOCUMENT["paths"][route.replace("{*", "{")][method.as_str().to_lowercase()];
    let content = &operation["responses"]["200"]["content"];
    let schema = &content["application/json"]["schema"];
    assert!(!is_json || schema.is_object(), "{method} {route} answers with JSON that nobody described: {content}");
    if is_json && let Err(lie) = fits(&answer.json(), schema, &DOCUMENT, "answer") {
        panic!("{method} {route}: {lie}");
    }
}

/// Finds the route of a path: of several that fit, the one with the fewest parameters.
fn route_of(method: &Method, path: &str) -> Option<&'static str> {
    let path = path.split('?').next().unwrap_or_default();
    let fits = |route: &str| {
        let mut asked = path.split('/');
        for part in route.split('/') {
            if part.starts_with("{*") {
                return asked.next().is_some();
            }
            if !asked.next().is_some_and(|found| part == found || part.starts_with('{') && !found.is_empty()) {
                return false;
            }
        }
        asked.next().is_none()
    };
    let routes = super::super::routes().into_iter().filter(|(of, route, _)| of == method && fits(route));
    routes.map(|(_, route, _)| route).min_by_key(|route| route.matches('{').count())
}

/// Says what of a value is not as a schema has it, all the way down: a type, a field that is required or one that is not there.
fn fits(value: &Value, schema: &Value, document: &Value, at: &str) -> Result<(), String> {
    if let Some(reference) = schema["$ref"].as_str() {
        return fits(value, document.pointer(reference.trim_start_matches('#')).unwrap(), document, at);
    }
    if let Some(choices) = ["oneOf", "anyOf"].iter().find_map(|word| schema[*word].as_array()) {
        let why: Vec<String> = choices.iter().filter_map(|choice| fits(value, choice, document, at).err()).collect();
        return if why.len() < choices.len() { Ok(()) } else { Err(why.join("; or ")) };
    }
    if let Some(schemas) = each_choice(schema, document) {
        let why: Vec<String> = schemas.iter().filter_map(|schema| fits(value, schema, document, at).err()).collect();
        return if why.len() < schemas.len() { Ok(()) } else { Err(why.join("; or ")) };
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let is_of = |kind: &str| match kind {
        "null" => value.is_null(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{at}: `{other}` is no type"),
    };
    if !types.is_empty() && !types.iter().any(|kind| is_of(kind)) {
        return Err(format!("{at} is not of type {types:?}: {value}"));
    }
    for (index, value) in value.as_array().into_iter().flatten().enumerate() {
        fits(value, &schema["items"], document, &format!("{at}[{index}]"))?;
    }
    let Some(fields) = value.as_object() else { return Ok(()) };
    let parts = parts_of(schema, document);
    for part in &parts {
        for required in part["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !fields.contains_key(required) {
                return Err(format!("{at} has no `{required}`: {value}"));
            }
        }
    }
    for (name, value) in fields {
        let at = format!("{at}.{name}");
        match parts.iter().find_map(|part| part["properties"].get(name)) {
            Some(schema) => fits(value, schema, document, &at)?,
            None if schema["additionalProperties"].is_object() => {
                fits(value, &schema["additionalProperties"], document, &at)?;
            }
            // What says of none of its fields what they are may have any.
            None if parts.iter().all(|part| part["properties"].is_null()) => {}
            None => return Err(format!("{at} is not in the description: {value}")),
        }
    }
    Ok(())
}

/// Takes a schema of parts, of which one is a choice, for as many schemas as there are choices; none where none is.
fn each_choice(schema: &Value, document: &Value) -> Option<Vec<Value>> {
    let parts = schema["allOf"].as_array()?;
    let choices = parts.iter().enumerate().find_map(|(at, part)| {
        let resolved = part["$ref"].as_str().and_then(|name| document.pointer(name.trim_start_matches('#')));
        resolved.unwrap_or(part)["oneOf"].as_array().map(|choices| (at, choices))
    });
    let (at, choices) = choices?;
    let with = |choice: &Value| {
        let mut parts = parts.clone();
        parts[at] = choice.clone();
        json!({"allOf": parts})
    };
    Some(choices.iter().map(with).collect())
}

/// Returns the schemas that an object has to be as, all of them.
fn parts_of(schema: &Value, document: &Value) -> Vec<Value> {
    if let Some(reference) = schema["$ref"].as_str() {
        return parts_of(document.pointer(reference.trim_start_matches('#')).unwrap(), document);
    }
    match schema["allOf"].as_array() {
        Some(parts) => parts.iter().flat_map(|part| parts_of(part, document)).collect(),
        None => vec![schema.clone()],
    }
}

#[test]
fn an_answer_that_is_not_as_promised_is_noticed() {
    let document = json!({"components": {"schemas": {
        "Part": {"type": "object", "required": ["B"], "properties": {"B": {"type": ["integer", "null"]}}},
    }}});
    let schema = json!({"allOf": [
        {"$ref": "#/components/schemas/Part"},
        {"type": "object", "required": ["A"], "properties": {"A": {"type": "array", "items": {"type": "string"}}}},
    ]});
    let check = |value: Value| fits(&value, &schema, &document, "it");
    assert_eq!(check(json!({"A": ["x"], "B": null})), Ok(()));
    for wrong in
        [json!({"A": []}), json!({"A": [1], "B": 1}), json!({"A": [], "B": "1"}), json!({"A": [], "B": 1, "C": 1})]
    {
        assert!(check(wrong.clone()).is_err(), "{wrong}");
    }
    assert_eq!(route_of(&Method::GET, "/v1/acl/token/self?x=1"), Some("/v1/acl/token/self"));
    assert_eq!(route_of(&Method::GET, "/v1/acl/token/7"), Some("/v1/acl/token/{accessor}"));
    assert_eq!(route_of(&Method::PUT, "/v1/acl/token/7"), Some("/v1/acl/token/{accessor}"));
    assert_eq!(route_of(&Method::GET, "/v1/acl/token"), None);
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
    let mut answered = 0;
    for (method, path, _) in super::super::routes() {
        if method != Method::GET || path == "/v1/agent/monitor" || path.starts_with("/v1/tap") {
            continue;
        }
        let query = match path {
            "/v1/connect/intentions/match" => "?by=destination&name=api",
            path if path.contains("/intentions/") => "?source=web&destination=api",
            _ => "",
        };
        let answer = api.get(&format!("{}{query}", example(path))).await;
        answered += usize::from(answer.status == StatusCode::OK);
    }
    assert!(answered > 45, "only {answered} answered");
}

#[test]
fn every_route_says_what_goes_in_and_comes_out() {
    let plain = ["/v1/agent/monitor", "/v1/tap/{service}"];
    let empty = ["revoke", "confirm", "force-leave", "transfer-leader", "distrust", "leave", "logout", "rekey"];
    for operation in crate::api::openapi::operations() {
        let Operation { method, path, body, answer, .. } = &operation;
        assert_eq!(answer.is_empty(), plain.contains(path), "{method} {path} answers with `{answer}`");
        let takes = (method == "PUT" || method == "POST") && !empty.iter().any(|word| path.contains(word));
        assert_eq!(!body.is_empty(), takes, "{method} {path} takes `{body}`");
    }
}
