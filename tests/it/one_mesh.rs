//! An ECS task, a pod and a virtual machine in one mesh, each on a machine of its own with what its platform gives it: they call
//! one another, one rule on requests decides the same for all of them, by their platforms where it says so, and none of it ends with
//! the servers.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    ADMITTED, AUDIENCE, BY_CERTIFICATES, PROMISE_FACTOR, Platforms, VOLUME, eventually, objects, tool,
};

const TEST: &str = "an_ecs_task_a_pod_and_a_vm_are_one_mesh";

const SERVERS: [(&str, &str); 3] = [("s1", "10.0.0.1"), ("s2", "10.0.0.2"), ("s3", "10.0.0.3")];
/// Workloads: the machine, its address, its service, and the port of loopback at which the others call it.
const TASK: Workload = Workload { machine: "task", address: "10.0.0.11", service: "orders", port: 9191 };
const POD: Workload = Workload { machine: "pod", address: "10.0.0.21", service: "web", port: 9192 };
const VM: Workload = Workload { machine: "vm", address: "10.0.0.31", service: "ledger", port: 9193 };
/// Those that come when two of three servers are gone.
const NEW_TASK: Workload = Workload { machine: "task-2", address: "10.0.0.12", service: "orders", port: 9191 };
const NEW_POD: Workload = Workload { machine: "pod-2", address: "10.0.0.22", service: "web", port: 9192 };

/// A rotation is over within this time: agents have their leaves signed anew over a quarter of their lives.
const ROTATED: Duration = Duration::from_secs(75);

/// Runs a program as the machine's application, whose calls are redirected.
const AS_APPLICATION: &str = "setpriv --reuid app --regid app --clear-groups";

