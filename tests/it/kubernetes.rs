//! A Kubernetes cluster beside the mesh: its pods, its resources and its word on who somebody is.

use std::{collections::BTreeSet, path::Path, process::Command, time::Duration};

use serde_json::{Value, json};

use crate::chart::connector_rights;
use crate::harness::{
    Mesh, PROMISE_FACTOR, Process, Service, eventually, free_port,
    kubernetes::{ApiServer, Deed},
    objects, write_secret,
};

/// How soon the mesh knows what the cluster says.
const KNOWN: Duration = Duration::from_secs(3);
/// How soon a watch that broke off begins again, at worst.
const AGAIN: Duration = Duration::from_secs(8);

fn pod(name: &str, container: &str) -> Value {
    objects::pod("default", name, container, objects::NOWHERE)
}

fn slice(service: &str, pods: &[(&str, bool)]) -> Value {
    objects::slice("default", service, pods)
}

fn intentions(name: &str, destination: &str, source: &str) -> Value {
    json!({
        "apiVersion": "weft.dev/v1alpha1", "kind": "ServiceIntentions",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"destination": {"name": destination}, "sources": [{"name": source, "action": "allow"}]},
    })
}

/// A cluster with a service of two pods.
fn cluster() -> ApiServer {
    let server = ApiServer::start();
    objects::define_resources(&server);
    server.put(objects::service("default", "shop"));
    for name in ["shop-1", "shop-2"] {
        server.put(pod(name, "app"));
    }
    server.put(slice("shop", &[("shop-1", true), ("shop-2", true)]));
    server
}

fn connector(mesh: &Mesh, server: &ApiServer, name: &str) -> Process {
    let directory = mesh.directory.path();
    let (config, token) = (directory.join("kubeconfig"), directory.join("connector-token"));
    std::fs::write(&config, server.certificate_config("connector").to_string()).unwrap();
    write_secret(&token, &mesh.token);
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
    command.args(["connector", "kubernetes", "--lease", "5s", "--no-admin", "--http-addr"]);
    command.arg(format!("http://{}", mesh.servers[0].http)).arg("--token-file").arg(token).env("KUBECONFIG", config);
    Process::start(name, command, directory)
}

/// Returns the nodes on which a service is, with how healthy each is.
fn served(mesh: &Mesh, service: &str) -> Vec<String> {
    let answer = mesh.servers[0].request("GET", &format!("/v1/health/service/{service}"), &mesh.token, "").unwrap();
    let entries = answer.json();
    let line = |entry: &Value| {
        let checks = entry["Checks"].as_array().unwrap();
        let is_well = checks.iter().all(|check| check["Status"] == "passing");
        format!("{} {}", entry["Node"]["Node"].as_str().unwrap(), if is_well { "passing" } else { "critical" })
    };
    let mut lines: Vec<String> = entries.as_array().unwrap().iter().map(line).collect();
    lines.sort();
    lines
}

#[track_caller]
fn becomes(mesh: &Mesh, service: &str, want: &[&str], promise: Duration) {
    let what = format!("{service} to be {want:?}, and not {:?}", served(mesh, service));
    eventually(&what, promise * PROMISE_FACTOR, || (served(mesh, service) == want).then_some(()));
}

/// Returns reason and message of what a resource is told.
fn told(server: &ApiServer, name: &str) -> Option<(String, String)> {
    let resource = server.get("serviceintentions.weft.dev", "default", name)?;
    let condition = resource["status"]["conditions"].get(0)?.clone();
    let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    Some((text("reason"), text("message")))
}

#[track_caller]
fn is_told(server: &ApiServer, name: &str, reason: &str, part: &str) {
    eventually(&format!("{name} to be told {reason} ({part})"), AGAIN * PROMISE_FACTOR, || {
        told(server, name).filter(|(found, message)| found == reason && message.contains(part))
    });
}

