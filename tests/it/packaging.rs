//! What weft is shipped in: read by the programs that are to read it, where they are here, and searched everywhere for what
//! must not be in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::harness::{entries, root, succeed, tool};

/// The most that `systemd-analyze security` may find exposed, in tenths.
const EXPOSURE_MAX: u32 = 15;
/// The same of an agent that answers names on port 53.
const EXPOSURE_WITH_DNS_MAX: u32 = 20;

#[track_caller]
fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("reading {path}: {error}"))
}

/// Returns the files of a folder and of those within it, sorted.
#[track_caller]
fn files(folder: &Path) -> Vec<PathBuf> {
    entries(folder).into_iter().flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Copies a unit to a directory in such a way that it can be judged there: its program has to exist, and weft is not installed
/// here.
#[track_caller]
fn stage(unit: &Path, directory: &Path) -> PathBuf {
    let text = fs::read_to_string(unit).unwrap();
    assert!(text.contains("ExecStart=/usr/bin/weft "), "{} starts weft", unit.display());
    let staged = directory.join(unit.file_name().unwrap());
    fs::write(&staged, text.replace("=/usr/bin/weft ", "=/bin/true ")).unwrap();
    staged
}

/// Checks that systemd understands a unit, and finds no more exposed than so many tenths.
#[track_caller]
fn judge(analyze: &Path, unit: &Path, exposure_max: u32) {
    // Without this flag a key that systemd does not know is only warned of.
    succeed(Command::new(analyze).args(["verify", "--man=no", "--recursive-errors=no"]).arg(unit));
    let threshold = format!("--threshold={exposure_max}");
    succeed(Command::new(analyze).args(["security", "--offline=true", "--no-pager", &threshold]).arg(unit));
}

#[test]
fn systemd_units_are_understood_and_expose_little() {
    let test = "systemd_units_are_understood_and_expose_little";
    let Some(analyze) = tool("systemd-analyze", test) else { return };
    let directory = tempfile::tempdir().unwrap();
    let packaged = entries(&root().join("packaging/systemd"));
    let units = packaged.iter().filter(|path| path.extension().is_some_and(|extension| extension == "service"));
    let staged: Vec<PathBuf> = units.map(|unit| stage(unit, directory.path())).collect();
    assert!(staged.len() >= 3, "{staged:?}");
    for unit in &staged {
        judge(&analyze, unit, EXPOSURE_MAX);
    }
    // With the right to a port below 1024.
    let unit = directory.path().join("weft-agent.service");
    let drop_in = directory.path().join("weft-agent.service.d/dns.conf");
    fs::create_dir(drop_in.parent().unwrap()).unwrap();
    fs::copy(root().join("packaging/systemd/dns-port-53.conf"), drop_in).unwrap();
    judge(&analyze, &unit, EXPOSURE_WITH_DNS_MAX);
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
fn no_pod_of_the_chart_asks_for_more_than_a_pod_has() {
    for template in files(&root().join("charts/weft/templates")) {
        let name = template.file_name().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(&template).unwrap().replace("{{/*", "").replace("*/}}", "");
        // The first is any wildcard.
        for word in "* privileged hostNetwork hostPID hostIPC hostPath hostPort".split(' ') {
            assert!(!text.contains(word), "{name} says `{word}`");
        }
    }
    let servers = read("charts/weft/templates/statefulset.yaml");
    let wanted = [
        "runAsNonRoot: true",
        "runAsUser: 65532",
        "runAsGroup: 65532",
        "type: RuntimeDefault",
        "allowPrivilegeEscalation: false",
        "readOnlyRootFilesystem: true",
        "- ALL",
        "defaultMode: 0440",
    ];
    for line in wanted {
        assert!(servers.lines().any(|found| found.trim() == line), "the servers' pods do not say `{line}`");
    }
}

#[test]
fn the_image_holds_one_program_and_runs_it_as_nobody() {
    let text = read("packaging/container/Containerfile").replace("\\\n", " ");
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let instructions: BTreeSet<&str> = lines.iter().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(
        instructions,
        BTreeSet::from(["COPY", "ENTRYPOINT", "ENV", "FROM", "LABEL", "USER"]),
        "nothing runs while it is built"
    );
    for line in [
        "FROM scratch",
        "USER 65532:65532",
        "ENTRYPOINT [\"/usr/bin/weft\"]",
        "COPY --chown=0:0 --chmod=0555 weft /usr/bin/weft",
    ] {
        let instruction = line.split_whitespace().next();
        let same: Vec<&str> =
            lines.iter().copied().filter(|other| other.split_whitespace().next() == instruction).collect();
        assert_eq!(same, [line]);
    }
}

/// Returns the instructions of a Containerfile by their first words; of several with the same one, the last.
fn instructions(path: &str) -> BTreeMap<String, String> {
    let text = read(path).replace("\\\n", " ");
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(' ')).map(|(word, rest)| (word.to_owned(), rest.to_owned())).collect()
}

#[test]
fn the_image_that_redirects_is_the_other_one_and_nft() {
    let plain = instructions("packaging/container/Containerfile");
    let redirecting = instructions("packaging/container/redirect.Containerfile");
    for same in ["COPY", "ENTRYPOINT"] {
        assert_eq!(plain[same], redirecting[same], "whatever runs from the one runs from the other");
    }
    assert!(redirecting["RUN"].split(' ').any(|word| word == "nftables"), "{redirecting:?}");
    assert!(redirecting["ENV"].split(['=', ':']).any(|folder| folder == "/usr/sbin"), "nft is found: {redirecting:?}");

    // The injector starts what is there, as a user that the image does not have to know.
    let directory = tempfile::tempdir().unwrap();
    let pod = directory.path().join("pod.json");
    fs::write(&pod, r#"{"apiVersion": "v1", "kind": "Pod", "spec": {"serviceAccountName": "web", "containers": [{"name": "app"}]}}"#).unwrap();
    let (pod, root) = (pod.display().to_string(), "ab".repeat(32));
    let told = [
        "inject",
        "--image",
        "one",
        "--redirect-image",
        "one",
        "--server",
        "s:8300",
        "--root-fingerprint",
        &root,
        "--audience",
        "weft",
        "--file",
        &pod,
    ];
    let injected = crate::harness::weft(&told, &[]);
    assert_eq!(injected.status, Some(0), "{injected:?}");
    let program = redirecting["COPY"].split(' ').next_back().unwrap();
    assert!(injected.stdout.contains(program), "{program} in {}", injected.stdout);
    assert_eq!(injected.stdout.matches("runAsUser:").count(), 2, "both say as whom they run: {}", injected.stdout);
    // And so does every pod of the chart.
    for workload in ["statefulset.yaml", "injector/deployment.yaml", "connector/deployment.yaml"] {
        let text = read(&format!("charts/weft/templates/{workload}"));
        assert!(text.contains("runAsUser: 65532") || text.contains("weft.podSecurityContext"), "{workload}");
        assert!(!text.lines().any(|line| line.trim() == "command:"), "{workload} starts the image's own program");
    }
}
