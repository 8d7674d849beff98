use proptest::prelude::*;
use serde_json::json;

use super::testing::{pod, settings};
use super::*;

fn injected(mut pod: Value, settings: &Settings) -> Value {
    match inject(&mut pod, settings, Knobs::Withheld).unwrap() {
        Outcome::Injected { .. } => pod,
        Outcome::LeftAlone { reason } => panic!("left alone: {reason}"),
    }
}

fn container<'a>(pod: &'a Value, list: &str, name: &str) -> &'a Value {
    let list = pod["spec"][list].as_array().unwrap();
    list.iter().find(|container| container["name"] == name).unwrap_or_else(|| panic!("no {name} in {list:?}"))
}

/// Returns the agent's settings as the kubelet would hand them over.
fn config(pod: &Value) -> Value {
    let agent = container(pod, "initContainers", AGENT_CONTAINER);
    let env = agent["env"].as_array().unwrap();
    let text = env.iter().find(|variable| variable["name"] == "WEFT_CONFIG").unwrap()["value"].as_str().unwrap();
    // Kubernetes' expansion, by its documentation: `$(NAME)` where it knows NAME, `$$` is `$`.
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        let known = [("(POD_NAME)", "web-1"), ("(POD_NAMESPACE)", "shop"), ("(POD_IP)", "10.0.0.9")];
        if let Some(after) = after.strip_prefix('$') {
            expanded.push('$');
            rest = after;
        } else if let Some((name, value)) = known.into_iter().find(|(name, _)| after.starts_with(name)) {
            expanded.push_str(value);
            rest = &after[name.len()..];
        } else {
            expanded.push('$');
            rest = after;
        }
    }
    serde_json::from_str(&(expanded + rest)).unwrap()
}

#[track_caller]
fn refused(change: impl FnOnce(&mut Value), want: &str) {
    let mut pod = pod();
    change(&mut pod);
    let before = pod.clone();
    let error = inject(&mut pod, &settings(), Knobs::Withheld).unwrap_err().to_string();
    assert!(error.contains(want), "{error}");
    assert_eq!(pod, before, "a pod that is refused is as it was");
}

