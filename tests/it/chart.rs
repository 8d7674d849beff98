//! The Helm chart, rendered and linted by Helm's own code and held against Kubernetes' published schemas.

mod values;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    process::Command,
    sync::LazyLock,
};

use serde_json::{Value, json};

use crate::harness::{PATIENCE, output_within, python, root, weft};

/// Returns the values that the manual has for agents outside the cluster, as they stand there, and an image.
fn outside() -> String {
    let page = fs::read_to_string(root().join("docs/kubernetes.md")).unwrap();
    let block = page.split("```yaml\n# outside.yaml\n").nth(1).and_then(|rest| rest.split("```").next());
    format!("{}image: {{ repository: r/weft }}\n", block.expect("the page has values for agents outside"))
}

/// What the chart is rendered with: what is kept as golden files, and what must be refused.
fn cases() -> Value {
    json!({
        "outside": outside(),
        "default": { "image": { "repository": "registry.example/weft" } },
        "everything": {
            "image": { "repository": "registry.example/weft", "digest": format!("sha256:{}", "ab".repeat(32)), "pullSecrets": ["pull"] },
            "mesh": { "datacenter": "eu", "trustDomain": "mesh.example", "pathTemplate": "/ns/{namespace}/sa/{service}" },
            "bindAddress": "::",
            "storage": { "className": "fast" },
            "clusterName": "east",
            "api": { "names": ["weft.example"] },
            "networkPolicy": { "apiFrom": [{ "podSelector": { "matchLabels": { "app": "ci" } } }], "metricsFrom": [{ "namespaceSelector": {} }] },
            "agents": { "service": {
                "type": "LoadBalancer", "annotations": { "example.com/internal": "true" }, "loadBalancerSourceRanges": ["10.0.0.0/8", "fd00::/8"],
            } },
            "priorityClassName": "critical", "podLabels": { "team": "mesh" }, "podAnnotations": { "example.com/scrape": "true" },
            "serviceAccountAnnotations": { "example.com/role": "servers" },
            "connector": { "serviceAccountAnnotations": { "example.com/role": "connector" } },
            "injector": { "serviceAccountAnnotations": { "example.com/role": "injector" }, "redirectImage": "registry.example/weft-redirect:1", "clusterDns": ["10.96.0.10:53", "[fd00::a]:53"], "sidecar": "plain", "rootFingerprints": ["ab".repeat(32)], "agent": { "accessLog": 0.01 } },
            "nodeSelector": { "pool": "mesh" },
            "tolerations": [{ "key": "mesh", "operator": "Exists", "effect": "NoSchedule" }],
        },
        "external": {
            "image": { "repository": "registry.example/weft" },
            "externalServers": {
                "enabled": true, "agents": ["10.0.0.5:8300", "[fd00::5]:8300"],
                "api": ["https://weft.example:8501", "https://[fd00::5]:8501"],
            },
            "connector": { "tokenSecret": "connector" },
            "injector": { "rootFingerprints": ["cd".repeat(32)], "audience": "weft/production" },
        },
        "no_logins": { "image": { "repository": "r/weft" }, "podLogins": { "enabled": false }, "injector": { "enabled": false } },
        "no_image": {},
        "nowhere": { "image": { "repository": "r/weft" }, "externalServers": { "enabled": true } },
        "deaf": {
            "image": { "repository": "r/weft" }, "connector": { "tokenSecret": "t" },
            "externalServers": { "enabled": true, "agents": ["s:8300"] }, "injector": { "audience": "weft/east" },
        },
        "tokenless": { "image": { "repository": "r/weft" }, "bootstrap": { "enabled": false } },
        "for_nobody": {
            "image": { "repository": "r/weft" }, "connector": { "enabled": false },
            "externalServers": { "enabled": true, "agents": ["10.0.0.5:8300"] },
            "injector": { "rootFingerprints": ["cd".repeat(32)] },
        },
        "silent": { "image": { "repository": "r/weft" }, "podLogins": { "enabled": false } },
        "talkative": { "image": { "repository": "r/weft" }, "injector": { "agent": { "accessLog": "everything" } } },
        "even": { "image": { "repository": "r/weft" }, "replicas": 2 },
        "misspelled": { "image": { "repository": "r/weft" }, "injektor": {} },
        "misspelled_within": { "image": { "repository": "r/weft" }, "injector": { "replica": 1 } },
        "own_label": { "image": { "repository": "r/weft" }, "podLabels": { "app.kubernetes.io/component": "server" } },
        "no_fingerprint": { "image": { "repository": "r/weft" }, "injector": { "rootFingerprints": ["beef"] } },
    })
}

