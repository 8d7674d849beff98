//! Takes out of a pod what an injector put in.

use serde_json::{Map, Value};

use super::{OWN_VOLUMES, PROBES_ANNOTATION, STATUS_ANNOTATION, is_own, probes};

/// Takes it out, whoever put it there.
pub(super) fn strip(pod: &mut Value) {
    if let Some(Value::String(kept)) = annotation(pod, PROBES_ANNOTATION)
        && let Ok(Value::Object(kept)) = serde_json::from_str(&kept)
    {
        probes::restore(pod, kept);
    }
    annotation(pod, STATUS_ANNOTATION);
    drop_if_empty(pod.get_mut("metadata"), "annotations");
    drop_if_empty(Some(&mut *pod), "metadata");
    let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else { return };
    for list in ["initContainers", "containers"] {
        retain(spec, list, |container| !is_own(container));
    }
    retain(spec, "volumes", |volume| {
        volume.get("name").and_then(Value::as_str).is_none_or(|name| !OWN_VOLUMES.contains(&name))
    });
}

/// Takes an annotation out.
fn annotation(pod: &mut Value, name: &str) -> Option<Value> {
    pod.get_mut("metadata")?.get_mut("annotations")?.as_object_mut()?.remove(name)
}

fn drop_if_empty(within: Option<&mut Value>, name: &str) {
    let Some(within) = within.and_then(Value::as_object_mut) else { return };
    if within.get(name).and_then(Value::as_object).is_some_and(Map::is_empty) {
        within.remove(name);
    }
}

/// Keeps the elements of a list that `keep` says; a list that is empty then was the injector's own.
fn retain(spec: &mut Map<String, Value>, list: &str, keep: impl Fn(&Value) -> bool) {
    let Some(elements) = spec.get_mut(list).and_then(Value::as_array_mut) else { return };
    let before = elements.len();
    elements.retain(keep);
    if elements.is_empty() && before > 0 {
        spec.remove(list);
    }
}