#[test]
fn k2_pods_and_resources_of_a_cluster_enter_the_mesh_and_leave_it() {
    let mut server = cluster();
    let mesh = Mesh::start(1);
    let mut running = connector(&mesh, &server, "connector");
    becomes(&mesh, "shop", &["shop-1.default passing", "shop-2.default passing"], AGAIN);
    server.put(slice("shop", &[("shop-1", true), ("shop-2", false)]));
    becomes(&mesh, "shop", &["shop-1.default passing", "shop-2.default critical"], KNOWN);
    // Most of what there is ends, and the cluster says so: that is no mistake, and gone at once.
    server.change("pods", "default", "shop-1", |pod| {
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z")
    });
    becomes(&mesh, "shop", &["shop-2.default critical"], KNOWN);

    // K2: what the server forgets, breaks off, repeats or refuses changes nothing, and delays a little.
    server.remove("pods", "default", "shop-1");
    server.repeat(3);
    server.bookmark();
    server.next(2, "GET /api/v1/pods", Deed::Answer(500, Some(json!({"items": []}))));
    server.next(1, "GET /apis/discovery.k8s.io/v1/endpointslices", Deed::Cut);
    server.next(1, "GET /api/v1/services", Deed::Answer(401, None));
    server.forget_history();
    server.break_watches();
    server.put(slice("shop", &[("shop-2", true)]));
    becomes(&mesh, "shop", &["shop-2.default passing"], AGAIN);
    server.go_down();
    server.put(pod("shop-3", "app"));
    server.put(slice("shop", &[("shop-2", true), ("shop-3", true)]));
    running.assert_running();
    assert_eq!(served(&mesh, "shop"), ["shop-2.default passing"], "what is not heard of is not gone");
    server.come_up();
    becomes(&mesh, "shop", &["shop-2.default passing", "shop-3.default passing"], AGAIN);

    // Resources become intentions, and are told what became of them.
    let check = ["intention", "check", "shop", "api"];
    assert_eq!(mesh.weft(&check).status, Some(1));
    server.put(intentions("api", "api", "shop"));
    is_told(&server, "api", "Synced", "enforces");
    assert_eq!(mesh.weft(&check).status, Some(0));
    mesh.done(&["intention", "create", "--deny", "shop", "db"]);
    server.put(intentions("db", "db", "shop"));
    is_told(&server, "db", "Conflicting", "in nobody's name");
    server.put(intentions("other-api", "api", "cart"));
    is_told(&server, "other-api", "Conflicting", "default/api");
    let mut broken = intentions("broken", "cache", "shop");
    broken["spec"]["destination"]["namespace"] = json!("elsewhere");
    server.put(broken);
    is_told(&server, "broken", "Refused", "its own namespace");
    eventually("everybody to be told, too", KNOWN * PROMISE_FACTOR, || {
        let listed = mesh.done(&["connector", "list"]);
        (listed.contains("kubernetes") && listed.contains("conflict") && listed.contains("refused")).then_some(())
    });
    server.remove("serviceintentions.weft.dev", "default", "api");
    // The younger of the two that asked for it has it now.
    is_told(&server, "other-api", "Synced", "");
    assert_eq!(mesh.weft(&check).status, Some(1));
    assert_eq!(mesh.weft(&["intention", "check", "cart", "api"]).status, Some(0));

    // The Lease of the cluster says who works; whoever ends gives it back, and the next one goes on.
    let lease = || server.get("leases.coordination.k8s.io", "default", "weft-connector").unwrap();
    assert_ne!(lease()["spec"]["holderIdentity"], "");
    assert_eq!(running.terminate(KNOWN * PROMISE_FACTOR), Some(0));
    eventually("the Lease to be given back", KNOWN * PROMISE_FACTOR, || {
        (lease()["spec"]["holderIdentity"] == "").then_some(())
    });
    let mut next = connector(&mesh, &server, "next");
    server.put(pod("shop-4", "app"));
    server.put(slice("shop", &[("shop-4", true)]));
    becomes(&mesh, "shop", &["shop-4.default passing"], AGAIN);
    next.assert_running();
    let asked: BTreeSet<String> = server.seen().into_iter().map(|(_, what)| what).collect();
    let granted: BTreeSet<String> = connector_rights().collect();
    let beyond: Vec<&String> = asked.difference(&granted).collect();
    assert!(beyond.is_empty(), "the chart does not grant {beyond:?}");
}

/// Writes a pod's projected token as a kubelet does where its containers run as several users.
fn project(directory: &Path, token: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    let path = directory.join("token");
    std::fs::write(&path, token).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    path.display().to_string()
}

