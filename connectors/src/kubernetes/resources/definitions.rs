//! The definitions of the resources, as the chart has them: its files are held against these.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceColumnDefinition;
use kube::CustomResourceExt;

use super::status::SYNCED;
use super::{ServiceDefaults, ServiceIntentions};

/// Returns the definitions of all resources, as YAML, by the names of their files.
pub(super) fn definitions() -> Vec<(String, String)> {
    let all = [ServiceDefaults::crd(), ServiceIntentions::crd()];
    let written = all.into_iter().map(|mut definition| {
        for version in &mut definition.spec.versions {
            version.additional_printer_columns.get_or_insert_default().extend(columns());
        }
        let name = definition.metadata.name.clone().expect("a definition has a name");
        let yaml = serde_saphyr::to_string(&definition).expect("a definition is a tree of texts and numbers");
        (format!("{name}.yaml"), yaml)
    });
    written.collect()
}

/// Returns what lists show of every resource: what became of it.
fn columns() -> [CustomResourceColumnDefinition; 3] {
    let column = |name: &str, type_: &str, json_path: &str, description: Option<&str>| CustomResourceColumnDefinition {
        name: name.to_owned(),
        type_: type_.to_owned(),
        json_path: json_path.to_owned(),
        description: description.map(str::to_owned),
        ..CustomResourceColumnDefinition::default()
    };
    let of_condition = |name: &str, field: &str, description: &str| {
        let path = format!(".status.conditions[?(@.type==\"{SYNCED}\")].{field}");
        column(name, "string", &path, Some(description))
    };
    [
        of_condition("Synced", "status", "Whether the mesh has taken it"),
        of_condition("Reason", "reason", "Why, or why not"),
        column("Age", "date", ".metadata.creationTimestamp", None),
    ]
}