/// The application: it answers every method with its name, at one path again and again.
const APPLICATION: &str = "
import http.server, sys, time
class Application(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def answer(self):
        self.rfile.read(int(self.headers.get('content-length') or 0))
        body = f'{sys.argv[1]}\\n'.encode()
        self.send_response(200)
        if self.path == '/public/open':
            self.send_header('transfer-encoding', 'chunked')
            self.end_headers()
            while True:
                self.wfile.write(f'{len(body):x}\\r\\n'.encode() + body + b'\\r\\n')
                time.sleep(0.2)
        self.send_header('content-length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_GET = do_POST = answer
    def log_message(self, *about):
        pass
http.server.ThreadingHTTPServer(('127.0.0.1', 8080), Application).serve_forever()
";

#[derive(Clone, Copy)]
struct Workload {
    machine: &'static str,
    address: &'static str,
    service: &'static str,
    port: u16,
}

impl Workload {
    fn others(self) -> impl Iterator<Item = Self> {
        [TASK, POD, VM].into_iter().filter(move |other| other.service != self.service)
    }

    /// Returns its upstreams, as a service definition has them: everybody else.
    fn upstreams(self) -> Value {
        self.others().map(|other| json!({"destination_name": other.service, "local_bind_port": other.port})).collect()
    }

    /// Returns its definition; a machine's application names nobody whom it calls, for its calls are redirected.
    fn definition(self) -> Value {
        let proxy = match self.machine {
            "vm" => json!({"mode": "transparent"}),
            _ => json!({"upstreams": self.upstreams()}),
        };
        json!({"name": self.service, "port": 8080, "connect": {"sidecar_service": {"proxy": proxy}}})
    }

    /// Returns what its agent's log and number go by: a pod's containers have their own.
    fn agent(self) -> &'static str {
        if self.machine.starts_with("pod") { "weft-agent" } else { "agent" }
    }

    /// Returns where it calls another, by whatever its platform has, and what runs a program as its application does.
    fn way_to(self, other: Self) -> (String, &'static str) {
        match self.machine {
            "vm" => (format!("http://{}.virtual.mesh", other.service), AS_APPLICATION),
            _ => (format!("http://127.0.0.1:{}", other.port), ""),
        }
    }
}

/// Everything that the story happens in.
struct Story(Platforms);

impl Story {
    /// Calls one workload from another; returns the status, 0 where nobody answered.
    fn call(&self, from: Workload, to: Workload, method: &str, path: &str) -> u16 {
        let (base, user) = from.way_to(to);
        let told = "curl --silent --max-time 5 --output /dev/null --write-out '%{http_code}'";
        let script = format!("{user} {told} --request {method} {base}{path} || true");
        let output = self.0.machines.run(from.machine, &script);
        String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or_default()
    }

    /// Waits until every workload of these hears `status` from every other.
    #[track_caller]
    fn all_hear(&self, workloads: &[Workload], status: u16, method: &str, path: &str) {
        for from in workloads {
            for to in from.others() {
                let mut heard = 0;
                let what = format!("{} to hear {status} from {}: {method} {path}", from.machine, to.service);
                eventually(&what, ADMITTED * PROMISE_FACTOR, || {
                    heard = self.call(*from, to, method, path);
                    (heard == status).then_some(())
                });
            }
        }
    }

    /// Has a workload do something with the base of another's URLs, beside everything else, into a log of that name.
    fn meanwhile(&self, from: Workload, to: Workload, log: &str, does: &str) {
        let (base, user) = from.way_to(to);
        let does = does.replace("BASE", &base);
        self.0
            .machines
            .done(from.machine, &format!("setsid {user} sh -c '{does}' > $RUN/{log}.log 2>&1 < /dev/null &"));
    }

    /// Returns what a workload wrote into a log of that name.
    fn log(&self, of: Workload, name: &str) -> String {
        self.0.machines.done(of.machine, &format!("cat $RUN/{name}.log"))
    }

    /// Checks that no steady call of a workload failed; says otherwise what agents say of it.
    #[track_caller]
    fn assert_no_call_failed(&self, of: Workload) {
        let log = self.log(of, "steady");
        if !log.contains("FAILED") {
            return;
        }
        let how: Vec<&str> = log.lines().filter(|line| *line != ".").collect();
        let told = [TASK, POD, VM].map(|one| {
            let lines = format!("grep -E '\"status\":5|WARN|ERROR' $RUN/{}.log | tail -n 12", one.agent());
            format!("{}:\n{}", one.machine, String::from_utf8_lossy(&self.0.machines.run(one.machine, &lines).stdout))
        });
        panic!("{}: a call failed: {how:?}\n{}", of.machine, told.join("\n"));
    }

    /// Returns how many handshakes a workload's agent has refused for the other's certificate.
    fn handshakes_refused(&self, of: Workload) -> u64 {
        let metrics = self.0.machines.done(of.machine, "curl -sf http://127.0.0.1:19000/metrics");
        let refused = metrics.lines().filter(|line| line.starts_with("weft_proxy_refused_total{"));
        let of_handshakes = refused.filter(|line| {
            line.contains("phase=\"handshake\"")
                && BY_CERTIFICATES.iter().any(|reason| line.contains(&format!("reason=\"{reason}\"")))
        });
        of_handshakes.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    /// Has the authority take another root, and waits until that signed every leaf; those live longer than the earlier ones.
    #[track_caller]
    fn rotate(&self) {
        let longer = "curl -sSf -X PUT -H \"X-Consul-Token: $WEFT_HTTP_TOKEN\" --data '{\"Config\": {\"LeafCertTTL\": \"200s\"}}' \
                      http://127.0.0.1:8500/v1/connect/ca/configuration";
        self.0.machines.done("s1", longer);
        self.0.weft("ca rotate");
        eventually("every leaf to be signed under another root", ROTATED * PROMISE_FACTOR, || {
            // It ends with status 1 while one is under way.
            let asked = self.0.machines.run("s1", "weft ca rotate --plan --output json");
            let plan: Value = serde_json::from_slice(&asked.stdout).ok()?;
            let is_over = plan.get("Rotation").is_none() && plan["ActiveRootID"].is_string();
            (is_over && plan["ActiveRootID"] != self.0.root.as_str()).then_some(())
        });
    }

    fn start_application(&self, workload: Workload) {
        self.0.machines.write(workload.machine, "/root/application.py", APPLICATION);
        let start = format!(
            "setsid python3 /root/application.py {} > $RUN/application.log 2>&1 < /dev/null &",
            workload.service
        );
        self.0.machines.done(workload.machine, &start);
    }

    /// Starts a task as Fargate does: its metadata and its role's credentials are all that it has.
    fn start_task(&self, workload: Workload, id: &str) {
        self.start_application(workload);
        let task = self.0.make_task(workload.machine, workload.address, workload.service, id);
        let config = json!({"bind": workload.address, "auth_method": "aws", "root_fingerprints": [self.0.root],
            "servers": SERVERS.map(|(_, address)| format!("{address}:8300")), "node": id, "access_log": "-",
            "data_dir": VOLUME, "service": workload.definition()});
        task.start_agent(&self.0.machines, &config.to_string());
    }

    /// Starts a pod as a kubelet does: what the injector made of it, with a token of its service account.
    fn start_pod(&self, workload: Workload, name: &str) {
        let machines = &self.0.machines;
        machines.write(workload.machine, "/root/application.py", APPLICATION);
        self.0.make_pod(workload.address, name);
        let upstreams = workload.upstreams();
        let upstreams = upstreams.as_array().unwrap().iter();
        let upstreams: Vec<String> = upstreams
            .map(|one| format!("{}:{}", one["destination_name"].as_str().unwrap(), one["local_bind_port"]))
            .collect();
        let command = ["python3", "/root/application.py", workload.service];
        let application = json!({"name": "application", "image": "application", "command": command, "ports": [{"containerPort": 8080}]});
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default",
                "annotations": {"weft.dev/upstreams": upstreams.join(","), "weft.dev/access-log": "all"}},
            "spec": {"serviceAccountName": workload.service, "containers": [application]}});
        machines.write(workload.machine, "/root/pod.yaml", &pod.to_string());
        let servers: String = SERVERS.iter().map(|(_, address)| format!(" --server {address}:8300")).collect();
        let injected = machines.done(
            workload.machine,
            &format!(
                "weft inject --image weft --auth-method kubernetes --audience {AUDIENCE} --root-fingerprint {}{servers} --file /root/pod.yaml",
                self.0.root
            ),
        );
        let _running = self.0.kubelet().start(workload.machine, workload.address, self.0.read_yaml(&injected));
    }

    /// Starts a machine's agent, with a join token, and has what its application calls in the mesh led there.
    fn start_vm(&self, workload: Workload) {
        let machines = &self.0.machines;
        self.start_application(workload);
        let definition = json!({"service": workload.definition(), "access_log": "-"});
        machines.write(workload.machine, "/etc/weft/service.json", &definition.to_string());
        machines.join(
            workload.machine,
            SERVERS[0].1,
            &format!("--service {}", workload.service),
            &format!("--bind {}", workload.address),
        );
        // Questions for names go wherever the machine is told to ask, and are led to the agent, too.
        let lead = format!(
            "echo app:x:1002:1002::/:/bin/false >> /etc/passwd\necho app:x:1002: >> /etc/group\n\
             ip route add default dev eth0\necho 'nameserver 10.0.0.99' > /etc/resolv.conf\n\
             weft redirect apply --service {}=app --dns-port 8600",
            workload.service
        );
        machines.done(workload.machine, &lead);
    }

    /// Checks that what one rule decides is told alike of every workload: beforehand, while it happens, in numbers and in its
    /// log.
    #[track_caller]
    fn assert_told_alike(&self) {
        let machines = &self.0.machines;
        for to in [TASK, POD, VM] {
            let from = to.others().next().unwrap();
            let (caller, service) = (from.service, to.service);
            let explained =
                self.0.weft(&format!("intention explain {caller} {service} --method POST --path /public/prices"));
            assert!(explained.contains("deny") && explained.contains("the method is another"), "{explained}");
            machines.done(
                "s1",
                &format!("setsid weft tap {service} --for 60s --output json > $RUN/tap 2> $RUN/tap.log < /dev/null & echo $! > $RUN/tap.pid"),
            );
            let told = eventually(&format!("the refusal by {service} to be seen"), ADMITTED * PROMISE_FACTOR, || {
                self.call(from, to, "POST", "/public/prices");
                let lines = machines.done("s1", "cat $RUN/tap");
                lines.lines().find_map(|line| serde_json::from_str::<Value>(line).ok())
            });
            machines.run("s1", "kill $(cat $RUN/tap.pid)");
            assert_eq!((&told["Decision"], &told["Status"]), (&"deny".into(), &403.into()), "{told}");
            assert!(told["Source"].as_str().unwrap().contains(caller), "{told}");
            let counted =
                "curl -sf http://127.0.0.1:19000/metrics | grep 'weft_proxy_requests_total{direction=\"inbound\"'";
            eventually(&format!("{service} to have counted it"), ADMITTED * PROMISE_FACTOR, || {
                let lines = machines.run(to.machine, counted).stdout;
                let is_meant = |line: &str| line.contains("4xx") && line.contains(&format!("default/{service}"));
                String::from_utf8_lossy(&lines).lines().any(is_meant).then_some(())
            });
            let logged = eventually(&format!("{service} to have logged it"), ADMITTED * PROMISE_FACTOR, || {
                let grep = format!("grep '\"method\":\"POST\"' $RUN/{}.log | grep inbound", to.agent());
                let log = machines.run(to.machine, &grep).stdout;
                String::from_utf8_lossy(&log).lines().find_map(|line| serde_json::from_str::<Value>(line).ok())
            });
            assert_eq!((&logged["status"], &logged["decision"]), (&403.into(), &"deny".into()), "{logged}");
        }
    }
}

