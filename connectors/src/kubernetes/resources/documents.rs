//! From resources to config entries: what each resource asks for, and which of them cannot have it.

use std::collections::{BTreeMap, BTreeSet};

use catalog::{ConfigEntry, IntentionOwner, Namespace, PolicyChange};
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde_json::{Value, json};
use wire::consul;
use wire::decode::from_value;

use super::{ServiceDefaults, ServiceIntentions};
use crate::kubernetes::mirror::{Mirror, ObjectName};

/// No resource may ask for more: agents hold what it says.
const BYTES_MAX: usize = 128 * 1024;
/// The facts in a config entry that say whose it is.
pub(crate) const CONNECTOR_FACT: &str = "weft.dev/connector";
const RESOURCE_FACT: &str = "weft.dev/resource";

/// Names a config entry that a resource may ask for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DocumentKey {
    /// The kind, as config entries have it.
    pub kind: &'static str,
    /// The namespace.
    pub namespace: String,
    /// The name of the service, or `*`.
    pub name: String,
}

impl std::fmt::Display for DocumentKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// Is what a config entry is to be.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// The intentions toward a destination, of one owner.
    Intentions(Box<PolicyChange>),
    /// An entry that shapes traffic.
    Entry(Box<ConfigEntry>),
}

/// Is a config entry that a resource asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// The resource.
    pub resource: ObjectName,
    /// The entry, as the API takes it.
    pub body: Value,
    /// What that says.
    pub content: Content,
}

/// Says how a resource fares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The mesh says what it does.
    Synced,
    /// It cannot be taken: why, and what to do.
    Refused(String),
    /// Somebody else says something about the same: who, and what to do.
    Conflicting(String),
    /// The mesh has not answered yet.
    Waiting(String),
}

impl Verdict {
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Synced => "Synced",
            Self::Refused(_) => "Refused",
            Self::Conflicting(_) => "Conflicting",
            Self::Waiting(_) => "Waiting",
        }
    }

    pub(crate) fn message(&self) -> &str {
        match self {
            Self::Synced => "the mesh enforces it",
            Self::Refused(why) | Self::Conflicting(why) | Self::Waiting(why) => why,
        }
    }
}

