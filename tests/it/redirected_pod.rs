//! Pods that are redirected together with their agents and their names: what the injector answers the API server is carried out as
//! a kubelet does it, and applications that know nothing of the mesh call and are called.

use std::{net::SocketAddr, time::Duration};

use serde_json::{Value, json};

use crate::harness::{Kubelet, Machines, PROMISE_FACTOR, RunningPod, eventually, kubernetes::ApiServer, objects, tool};

const TEST: &str = "what_the_injector_makes_of_a_pod_takes_its_application_into_the_mesh";

const S1: &str = "10.82.0.1";
/// Where the cluster has its API, its name server and the injector.
const CLUSTER: &str = "10.82.0.5";
const API: &str = "10.82.0.11";
const WEB: &str = "10.82.0.12";
const BATCH: &str = "10.82.0.13";
/// Whom the agents' tokens are for.
const AUDIENCE: &str = "weft/test";
/// Whom applications run as.
const APP: u32 = 1002;

/// How soon a change of policy counts.
const CUT: Duration = Duration::from_secs(2);
/// How soon what has been started is there.
const STARTED: Duration = Duration::from_secs(12);

/// The application: it says its name, and whether it is ready.
const APPLICATION: &str = "
import http.server
class Application(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path in ('/', '/ready') else 404)
        self.end_headers()
        self.wfile.write(b'api')
    def log_message(self, *about):
        pass
http.server.ThreadingHTTPServer(('0.0.0.0', 8080), Application).serve_forever()
";

/// The cluster's name server: it knows one name.
const NAMES: &str = "
import socket, struct
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(('10.82.0.5', 53))
while True:
    question, who = server.recvfrom(4096)
    labels, at = [], 12
    while question[at]:
        labels.append(question[at + 1:at + 1 + question[at]].decode().lower())
        at += question[at] + 1
    is_known = labels == ['outside', 'example']
    answer = b''
    if is_known and question[at + 1:at + 3] == b'\\0\\1':
        answer = b'\\xc0\\x0c' + struct.pack('!HHIH', 1, 1, 30, 4) + socket.inet_aton('10.82.0.1')
    head = struct.pack('!HHHHH', 0x8180 if is_known else 0x8183, 1, 1 if answer else 0, 0, 0)
    server.sendto(question[:2] + head + question[12:at + 5] + answer, who)
";

/// What a kubelet writes into every container.
const RESOLVER: &str =
    "nameserver 10.82.0.5\nsearch shop.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5";

/// Returns a pod as its author writes it.
fn written(name: &str, account: &str, container: Value, policy: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": "shop" },
        "spec": {
            "serviceAccountName": account, "restartPolicy": policy, "securityContext": { "runAsUser": APP },
            "containers": [container],
        },
    })
}

/// Starts a cluster with an injector, as the chart has both.
fn cluster(machines: &Machines) -> ApiServer {
    let cluster = ApiServer::start_by(SocketAddr::new(CLUSTER.parse().unwrap(), 6443), machines.enter("cluster"));
    for (name, labels) in [("weft", json!({})), ("shop", json!({ "weft.dev/inject": "enabled" }))] {
        cluster.put(objects::namespace(name, &labels));
    }
    for (namespace, name) in
        [("default", "author"), ("default", "reviewer"), ("shop", "api"), ("shop", "web"), ("shop", "batch")]
    {
        cluster.put(objects::account(namespace, name));
    }
    let own = json!({ "name": "weft-injector", "namespace": "weft" });
    cluster.put(json!({ "apiVersion": "v1", "kind": "Secret", "metadata": own }));
    cluster.put(json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": { "name": "weft-injector" },
        "webhooks": [{
            "name": "injector.weft.dev", "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Fail",
            "clientConfig": { "service": { "name": "weft-injector", "namespace": "weft", "path": "/inject", "port": 443 } },
            "namespaceSelector": { "matchLabels": { "weft.dev/inject": "enabled" } },
            "rules": [{ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"] }],
        }],
    }));
    cluster.route_service("weft", "weft-injector", SocketAddr::new(CLUSTER.parse().unwrap(), 9443));
    let audience = ["https://kubernetes.default.svc.cluster.local"];
    machines.write("cluster", "/root/kubeconfig", &cluster.certificate_config("injector").to_string());
    machines.write("cluster", "/root/ca.pem", cluster.ca_pem());
    machines.write("cluster", "/root/author", &cluster.token("default/author", None, &audience));
    machines.write("s1", "/etc/weft/reviewer", &cluster.token("default/reviewer", None, &audience));
    machines.write("s1", "/etc/weft/kubernetes.pem", cluster.ca_pem());
    machines.write("cluster", "/root/names.py", NAMES);
    machines.done("cluster", "setsid python3 /root/names.py > $RUN/names.log 2>&1 < /dev/null &");
    cluster
}

