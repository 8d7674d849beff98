//! The API's own description in OpenAPI 3.1, made from the routes themselves, the manual's sentence on each, and the types
//! of the answers.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::{acl, api_types, consul, mesh_status};

/// Is one route, as it is described.
#[derive(Debug, Clone)]
pub struct Operation {
    /// The method, in capitals.
    pub method: String,
    /// The path, with `{name}` for one segment.
    pub path: &'static str,
    /// What a caller has to have.
    pub right: String,
    /// Whether it answers without a token.
    pub is_public: bool,
    /// What its body is, in the same words as the answer; empty where it takes none.
    pub body: &'static str,
    /// The query parameters that it reads.
    pub query: Vec<&'static str>,
    /// What it answers with: a name of [`schemas`], `object`, `text`, `bool`, `[...]` for a list or `{...}` for a map of such,
    /// with a `?` behind it where it may be null;
    /// `bytes` for an archive; or empty where it is text that is no JSON.
    pub answer: &'static str,
}

/// Returns what a section of the manual says of a route: the last cell of its row in a table of method, path and more.
pub fn said_of<'a>(manual: &'a str, section: &str, method: &str, path: &str) -> Option<&'a str> {
    part(manual, section).lines().find_map(|line| {
        let mut cells = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ");
        let is_it = cells.next()? == method && cells.next()? == format!("`{path}`");
        is_it.then(|| cells.last()).flatten()
    })
}

/// Returns what stands between the two marks of a section.
fn part<'a>(manual: &'a str, section: &str) -> &'a str {
    manual.split(&format!("<!-- {section} -->")).nth(1).unwrap_or_default()
}

/// Lists the routes of which the manual has a row between two marks: method and path.
pub fn listed<'a>(manual: &'a str, section: &str) -> Vec<(&'a str, &'a str)> {
    let rows = part(manual, section).lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| ")?.split(" | ");
        let (method, path) = (cells.next()?, cells.next()?.strip_prefix('`')?.strip_suffix('`')?);
        path.starts_with("/v1/").then_some((method, path))
    });
    rows.collect()
}

/// Describes the routes; `manual` has a sentence on each, in one section.
pub fn document(title: &str, manual: &str, section: &str, operations: &[Operation]) -> Value {
    let mut paths: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for operation in operations {
        let described = describe(operation, manual, section);
        paths.entry(template(operation.path)).or_default().insert(operation.method.to_lowercase(), described);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": title,
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "paths": paths,
        "components": {
            "schemas": all_schemas(operations),
            "securitySchemes": {
                "token": { "type": "apiKey", "in": "header", "name": "X-Consul-Token" },
                "bearer": { "type": "http", "scheme": "bearer" },
            },
            "responses": {
                "Refused": {
                    "description": "One line that says what failed, on which input, and what to do.",
                    "content": { "text/plain": { "schema": { "type": "string" } } },
                },
            },
        },
    })
}

fn describe(operation: &Operation, manual: &str, section: &str) -> Value {
    let path = template(operation.path);
    let in_path = path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }));
    let in_query = operation.query.iter().map(|name| {
        json!({ "name": name, "in": "query", "required": false, "allowEmptyValue": true, "schema": { "type": "string" } })
    });
    let mut described = json!({
        "summary": said_of(manual, section, &operation.method, operation.path).unwrap_or_default(),
        "operationId": operation_id(operation),
        "description": format!("Needs {}.", operation.right),
        "parameters": in_path.chain(in_query).collect::<Vec<Value>>(),
        "responses": {
            "200": { "description": "Done, or found.", "content": content(operation.answer, "") },
            "default": { "$ref": "#/components/responses/Refused" },
        },
    });
    if !operation.body.is_empty() {
        described["requestBody"] = json!({ "content": content(operation.body, SENT) });
    }
    described["security"] = if operation.is_public { json!([]) } else { json!([{ "token": [] }, { "bearer": [] }]) };
    described
}

/// Returns a path as OpenAPI writes it: a parameter that takes several segments has no mark of its own there.
fn template(path: &str) -> String {
    path.replace("{*", "{")
}