#[test]
fn c10_an_agent_logs_in_with_its_pods_projected_token_and_the_cluster_says_how_it_fares() {
    let server = ApiServer::start();
    for name in ["web", "reviewer", "stranger"] {
        server.put(objects::account("default", name));
    }
    server.put(pod("web-0", "weft-agent"));
    server.put(pod("web-9", "weft-agent"));
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let own = server.token("default/reviewer", None, &["https://kubernetes.default.svc.cluster.local"]);
    let reviewer = memory.path().join("reviewer");
    write_secret(&reviewer, &own);
    let asks = format!("{}={}", server.url(), reviewer.display());
    let authority = memory.path().join("ca.pem");
    std::fs::write(&authority, server.ca_pem()).unwrap();
    let known_by = format!("{}={}", server.url(), authority.display());
    let mut mesh = Mesh::start_with(1, &["--kubernetes-token-file", &asks, "--kubernetes-ca-file", &known_by]);
    let config = mesh.directory.path().join("method.json");
    std::fs::write(&config, json!({"Host": server.url()}).to_string()).unwrap();
    let config = config.display().to_string();
    let made = mesh.done(&[
        "acl",
        "auth-method",
        "create",
        "k8s",
        "--type",
        "kubernetes",
        "--config",
        &config,
        "--output",
        "json",
    ]);
    let made: Value = serde_json::from_str(&made).unwrap();
    // One of this mesh alone, since the method names none.
    let audience = made["Config"]["BoundAudiences"][0].as_str().unwrap();
    assert!(audience.starts_with("weft/") && audience.len() > 20, "{made}");
    mesh.done(&[
        "acl",
        "binding-rule",
        "create",
        "--method",
        "k8s",
        "--bind-type",
        "service",
        "--bind-name",
        "${serviceaccount.name}",
        "--selector",
        "serviceaccount.name == \"web\"",
    ]);
    let bind_node = ["--bind-type", "node", "--bind-name", "${pod.name}.${serviceaccount.namespace}"];
    mesh.done(&[&["acl", "binding-rule", "create", "--method", "k8s"], &bind_node[..]].concat());
    let roots: Value = serde_json::from_str(&mesh.done(&["ca", "roots", "--output", "json"])).unwrap();
    let root = roots["Roots"][0]["ID"].as_str().unwrap().to_owned();
    let mut start = |node: &str, token: &str| {
        let folder = memory.path().join(node);
        std::fs::create_dir(&folder).unwrap();
        let token = project(&folder, token);
        let proof =
            ["--platform", "kubernetes", "--auth-method", "k8s", "--root-fingerprint", &root, "--bearer-token-file"];
        let service = Service { name: "web", port: free_port(), upstreams: vec![] };
        mesh.start_agent(node, &[service], &[&proof[..], &[&token]].concat())
    };
    let web = start("web-0.default", &server.token("default/web", Some("web-0"), &[audience]));
    let stranger = start("web-9.default", &server.token("default/stranger", Some("web-9"), &[audience]));
    let thief = start("elsewhere", &server.token("default/web", Some("web-9"), &[audience]));
    mesh.agents[web].wait_until_ready(AGAIN * PROMISE_FACTOR);
    for (at, why) in [(stranger, "no binding rule"), (thief, "elsewhere")] {
        assert_eq!(mesh.agents[at].process().wait(AGAIN * PROMISE_FACTOR), Some(2));
        eventually(&format!("the server's log to say {why}"), KNOWN * PROMISE_FACTOR, || {
            mesh.servers[0].log().contains(why).then_some(())
        });
    }

    let mut running = connector(&mesh, &server, "connector");
    let check = || {
        let answer = mesh.servers[0].request("GET", "/v1/health/node/web-0.default", &mesh.token, "").unwrap().json();
        let all = answer.as_array().unwrap().clone();
        all.into_iter().find(|check| check["CheckID"] == "connector:kubernetes:ready")
    };
    eventually("the pod's readiness", AGAIN * PROMISE_FACTOR, || check().filter(|check| check["Status"] == "passing"));
    becomes(&mesh, "web", &["web-0.default passing"], KNOWN);
    server
        .change("pods", "default", "web-0", |pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
    becomes(&mesh, "web", &["web-0.default critical"], KNOWN);
    running.assert_running();
}
