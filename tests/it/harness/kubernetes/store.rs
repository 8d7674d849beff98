//! The objects, their versions and what happened to them.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Value, json};

use super::access::time;

/// Names an object: its resource as `pods` or `leases.coordination.k8s.io`, its namespace if it has one, its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ObjectKey {
    pub(super) resource: String,
    pub(super) namespace: String,
    pub(super) name: String,
}

impl ObjectKey {
    pub(super) fn new(resource: &str, namespace: &str, name: &str) -> Self {
        Self { resource: resource.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

/// Is one thing that happened.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) key: ObjectKey,
    pub(super) before: Option<Value>,
    pub(super) after: Option<Value>,
}

#[derive(Default)]
pub(super) struct Store {
    pub(super) version: u64,
    /// The rests of lists by what continues them, with the version that their first pages were of.
    pub(super) pages: BTreeMap<String, (u64, Vec<Value>)>,
    objects: BTreeMap<ObjectKey, Value>,
    history: VecDeque<Change>,
    forgotten: u64,
}

/// Says why a request is refused: a status, its reason in one word, and a message.
pub(super) type Refused = (u16, &'static str, String);

pub(super) fn not_found(what: &str, name: &str) -> Refused {
    (404, "NotFound", format!("{what} \"{name}\" not found"))
}

impl Store {
    pub(super) fn get(&self, resource: &str, namespace: &str, name: &str) -> Result<&Value, Refused> {
        self.objects.get(&ObjectKey::new(resource, namespace, name)).ok_or_else(|| not_found(resource, name))
    }

    /// Returns the objects of a resource, sorted.
    pub(super) fn list<'a>(&'a self, resource: &'a str) -> impl Iterator<Item = &'a Value> {
        self.objects.iter().filter(move |(key, _)| key.resource == resource).map(|(_, object)| object)
    }

    /// Returns the key of an object by what it says of itself; definitions say how their kinds are called in the plural.
    pub(super) fn key_of(&self, object: &Value) -> ObjectKey {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (kind, version) = (text(&object["kind"]), text(&object["apiVersion"]));
        let group = version.split_once('/').map_or("", |(group, _)| group);
        let mut definitions = self.list("customresourcedefinitions.apiextensions.k8s.io").map(|one| &one["spec"]);
        let defined = definitions.find(|spec| spec["group"] == group && spec["names"]["kind"] == *kind);
        let plural = match (defined, kind.to_lowercase()) {
            (Some(spec), _) => text(&spec["names"]["plural"]),
            (None, kind) => kind.strip_suffix('y').map_or(format!("{kind}s"), |stem| format!("{stem}ies")),
        };
        let resource = if group.is_empty() { plural } else { format!("{plural}.{group}") };
        let metadata = &object["metadata"];
        ObjectKey { resource, namespace: text(&metadata["namespace"]), name: text(&metadata["name"]) }
    }

    /// Stores an object as it is, under a new version.
    pub(super) fn put(&mut self, key: ObjectKey, mut object: Value) -> Value {
        let before = self.objects.get(&key).cloned();
        self.version += 1;
        let fresh = json!({
            "uid": format!("{0:08x}-0000-4000-8000-{0:012x}", self.version), "generation": 0,
            "creationTimestamp": time(wire::crypto::now().0 / 1000),
        });
        let known = before.as_ref().map_or(&fresh, |before| &before["metadata"]);
        let is_other = before.as_ref().is_none_or(|before| before["spec"] != object["spec"]);
        let metadata = &mut object["metadata"];
        metadata["name"] = json!(key.name);
        if !key.namespace.is_empty() {
            metadata["namespace"] = json!(key.namespace);
        }
        metadata["uid"] = known["uid"].clone();
        metadata["creationTimestamp"] = known["creationTimestamp"].clone();
        metadata["generation"] = json!(known["generation"].as_u64().unwrap_or(0) + u64::from(is_other));
        metadata["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(key.clone(), object.clone());
        self.history.push_back(Change { version: self.version, key, before, after: Some(object.clone()) });
        object
    }

    /// Removes an object at once, under a new version: there is no kubelet whose word it waits for, and nothing of weft's has a
    /// finalizer.
    pub(super) fn remove(&mut self, key: &ObjectKey) -> Result<Value, Refused> {
        let object = self.objects.remove(key).ok_or_else(|| not_found(&key.resource, &key.name))?;
        self.version += 1;
        let before = Some(object.clone());
        self.history.push_back(Change { version: self.version, key: key.clone(), before, after: None });
        Ok(object)
    }

    /// Makes an object that must not be there; its status is for others to say.
    pub(super) fn create(&mut self, mut key: ObjectKey, mut object: Value) -> Result<Value, Refused> {
        key.name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if !key.namespace.is_empty() {
            self.get("namespaces", "", &key.namespace)?;
        }
        if self.objects.contains_key(&key) {
            return Err((409, "AlreadyExists", format!("{} \"{}\" already exists", key.resource, key.name)));
        }
        set(&mut object, "status", Value::Null);
        Ok(self.put(key, object))
    }

    /// Writes an object that must be there: all of it but its status, or its status alone.
    pub(super) fn update(&mut self, key: &ObjectKey, said: Value, is_status: bool) -> Result<Value, Refused> {
        let current = self.get(&key.resource, &key.namespace, &key.name)?.clone();
        for field in ["resourceVersion", "uid"] {
            let wanted = said["metadata"][field].as_str().unwrap_or_default();
            if !wanted.is_empty() && wanted != current["metadata"][field] {
                let why = "the object has been modified; please apply your changes to the latest version and try again";
                return Err((409, "Conflict", format!("{} \"{}\": {why}", key.resource, key.name)));
            }
        }
        let status = if is_status { said["status"].clone() } else { current["status"].clone() };
        let mut next = if is_status { current.clone() } else { said };
        set(&mut next, "status", status);
        for field in ["uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp"] {
            set(&mut next["metadata"], field, current["metadata"][field].clone());
        }
        // What changes nothing makes no version.
        Ok(if next == current { current } else { self.put(key.clone(), next) })
    }

    /// Returns what happened since a version, and the version that it is now; nothing if that is forgotten.
    pub(super) fn since(&self, version: u64) -> Option<(Vec<Change>, u64)> {
        let news = || self.history.iter().filter(|change| change.version > version).cloned().collect();
        (version >= self.forgotten).then(|| (news(), self.version))
    }

    /// Returns what happened last, oldest first.
    pub(super) fn last(&self, count: usize) -> Vec<Change> {
        self.history.iter().skip(self.history.len().saturating_sub(count)).cloned().collect()
    }

    /// Forgets what happened, by a version of its own, so that even whoever has seen everything is behind.
    pub(super) fn forget(&mut self) {
        self.version += 1;
        self.forgotten = self.version;
        self.history.clear();
        self.pages.clear();
    }
}

fn set(object: &mut Value, field: &str, value: Value) {
    match object.as_object_mut() {
        Some(fields) if value.is_null() => drop(fields.remove(field)),
        _ => object[field] = value,
    }
}