/// Is what all resources ask for.
#[derive(Debug, Default)]
pub struct Documents {
    /// What each entry is to be.
    pub wanted: BTreeMap<DocumentKey, Document>,
    /// The entries of resources that cannot be taken as they are now: what was taken of them before stays.
    pub kept: BTreeSet<DocumentKey>,
    /// The resources that ask for what they cannot have, by kind and name.
    pub refused: BTreeMap<(&'static str, ObjectName), Verdict>,
}

/// The kinds of config entries that resources ask for.
pub(crate) const INTENTIONS: &str = "service-intentions";
pub(crate) const DEFAULTS: &str = "service-defaults";

/// Returns the owner that a connector's intentions have.
pub(crate) fn owner_of(connector: &str) -> IntentionOwner {
    format!("connector/{connector}").parse().expect("a connector's name is a part of an owner's")
}

impl Documents {
    /// Reads what resources ask for. Of two that ask for the same, the older one has it.
    #[must_use]
    pub fn read(connector: &str, intentions: &Mirror<ServiceIntentions>, defaults: &Mirror<ServiceDefaults>) -> Self {
        let mut documents = Self::default();
        let mut asked: Vec<(Age, DocumentKey, Result<Document, String>)> = Vec::new();
        for (name, resource) in intentions.iter().filter(|(_, resource)| lives(&***resource)) {
            let destination = &resource.spec.destination;
            let (namespace, service) = (destination.namespace.as_deref(), destination.name.as_str());
            let key = DocumentKey { kind: INTENTIONS, namespace: name.namespace.clone(), name: service.to_owned() };
            let body = own_namespace(name, namespace).and_then(|()| {
                let spec = as_object(&resource.spec)?;
                Ok(json!({
                    "Kind": INTENTIONS, "Name": service, "Namespace": name.namespace, "Owner": owner_of(connector),
                    "Sources": spec.get("sources"), "JWT": spec.get("jwt"),
                }))
            });
            asked.push((age(&**resource), key, body.and_then(|body| Document::read(name, body))));
        }
        for (name, resource) in defaults.iter().filter(|(_, resource)| lives(&***resource)) {
            let key = DocumentKey { kind: DEFAULTS, namespace: name.namespace.clone(), name: name.name.clone() };
            let body = as_object(&resource.spec).map(|mut body| {
                body.insert("Kind".to_owned(), json!(DEFAULTS));
                body.insert("Name".to_owned(), json!(name.name));
                body.insert("Namespace".to_owned(), json!(name.namespace));
                body.insert("Meta".to_owned(), json!({CONNECTOR_FACT: connector, RESOURCE_FACT: name.to_string()}));
                Value::Object(body)
            });
            asked.push((age(&**resource), key, body.and_then(|body| Document::read(name, body))));
        }
        asked.sort_by(|one, other| one.0.cmp(&other.0));
        for ((_, name), key, document) in asked {
            let verdict = match (document, documents.wanted.get(&key)) {
                (Err(why), _) => {
                    documents.kept.insert(key.clone());
                    Verdict::Refused(why)
                }
                (Ok(_), Some(older)) => Verdict::Conflicting(format!(
                    "the resource {} asks for the {key}, too, and is older: put both into one",
                    older.resource
                )),
                (Ok(document), None) => {
                    documents.wanted.insert(key, document);
                    continue;
                }
            };
            documents.refused.insert((key.kind, name), verdict);
        }
        documents
    }
}

impl Document {
    fn read(resource: &ObjectName, body: Value) -> Result<Self, String> {
        let bytes = body.to_string().len();
        if bytes > BYTES_MAX {
            return Err(format!("it has {bytes} bytes, and {BYTES_MAX} are the most: split it by destination"));
        }
        let current: Namespace = resource.namespace.parse().map_err(|error: catalog::NameError| error.to_string())?;
        let content = content_of(body.clone(), &current)?;
        Ok(Self { resource: resource.clone(), body, content })
    }
}

/// Reads what an entry says, as the API would.
pub(crate) fn content_of(body: Value, current: &Namespace) -> Result<Content, String> {
    let entry: consul::ConfigEntry = from_value(body, "").map_err(|error| error.to_string())?;
    match entry {
        consul::ConfigEntry::ServiceIntentions(entry) => {
            let change = entry.into_change(current, None).map_err(|error| error.to_string())?;
            Ok(Content::Intentions(Box::new(change)))
        }
        consul::ConfigEntry::Traffic(entry) => {
            let entry = entry.into_entry(current).map_err(|error| error.to_string())?;
            Ok(Content::Entry(Box::new(entry)))
        }
        consul::ConfigEntry::Mesh(_) => Err("the mesh entry is no namespace's to write".to_owned()),
    }
}

/// What is being deleted asks for nothing any more.
fn lives(resource: &impl Resource) -> bool {
    resource.meta().deletion_timestamp.is_none()
}

type Age = (String, ObjectName);

fn age(resource: &impl ResourceExt) -> Age {
    let made = resource.meta().creation_timestamp.as_ref().map(|time| time.0.to_string());
    (made.unwrap_or_default(), ObjectName::of(resource))
}

fn own_namespace(resource: &ObjectName, said: Option<&str>) -> Result<(), String> {
    match said {
        Some(other) if !other.is_empty() && other != resource.namespace => Err(format!(
            "its destination is of the namespace `{other}`: a resource speaks for services of its own namespace only, so put it there"
        )),
        _ => Ok(()),
    }
}

fn as_object(spec: &impl Serialize) -> Result<serde_json::Map<String, Value>, String> {
    match serde_json::to_value(spec) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(other) => Err(format!("its spec is no object but {other}")),
        Err(error) => Err(error.to_string()),
    }
}
