//! An ECS task, a pod and a virtual machine in one mesh, each on a machine of its own with what its platform gives it: they call
//! one another, one rule on requests decides the same for all of them, and none of it ends with the servers.

use std::{net::SocketAddr, path::PathBuf, process::Command, time::Duration};

use serde_json::{Value, json};

use crate::harness::{Machines, PROMISE_FACTOR, Process, eventually, kubernetes::ApiServer, python, tool};

const TEST: &str = "an_ecs_task_a_pod_and_a_vm_are_one_mesh";

const SERVERS: [(&str, &str); 3] = [("s1", "10.81.0.1"), ("s2", "10.81.0.2"), ("s3", "10.81.0.3")];
/// Where the clouds' own endpoints are.
const CLOUD: &str = "10.81.0.5";
/// Workloads: the machine, its address, its service, and the port of loopback at which the others call it.
const TASK: Workload = Workload { machine: "task", address: "10.81.0.11", service: "orders", port: 9191 };
const POD: Workload = Workload { machine: "pod", address: "10.81.0.21", service: "web", port: 9192 };
const VM: Workload = Workload { machine: "vm", address: "10.81.0.31", service: "ledger", port: 9193 };
/// Those that come when two of three servers are gone.
const NEW_TASK: Workload = Workload { machine: "task-2", address: "10.81.0.12", service: "orders", port: 9191 };
const NEW_POD: Workload = Workload { machine: "pod-2", address: "10.81.0.22", service: "web", port: 9192 };

/// An agent is let in within this time, and servers find one another.
const ADMITTED: Duration = Duration::from_secs(6);