/// Starts a server that pods of the cluster may log in at; returns the fingerprint by which it is known.
fn server(machines: &Machines, cluster: &ApiServer) -> String {
    let host = cluster.url();
    machines.done(
        "s1",
        &format!(
            "weft keygen > /etc/weft/cluster.key && chmod 600 /etc/weft/cluster.key /etc/weft/reviewer\n\
             setsid weft server --node s1 --bind {S1} --data-dir /var/lib/weft/server --cluster-key-file /etc/weft/cluster.key \
             --kubernetes-token-file {host}=/etc/weft/reviewer --kubernetes-ca-file {host}=/etc/weft/kubernetes.pem \
             > $RUN/server.log 2>&1 < /dev/null &\n\
             mkdir outside && echo outside > outside/index.html\n\
             setsid python3 -m http.server 8080 --directory outside > $RUN/outside.log 2>&1 < /dev/null &"
        ),
    );
    machines.bootstrap();
    machines.write("s1", "/root/method.json", &json!({ "Host": host, "BoundAudiences": [AUDIENCE] }).to_string());
    machines.done("s1", "weft acl auth-method create kubernetes --type kubernetes --config /root/method.json");
    for (kind, name) in [
        ("service", "${serviceaccount.namespace}/${serviceaccount.name}"),
        ("node", "${pod.name}.${serviceaccount.namespace}"),
    ] {
        machines.done(
            "s1",
            &format!("weft acl binding-rule create --method kubernetes --bind-type {kind} --bind-name '{name}'"),
        );
    }
    let roots: Value = serde_json::from_str(&machines.done("s1", "weft ca roots --output json")).unwrap();
    roots["Roots"][0]["ID"].as_str().unwrap().to_owned()
}

/// Makes a pod at the cluster's API, and runs what comes of it on a machine of its own.
fn run(kubelet: &Kubelet<'_>, machine: &str, address: &str, pod: &Value) -> RunningPod {
    let (machines, name) = (kubelet.machines, pod["metadata"]["name"].as_str().unwrap());
    machines.write("cluster", &format!("/root/{name}.json"), &pod.to_string());
    let make = format!(
        "curl -sS --fail-with-body -m 15 --cacert /root/ca.pem -H \"Authorization: Bearer $(cat /root/author)\" \
         -H 'Content-Type: application/json' --data @/root/{name}.json {}/api/v1/namespaces/shop/pods",
        kubelet.cluster.url()
    );
    eventually(&format!("{name} to be made"), STARTED * PROMISE_FACTOR, || {
        machines.run("cluster", &make).status.success().then_some(())
    });
    let made = kubelet.cluster.get("pods", "shop", name).unwrap();
    assert_eq!(made["metadata"]["annotations"]["weft.dev/inject-status"], "injected");
    machines.done(machine, "ip route add default dev eth0");
    machines.write(machine, "/etc/resolv.conf", RESOLVER);
    kubelet.start(machine, address, made)
}