fn operation_id(operation: &Operation) -> String {
    let words = operation.path.trim_start_matches("/v1/").split(['/', '-', '{', '}', '.', '*']);
    let words = words.filter(|word| !word.is_empty()).map(|word| {
        let (first, rest) = word.split_at(1);
        first.to_uppercase() + rest
    });
    operation.method.to_lowercase() + &words.collect::<String>()
}

/// Marks the schema of what is sent, of which less is required than of what is shown: what is left out takes its default.
const SENT: &str = ".Sent";

/// Returns the content of an answer or a body, by its media type.
fn content(what: &str, mark: &str) -> Value {
    match what {
        "" => json!({ "text/plain": { "schema": { "type": "string" } } }),
        "bytes" => json!({ "application/octet-stream": {} }),
        _ => json!({ "application/json": { "schema": schema_of(what, mark) } }),
    }
}

/// Returns the schema that a word stands for.
fn schema_of(what: &str, mark: &str) -> Value {
    if let Some(shown) = what.strip_suffix('?') {
        return json!({ "oneOf": [schema_of(shown, mark), { "type": "null" }] });
    }
    let inside = |open, close| what.strip_prefix(open).and_then(|rest: &str| rest.strip_suffix(close));
    match (what, inside('[', ']'), inside('{', '}')) {
        ("bool", ..) => json!({ "type": "boolean" }),
        ("text", ..) => json!({ "type": "string" }),
        ("object", ..) => json!({ "type": "object" }),
        (_, Some(item), _) => json!({ "type": "array", "items": schema_of(item, mark) }),
        (_, _, Some(value)) => json!({ "type": "object", "additionalProperties": schema_of(value, mark) }),
        (name, None, None) => json!({ "$ref": format!("#/components/schemas/{name}{mark}") }),
    }
}

/// Returns the schemas of the types that answers are made of, by name.
pub fn schemas() -> BTreeMap<String, Value> {
    let mut found: Vec<(String, RefOr<Schema>)> = Vec::new();
    macro_rules! gather {
        ($($type:ty),+ $(,)?) => {
            $(
                found.push((<$type as ToSchema>::name().into_owned(), <$type as PartialSchema>::schema()));
                <$type as ToSchema>::schemas(&mut found);
            )+
        };
    }
    gather!(
        acl::CloneRequest,
        acl::OwnRights,
        acl::PolicyRequest,
        acl::PolicyView,
        acl::RoleRequest,
        acl::RoleView,
        acl::TokenRequest,
        acl::TokenView,
        api_types::AuditTrail,
        api_types::BootstrapChallenge,
        api_types::BootstrapProof,
        api_types::CaConfigurationView,
        api_types::CaIntermediateRequest,
        api_types::CaRotateRequest,
        api_types::CaRotationView,
        api_types::CallersView,
        api_types::CertificateAge,
        api_types::ConnectorAnswer,
        api_types::ConnectorView,
        api_types::Explanation,
        api_types::JoinTokenRequest,
        api_types::JoinTokenView,
        api_types::RaftStatusView,
        api_types::RekeyView,
        api_types::RelaxRequest,
        api_types::RelaxationView,
        api_types::RestoreAnswer,
        api_types::RevocationView,
        api_types::Revoked,
        api_types::RuleUsageView,
        api_types::ServiceAddresses,
        consul::AgentHost,
        consul::AgentMember,
        consul::AgentMetrics,
        consul::AgentSelf,
        consul::AgentService,
        consul::AgentVersion,
        consul::AuthMethodEntry,
        consul::AuthorizeAnswer,
        consul::AutopilotConfiguration,
        consul::AutopilotHealth,
        consul::AutopilotState,
        consul::BindingRuleEntry,
        consul::CaRoots,
        consul::CatalogService,
        consul::CheckAnswer,
        consul::DiscoveryChainAnswer,
        consul::HealthCheck,
        consul::HealthEntry,
        consul::Intention,
        consul::LeaderTransferred,
        consul::LeafCertificate,
        consul::MeshConfigEntry,
        consul::Node,
        consul::NodeServiceList,
        consul::NodeServices,
        consul::RaftConfiguration,
        consul::TokenLogin,
        consul::UsageAnswer,
        mesh_status::MeshStatus,
    );
    found.into_iter().filter_map(|(name, schema)| Some((name, serde_json::to_value(schema).ok()?))).collect()
}

