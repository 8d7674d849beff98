//! What a query asks to be done with an answer before it is sent: entries left out, and the nearest first.
//!
//! It works on the answer as it is written, so that a filter sees exactly the fields that the client would read.

use ::catalog::{Catalog, Namespace, Node, NodeName, Selector};
use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::query::{Query, parameter};

/// How the answer of a route is built, as far as it can be shaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// A list of entries that are on a node each.
    OnNodes,
    /// A list of checks, of instances and of nodes themselves.
    Checks,
    /// A list of entries.
    List,
    /// A node with an object or a list of `Services`.
    Node,
    /// An object of service names with their tags.
    Names,
}

/// The routes whose answers can be shaped; on all others the parameters are refused by name.
const FORMS: [(&str, Form); 13] = [
    ("/v1/catalog/nodes", Form::OnNodes),
    ("/v1/catalog/services", Form::Names),
    ("/v1/catalog/service/{service}", Form::OnNodes),
    ("/v1/catalog/connect/{service}", Form::OnNodes),
    ("/v1/catalog/node/{node}", Form::Node),
    ("/v1/catalog/node-services/{node}", Form::Node),
    ("/v1/health/node/{node}", Form::Checks),
    ("/v1/health/checks/{service}", Form::Checks),
    ("/v1/health/state/{state}", Form::Checks),
    ("/v1/health/service/{service}", Form::OnNodes),
    ("/v1/health/connect/{service}", Form::OnNodes),
    ("/v1/connect/intentions", Form::List),
    ("/v1/config/{kind}", Form::List),
];

/// Lists the parameters by which the answer of a route can be shaped.
pub(super) fn parameters_of(path: &str) -> &'static [&'static str] {
    match FORMS.iter().find(|(known, _)| *known == path) {
        Some((_, Form::OnNodes | Form::Checks)) => &["filter", "near", "node-meta"],
        Some(_) => &["filter"],
        None => &[],
    }
}

/// What is left of an answer, and in which order.
#[derive(Debug, Default)]
pub(super) struct Shaping {
    form: Option<Form>,
    selector: Option<Selector>,
    near: Option<NodeName>,
    /// Facts that the node of an entry must have.
    node_meta: Vec<(String, String)>,
    /// The namespace that checks are asked of, where one is named.
    namespace: Option<Namespace>,
}

impl Shaping {
    /// Reads `filter`, `near` and `node-meta`, and `ns` where the answer would else hold every namespace.
    ///
    /// # Errors
    ///
    /// A parameter that `path` does not have, or that cannot be read; a filter is compiled here, before anything is looked
    /// up for it.
    pub(super) fn asked(query: &Query, path: &str) -> Result<Self, ApiError> {
        let form = FORMS.iter().find(|(known, _)| *known == path).map(|(_, form)| *form);
        let supports = |name, forms: &[Form]| match query.all(name).any(|value| !value.is_empty()) {
            true if form.is_none_or(|form| !forms.contains(&form)) => Err(ApiError::ParameterUnsupported { name }),
            is_asked => Ok(is_asked),
        };
        let mut shaping = Self { form, ..Self::default() };
        if supports("filter", &[Form::OnNodes, Form::Checks, Form::List, Form::Node, Form::Names])? {
            let text = query.get("filter").unwrap_or_default();
            let selector = Selector::parse(text).map_err(|error| filter_error(text, &error))?;
            shaping.selector = Some(selector);
        }
        if supports("near", &[Form::OnNodes, Form::Checks])? {
            let text = query.get("near").unwrap_or_default();
            // Of the caller's own agent or address nothing is known here; Consul, too, then leaves the order as it is.
            if !text.starts_with('_') {
                let expected = |error: &dyn std::fmt::Display| format!("send a node's name or `_agent`: {error}");
                shaping.near = Some(text.parse().map_err(|error| parameter("near", text, expected(&error)))?);
            }
        }
        if supports("node-meta", &[Form::OnNodes, Form::Checks])? {
            for pair in query.all("node-meta").filter(|pair| !pair.is_empty()) {
                let (name, value) =
                    pair.split_once(':').ok_or_else(|| parameter("node-meta", pair, "send `name:value`"))?;
                shaping.node_meta.push((name.to_owned(), value.to_owned()));
            }
        }
        if form == Some(Form::Checks) && !matches!(query.get("ns"), None | Some("*")) {
            shaping.namespace = Some(query.namespace()?);
        }
        Ok(shaping)
    }

    /// Reports whether an answer is sent as it is.
    pub(super) fn is_idle(&self) -> bool {
        self.selector.is_none() && self.near.is_none() && self.node_meta.is_empty() && self.namespace.is_none()
    }

    /// Shapes an answer that was read from `catalog`.
    ///
    /// # Errors
    ///
    /// [`ApiError::Parameter`] where the filter compares what cannot be compared.
    pub(super) fn apply(&self, catalog: &Catalog, answer: Value) -> Result<Value, ApiError> {
        match (self.form, answer) {
            (Some(Form::Node), Value::Object(mut fields)) => {
                if let Some(services) = fields.remove("Services") {
                    fields.insert("Services".to_owned(), self.filter_all(services)?);
                }
                Ok(Value::Object(fields))
            }
            (Some(Form::Names), Value::Object(names)) => self.names(names),
            (_, Value::Array(entries)) => self.entries(catalog, entries),
            (_, answer) => Ok(answer),
        }
    }