/// What renders the chart, and what knows the schemas.
const MODULES: &str = "helm_python, kubernetes_validate, yaml";
const RENDERED: [&str; 3] = ["default", "everything", "external"];

/// Renders all cases, once for all tests.
fn rendered(test: &str) -> Option<&'static Value> {
    static ALL: LazyLock<Result<Value, String>> = LazyLock::new(|| {
        let python = python(MODULES, "the chart").ok_or("no python")?;
        let mut render = Command::new(python);
        render.arg(root().join("tests/it/chart/render.py")).arg(root().join("charts/weft")).arg(cases().to_string());
        let output = output_within(&mut render, PATIENCE);
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            return Err(stderr.into_owned());
        }
        serde_json::from_str(&stdout).map_err(|error| format!("{error}: {stdout}{stderr}"))
    });
    python(MODULES, test)?;
    Some(ALL.as_ref().unwrap_or_else(|error| panic!("rendering the chart: {error}")))
}

fn golden(case: &str) -> PathBuf {
    root().join(format!("tests/it/chart/{case}.yaml"))
}

#[test]
fn the_chart_is_linted_valid_the_same_twice_and_as_it_was() {
    let Some(all) = rendered("the_chart_is_linted_valid_the_same_twice_and_as_it_was") else { return };
    for case in RENDERED {
        let found = &all[case];
        assert_eq!(found["refused"], Value::Null, "{case}");
        assert_eq!((&found["lint"], &found["invalid"]), (&json!([]), &json!([])), "{case}");
        assert_eq!(found["twice_alike"], true, "{case}");
        let files: BTreeMap<String, String> = serde_json::from_value(found["files"].clone()).unwrap();
        let filled = files.iter().filter(|(_, text)| !text.trim().is_empty());
        let text: String = filled.map(|(path, text)| format!("# {path}\n{}\n", text.trim())).collect();
        let path = golden(case);
        if std::env::var_os("WEFT_UPDATE_GOLDEN").is_some() {
            fs::write(&path, &text).unwrap();
        }
        let kept = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            kept == text,
            "{case}: the chart renders to something else than {}: see what changed by \
                               WEFT_UPDATE_GOLDEN=1 cargo test --test it chart",
            path.display()
        );
    }
}

#[test]
fn f1_values_that_make_no_sense_are_refused_and_say_why() {
    let Some(all) = rendered("f1_values_that_make_no_sense_are_refused_and_say_why") else { return };
    for (case, want) in [
        ("no_image", "packaging/README.md"),
        ("nowhere", "externalServers.agents"),
        ("deaf", "externalServers.api"),
        ("tokenless", "connector.tokenSecret"),
        ("even", "replicas"),
        ("misspelled", "injektor"),
        ("misspelled_within", "replica"),
        ("no_fingerprint", "rootFingerprints"),
        ("own_label", "app.kubernetes.io/component"),
        ("for_nobody", "injector.audience"),
        ("silent", "injector.audience"),
        ("talkative", "accessLog"),
    ] {
        let why = all[case]["refused"].as_str().unwrap_or_else(|| panic!("{case} is not refused"));
        assert!(why.contains(want), "{case}: {why}");
    }
}

/// Returns the documents of a case that are of one of these kinds.
fn of_kind<'a>(all: &'a Value, case: &str, kinds: &[&str]) -> Vec<&'a Value> {
    let documents = all[case]["documents"].as_array().unwrap().iter();
    documents.filter(|it| kinds.iter().any(|kind| it["kind"] == *kind)).collect()
}

#[test]
fn no_right_of_the_chart_has_a_wildcard_and_secrets_are_named() {
    let Some(all) = rendered("no_right_of_the_chart_has_a_wildcard_and_secrets_are_named") else { return };
    let mut seen = 0;
    for role in RENDERED.iter().flat_map(|case| of_kind(all, case, &["Role", "ClusterRole"])) {
        for rule in role["rules"].as_array().unwrap() {
            seen += 1;
            assert!(!rule.to_string().contains('*'), "{rule}");
            let is_of = |resource: &str| rule["resources"].as_array().unwrap().iter().any(|it| it == resource);
            let is_named = rule["resourceNames"].as_array().is_some_and(|names| !names.is_empty());
            assert!(!is_of("secrets") || is_named && role["kind"] == "Role", "{rule}");
            assert!(!is_of("mutatingwebhookconfigurations") || is_named, "{rule}");
            for verb in ["escalate", "bind", "impersonate", "deletecollection"] {
                assert!(!rule["verbs"].as_array().unwrap().iter().any(|it| it == verb), "{rule}");
            }
        }
    }
    assert!(seen > 0);
    for account in of_kind(all, "default", &["ServiceAccount"]) {
        assert_eq!(
            account["automountServiceAccountToken"], false,
            "who asks the cluster says so in its pod: {account}"
        );
    }
}