/// The application: it answers every method with its name.
const APPLICATION: &str = "
import http.server, sys
class Application(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def answer(self):
        self.rfile.read(int(self.headers.get('content-length') or 0))
        body = f'{sys.argv[1]}\\n'.encode()
        self.send_response(200)
        self.send_header('content-length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_GET = do_POST = answer
    def log_message(self, *about):
        pass
http.server.ThreadingHTTPServer(('127.0.0.1', 8080), Application).serve_forever()
";

/// What a task finds on link-local addresses: who it is, and its role's credentials.
const TASK_ENDPOINTS: &str = "
import http.server, json, sys
answers = json.load(open('/root/endpoints.json'))
class Endpoints(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        known = self.path in answers
        self.send_response(200 if known else 404)
        self.end_headers()
        if known:
            self.wfile.write(json.dumps(answers[self.path]).encode())
    def log_message(self, *about):
        pass
http.server.ThreadingHTTPServer(('127.0.0.1', 51679), Endpoints).serve_forever()
";

/// Has the cloud make a role, and assumes it as ECS does for a task: the session is called as the task is.
const ASSUME: &str = "
import boto3, json, sys
options = dict(endpoint_url='https://10.81.0.5:5000', region_name='eu-west-1', verify=sys.argv[3],
               aws_access_key_id='x', aws_secret_access_key='x')
iam, sts = boto3.client('iam', **options), boto3.client('sts', **options)
try:
    iam.create_role(RoleName=sys.argv[1], AssumeRolePolicyDocument='{}')
except iam.exceptions.EntityAlreadyExistsException:
    pass
role = f'arn:aws:iam::123456789012:role/{sys.argv[1]}'
given = sts.assume_role(RoleArn=role, RoleSessionName=sys.argv[2])['Credentials']
print(json.dumps({'AccessKeyId': given['AccessKeyId'], 'SecretAccessKey': given['SecretAccessKey'],
                  'Token': given['SessionToken'], 'Expiration': '2099-01-01T00:00:00Z', 'RoleArn': role}))
";

#[derive(Clone, Copy)]
struct Workload {
    machine: &'static str,
    address: &'static str,
    service: &'static str,
    port: u16,
}

impl Workload {
    /// Returns its upstreams, as a service definition has them: everybody else.
    fn upstreams(self) -> Value {
        let others = [TASK, POD, VM].into_iter().filter(|other| other.service != self.service);
        others.map(|other| json!({"destination_name": other.service, "local_bind_port": other.port})).collect()
    }

    fn definition(self) -> Value {
        json!({"name": self.service, "port": 8080,
            "connect": {"sidecar_service": {"proxy": {"upstreams": self.upstreams()}}}})
    }
}

/// Everything that the story happens in.
struct Story {
    machines: Machines,
    cluster: ApiServer,
    python: PathBuf,
    _clouds: Process,
    /// The fingerprint of the root by which servers are recognised.
    root: String,
}

impl Story {
    /// Calls one workload from another; returns the status, 0 where nobody answered.
    fn call(&self, from: Workload, to: Workload, method: &str, path: &str) -> u16 {
        let told = "curl --silent --max-time 5 --output /dev/null --write-out '%{http_code}'";
        let script = format!("{told} --request {method} http://127.0.0.1:{}{path} || true", to.port);
        let output = self.machines.run(from.machine, &script);
        String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or_default()
    }

    /// Waits until every workload of these hears `status` from every other.
    #[track_caller]
    fn all_hear(&self, workloads: &[Workload], status: u16, method: &str, path: &str) {
        for from in workloads {
            for to in [TASK, POD, VM].into_iter().filter(|to| to.service != from.service) {
                let mut heard = 0;
                let what = format!("{} to hear {status} from {}: {method} {path}", from.machine, to.service);
                eventually(&what, ADMITTED * PROMISE_FACTOR, || {
                    heard = self.call(*from, to, method, path);
                    (heard == status).then_some(())
                });
            }
        }
    }

    /// Runs a command of weft's on the first server that is running.
    #[track_caller]
    fn weft(&self, arguments: &str) -> String {
        self.machines.done("s1", &format!("weft {arguments}"))
    }

    fn start_server(&self, at: usize) {
        let (name, address) = SERVERS[at];
        let others: String = SERVERS
            .iter()
            .filter(|(other, _)| *other != name)
            .map(|(_, other)| format!(" --retry-join {other}:8301"))
            .collect();
        let start = format!(
            "export SSL_CERT_FILE=/root/cloud.pem\n\
             setsid weft server --node {name} --bind {address} --bootstrap-expect 3{others} --data-dir /var/lib/weft/server \
             --cluster-key-file /etc/weft/cluster.key --kubernetes-token-file {host}=/etc/weft/reviewer \
             --kubernetes-ca-file {host}=/etc/weft/kubernetes.pem >> $RUN/server.log 2>&1 < /dev/null & echo $! > $RUN/server.pid",
            host = self.cluster.url()
        );
        self.machines.done(name, &start);
    }

    fn kill_server(&self, at: usize) {
        self.machines.done(SERVERS[at].0, "kill -9 $(cat $RUN/server.pid)");
    }

    fn start_application(&self, workload: Workload) {
        self.machines.write(workload.machine, "/root/application.py", APPLICATION);
        let start = format!(
            "setsid python3 /root/application.py {} > $RUN/application.log 2>&1 < /dev/null &",
            workload.service
        );
        self.machines.done(workload.machine, &start);
    }

    /// Starts a task as Fargate does: its metadata and its role's credentials are all that it has.
    fn start_task(&self, workload: Workload, id: &str) {
        let (machines, service) = (&self.machines, workload.service);
        self.start_application(workload);
        let credentials = printed(
            machines
                .on_network_of("cloud")
                .arg(&self.python)
                .args(["-c", ASSUME, service, id])
                .arg(machines.directory().join("cloud.pem")),
        );
        let arn = format!("arn:aws:ecs:eu-west-1:123456789012:task/shop/{id}");
        let container = json!({"DockerId": "1", "Name": service, "KnownStatus": "RUNNING", "Networks":
            [{"NetworkMode": "awsvpc", "IPv4Addresses": [workload.address]}]});
        let task = json!({"Cluster": "shop", "TaskARN": arn, "Family": service, "Revision": "1", "LaunchType": "FARGATE",
            "DesiredStatus": "RUNNING", "KnownStatus": "RUNNING", "AvailabilityZone": "eu-west-1a", "Containers": [container]});
        let credentials: Value = serde_json::from_str(&credentials).unwrap();
        let endpoints = json!({"/v4/1/task": task, "/v4/1": container, "/credentials": credentials});
        machines.write(workload.machine, "/root/endpoints.json", &endpoints.to_string());
        machines.write(workload.machine, "/root/endpoints.py", TASK_ENDPOINTS);
        machines.done(workload.machine, "setsid python3 /root/endpoints.py > $RUN/endpoints.log 2>&1 < /dev/null &");
        eventually("the task's endpoints", ADMITTED * PROMISE_FACTOR, || {
            machines.run(workload.machine, "exec 3<>/dev/tcp/127.0.0.1/51679").status.success().then_some(())
        });
        let config = json!({"bind": workload.address, "auth_method": "aws", "root_fingerprints": [self.root],
            "servers": SERVERS.map(|(_, address)| format!("{address}:8300")), "node": id, "access_log": "-",
            "data_dir": "/var/lib/weft/agent", "service": workload.definition()});
        machines.write(workload.machine, "/root/config.json", &config.to_string());
        let environment = "ECS_CONTAINER_METADATA_URI_V4=http://127.0.0.1:51679/v4/1 AWS_REGION=eu-west-1 \
             AWS_CONTAINER_CREDENTIALS_FULL_URI=http://127.0.0.1:51679/credentials \
             AWS_ENDPOINT_URL_STS=https://sts.example:5000 WEFT_CONFIG=\"$(cat /root/config.json)\"";
        // Without capabilities, as Fargate has it.
        let bare = "setpriv --bounding-set -all --inh-caps -all";
        let start = format!(
            "{environment} setsid {bare} weft agent >> $RUN/agent.log 2>&1 < /dev/null & echo $! > $RUN/agent.pid"
        );
        machines.done(workload.machine, &start);
    }

    /// Starts a pod as a kubelet does: what the injector made of it, with a token of its service account.
    fn start_pod(&self, workload: Workload, name: &str) {
        let (machines, machine, cluster) = (&self.machines, workload.machine, &self.cluster);
        self.start_application(workload);
        cluster.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
            "spec": {"nodeName": "worker-1", "containers": [{"name": "weft-agent"}]},
            "status": {"phase": "Running", "podIP": workload.address, "conditions": [{"type": "Ready", "status": "True"}]}}));
        let upstreams = workload.upstreams();
        let upstreams = upstreams.as_array().unwrap().iter();
        let upstreams: Vec<String> = upstreams
            .map(|one| format!("{}:{}", one["destination_name"].as_str().unwrap(), one["local_bind_port"]))
            .collect();
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "annotations": {"weft.dev/upstreams": upstreams.join(",")}},
            "spec": {"serviceAccountName": workload.service,
                "containers": [{"name": "application", "image": "application", "ports": [{"containerPort": 8080}]}]}});
        machines.write(machine, "/root/pod.yaml", &pod.to_string());
        let servers: String = SERVERS.iter().map(|(_, address)| format!(" --server {address}:8300")).collect();
        let injected = machines.done(
            machine,
            &format!(
                "weft inject --image weft --auth-method kubernetes --root-fingerprint {}{servers} --file /root/pod.yaml",
                self.root
            ),
        );
        let read = "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.argv[1])))";
        let injected = printed(Command::new(&self.python).args(["-c", read, &injected]));
        let injected: Value = serde_json::from_str(&injected).unwrap();
        let containers = injected["spec"]["initContainers"].as_array().unwrap();
        let agent = containers.iter().find(|container| container["name"] == "weft-agent").unwrap();
        let variable = |name: &str| {
            agent["env"].as_array().unwrap().iter().find(|one| one["name"] == name).unwrap()["value"].clone()
        };
        let config = variable("WEFT_CONFIG").as_str().unwrap().to_owned();
        let config = config.replace("$(POD_NAME)", name).replace("$(POD_NAMESPACE)", "default");
        machines.write(machine, "/root/config.json", &config.replace("$(POD_IP)", workload.address));
        let arguments: Vec<&str> = agent["args"].as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect();
        let user = &agent["securityContext"]["runAsUser"];
        let token = cluster.token(&format!("default/{}", workload.service), Some(name), &["weft"]);
        let volumes = format!(
            "mkdir -p /run/weft/token && mount -t tmpfs none /run/weft/token && mount -t tmpfs none /var/lib/weft\n\
             chown {user}:{user} /var/lib/weft"
        );
        machines.done(machine, &volumes);
        machines.write(machine, "/run/weft/token/token", &token);
        let start = format!(
            "chmod 755 /run/weft /run/weft/token; chmod 644 /run/weft/token/token\n\
             WEFT_CONFIG=\"$(cat /root/config.json)\" KUBERNETES_SERVICE_HOST={CLOUD} setsid \
             setpriv --reuid {user} --regid {user} --clear-groups --bounding-set -all --inh-caps -all weft {} \
             >> $RUN/agent.log 2>&1 < /dev/null & echo $! > $RUN/agent.pid",
            arguments.join(" ")
        );
        machines.done(machine, &start);
    }

    /// Starts a machine's agent, with a join token.
    fn start_vm(&self, workload: Workload) {
        self.start_application(workload);
        let definition = json!({"service": workload.definition(), "access_log": "-"});
        self.machines.write(workload.machine, "/etc/weft/service.json", &definition.to_string());
        self.machines.join(
            workload.machine,
            SERVERS[0].1,
            &format!("--service {}", workload.service),
            &format!("--bind {}", workload.address),
        );
    }

    /// Returns the nodes that the catalog has, in order.
    fn nodes(&self) -> Vec<String> {
        let listed: Value = serde_json::from_str(&self.weft("catalog nodes --output json")).unwrap_or_default();
        let mut nodes: Vec<String> =
            listed.as_array().into_iter().flatten().map(|node| node["Node"].as_str().unwrap().to_owned()).collect();
        nodes.sort();
        nodes
    }
}