/// Says who may log in, and how requests are read.
fn admit(story: &Platforms) {
    let machines = &story.machines;
    story.admit(&["orders"]);
    machines.write(
        "s1",
        "/root/defaults.json",
        &json!({"Kind": "proxy-defaults", "Name": "global", "Config": {"protocol": "http"}}).to_string(),
    );
    story.weft("config write /root/defaults.json");
    // The connector makes the cluster's resources into rules.
    objects::define_resources(&story.cluster);
    machines.write("s1", "/root/kubeconfig", &story.cluster.certificate_config("connector").to_string());
    machines.done(
        "s1",
        "umask 077; printf %s \"$WEFT_HTTP_TOKEN\" > /root/token\n\
         KUBECONFIG=/root/kubeconfig setsid weft connector kubernetes --lease 5s --no-admin \
         --http-addr http://127.0.0.1:8500 --token-file /root/token > $RUN/connector.log 2>&1 < /dev/null & echo $! > $RUN/connector.pid",
    );
}

/// Everybody may read what is public, and a task has a path for itself, as a resource of the cluster says it.
fn rule(destination: &str) -> Value {
    json!({"apiVersion": "weft.dev/v1alpha1", "kind": "ServiceIntentions",
        "metadata": {"name": destination, "namespace": "default"},
        "spec": {"destination": {"name": destination}, "sources": [{"name": "*", "permissions": [
            {"action": "allow", "http": {"pathPrefix": "/public", "methods": ["GET"]}},
            {"action": "allow", "http": {"pathExact": "/tasks"}, "sourcePlatforms": ["ecs"]}]}]}})
}