/// Lists what a connector may ask of its cluster, in the words in which the stand-in for one notes what is asked.
pub(crate) fn connector_rights() -> impl Iterator<Item = String> {
    let watched = [
        "pods",
        "services",
        "endpointslices.discovery.k8s.io",
        "servicedefaults.weft.dev",
        "serviceintentions.weft.dev",
    ];
    let reading = watched.into_iter().flat_map(|of| ["get", "list", "watch"].map(|verb| format!("{verb} {of}")));
    let telling = ["servicedefaults", "serviceintentions"].map(|of| format!("patch {of}.weft.dev/status"));
    let leading = ["create", "get", "update"].map(|verb| format!("{verb} leases.coordination.k8s.io"));
    reading.chain(telling).chain(leading)
}

#[test]
fn the_connector_is_granted_what_it_asks_for_and_no_more() {
    let Some(all) = rendered("the_connector_is_granted_what_it_asks_for_and_no_more") else { return };
    let roles = of_kind(all, "default", &["Role", "ClusterRole"]).into_iter();
    let own = roles.filter(|role| role["metadata"]["name"].as_str().is_some_and(|name| name.contains("-connector")));
    let texts = |list: &Value| -> Vec<String> { serde_json::from_value(list.clone()).unwrap() };
    let mut granted = BTreeSet::new();
    for rule in own.flat_map(|role| role["rules"].as_array().unwrap()) {
        let groups = texts(&rule["apiGroups"]);
        let [group] = &groups[..] else { panic!("{rule}") };
        for resource in texts(&rule["resources"]) {
            let dot = if group.is_empty() { "" } else { "." };
            let named = match resource.split_once('/') {
                Some((resource, part)) => format!("{resource}{dot}{group}/{part}"),
                None => format!("{resource}{dot}{group}"),
            };
            granted.extend(texts(&rule["verbs"]).iter().map(|verb| format!("{verb} {named}")));
        }
    }
    assert_eq!(granted, connector_rights().collect());
}

#[test]
fn the_connector_calls_the_servers_by_the_name_and_the_port_that_they_serve_it_at() {
    let Some(all) = rendered("the_connector_calls_the_servers_by_the_name_and_the_port_that_they_serve_it_at") else {
        return;
    };
    for case in ["default", "everything"] {
        let named = |kind: &str, name: &str| {
            let found = of_kind(all, case, &[kind]).into_iter().find(|it| it["metadata"]["name"] == name);
            found.unwrap_or_else(|| panic!("{case} has no {kind} {name}")).clone()
        };
        let containers = |workload: &Value| workload["spec"]["template"]["spec"]["containers"].clone();
        let told = |container: &Value, flag: &str| -> Vec<String> {
            let arguments = container["args"].as_array().unwrap().iter().map(|one| one.as_str().unwrap());
            arguments.filter_map(|one| one.strip_prefix(&format!("--{flag}="))).map(str::to_owned).collect()
        };
        let (connector, servers) = (containers(&named("Deployment", "weft-connector")), named("StatefulSet", "weft"));
        let server = containers(&servers)[0].clone();
        let service = named("Service", "weft-api");
        assert_eq!(told(&connector[0], "http-addr"), ["https://weft-api.mesh.svc:8501"]);
        assert!(told(&server, "api-name").contains(&"weft-api.mesh.svc".to_owned()), "{server}");
        assert_eq!(
            (&service["spec"]["ports"][0]["port"], &service["spec"]["ports"][0]["targetPort"]),
            (&json!(8501), &json!("api"))
        );
        assert_eq!(service["spec"]["selector"], servers["spec"]["selector"]["matchLabels"]);
        let port = server["ports"].as_array().unwrap().iter().find(|port| port["name"] == "api").unwrap();
        assert_eq!(port["containerPort"], 8501);
        // What bootstrap fills in is what the connector mounts.
        let secret = &told(&containers(&servers)[1], "connector-token-secret")[0];
        let volumes = &named("Deployment", "weft-connector")["spec"]["template"]["spec"]["volumes"];
        assert_eq!(volumes[0]["secret"]["secretName"], secret.as_str());
        assert_eq!(volumes[1]["configMap"]["name"], told(&containers(&servers)[1], "roots")[0].as_str());
        named("Secret", secret);
    }
}

