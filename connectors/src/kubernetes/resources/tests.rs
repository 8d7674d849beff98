use std::path::Path;

use catalog::Timestamp;
use serde_json::{Value, json};

use super::definitions::definitions;
use super::status::Condition;
use super::*;

/// The chart installs these files; `WEFT_UPDATE_GOLDEN=1` writes them anew.
#[test]
fn the_charts_definitions_are_those_of_the_types() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/weft/crds");
    for (name, yaml) in definitions() {
        let path = folder.join(&name);
        if std::env::var_os("WEFT_UPDATE_GOLDEN").is_some() {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&path, &yaml).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(written == yaml, "charts/weft/crds/{name} is not what the types say: run with WEFT_UPDATE_GOLDEN=1");
    }
}

#[test]
fn definitions_say_what_a_resource_may_be() {
    let all: Vec<Value> = definitions().iter().map(|(_, yaml)| serde_saphyr::from_str(yaml).unwrap()).collect();
    let names: Vec<&str> = all.iter().map(|one| one["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["servicedefaults.weft.dev", "serviceintentions.weft.dev"]);
    for one in &all {
        let version = &one["spec"]["versions"][0];
        assert_eq!((&one["spec"]["scope"], &version["name"]), (&json!("Namespaced"), &json!("v1alpha1")));
        assert!(version["subresources"]["status"].is_object());
    }
    let spec = &all[1]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    assert_eq!(spec["required"], json!(["destination", "sources"]));
    let sources = &spec["properties"]["sources"];
    assert_eq!((&sources["minItems"], &sources["maxItems"]), (&json!(1), &json!(256)));
    let rules = sources["items"]["x-kubernetes-validations"].to_string();
    assert!(rules.contains("has(self.action) != has(self.permissions)"), "{rules}");
}

#[test]
fn k3_a_status_says_the_last_verdict_once_and_keeps_what_others_say() {
    let at = |seconds: u64| Timestamp(seconds * 1000);
    let other: Condition = serde_json::from_value(json!({
        "type": "Reviewed", "status": "True", "reason": "ByHand", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
    }))
    .unwrap();
    let begun = ResourceStatus { conditions: vec![other.clone()] };
    let first = begun.told(&Verdict::Refused("no".to_owned()), 1, at(10)).unwrap();
    assert_eq!(first.conditions[0], other);
    assert_eq!((&*first.conditions[1].status, &*first.conditions[1].reason), ("False", "Refused"));
    assert_eq!(first.told(&Verdict::Refused("no".to_owned()), 1, at(11)), None);
    let still = first.told(&Verdict::Conflicting("with a".to_owned()), 2, at(12)).unwrap();
    assert_eq!(still.conditions[1].last_transition_time, first.conditions[1].last_transition_time);
    assert_eq!(still.conditions[1].observed_generation, 2);
    let synced = still.told(&Verdict::Synced, 2, at(13)).unwrap();
    assert_ne!(synced.conditions[1].last_transition_time, first.conditions[1].last_transition_time);
    // Whoever else writes it is corrected.
    let forged =
        ResourceStatus { conditions: vec![Condition { status: "True".to_owned(), ..still.conditions[1].clone() }] };
    assert!(forged.told(&Verdict::Conflicting("with a".to_owned()), 2, at(14)).is_some());
    let long = begun.told(&Verdict::Refused("x".repeat(5000)), 1, at(1)).unwrap();
    assert_eq!(long.conditions[1].message.len(), 1024);
}
