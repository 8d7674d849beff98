//! Pods that are injected before Kubernetes sees them, as whoever writes them meets the command.

use std::fs;

use serde_json::Value;

use crate::harness::weft;

const POD: &str = "apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  template:
    metadata:
      annotations:
        consul.hashicorp.com/connect-service-upstreams: api:9191
        weft.dev/access-log: '0.5'
    spec:
      serviceAccountName: web
      containers:
        - name: app
          image: app
          ports: [{ containerPort: 8080 }]
          readinessProbe: { httpGet: { port: 8080, path: /is ready, httpHeaders: [{ name: X-A, value: \u{e4} }] } }
          livenessProbe: { grpc: { port: 8080, service: live } }
";

const SETTINGS: &str = "image = \"registry.example/weft:1\"
redirect_image = \"registry.example/weft-redirect:1\"
servers = [\"weft-agents.weft.svc:8300\"]
audience = \"weft/east\"
";

/// Takes a word out of quotes that JSON or YAML put around it.
fn find<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    text.split_once(from).and_then(|(_, rest)| rest.split_once(to)).unwrap_or_else(|| panic!("no {from} in {text}")).0
}

#[test]
fn files_are_injected_twice_as_once_and_the_agent_takes_what_it_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (pod, settings, injected) = (path("pod.yaml"), path("injector.hcl"), path("injected.yaml"));
    fs::write(&pod, POD).unwrap();
    fs::write(&settings, SETTINGS).unwrap();
    let root = "ab".repeat(32);
    let inject =
        |file: &str| weft(&["inject", "--config", &settings, "--root-fingerprint", &root, "--file", file], &[]);
    let once = inject(&pod);
    assert_eq!((once.status, once.stderr.as_str()), (Some(0), "Deployment web: injected\n"), "{once:?}");
    fs::write(&injected, &once.stdout).unwrap();
    let twice = inject(&injected);
    assert_eq!((twice.status, &twice.stdout), (Some(0), &once.stdout));

    // What the agent is told, as the kubelet hands it over.
    let line = once.stdout.lines().skip_while(|line| !line.contains("name: WEFT_CONFIG")).nth(1).unwrap_or_default();
    let quoted = line.trim().strip_prefix("value: ").unwrap_or_else(|| panic!("no value in {line:?}"));
    // In double quotes YAML has JSON's escapes.
    let told: String = serde_json::from_str(quoted).unwrap_or_else(|error| panic!("{error}: {quoted}"));
    let told =
        told.replace("$(POD_NAME)", "web-1").replace("$(POD_NAMESPACE)", "shop").replace("$(POD_IP)", "10.0.0.9");
    let config: Value = serde_json::from_str(&told).unwrap_or_else(|error| panic!("{error}: {told}"));
    assert_eq!(config["service"]["connect"]["sidecar_service"]["proxy"]["upstreams"][0]["local_bind_port"], 9191);
    let agents = path("agent.json");
    fs::write(&agents, &told).unwrap();
    let validated = weft(&["validate", &agents], &[]);
    assert_eq!((validated.status, validated.stderr.as_str()), (Some(0), ""), "{validated:?}");
    assert_eq!(find(&told, "\"http\":\"", "\""), "http://127.0.0.1:8080/is%20ready");
    assert_eq!((&config["access_log"], &config["access_log_sample"]), (&"-".into(), &0.5.into()));
}

#[test]
fn what_cannot_be_injected_is_said_and_nothing_is_printed() {
    let directory = tempfile::tempdir().unwrap();
    let pod = directory.path().join("pod.yaml");
    fs::write(&pod, POD.replace("serviceAccountName: web", "hostNetwork: false")).unwrap();
    let pod = pod.display().to_string();
    let root = "ab".repeat(32);
    let all = ["--image", "i", "--server", "s:8300", "--root-fingerprint", &root, "--audience", "weft/east"];
    let nameless = weft(&[&["inject", "--file", &pod], &all[..]].concat(), &[]);
    assert_eq!((nameless.status, nameless.stdout.as_str()), (Some(2), ""), "{nameless:?}");
    assert!(nameless.stderr.contains("Deployment web") && nameless.stderr.contains("weft.dev/service"), "{nameless:?}");
    let untold = weft(&[&["inject", "--file", &pod], &all[..4]].concat(), &[]);
    assert_eq!((untold.status, untold.stdout.as_str()), (Some(2), ""), "{untold:?}");
    assert!(untold.stderr.contains("fingerprint of a root") && untold.stderr.contains("hint: "), "{untold:?}");
    let aimless = weft(&[&["inject", "--file", &pod], &all[..6]].concat(), &[]);
    assert!(aimless.status == Some(2) && aimless.stderr.contains("no audience"), "{aimless:?}");
}
