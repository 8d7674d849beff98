//! What the chart takes and what its templates say, read as they stand.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::harness::{entries, root};

#[track_caller]
fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("reading {path}: {error}"))
}

/// Returns the files of a folder and of those within it, sorted.
#[track_caller]
fn files(folder: &Path) -> Vec<PathBuf> {
    entries(folder).into_iter().flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn the_chart_installs_the_version_that_it_stands_beside() {
    let text = read("charts/weft/Chart.yaml");
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let fields: BTreeMap<&str, &str> = lines
        .map(|line| {
            line.split_once(": ").unwrap_or_else(|| panic!("Chart.yaml is `key: value` on every line, not `{line}`"))
        })
        .map(|(key, value)| (key, value.trim_matches('"')))
        .collect();
    assert_eq!(fields.get("apiVersion"), Some(&"v2"));
    assert_eq!(fields.get("name"), Some(&"weft"));
    assert_eq!(fields.get("appVersion"), Some(&env!("CARGO_PKG_VERSION")), "raise it with the version of the binary");
    assert!(fields.contains_key("version"), "{fields:?}");
}

/// Lists the paths of the values that a schema names, down to where it refers to a definition.
fn schema_paths(schema: &Value, prefix: &str, found: &mut BTreeSet<String>) {
    let Some(properties) = schema["properties"].as_object() else {
        found.insert(prefix.to_owned());
        return;
    };
    for (name, property) in properties {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        schema_paths(property, &path, found);
    }
}

/// Lists the paths of the keys of a YAML file of nested maps; what stands in its lists is left out.
fn yaml_paths(text: &str) -> BTreeSet<String> {
    let mut parents: Vec<(usize, &str)> = Vec::new();
    let mut found = BTreeSet::new();
    for line in text.lines() {
        let trimmed = line.trim_start();
        let Some((key, _)) = trimmed.split_once(':').filter(|_| !trimmed.starts_with(['#', '-'])) else { continue };
        let indent = line.len() - trimmed.len();
        parents.retain(|(of_parent, _)| *of_parent < indent);
        parents.push((indent, key));
        let path: Vec<&str> = parents.iter().map(|(_, key)| *key).collect();
        found.insert(path.join("."));
    }
    found
}

/// Lists the values that templates read, as they stand after `.Values.`.
fn read_by_templates() -> BTreeSet<String> {
    let templates = files(&root().join("charts/weft/templates"));
    let texts: String = templates.iter().map(|template| fs::read_to_string(template).unwrap()).collect();
    let is_of_path = |character: char| character.is_ascii_alphanumeric() || character == '.';
    texts
        .split(".Values.")
        .skip(1)
        .map(|rest| rest.split(|next| !is_of_path(next)).next().unwrap().to_owned())
        .collect()
}

/// Says whether one of the paths is the other, or lies on the way to it.
fn meet(one: &str, other: &str) -> bool {
    let (short, long) = if one.len() <= other.len() { (one, other) } else { (other, one) };
    long.strip_prefix(short).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[test]
fn schema_values_and_templates_of_the_chart_name_the_same_things() {
    let schema: Value = serde_json::from_str(&read("charts/weft/values.schema.json")).unwrap();
    let mut known = BTreeSet::new();
    schema_paths(&schema, "", &mut known);
    assert!(known.remove("global"), "Helm adds it to every chart that another one depends on");
    let (written, used) = (yaml_paths(&read("charts/weft/values.yaml")), read_by_templates());
    assert!(known.len() > 20 && used.len() > 20, "{known:?} {used:?}");
    for path in &known {
        assert!(written.contains(path), "values.yaml does not show `{path}`");
        assert!(used.iter().any(|used| meet(used, path)), "no template reads `{path}`");
    }
    for path in written.iter().chain(&used) {
        assert!(known.iter().any(|known| meet(known, path)), "the schema does not know `{path}`");
    }
}

#[test]
fn f1_the_chart_refuses_values_that_it_does_not_know() {
    fn check(schema: &Value, path: &str) {
        let is_object = schema["type"] == "object";
        let strict = schema["additionalProperties"] == false || schema["additionalProperties"].is_object();
        assert!(!is_object || strict || path == "/properties/global", "{path} takes anything");
        let inner = schema.as_object().into_iter().flatten().filter(|(_, inner)| inner.is_object());
        for (name, inner) in inner {
            check(inner, &format!("{path}/{name}"));
        }
    }
    let schema: Value = serde_json::from_str(&read("charts/weft/values.schema.json")).unwrap();
    assert_eq!(schema["type"], "object");
    check(&schema, "");
    assert_eq!(
        schema["properties"]["replicas"]["enum"],
        serde_json::json!([1, 3, 5]),
        "an even number is no majority more"
    );
}

#[test]
fn no_template_of_the_chart_has_a_word_for_more_than_a_pod_has() {
    for template in files(&root().join("charts/weft/templates")) {
        let name = template.file_name().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(&template).unwrap().replace("{{/*", "").replace("*/}}", "");
        // The first is any wildcard.
        for word in "* privileged hostNetwork hostPID hostIPC hostPath hostPort".split(' ') {
            assert!(!text.contains(word), "{name} says `{word}`");
        }
    }
}