/// Runs a program that must succeed; returns what it printed.
#[track_caller]
fn printed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Boots the machines, and on them the clouds and three servers.
fn begin(python: PathBuf) -> Story {
    let workloads = [TASK, POD, VM, NEW_TASK, NEW_POD].map(|workload| (workload.machine, workload.address));
    let named: Vec<(&str, &str)> = SERVERS.into_iter().chain([("cloud", CLOUD)]).chain(workloads).collect();
    let machines = Machines::boot(&named);
    let cluster = ApiServer::start_by(SocketAddr::new(CLOUD.parse().unwrap(), 6443), machines.enter("cloud"));
    let made = rcgen::generate_simple_self_signed(vec!["sts.example".to_owned(), CLOUD.to_owned()]).unwrap();
    let [certificate, key] = ["cloud.pem", "cloud-key.pem"].map(|name| machines.directory().join(name));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let mut moto = machines.on_network_of("cloud");
    moto.arg(&python)
        .args(["-m", "moto.server", "-H", "0.0.0.0", "-p", "5000", "-s", "-c"])
        .arg(&certificate)
        .arg("-k")
        .arg(&key);
    let clouds = Process::start("moto", moto, machines.directory());
    for name in ["web", "reviewer"] {
        cluster.put(
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": "default"}}),
        );
    }
    let reviewer = cluster.token("default/reviewer", None, &["https://kubernetes.default.svc.cluster.local"]);
    let cluster_key = machines.done("s1", "weft keygen");
    for (name, _) in SERVERS {
        machines.write(name, "/root/cloud.pem", &made.cert.pem());
        machines.write(name, "/etc/weft/reviewer", &reviewer);
        machines.write(name, "/etc/weft/kubernetes.pem", cluster.ca_pem());
        machines.write(name, "/etc/weft/cluster.key", &cluster_key);
        machines.done(
            name,
            &format!("chmod 600 /etc/weft/reviewer /etc/weft/cluster.key\necho '{CLOUD} sts.example' >> /etc/hosts"),
        );
    }
    let story = Story { machines, cluster, python, _clouds: clouds, root: String::new() };
    (0..3).for_each(|at| story.start_server(at));
    story.machines.bootstrap();
    let roots: Value = serde_json::from_str(&story.weft("ca roots --output json")).unwrap();
    Story { root: roots["Roots"][0]["ID"].as_str().unwrap().to_owned(), ..story }
}