#[test]
fn pods_of_the_chart_are_evicted_one_at_a_time_and_marked_as_the_values_say() {
    let test = "pods_of_the_chart_are_evicted_one_at_a_time_and_marked_as_the_values_say";
    let Some(all) = rendered(test) else { return };
    for (case, count) in [("default", 3), ("everything", 3), ("external", 2)] {
        let workloads = of_kind(all, case, &["StatefulSet", "Deployment"]);
        assert_eq!(workloads.len(), count, "{case}");
        for workload in workloads {
            let selector = &workload["spec"]["selector"];
            let budgets = of_kind(all, case, &["PodDisruptionBudget"]).into_iter();
            let own: Vec<&Value> = budgets.filter(|budget| budget["spec"]["selector"] == *selector).collect();
            let [budget] = own[..] else { panic!("{case}: {} has {own:?}", workload["metadata"]["name"]) };
            assert_eq!(budget["spec"]["maxUnavailable"], 1, "{budget}");
            let pod = &workload["spec"]["template"];
            for (label, value) in selector["matchLabels"].as_object().unwrap() {
                assert_eq!(pod["metadata"]["labels"][label], *value, "{case}: no other value hides it");
            }
            let (team, scrape, class) = match case {
                "everything" => (json!("mesh"), json!("true"), json!("critical")),
                _ => Default::default(),
            };
            assert_eq!(pod["metadata"]["labels"]["team"], team);
            assert_eq!(pod["metadata"]["annotations"]["example.com/scrape"], scrape);
            assert_eq!(pod["spec"]["priorityClassName"], class);
        }
    }
    let accounts = of_kind(all, "everything", &["ServiceAccount"]).into_iter();
    let roles: BTreeSet<&str> =
        accounts.filter_map(|account| account["metadata"]["annotations"]["example.com/role"].as_str()).collect();
    assert_eq!(roles, BTreeSet::from(["connector", "injector", "servers"]));
}

#[test]
fn agents_outside_the_cluster_reach_the_servers_by_the_values_of_the_page() {
    let Some(all) = rendered("agents_outside_the_cluster_reach_the_servers_by_the_values_of_the_page") else { return };
    let found = &all["outside"];
    assert_eq!((&found["refused"], &found["lint"], &found["invalid"]), (&Value::Null, &json!([]), &json!([])));
    let named = |kind: &str, name: &str| {
        let all = of_kind(all, "outside", &[kind]).into_iter();
        all.filter(|it| it["metadata"]["name"] == name).collect::<Vec<_>>()[0]
    };
    let service = named("Service", "weft-agents");
    assert_eq!(
        (&service["spec"]["type"], &service["spec"]["ports"][0]["port"]),
        (&json!("LoadBalancer"), &json!(8300))
    );
    let scheme = &service["metadata"]["annotations"]["service.beta.kubernetes.io/aws-load-balancer-scheme"];
    assert_eq!(scheme, "internal");
    let rule = &named("NetworkPolicy", "weft")["spec"]["ingress"][0];
    assert_eq!(rule["ports"][0]["port"], "agents");
    assert!(rule["from"].as_array().unwrap().iter().any(|peer| peer["ipBlock"]["cidr"].is_string()), "{rule}");
}

#[test]
fn where_pods_may_not_log_in_nothing_is_made_for_them_to_do_so() {
    let Some(all) = rendered("where_pods_may_not_log_in_nothing_is_made_for_them_to_do_so") else { return };
    for (case, may) in [("default", true), ("no_logins", false)] {
        let servers = of_kind(all, case, &["StatefulSet"])[0];
        let arguments = servers["spec"]["template"]["spec"]["containers"][1]["args"].as_array().unwrap();
        let says = |flag: &str| arguments.iter().any(|one| one.as_str().unwrap().starts_with(flag));
        assert_eq!((says("--auth-method"), says("--without-pod-logins")), (may, !may), "{arguments:?}");
        let rules = of_kind(all, case, &["ClusterRole"]).into_iter().flat_map(|role| role["rules"].as_array().unwrap());
        assert_eq!(rules.into_iter().any(|rule| rule["resources"][0] == "tokenreviews"), may);
    }
}