#[test]
fn an_ecs_task_a_pod_and_a_vm_are_one_mesh() {
    if ["nft"].iter().any(|name| tool(name, TEST).is_none()) {
        return;
    }
    let workloads = [TASK, POD, VM, NEW_TASK, NEW_POD].map(|workload| (workload.machine, workload.address));
    let Some(story) = Platforms::begin(&SERVERS, "--leaf-ttl 60s", &workloads, TEST).map(Story) else { return };
    let platforms = &story.0;
    admit(platforms);
    story.start_task(TASK, "0a1b2c3d");
    story.start_pod(POD, "web-0");
    story.start_vm(VM);
    let all = [TASK, POD, VM];
    eventually("all of them to be there", ADMITTED * PROMISE_FACTOR, || {
        (platforms.nodes()? == ["0a1b2c3d", "vm", "web-0.default"]).then_some(())
    });

    // Nobody may call anybody, and then one rule decides for all three alike.
    story.all_hear(&all, 403, "GET", "/public/prices");
    for workload in all {
        platforms.cluster.put(rule(workload.service));
    }
    story.all_hear(&all, 200, "GET", "/public/prices");
    for (method, path) in [("POST", "/public/prices"), ("GET", "/private"), ("GET", "/public/../private")] {
        story.all_hear(&all, 403, method, path);
    }
    story.all_hear(&[TASK], 200, "GET", "/tasks");
    story.all_hear(&[POD, VM], 403, "GET", "/tasks");
    story.assert_told_alike();

    // The authority takes another root meanwhile, and no call fails, nor a handshake.
    let pairs = [(TASK, POD), (POD, VM), (VM, TASK)];
    for (from, to) in pairs {
        let calls = "while curl -sSf --max-time 10 -o /dev/null BASE/public/x; do echo .; done; echo FAILED";
        story.meanwhile(from, to, "steady", calls);
    }
    let refused = all.map(|workload| story.handshakes_refused(workload));
    story.rotate();
    for (from, _) in pairs {
        story.assert_no_call_failed(from);
        let log = story.log(from, "steady");
        assert!(log.lines().count() > 5, "{}: there were calls", from.machine);
    }
    assert_eq!(all.map(|workload| story.handshakes_refused(workload)), refused);

    // Two of three servers are gone: whom its platform vouches for is let in, and calls.
    for at in [1, 2] {
        platforms.kill_server(at);
    }
    story.start_task(NEW_TASK, "4e5f6a7b");
    story.start_pod(NEW_POD, "web-1");
    story.all_hear(&[NEW_TASK, NEW_POD], 200, "GET", "/public/prices");

    // All are gone: calls go on, by name, too.
    platforms.kill_server(0);
    story.all_hear(&[TASK, POD, VM, NEW_TASK, NEW_POD], 200, "GET", "/public/prices");
    story.all_hear(&[TASK, POD, VM], 403, "POST", "/public/prices");

    // They are back: the catalog tells the truth, and what is taken back is cut for everybody.
    (0..3).for_each(|at| platforms.start_server(at));
    let nodes = ["0a1b2c3d", "4e5f6a7b", "vm", "web-0.default", "web-1.default"];
    eventually("the catalog to tell the truth", ADMITTED * PROMISE_FACTOR * 2, || {
        (platforms.nodes()? == nodes).then_some(())
    });
    for (from, to) in pairs {
        story.meanwhile(from, to, "open", "curl -sSN --fail BASE/public/open; echo ENDED");
        eventually(&format!("{} to hear from {}", from.machine, to.service), ADMITTED * PROMISE_FACTOR, || {
            story.log(from, "open").contains(to.service).then_some(())
        });
    }
    for (from, _) in pairs {
        story.assert_no_call_failed(from);
        assert!(!story.log(from, "open").contains("ENDED"), "{}: what is open stays so", from.machine);
    }
    for workload in all {
        platforms.cluster.remove("serviceintentions.weft.dev", "default", workload.service);
    }
    for (from, _) in pairs {
        for (log, end) in [("steady", "FAILED"), ("open", "ENDED")] {
            eventually(&format!("{} to be cut off: {log}", from.machine), ADMITTED * PROMISE_FACTOR, || {
                story.log(from, log).contains(end).then_some(())
            });
        }
    }
    let everybody = [TASK, POD, VM, NEW_TASK, NEW_POD];
    story.all_hear(&everybody, 403, "GET", "/public/prices");

    // Whoever ends leaves nothing behind.
    for workload in everybody {
        platforms.machines.done(workload.machine, &format!("kill -TERM $(cat $RUN/{}.pid)", workload.agent()));
    }
    for name in ["web-0", "web-1"] {
        platforms.cluster.remove("pods", "default", name);
    }
    eventually("nobody to be left", ADMITTED * PROMISE_FACTOR * 2, || platforms.nodes()?.is_empty().then_some(()));
    let services = platforms.weft("catalog services");
    assert!(!everybody.iter().any(|workload| services.contains(workload.service)), "{services}");
    // The connector says so in its own time.
    eventually("the connector to keep nothing", ADMITTED * PROMISE_FACTOR * 2, || {
        let listed: Value = serde_json::from_str(&platforms.weft("connector list --output json")).ok()?;
        (listed[0]["Platform"] == "kubernetes" && listed[0]["Nodes"] == 0).then_some(())
    });
    platforms.machines.done("s1", "kill -TERM $(cat $RUN/connector.pid)");
    eventually("the connector's Lease to be given back", ADMITTED * PROMISE_FACTOR, || {
        let lease = platforms.cluster.get("leases.coordination.k8s.io", "default", "weft-connector")?;
        (lease["spec"]["holderIdentity"] == "").then_some(())
    });
}