/// Says who may log in, and how requests are read.
fn admit(story: &Story) {
    let machines = &story.machines;
    let kubernetes = json!({"Host": story.cluster.url()});
    let aws = json!({"BoundIAMPrincipalARNs": ["arn:aws:iam::123456789012:role/orders"], "STSEndpoint": "https://sts.example:5000"});
    for (name, kind, config) in [("kubernetes", "kubernetes", kubernetes), ("aws", "aws-iam", aws)] {
        machines.write("s1", &format!("/root/{name}.json"), &config.to_string());
        story.weft(&format!("acl auth-method create {name} --type {kind} --config /root/{name}.json"));
    }
    for (method, kind, name, selector) in [
        ("kubernetes", "service", "${serviceaccount.name}", "serviceaccount.namespace == \"default\""),
        ("kubernetes", "node", "${pod.name}.${serviceaccount.namespace}", "serviceaccount.namespace == \"default\""),
        ("aws", "service", "${entity_name}", "account_id == \"123456789012\" and entity_type == \"role\""),
        ("aws", "node", "${session_name}", "account_id == \"123456789012\" and entity_type == \"role\""),
    ] {
        story.weft(&format!(
            "acl binding-rule create --method {method} --bind-type {kind} --bind-name '{name}' --selector '{selector}'"
        ));
    }
    machines.write(
        "s1",
        "/root/defaults.json",
        &json!({"Kind": "proxy-defaults", "Name": "global", "Config": {"protocol": "http"}}).to_string(),
    );
    story.weft("config write /root/defaults.json");
    // The connector makes the cluster's resources into rules.
    for (plural, kind) in [("serviceintentions", "ServiceIntentions"), ("servicedefaults", "ServiceDefaults")] {
        story.cluster.put(json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.weft.dev")},
            "spec": {"group": "weft.dev", "names": {"plural": plural, "kind": kind}}}));
    }
    machines.write("s1", "/root/kubeconfig", &story.cluster.certificate_config("connector").to_string());
    machines.done(
        "s1",
        "umask 077; printf %s \"$WEFT_HTTP_TOKEN\" > /root/token\n\
         KUBECONFIG=/root/kubeconfig setsid weft connector kubernetes --lease 5s --no-admin \
         --http-addr http://127.0.0.1:8500 --token-file /root/token > $RUN/connector.log 2>&1 < /dev/null &",
    );
}