#[test]
fn every_pod_of_the_chart_keeps_to_the_restricted_standard() {
    let Some(all) = rendered("every_pod_of_the_chart_keeps_to_the_restricted_standard") else { return };
    let mut seen = 0;
    for workload in RENDERED.iter().flat_map(|case| of_kind(all, case, &["StatefulSet", "Deployment", "Job"])) {
        let spec = &workload["spec"]["template"]["spec"];
        let pod = &spec["securityContext"];
        assert_eq!((&pod["runAsNonRoot"], &pod["seccompProfile"]["type"]), (&json!(true), &json!("RuntimeDefault")));
        assert_eq!((&pod["runAsUser"], &pod["runAsGroup"]), (&json!(65532), &json!(65532)), "as the image's own user");
        for volume in spec["volumes"].as_array().into_iter().flatten().filter(|volume| volume["secret"].is_object()) {
            assert_eq!(volume["secret"]["defaultMode"], 0o440, "{volume}");
        }
        for list in ["initContainers", "containers"] {
            for container in spec[list].as_array().into_iter().flatten() {
                seen += 1;
                let context = &container["securityContext"];
                assert_eq!(context["allowPrivilegeEscalation"], false, "{container}");
                assert_eq!(context["readOnlyRootFilesystem"], true, "{container}");
                assert_eq!(context["capabilities"], json!({ "drop": ["ALL"] }), "{container}");
                assert!(container["resources"]["limits"]["memory"].is_string(), "{container}");
                assert!(container.get("command").is_none(), "the image's own program is started: {container}");
            }
        }
    }
    assert!(seen >= 5, "only {seen} containers were looked at");
}

#[test]
fn k1_the_webhook_asks_for_labelled_namespaces_only_and_lets_nothing_past() {
    let Some(all) = rendered("k1_the_webhook_asks_for_labelled_namespaces_only_and_lets_nothing_past") else { return };
    let configurations = of_kind(all, "default", &["MutatingWebhookConfiguration"]);
    let [configuration] = configurations[..] else { panic!("{configurations:?}") };
    let hooks = configuration["webhooks"].as_array().unwrap();
    assert_eq!(hooks.len(), 2);
    for hook in hooks {
        assert_eq!((&hook["failurePolicy"], &hook["sideEffects"]), (&json!("Fail"), &json!("None")));
        let selector = &hook["namespaceSelector"];
        assert_eq!(selector["matchLabels"], json!({ "weft.dev/inject": "enabled" }));
        let spared = &selector["matchExpressions"][1];
        assert_eq!(spared["operator"], "NotIn");
        for own in ["mesh", "kube-system"] {
            assert!(spared["values"].as_array().unwrap().iter().any(|it| it == own), "{spared}");
        }
        assert!(hook.get("objectSelector").is_none(), "a pod's own labels would let its author decide");
    }
    // One or the other is asked about every pod, and never both.
    let bypass: Vec<&Value> = hooks.iter().map(|hook| &hook["namespaceSelector"]["matchExpressions"][0]).collect();
    assert_eq!((&bypass[0]["operator"], &bypass[1]["operator"]), (&json!("NotIn"), &json!("In")));
    assert_eq!((&bypass[0]["key"], &bypass[0]["values"]), (&bypass[1]["key"], &bypass[1]["values"]));
    let paths: Vec<&Value> = hooks.iter().map(|hook| &hook["clientConfig"]["service"]["path"]).collect();
    assert_eq!(paths, ["/inject", "/inject/may-bypass"]);
}

#[test]
fn the_injector_understands_what_the_chart_tells_it() {
    let Some(all) = rendered("the_injector_understands_what_the_chart_tells_it") else { return };
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (pod, settings) = (path("pod.yaml"), path("injector.json"));
    fs::write(&pod, "{apiVersion: v1, kind: Pod, spec: {serviceAccountName: web, containers: [{name: app}]}}").unwrap();
    let root = "ab".repeat(32);
    for case in RENDERED {
        let maps = of_kind(all, case, &["ConfigMap"]);
        let told = maps.iter().find_map(|map| map["data"]["injector.json"].as_str()).unwrap();
        fs::write(&settings, told).unwrap();
        // As the file that `weft bootstrap` keeps says it beside the chart's own.
        let kept = path("roots.json");
        fs::write(&kept, json!({ "audience": "weft/east", "root_fingerprints": [root] }).to_string()).unwrap();
        let arguments = ["inject", "--config", &settings, "--config", &kept, "--file", &pod];
        let injected = weft(&arguments, &[]);
        assert_eq!(injected.status, Some(0), "{case}: {injected:?}");
        assert!(injected.stdout.contains("weft-agent"), "{case}: {injected:?}");
        for asked_for in ["NET_ADMIN", "access_log_sample"] {
            let is_there = injected.stdout.contains(asked_for);
            assert_eq!(is_there, case == "everything", "{case}: {asked_for} only where it is asked for");
        }
    }
}