/// Returns what the application of a pod hears; nothing where its call fails.
fn asks(machines: &Machines, machine: &str, user: u32, url: &str) -> Option<String> {
    let ask = format!("setpriv --reuid {user} --regid {user} --clear-groups curl -sS -m 5 --fail {url}");
    let output = machines.run(machine, &ask);
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[test]
fn what_the_injector_makes_of_a_pod_takes_its_application_into_the_mesh() {
    let needed = ["ip", "unshare", "nsenter", "nft", "python3", "curl", "setpriv"];
    if needed.iter().any(|name| tool(name, TEST).is_none()) {
        return;
    }
    let machines =
        Machines::boot(&[("s1", S1), ("cluster", CLUSTER), ("api-0", API), ("web-0", WEB), ("batch-0", BATCH)]);
    let cluster = cluster(&machines);
    let root = server(&machines, &cluster);
    machines.done(
        "cluster",
        &format!(
            "KUBECONFIG=/root/kubeconfig setsid weft injector --listen {CLUSTER}:9443 --pod-namespace weft --image weft \
             --redirect-image weft-redirect --cluster-dns {CLUSTER}:53 --server {S1}:8300 --root-fingerprint {root} --audience {AUDIENCE} \
             > $RUN/injector.log 2>&1 < /dev/null &"
        ),
    );
    let kubelet = Kubelet { machines: &machines, cluster: &cluster, on: "cluster" };
    let ready = json!({ "httpGet": { "path": "/ready", "port": "http" } });
    let app = json!({
        "name": "app", "image": "app", "command": ["python3", "-c", APPLICATION],
        "ports": [{ "name": "http", "containerPort": 8080 }], "readinessProbe": ready,
    });
    let api = run(&kubelet, "api-0", API, &written("api-0", "api", app, "Always"));
    let waits = json!({ "name": "app", "image": "app", "command": ["sleep", "infinity"] });
    let web = run(&kubelet, "web-0", WEB, &written("web-0", "web", waits, "Always"));

    // By name, as the cluster's resolver is set, and through the mesh, which lets nobody in that nobody let in.
    let by_name = "http://api.virtual.mesh/";
    eventually("the application to be ready", STARTED * PROMISE_FACTOR, || {
        (kubelet.probe(&api, "app", "readinessProbe") == 200).then_some(())
    });
    assert_eq!(asks(&machines, "web-0", APP, by_name), None, "nobody said that web may call api");
    for source in ["web", "batch"] {
        machines.done("s1", &format!("weft intention create --allow shop/{source} shop/api"));
    }
    let heard = eventually("the call to be allowed", CUT * PROMISE_FACTOR, || asks(&machines, "web-0", APP, by_name));
    assert_eq!(heard, "api");
    for (url, want) in [("http://api.virtual.shop.ns.mesh:8080/", "api"), ("http://outside.example:8080/", "outside")] {
        let heard = eventually(url, CUT * PROMISE_FACTOR, || asks(&machines, "web-0", APP, url));
        assert_eq!(heard, want);
    }
    assert_eq!(asks(&machines, "web-0", APP, "http://none.virtual.mesh/"), None);

    // Past the mesh nobody gets in: not who has no agent, nor who goes past their own, as whomever.
    let past_the_agent = format!("http://{API}:8080/");
    for (machine, user) in [("s1", APP), ("web-0", APP), ("web-0", 5995), ("web-0", 0)] {
        assert_eq!(asks(&machines, machine, user, &past_the_agent), None, "{user} on {machine}");
    }

    // What ends by itself ends whole, though its agent would go on.
    let call = json!({
        "name": "app", "image": "app", "command": ["curl", "-sS", "--fail", "-m", "20", "-o", "/dev/null", by_name],
    });
    let batch = run(&kubelet, "batch-0", BATCH, &written("batch-0", "batch", call, "Never"));
    assert_eq!(kubelet.wait(&batch, "app"), 0, "{}", machines.logs("batch-0"));
    assert_eq!(kubelet.end_sidecars(&batch), [("weft-agent".to_owned(), 0)].into());
    eventually("its node to be gone", CUT * PROMISE_FACTOR, || {
        let nodes = machines.done("s1", "weft catalog nodes");
        (nodes.contains("web-0.shop") && !nodes.contains("batch-0.shop")).then_some(())
    });

    // The kubelet hears from the application itself how it is.
    kubelet.signal(&api, "app", "KILL");
    eventually("the application to be unready", CUT * PROMISE_FACTOR, || {
        (kubelet.probe(&api, "app", "readinessProbe") >= 500).then_some(())
    });
    eventually("its agent to say that it is well", CUT * PROMISE_FACTOR, || {
        (kubelet.probe(&api, "weft-agent", "readinessProbe") == 200).then_some(())
    });

    // Without its agent an application reaches nobody.
    kubelet.signal(&web, "weft-agent", "KILL");
    kubelet.wait(&web, "weft-agent");
    for url in [by_name, "http://240.0.0.1/", "http://10.82.0.1:8080/"] {
        assert_eq!(asks(&machines, "web-0", APP, url), None, "{url}");
    }
}