/// Whoever may read what is public, as a resource of the cluster says it.
fn rule(destination: &str) -> Value {
    json!({"apiVersion": "weft.dev/v1alpha1", "kind": "ServiceIntentions",
        "metadata": {"name": destination, "namespace": "default"},
        "spec": {"destination": {"name": destination}, "sources": [{"name": "*",
            "permissions": [{"action": "allow", "http": {"pathPrefix": "/public", "methods": ["GET"]}}]}]}})
}

#[test]
fn an_ecs_task_a_pod_and_a_vm_are_one_mesh() {
    let needed = ["ip", "unshare", "nsenter", "python3", "curl", "setpriv"];
    if needed.iter().any(|name| tool(name, TEST).is_none()) {
        return;
    }
    let Some(python) = ["moto", "boto3", "yaml"].iter().map(|module| python(module, TEST)).collect::<Option<Vec<_>>>()
    else {
        return;
    };
    let story = begin(python[0].clone());
    admit(&story);
    story.start_task(TASK, "0a1b2c3d");
    story.start_pod(POD, "web-0");
    story.start_vm(VM);
    let all = [TASK, POD, VM];
    eventually("all of them to be there", ADMITTED * PROMISE_FACTOR, || {
        (story.nodes() == ["0a1b2c3d", "vm", "web-0.default"]).then_some(())
    });

    // Nobody may call anybody, and then one rule decides for all three alike.
    story.all_hear(&all, 403, "GET", "/public/prices");
    for workload in all {
        story.cluster.put(rule(workload.service));
    }
    story.all_hear(&all, 200, "GET", "/public/prices");
    for (method, path) in [("POST", "/public/prices"), ("GET", "/private"), ("GET", "/public/../private")] {
        story.all_hear(&all, 403, method, path);
    }
    let explained = story.weft("intention explain web orders --method POST --path /public/prices");
    assert!(explained.contains("deny") && explained.contains("the method is another"), "{explained}");
    let counted =
        "curl -sf http://127.0.0.1:19000/metrics | grep 'weft_proxy_requests_total{direction=\"inbound\"' | grep 4xx";
    for workload in all {
        assert!(story.machines.done(workload.machine, counted).contains(&format!("default/{}", workload.service)));
    }
    for workload in [TASK, VM] {
        let line =
            story.machines.done(workload.machine, "grep '\"method\":\"POST\"' $RUN/agent.log | grep inbound | tail -1");
        let line: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&line["status"], &line["decision"]), (&403.into(), &"deny".into()), "{line}");
    }

    // The authority takes another root meanwhile, and no call fails.
    let steady = "setsid sh -c 'while curl -sf --max-time 5 -o /dev/null http://127.0.0.1:PORT/public/x; do echo; done; echo FAILED' \
                  > $RUN/steady.log 2>&1 < /dev/null & echo $! > $RUN/steady.pid";
    for (from, to) in [(TASK, POD), (POD, VM), (VM, TASK)] {
        story.machines.done(from.machine, &steady.replace("PORT", &to.port.to_string()));
    }
    story.weft("ca rotate");
    eventually("the rotation to end", ADMITTED * PROMISE_FACTOR * 2, || {
        let roots: Value = serde_json::from_str(&story.weft("ca roots --output json")).ok()?;
        let active = roots["Roots"].as_array()?.iter().find(|root| root["Active"] == true)?["ID"].as_str()?.to_owned();
        (active != story.root).then_some(())
    });
    for workload in all {
        let log = story.machines.done(workload.machine, "wc -l < $RUN/steady.log; tail -1 $RUN/steady.log");
        assert!(!log.contains("FAILED") && !log.starts_with("0"), "{}: {log}", workload.machine);
    }

    // Two of three servers are gone: whom its platform vouches for is let in, and calls.
    for at in [1, 2] {
        story.kill_server(at);
    }
    story.start_task(NEW_TASK, "4e5f6a7b");
    story.start_pod(NEW_POD, "web-1");
    story.all_hear(&[NEW_TASK, NEW_POD], 200, "GET", "/public/prices");

    // All are gone: calls go on.
    story.kill_server(0);
    story.all_hear(&[TASK, POD, VM, NEW_TASK, NEW_POD], 200, "GET", "/public/prices");
    story.all_hear(&[TASK, POD, VM], 403, "POST", "/public/prices");

    // They are back: the catalog tells the truth, and what is taken back is cut for everybody.
    (0..3).for_each(|at| story.start_server(at));
    let everybody = ["0a1b2c3d", "4e5f6a7b", "vm", "web-0.default", "web-1.default"];
    eventually("the catalog to tell the truth", ADMITTED * PROMISE_FACTOR * 2, || {
        (story.nodes() == everybody).then_some(())
    });
    for workload in all {
        let log = story
            .machines
            .done(workload.machine, "kill $(cat $RUN/steady.pid); grep -c FAILED $RUN/steady.log || true");
        assert_eq!(log, "0", "{}: no call failed meanwhile", workload.machine);
        story.cluster.remove("serviceintentions.weft.dev", "default", workload.service);
    }
    story.all_hear(&[TASK, POD, VM], 403, "GET", "/public/prices");

    // Whoever ends leaves nothing behind.
    for workload in [TASK, POD, VM, NEW_TASK, NEW_POD] {
        story.machines.done(workload.machine, "kill -TERM $(cat $RUN/agent.pid)");
    }
    eventually("nobody to be left", ADMITTED * PROMISE_FACTOR * 2, || story.nodes().is_empty().then_some(()));
}