#[test]
fn an_agent_stands_before_the_application_and_what_it_does_not_know_stays() {
    let pod = injected(pod(), &settings());
    let order: Vec<&str> =
        pod["spec"]["initContainers"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(order, [REDIRECT_CONTAINER, AGENT_CONTAINER, "migrate"]);
    assert_eq!(pod["spec"]["futureField"], json!({ "kept": true }));
    assert_eq!(pod["spec"]["containers"][0]["unknown"], json!([1, 2]));
    assert_eq!(pod["metadata"]["annotations"][STATUS_ANNOTATION], INJECTED);
    let agent = container(&pod, "initContainers", AGENT_CONTAINER);
    assert_eq!(agent["restartPolicy"], "Always");
    assert_eq!(agent["startupProbe"]["httpGet"], json!({ "path": "/ready", "port": HEALTH_PORT, "scheme": "HTTP" }));
    let token = &pod["spec"]["volumes"][1]["projected"]["sources"][0]["serviceAccountToken"];
    assert_eq!(token["audience"], "weft");
    assert_eq!(pod["spec"]["volumes"][0]["emptyDir"]["medium"], "Memory");
}

#[test]
fn only_the_container_that_redirects_may_change_the_network_and_nobody_else_is_root() {
    let pod = injected(pod(), &settings());
    let agent = &container(&pod, "initContainers", AGENT_CONTAINER)["securityContext"];
    // The restricted Pod Security Standard.
    assert_eq!(agent["capabilities"], json!({ "drop": ["ALL"] }));
    assert_eq!((&agent["runAsNonRoot"], &agent["allowPrivilegeEscalation"]), (&json!(true), &json!(false)));
    assert_eq!(agent["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!((&agent["runAsUser"], &agent["readOnlyRootFilesystem"]), (&json!(AGENT_UID), &json!(true)));
    let redirect = container(&pod, "initContainers", REDIRECT_CONTAINER);
    assert_eq!(redirect["securityContext"]["capabilities"], json!({ "drop": ["ALL"], "add": ["NET_ADMIN"] }));
    assert_eq!(redirect["securityContext"]["privileged"], false);
    let arguments: Vec<&str> = redirect["args"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
    assert_eq!(
        arguments.join(" "),
        "redirect apply --all --agent-uid 5995 --mesh-port 20000 --outbound-port 15101 --dns-port 8600 --exclude-inbound-port 19001"
    );
    assert!(redirect.get("volumeMounts").is_none(), "it sees neither keys nor token");
}

#[test]
fn the_agent_is_told_all_that_it_needs_and_the_pods_own_words_stay_literal() {
    let mut pod = pod();
    pod["metadata"]["annotations"] = json!({
        "weft.dev/upstreams": "api:9191,db.data:5432", "weft.dev/meta-price": "$(POD_IP) $$", "weft.dev/tags": "v1",
        "weft.dev/metrics-port": "9102",
    });
    let config = config(&injected(pod, &settings()));
    assert_eq!((&config["node"], &config["bind"]), (&json!("web-1.shop"), &json!("10.0.0.9")));
    assert_eq!(config["auth_method"], "kubernetes");
    assert_eq!(config["root_fingerprints"][0], "ab".repeat(32));
    assert_eq!((&config["dns_port"], &config["dns_recursors"]), (&json!(8600), &json!(["10.96.0.10:53"])));
    assert_eq!(config["dns_namespace"], "shop", "a pod's names are of its own namespace, as its upstreams are");
    let service = &config["service"];
    assert_eq!(
        (&service["name"], &service["namespace"], &service["port"]),
        (&json!("web"), &json!("shop"), &json!(8080))
    );
    assert_eq!(service["ports"], json!({ "grpc": 9000 }), "ports that are not carried are not told");
    assert_eq!(service["meta"], json!({ "pod": "web-1", "price": "$(POD_IP) $$" }));
    assert_eq!(service["metrics_url"], "http://127.0.0.1:9102/metrics");
    let upstreams = &service["connect"]["sidecar_service"]["proxy"]["upstreams"];
    assert_eq!(upstreams[0]["destination_namespace"], "shop");
    assert_eq!(
        upstreams[1],
        json!({ "destination_name": "db", "destination_namespace": "data", "local_bind_port": 5432 })
    );
    // The one decoder takes the definition.
    let definition: Result<wire::consul::ServiceDefinition, _> = wire::decode::from_value(service.clone(), "");
    let definition = definition.unwrap();
    assert_eq!((definition.upstreams.len(), definition.outbound_port, definition.redirected), (2, Some(15_101), true));
}

#[test]
fn an_agent_tells_of_requests_where_its_settings_or_its_pod_say_so() {
    let told = |of_all: AccessLog, of_pod: Option<&str>| {
        let mut pod = pod();
        if let Some(of_pod) = of_pod {
            pod["metadata"]["annotations"] = json!({ "weft.dev/access-log": of_pod });
        }
        let config = config(&injected(pod, &Settings { access_log: of_all, ..settings() }));
        (config["access_log"].clone(), config["access_log_sample"].clone())
    };
    let nothing = (Value::Null, Value::Null);
    assert_eq!(told(AccessLog::None, None), nothing);
    assert_eq!(told(AccessLog::Share(0.5), None), (json!("-"), json!(0.5)));
    assert_eq!(told(AccessLog::Share(0.5), Some("none")), nothing);
    assert_eq!(told(AccessLog::None, Some("all")), (json!("-"), json!(1.0)));
    assert_eq!(told(AccessLog::None, Some("failed")), (json!("-"), json!(0.0)));
    assert_eq!(told(AccessLog::None, Some("0.01")), (json!("-"), json!(0.01)));
}

#[test]
fn the_nodes_of_a_named_cluster_end_in_its_name() {
    let east = Settings { cluster_name: Some("east".parse().unwrap()), ..settings() };
    assert_eq!(config(&injected(pod(), &east))["node"], "web-1.shop.east");
}

#[test]
fn k1_probes_go_to_the_agent_and_come_back_when_it_is_taken_out() {
    let pod = injected(pod(), &settings());
    let app = container(&pod, "containers", "app");
    let asked = |path: &str| json!({ "path": path, "port": HEALTH_PORT, "scheme": "HTTP" });
    assert_eq!(
        app["readinessProbe"],
        json!({ "httpGet": asked("/app-health/app/readiness"), "periodSeconds": 3, "timeoutSeconds": 2 })
    );
    assert_eq!(app["livenessProbe"], json!({ "httpGet": asked("/app-health/app/liveness") }));
    assert_eq!(app["startupProbe"]["httpGet"], asked("/app-health/app/startup"));
    assert_eq!(app["lifecycle"]["preStop"], json!({ "exec": { "command": ["sleep", "5"] } }), "what runs inside stays");
    let probes = config(&pod)["application_probes"].clone();
    assert_eq!(probes.as_array().unwrap().len(), 3);
    let of = |path: &str| probes.as_array().unwrap().iter().find(|it| it["path"] == path).unwrap().clone();
    let http = of("app/readiness");
    assert_eq!((&http["http"], &http["timeout"]), (&json!("http://127.0.0.1:8080/ready?full=$(x)"), &json!("2s")));
    assert_eq!(http["header"], json!({ "X-A": ["b"] }));
    assert_eq!(of("app/liveness")["tcp"], "127.0.0.1:8080");
    assert_eq!(of("app/startup")["grpc_service"], "ready");
    let mut again = pod.clone();
    again["metadata"]["annotations"]["weft.dev/inject"] = json!("false");
    assert!(matches!(inject(&mut again, &settings(), Knobs::Granted), Ok(Outcome::LeftAlone { .. })));
    let mut want = super::testing::pod();
    want["metadata"]["annotations"] = json!({ "weft.dev/inject": "false" });
    assert_eq!(again, want);
}

#[test]
fn probes_of_others_and_by_https_are_said_to_be_what_they_are() {
    let mut pod = pod();
    pod["spec"]["containers"][0]["readinessProbe"] = json!({ "httpGet": { "port": 8443, "scheme": "HTTPS" } });
    pod["spec"]["containers"][0]["livenessProbe"] = json!({ "httpGet": { "port": 80, "host": "10.1.1.1" } });
    let Ok(Outcome::Injected { warnings }) = inject(&mut pod, &settings(), Knobs::Withheld) else { panic!() };
    assert!(warnings.iter().any(|warning| warning.contains("https")), "{warnings:?}");
    assert_eq!(config(&pod)["application_probes"][0]["tcp"], "127.0.0.1:8443");
    let app = container(&pod, "containers", "app");
    assert_eq!(app["livenessProbe"], json!({ "httpGet": { "port": 80, "host": "10.1.1.1" } }));
}

#[test]
fn a_probe_that_the_agent_would_not_take_is_refused_and_not_found_out_by_it() {
    let with = |probe: Value| move |pod: &mut Value| pod["spec"]["containers"][0]["readinessProbe"] = probe;
    let header = |name: &str, value: &str| json!({ "httpGet": { "port": 80, "httpHeaders": [{ "name": name, "value": value }] } });
    refused(with(header("X A", "b")), "the readiness probe of container `app` cannot be made by the agent");
    refused(with(header("X-A", "a\nb")), "holds what no header may");
    refused(with(json!({ "httpGet": { "port": 80, "path": format!("/{}", "a".repeat(70_000)) } })), "no path of a URL");
    refused(with(json!({ "grpc": { "port": 80, "service": "a".repeat(5000) } })), "longer than 4096");
    refused(
        |pod| {
            pod["spec"]["containers"][0]["name"] = json!("a_b");
            pod["spec"]["containers"][0]["readinessProbe"] = json!({ "tcpSocket": { "port": 80 } });
        },
        "letters, digits and hyphens",
    );
    // A kubelet asks for such paths, too, and writes them so that they are some.
    let mut spaced = pod();
    spaced["spec"]["containers"][0]["readinessProbe"] = json!({ "httpGet": { "port": 80, "path": "/is it/\u{e4}?a=\"b\"&c=%20", "httpHeaders": [{ "name": "X-A", "value": "\u{e4}" }] } });
    let told = config(&injected(spaced, &settings()))["application_probes"].clone();
    let asked = told.as_array().unwrap().iter().find(|it| it["path"] == "app/readiness").unwrap();
    assert_eq!(asked["http"], "http://127.0.0.1:80/is%20it/%C3%A4?a=%22b%22&c=%20");
    assert_eq!(asked["header"], json!({ "X-A": ["\u{e4}"] }));
}

#[test]
fn a_pod_whose_node_could_have_no_name_is_refused() {
    let long = |pod: &mut Value| pod["metadata"]["name"] = json!("a".repeat(124));
    refused(long, "129 bytes, and 128 are the most");
    refused(
        |pod| pod["metadata"] = json!({ "generateName": "a".repeat(70), "namespace": "b".repeat(63) + "cd" }),
        "give the pod a shorter name",
    );
    let mut fits = pod();
    fits["metadata"]["name"] = json!("a".repeat(123));
    injected(fits, &settings());
}

#[test]
fn k1_a_pod_of_the_machines_network_is_refused_or_left_alone_and_said() {
    let host = |pod: &mut Value| pod["spec"]["hostNetwork"] = json!(true);
    refused(host, "network of its machine");
    let mut pod = pod();
    host(&mut pod);
    let outcome = inject(&mut pod, &settings(), Knobs::Granted).unwrap();
    assert!(
        matches!(&outcome, Outcome::LeftAlone { reason } if reason.contains("network of its machine")),
        "{outcome:?}"
    );
    refused(|pod| pod["spec"]["os"] = json!({ "name": "windows" }), "Windows");
}

#[test]
fn k1_the_agents_user_and_its_volumes_are_its_own() {
    refused(
        |pod| pod["spec"]["containers"][0]["securityContext"] = json!({ "runAsUser": AGENT_UID }),
        "container `app` runs as",
    );
    refused(|pod| pod["spec"]["securityContext"] = json!({ "runAsUser": AGENT_UID }), "runs as user 5995");
    refused(
        |pod| pod["spec"]["initContainers"][0]["securityContext"] = json!({ "runAsUser": AGENT_UID }),
        "container `migrate` runs as",
    );
    refused(
        |pod| pod["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "weft-data", "mountPath": "/keys" }]),
        "mounts volume `weft-data`",
    );
    let mut running = injected(pod(), &settings());
    let check = |running: &Value, knobs| check_added_containers(running, &settings(), knobs);
    assert_eq!(check(&running, Knobs::Withheld), Ok(()));
    let debug = json!([{ "name": "debug", "image": "sh", "securityContext": { "runAsUser": AGENT_UID } }]);
    running["spec"]["ephemeralContainers"] = debug;
    assert!(matches!(check(&running, Knobs::Withheld), Err(Refusal::ReservedUid { .. })));
    running["spec"]["ephemeralContainers"] =
        json!([{ "name": "debug", "image": "sh", "targetContainerName": "weft-agent" }]);
    assert!(matches!(check(&running, Knobs::Withheld), Err(Refusal::EntersAgent { .. })));
    assert_eq!(check(&running, Knobs::Granted), Ok(()));
    running["spec"]["ephemeralContainers"][0]["targetContainerName"] = json!("app");
    assert_eq!(check(&running, Knobs::Withheld), Ok(()));
}

#[test]
fn k1_what_leads_past_the_mesh_needs_the_namespaces_word() {
    for (name, value) in [
        ("weft.dev/inject", "false"),
        ("consul.hashicorp.com/connect-inject", "false"),
        ("weft.dev/redirect", "false"),
        ("weft.dev/exclude-outbound-ports", "3306"),
    ] {
        refused(|pod| pod["metadata"]["annotations"] = json!({ name: value }), name);
    }
    let mut pod = pod();
    pod["metadata"]["annotations"] = json!({
        "weft.dev/exclude-outbound-ports": "3306", "weft.dev/exclude-outbound-cidrs": "10.1.0.0/16,fd00::/8",
        "weft.dev/exclude-inbound-ports": "9102", "weft.dev/exclude-uids": "7",
    });
    assert!(matches!(inject(&mut pod, &settings(), Knobs::Granted), Ok(Outcome::Injected { .. })));
    let arguments = container(&pod, "initContainers", REDIRECT_CONTAINER)["args"].clone();
    let arguments: Vec<&str> = arguments.as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
    assert!(
        arguments.join(" ").ends_with(
            "--exclude-inbound-port 19001 --exclude-inbound-port 9102 --exclude-outbound-port 3306 \
             --exclude-outbound-cidr 10.1.0.0/16 --exclude-outbound-cidr fd00::/8 --exclude-uid 7"
        ),
        "{arguments:?}"
    );
}

#[test]
fn k1_a_pod_that_says_it_was_injected_gains_nothing_by_it() {
    let genuine = injected(pod(), &settings());
    let mut spoofed = pod();
    spoofed["metadata"]["annotations"] =
        json!({ STATUS_ANNOTATION: INJECTED, PROBES_ANNOTATION: "{\"app/livenessProbe\": 7}" });
    spoofed["spec"]["initContainers"] = json!([
        { "name": AGENT_CONTAINER, "image": "evil", "securityContext": { "privileged": true } },
        { "name": "migrate", "image": "migrate" },
    ]);
    spoofed["spec"]["volumes"] = json!([{ "name": "weft-data", "hostPath": { "path": "/" } }]);
    let Ok(Outcome::Injected { warnings }) = inject(&mut spoofed, &settings(), Knobs::Withheld) else { panic!() };
    assert_eq!(spoofed, genuine);
    assert!(warnings.iter().any(|warning| warning.contains("replaced")), "{warnings:?}");
    let mut again = genuine.clone();
    assert_eq!(inject(&mut again, &settings(), Knobs::Withheld), Ok(Outcome::Injected { warnings: Vec::new() }));
    assert_eq!(again, genuine);
}

#[test]
fn what_is_wrong_with_a_pod_is_said() {
    refused(|pod| pod["spec"]["serviceAccountName"] = json!("default"), "weft.dev/service");
    refused(|pod| pod["spec"]["serviceAccountName"] = json!("web.v1"), "cannot be the service's name");
    refused(|pod| pod["metadata"]["annotations"] = json!({ "weft.dev/port": "admin" }), "no container has a port");
    refused(|pod| pod["spec"]["containers"] = json!([]), "no pod");
    refused(|pod| *pod = json!({ "spec": 7 }), "no pod");
    refused(|pod| *pod = json!([]), "no pod");
    let mut job = pod();
    job["spec"]["restartPolicy"] = json!("OnFailure");
    let plain = Settings { sidecar: Sidecar::Plain, ..settings() };
    assert_eq!(inject(&mut job.clone(), &plain, Knobs::Withheld), Err(Refusal::NeverEnds));
    assert!(inject(&mut job, &settings(), Knobs::Withheld).is_ok(), "a native sidecar ends with its job");
    let mut asks = pod();
    asks["metadata"]["annotations"] = json!({ "weft.dev/redirect": "true" });
    let without = Settings { redirect_image: None, ..settings() };
    assert_eq!(inject(&mut asks, &without, Knobs::Withheld), Err(Refusal::NoRedirectImage));
}

#[test]
fn without_redirection_nothing_has_more_rights_and_probes_stay() {
    let without = Settings { redirect_image: None, ..settings() };
    let pod = injected(pod(), &without);
    assert_eq!(pod["spec"]["containers"], super::testing::pod()["spec"]["containers"]);
    for word in ["NET_ADMIN", "transparent", "dns_port"] {
        assert!(!pod.to_string().contains(word), "{word}");
    }
}

#[test]
fn an_agent_that_cannot_be_a_native_sidecar_is_one_more_container() {
    let plain = Settings { sidecar: Sidecar::Plain, ..settings() };
    let pod = injected(pod(), &plain);
    assert_eq!(pod["spec"]["containers"][0]["name"], AGENT_CONTAINER);
    assert!(pod["spec"]["containers"][0].get("restartPolicy").is_none());
    assert_eq!(pod["spec"]["initContainers"][1]["name"], REDIRECT_CONTAINER, "after the pod's own preparations");
    assert_eq!(injected(pod.clone(), &plain), pod);
    assert_eq!(
        injected(pod, &settings()),
        injected(super::testing::pod(), &settings()),
        "a newer cluster's way replaces it"
    );
}

const DOCUMENTS: &str = r#"
apiVersion: v1
kind: Service
metadata: { name: web, labels: { version: "1.10", on: "yes" } }
spec: { selector: { app: web }, ports: [{ port: 80 }] }
---
apiVersion: v1
kind: ConfigMap
metadata: { name: script }
data:
  run: |
    set -e
    echo done
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  template:
    spec:
      serviceAccountName: web
      containers: [{ name: app, image: "app", ports: [{ containerPort: 8080 }] }]
      volumes: [{ name: certs, secret: { secretName: certs, defaultMode: 0400 } }]
---
apiVersion: v1
kind: List
items:
  - apiVersion: batch/v1
    kind: CronJob
    metadata: { name: nightly }
    spec: { jobTemplate: { spec: { template: { spec: { serviceAccountName: nightly, restartPolicy: Never, containers: [{ name: job, image: job }] } } } } }
  - apiVersion: v1
    kind: Pod
    metadata: { name: plain, annotations: { "consul.hashicorp.com/connect-inject": "false" } }
    spec: { containers: [{ name: app, image: app }] }
"#;

#[test]
fn files_of_many_documents_are_injected_once_however_often() {
    let once = inject_documents(DOCUMENTS, &settings(), Knobs::Granted).unwrap();
    let twice = inject_documents(&once.yaml, &settings(), Knobs::Granted).unwrap();
    assert_eq!(once, twice);
    let what: Vec<&str> = once.outcomes.iter().map(|(what, _)| what.as_str()).collect();
    assert_eq!(what, ["Deployment web", "CronJob nightly", "Pod plain"]);
    assert!(matches!(once.outcomes[2].1, Outcome::LeftAlone { .. }));
    let documents: Vec<Value> = serde_saphyr::from_multiple(&once.yaml).unwrap();
    assert_eq!(documents[0]["metadata"]["labels"], json!({ "version": "1.10", "on": "yes" }));
    assert_eq!(documents[1]["data"]["run"], "set -e\necho done\n");
    assert!(once.yaml.contains("run: |"), "text of many lines stays readable: {}", once.yaml);
    let template = &documents[2]["spec"]["template"];
    assert_eq!(template["spec"]["volumes"][0]["secret"]["defaultMode"], 256, "0400 is octal to Kubernetes");
    assert_eq!(template["metadata"]["annotations"][STATUS_ANNOTATION], INJECTED);
    let job = &documents[3]["items"][0]["spec"]["jobTemplate"]["spec"]["template"]["spec"];
    assert_eq!(job["initContainers"][1]["name"], AGENT_CONTAINER);
}

#[test]
fn a_file_with_one_bad_document_is_refused_as_a_whole() {
    let text = DOCUMENTS.replace("serviceAccountName: nightly, ", "");
    let error = inject_documents(&text, &settings(), Knobs::Granted).unwrap_err();
    assert_eq!(wire::one_line(&error).split(':').next(), Some("cannot inject CronJob nightly"));
    assert!(matches!(inject_documents("a: 1\na: 2", &settings(), Knobs::Granted), Err(DocumentsError::Read(_))));
}

#[test]
fn settings_that_no_pod_could_work_with_are_refused() {
    assert_eq!(settings().check(), Ok(()));
    let refused = |change: fn(&mut Settings), want: &str| {
        let mut settings = settings();
        change(&mut settings);
        let error = settings.check().unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    };
    refused(|settings| settings.image.clear(), "no image");
    refused(|settings| settings.servers.clear(), "no server");
    refused(|settings| settings.root_fingerprints.clear(), "fingerprint");
    refused(|settings| settings.root_fingerprints.push("beef".to_owned()), "`beef`");
    refused(|settings| settings.audience.clear(), "audience");
    refused(|settings| settings.health_port = settings.mesh_port, "port 20000");
    refused(|settings| settings.agent_uid = 0, "root");
}

fn any_probe() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        (1u16..).prop_map(|port| json!({ "tcpSocket": { "port": port }, "periodSeconds": 4 })),
        (1u16.., "/[a-z$()]{0,4}").prop_map(|(port, path)| json!({ "httpGet": { "port": port, "path": path } })),
        Just(json!({ "exec": { "command": ["true"] } })),
        Just(json!({ "httpGet": { "port": "nowhere" } })),
    ]
}

proptest! {
    #[test]
    fn injecting_twice_is_injecting_once_and_taking_out_restores(
        probes in proptest::collection::vec(any_probe(), 1..4),
        annotated in any::<bool>(),
        native in any::<bool>(),
    ) {
        let mut pod = pod();
        let containers = probes.iter().enumerate().map(|(number, probe)| {
            let mut container = json!({ "name": format!("c{number}"), "image": "x" });
            if !probe.is_null() {
                container["livenessProbe"] = probe.clone();
            }
            container
        });
        pod["spec"]["containers"] = containers.collect();
        if annotated {
            pod["metadata"]["annotations"] = json!({ "other": "kept" });
        }
        let sidecar = if native { Sidecar::Native } else { Sidecar::Plain };
        let settings = Settings { sidecar, ..settings() };
        let once = injected(pod.clone(), &settings);
        prop_assert_eq!(&injected(once.clone(), &settings), &once);
        let mut out = once;
        strip::strip(&mut out);
        prop_assert_eq!(out, pod);
    }
}