    fn names(&self, names: Map<String, Value>) -> Result<Value, ApiError> {
        let mut kept = Map::new();
        for (name, tags) in names {
            if self.is_selected(&json!({ "ServiceName": name, "ServiceTags": tags }))? {
                kept.insert(name, tags);
            }
        }
        Ok(Value::Object(kept))
    }

    fn entries(&self, catalog: &Catalog, entries: Vec<Value>) -> Result<Value, ApiError> {
        let mut kept = Vec::with_capacity(entries.len());
        for entry in entries {
            if self.is_of_namespace(&entry) && self.has_facts(catalog, &entry) && self.is_selected(&entry)? {
                kept.push(entry);
            }
        }
        if let Some(near) = self.near.as_ref().and_then(|name| catalog.node(name)) {
            kept.sort_by_cached_key(|entry| distance(near, node_of(catalog, entry)));
        }
        Ok(Value::Array(kept))
    }

    fn filter_all(&self, services: Value) -> Result<Value, ApiError> {
        match services {
            Value::Array(entries) => {
                let mut kept = Vec::new();
                for entry in entries {
                    if self.is_selected(&entry)? {
                        kept.push(entry);
                    }
                }
                Ok(Value::Array(kept))
            }
            Value::Object(entries) => {
                let mut kept = Map::new();
                for (id, entry) in entries {
                    if self.is_selected(&entry)? {
                        kept.insert(id, entry);
                    }
                }
                Ok(Value::Object(kept))
            }
            other => Ok(other),
        }
    }

    fn is_selected(&self, entry: &Value) -> Result<bool, ApiError> {
        let Some(selector) = &self.selector else { return Ok(true) };
        selector.selects(entry).map_err(|error| filter_error(selector.as_str(), &error))
    }

    /// A check of the node itself bears on every namespace.
    fn is_of_namespace(&self, entry: &Value) -> bool {
        let Some(namespace) = &self.namespace else { return true };
        entry["Namespace"] == namespace.as_str() || entry["ServiceID"] == ""
    }

    fn has_facts(&self, catalog: &Catalog, entry: &Value) -> bool {
        if self.node_meta.is_empty() {
            return true;
        }
        let meta = node_of(catalog, entry).map(|node| &node.meta);
        meta.is_some_and(|meta| self.node_meta.iter().all(|(name, value)| meta.get(name) == Some(value)))
    }
}

fn filter_error(text: &str, error: &dyn std::fmt::Display) -> ApiError {
    parameter("filter", &text.chars().take(128).collect::<String>(), error.to_string())
}

/// Finds the node that an entry is on; its name stands in it, by itself or in an object of its own.
fn node_of<'a>(catalog: &'a Catalog, entry: &Value) -> Option<&'a Node> {
    let name = match &entry["Node"] {
        Value::Object(node) => node.get("Node")?.as_str()?,
        name => name.as_str()?,
    };
    catalog.node(&name.parse().ok()?)
}

/// Says how far a node is from another: itself, its zone, its network, elsewhere. Round trips are not measured.
fn distance(from: &Node, to: Option<&Node>) -> u8 {
    match to {
        None => 3,
        Some(to) if to.name == from.name => 0,
        Some(to) if to.network != from.network => 3,
        Some(to) if to.zone.is_some() && to.zone == from.zone => 1,
        Some(_) => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(query: &str, path: &str) -> Result<Shaping, ApiError> {
        Shaping::asked(&Query::parse(&format!("/v1/x?{query}").parse().unwrap()).unwrap(), path)
    }

    #[test]
    fn parameters_are_refused_where_they_would_be_ignored() {
        for (query, path) in [
            ("filter=a==b", "/v1/agent/self"),
            ("near=vm-1", "/v1/catalog/services"),
            ("node-meta=a:b", "/v1/connect/intentions"),
        ] {
            assert!(matches!(asked(query, path), Err(ApiError::ParameterUnsupported { .. })), "{query} {path}");
        }
        assert!(asked("filter=&near=&node-meta=", "/v1/agent/self").unwrap().is_idle());
        assert!(asked("near=_agent", "/v1/catalog/nodes").unwrap().is_idle());
        assert!(matches!(asked("near=a%20b", "/v1/catalog/nodes"), Err(ApiError::Parameter { name: "near", .. })));
        assert!(matches!(asked("node-meta=a", "/v1/catalog/nodes"), Err(ApiError::Parameter { .. })));
    }

    #[test]
    fn a12_a_filter_is_compiled_before_anything_is_looked_up_for_it_and_is_bounded() {
        let path = "/v1/catalog/nodes";
        let long = format!("filter=Node==%22{}%22", "x".repeat(Selector::BYTES_MAX));
        let deep = format!("filter={}Node==a{}", "(".repeat(500), ")".repeat(500));
        let huge = "filter=Node%20matches%20%22(a%7B1000%7D)%7B1000%7D%22".to_owned();
        for query in [long, deep, huge, "filter=Node%20==".to_owned(), "filter=Node%20matches%20%22(%22".to_owned()] {
            let error = asked(&query, path).unwrap_err();
            assert!(matches!(error, ApiError::Parameter { name: "filter", .. }), "{error}");
            assert!(error.to_string().len() < 1024, "{error}");
        }
    }
}
