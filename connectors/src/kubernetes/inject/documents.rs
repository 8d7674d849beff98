//! Files of many documents, as `kubectl apply` takes them: every pod in them is found and injected.

use serde_json::Value;

use super::{Knobs, Outcome, Refusal, Settings, inject};

/// No file is longer.
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// Why documents were not injected.
#[derive(Debug, thiserror::Error)]
pub enum DocumentsError {
    /// There is more than anybody writes.
    #[error("there are {bytes} bytes of documents: give at most {BYTES_MAX}")]
    TooLong {
        /// How many there are.
        bytes: usize,
    },
    /// It is no YAML.
    #[error("cannot read the documents")]
    Read(#[source] Box<serde_saphyr::Error>),
    /// A pod is refused.
    #[error("cannot inject {what}")]
    Refused {
        /// Which document.
        what: String,
        /// Why.
        #[source]
        refusal: Refusal,
    },
    /// It cannot be written.
    #[error("cannot write the documents")]
    Write(#[source] Box<serde_saphyr::SerializeError>),
}

/// Is what became of a file of documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Documents {
    /// The documents, in their order.
    pub yaml: String,
    /// What became of each pod in it, in order, with what it is.
    pub outcomes: Vec<(String, Outcome)>,
}

/// Injects every pod, and every template of one, that stands in YAML or JSON documents. Other documents stay as they are.
///
/// # Errors
///
/// [`DocumentsError`] names the first document that is refused; half a file is never returned.
pub fn inject_documents(text: &str, settings: &Settings, knobs: Knobs) -> Result<Documents, DocumentsError> {
    if text.len() > BYTES_MAX {
        return Err(DocumentsError::TooLong { bytes: text.len() });
    }
    // As Kubernetes reads YAML: `0400` is octal, `yes` is true, and a key that stands there twice is an error.
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    let mut documents: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options)
        .map_err(|error| DocumentsError::Read(Box::new(error)))?;
    let mut outcomes = Vec::new();
    for document in &mut documents {
        inject_document(document, settings, knobs, &mut outcomes)?;
    }
    // Text of many lines stays such; one long line stays one.
    let form = serde_saphyr::ser_options! { folded_wrap_chars: usize::MAX };
    let mut yaml = String::new();
    for (number, document) in documents.iter().enumerate() {
        if number > 0 {
            yaml.push_str("---\n");
        }
        let written = serde_saphyr::to_string_with_options(document, form.clone())
            .map_err(|error| DocumentsError::Write(Box::new(error)))?;
        yaml.push_str(&written);
        if !yaml.ends_with('\n') {
            yaml.push('\n');
        }
    }
    Ok(Documents { yaml, outcomes })
}

fn inject_document(
    document: &mut Value,
    settings: &Settings,
    knobs: Knobs,
    outcomes: &mut Vec<(String, Outcome)>,
) -> Result<(), DocumentsError> {
    let kind = document.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    if kind == "List" || kind.ends_with("List") {
        for item in document.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
            inject_document(item, settings, knobs, outcomes)?;
        }
        return Ok(());
    }
    let Some(place) = template(document, &kind) else { return Ok(()) };
    let name = document.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("without a name");
    let what = format!("{kind} {name}");
    let Some(pod) = document.pointer_mut(place) else { return Ok(()) };
    let outcome =
        inject(pod, settings, knobs).map_err(|refusal| DocumentsError::Refused { what: what.clone(), refusal })?;
    outcomes.push((what, outcome));
    Ok(())
}

/// Says where the pod stands in a document of Kubernetes' own kinds.
fn template(document: &Value, kind: &str) -> Option<&'static str> {
    let version = document.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    let group = version.split_once('/').map_or("", |(group, _)| group);
    match (group, kind) {
        ("", "Pod") => Some(""),
        ("", "ReplicationController") | ("apps", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet") => {
            Some("/spec/template")
        }
        ("batch", "Job") => Some("/spec/template"),
        ("batch", "CronJob") => Some("/spec/jobTemplate/spec/template"),
        _ => None,
    }
}