/// Returns the schemas, and beside them those of what is sent.
fn all_schemas(operations: &[Operation]) -> BTreeMap<String, Value> {
    let mut all = schemas();
    for operation in operations {
        let Some(shown) = all.get(operation.body).cloned() else { continue };
        all.insert(format!("{}{SENT}", operation.body), with_nothing_required(shown));
    }
    all
}

fn with_nothing_required(mut schema: Value) -> Value {
    if let Value::Object(fields) = &mut schema {
        fields.remove("required");
        if let Some(Value::Array(parts)) = fields.get_mut("allOf") {
            parts.iter_mut().for_each(|part| *part = with_nothing_required(part.take()));
        }
    }
    schema
}

/// Returns every reference of a document that leads nowhere in it; none in a sound one.
pub fn dangling(document: &Value) -> Vec<String> {
    fn walk(value: &Value, document: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                if let Some(reference) = fields.get("$ref").and_then(Value::as_str)
                    && reference.strip_prefix('#').is_none_or(|pointer| document.pointer(pointer).is_none())
                {
                    found.push(reference.to_owned());
                }
                fields.values().for_each(|value| walk(value, document, found));
            }
            Value::Array(values) => values.iter().for_each(|value| walk(value, document, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    walk(document, document, &mut found);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANUAL: &str =
        "<!-- a -->\n| Method | Path | What |\n| --- | --- | --- |\n| GET | `/v1/x/{id}` | the x |\n<!-- a -->";

    #[test]
    fn a_route_is_described_by_its_row_in_the_manual() {
        assert_eq!(said_of(MANUAL, "a", "GET", "/v1/x/{id}"), Some("the x"));
        assert_eq!(said_of(MANUAL, "a", "PUT", "/v1/x/{id}"), None);
        assert_eq!(listed(MANUAL, "a"), [("GET", "/v1/x/{id}")]);
        assert!(listed(MANUAL, "b").is_empty());
    }

    #[test]
    fn a_document_has_its_routes_and_no_reference_leads_nowhere() {
        let operation = Operation {
            method: "GET".to_owned(),
            path: "/v1/x/{id}",
            right: "a valid token".to_owned(),
            is_public: false,
            body: "",
            query: vec!["index"],
            answer: "[HealthEntry]",
        };
        let written =
            Operation { method: "PUT".to_owned(), body: "TokenRequest", answer: "{[text]}", ..operation.clone() };
        let document = document("test", MANUAL, "a", &[operation, written]);
        let get = &document["paths"]["/v1/x/{id}"]["get"];
        assert_eq!((get["summary"].as_str(), get["operationId"].as_str()), (Some("the x"), Some("getXId")));
        assert_eq!(get["parameters"][1]["name"], "index");
        assert_eq!(dangling(&document), Vec::<String>::new());
        let entry = &document["components"]["schemas"]["HealthEntry"];
        assert!(entry["properties"]["Checks"].is_object(), "{entry}");
        assert_eq!(document["components"]["schemas"]["HealthCheck"]["properties"]["CheckID"]["type"], "string");
        let put = &document["paths"]["/v1/x/{id}"]["put"];
        let sent = &put["requestBody"]["content"]["application/json"]["schema"]["$ref"];
        assert_eq!(sent, "#/components/schemas/TokenRequest.Sent", "what is sent may leave out what has a default");
        let sent = &document["components"]["schemas"]["TokenRequest.Sent"];
        assert!(!sent.to_string().contains("\"required\":[\"Description\""), "{sent}");
        let answer = &put["responses"]["200"]["content"]["application/json"]["schema"];
        assert_eq!(answer["additionalProperties"], json!({ "type": "array", "items": { "type": "string" } }));
    }
}
