//! Three services on three platforms move into a mesh by the manual's page alone, while they call one another without a pause: none of
//! their calls fails.

use std::{
    cell::{Cell, RefCell},
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::harness::{ADMITTED, Block, PROMISE_FACTOR, Platforms, RunningPod, blocks, eventually, tool};

const TEST: &str = "services_move_into_the_mesh_by_the_page_and_no_call_fails";

const SERVER: [(&str, &str); 1] = [("s1", "10.0.0.1")];
const VM: (&str, &str) = ("vm", "10.0.0.31");
/// Tasks and pods are not changed but replaced: one machine after the other.
const TASKS: [(&str, &str); 3] = [("task", "10.0.0.11"), ("task-2", "10.0.0.12"), ("task-3", "10.0.0.13")];
const PODS: [(&str, &str); 2] = [("pod", "10.0.0.21"), ("pod-2", "10.0.0.22")];

/// How soon an application is there.
const APPLICATION: Duration = Duration::from_secs(10);
/// Callers' agents know within this time that somebody takes leave.
const TOLD: Duration = Duration::from_secs(2);

/// The application: it answers with its name, and calls others all the time, over a new connection for each call and over one
/// that it keeps, from when everybody is there. Told to end, it begins no more calls, and takes leave of those who keep
/// connections to it.
const SHOP: &str = r#"#!/usr/bin/env python3
import argparse, http.client, http.server, os, signal, socketserver, threading, time, urllib.parse

parser = argparse.ArgumentParser()
parser.add_argument('name')
parser.add_argument('--listen', default='0.0.0.0')
parser.add_argument('--call', action='append', default=[])
parser.add_argument('--calls')
told = parser.parse_args()
ending = threading.Event()

class Application(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    disable_nagle_algorithm = True

    def do_GET(self):
        body = f'{told.name}\n'.encode()
        self.send_response(200)
        self.send_header('content-length', str(len(body)))
        if ending.is_set():
            self.send_header('connection', 'close')
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *about):
        pass

class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
    # Python's own asks name servers for the machine's name first.
    server_bind = socketserver.TCPServer.server_bind

def calls():
    lines = open(told.calls).read().split() if told.calls else told.call
    return dict(line.split('=', 1) for line in lines)

def call(name, keeps):
    while not os.path.exists('EVERYBODY-IS-THERE'):
        time.sleep(0.05)
    connection, last = None, None
    while not ending.is_set():
        url = calls()[name]
        if url != last or not keeps:
            if connection:
                connection.close()
            connection, last = None, url
        place = urllib.parse.urlsplit(url)
        connection = connection or http.client.HTTPConnection(place.hostname, place.port or 80, timeout=20)
        try:
            connection.request('GET', place.path)
            answer = connection.getresponse()
            said = answer.read().decode().strip()
            fine = answer.status == 200 and said == name
            print(f'ok {url}' if fine else f'FAILED {time.time()} {url}: {answer.status} {said}', flush=True)
        except Exception as error:
            print(f'FAILED {time.time()} {url}: {"kept" if keeps else "new"}: {error!r}', flush=True)
            connection = None
        time.sleep(0.03)

def end(*about):
    ending.set()
    threading.Timer(LEAVES-AFTER, os._exit, [0]).start()

signal.signal(signal.SIGTERM, end)
server = Server((told.listen, 8080), Application)
for name in calls():
    for keeps in (False, True):
        threading.Thread(target=call, args=(name, keeps), daemon=True).start()
threading.Thread(target=server.serve_forever, daemon=True).start()
while True:
    signal.pause()
"#;

/// What the page happens to.
struct Rollout {
    platforms: Platforms,
    /// How many tasks and pods were started.
    tasks: Cell<usize>,
    pods: Cell<usize>,
    /// The pod that runs.
    pod: RefCell<Option<RunningPod>>,
    /// The applications that were told to end: the machine, and the process.
    ending: RefCell<Vec<(&'static str, &'static str)>>,
    /// What the cloud was told last of the task.
    definition: RefCell<Value>,
}

impl Rollout {
    fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
        TASKS.into_iter().chain(PODS).chain([VM])
    }

    fn begin() -> Option<Self> {
        tool("nft", TEST)?;
        let platforms = Platforms::begin(&SERVER, "", &Self::all().collect::<Vec<_>>(), TEST)?;
        platforms.admit(&["orders"]);
        let machines = &platforms.machines;
        let bin = machines.directory().join("bin");
        let everybody = machines.directory().join("everybody");
        let shop = SHOP.replace("EVERYBODY-IS-THERE", &everybody.display().to_string());
        let shop = shop.replace("LEAVES-AFTER", &(TOLD * PROMISE_FACTOR).as_secs().to_string());
        for (name, script) in [("shop", &*shop), ("kubectl", CLOUD), ("aws", CLOUD)] {
            fs::write(bin.join(name), script).unwrap();
            fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        for (machine, _) in Self::all() {
            machines.done(
                machine,
                "echo shop:x:1002:1002::/:/bin/false >> /etc/passwd\necho shop:x:1002: >> /etc/group\n\
                 ip route add default dev eth0\necho 'nameserver 10.0.0.99' > /etc/resolv.conf",
            );
        }
        Some(Self {
            platforms,
            tasks: Cell::new(0),
            pods: Cell::new(0),
            pod: RefCell::default(),
            ending: RefCell::default(),
            definition: RefCell::default(),
        })
    }

    /// Starts an application; its calls go to its log.
    fn start(&self, machine: &str, command: &str) {
        let start = format!(
            "setsid setpriv --reuid shop --regid shop --clear-groups {command} > $RUN/app.log 2>&1 < /dev/null & \
             echo $! > $RUN/app.pid"
        );
        self.platforms.machines.done(machine, &start);
    }

    /// Starts all three as they are before weft: task and pod as the page has them so far.
    fn start_all(&self, pod: &str, task: &str) {
        let calls = "orders=http://orders.internal:8080/\nweb=http://web.internal:8080/";
        self.platforms.machines.write(VM.0, "/etc/shop/calls", calls);
        self.start(VM.0, "shop ledger --calls /etc/shop/calls");
        self.rename("ledger", VM.1);
        self.deploy_pod(&self.platforms.read_yaml(pod));
        self.definition.replace(serde_json::from_str(task).unwrap());
        self.deploy_task();
        fs::write(self.platforms.machines.directory().join("everybody"), "").unwrap();
    }

    /// Has a name of the old days lead to an address, everywhere at once.
    fn rename(&self, name: &str, address: &str) {
        for (machine, _) in Self::all() {
            let script = format!(
                "grep -v ' {name}.internal$' /etc/hosts > /etc/hosts.new || true\n\
                 echo '{address} {name}.internal' >> /etc/hosts.new\nmv /etc/hosts.new /etc/hosts"
            );
            self.platforms.machines.done(machine, &script);
        }
    }

    /// Waits until whoever was told to end has done so.
    fn all_end(&self) {
        for (machine, process) in self.ending.take() {
            eventually(&format!("{process} on {machine} to end"), APPLICATION * PROMISE_FACTOR, || {
                let state = format!("grep State /proc/$(cat $RUN/{process}.pid)/status");
                let state = self.platforms.machines.run(machine, &state);
                // Nobody is left to take leave of what has ended.
                (!state.status.success() || String::from_utf8_lossy(&state.stdout).contains('Z')).then_some(())
            });
        }
    }

    /// Carries out what was typed for a cloud.
    fn carry_out(&self, words: &[&str], file: &str) {
        match words {
            ["kubectl", "apply", ..] => self.deploy_pod(&self.platforms.read_yaml(file)),
            ["aws", "ecs", "register-task-definition", ..] => {
                self.definition.replace(serde_json::from_str(file).unwrap());
            }
            ["aws", "ecs", "update-service", ..] => self.deploy_task(),
            // It is carried out by the time that the command returns.
            ["kubectl", "rollout", "status", ..] | ["aws", "ecs", "wait", ..] => {}
            _ => panic!("the page asks for `{}`, which no platform here can do", words.join(" ")),
        }
    }

    /// Replaces the pod by one that is as its Deployment says.
    fn deploy_pod(&self, manifest: &Value) {
        let at = self.pods.replace(self.pods.get() + 1);
        let (machine, address) = PODS[at];
        let (name, kubelet) = (format!("web-{at}"), self.platforms.kubelet());
        self.platforms.make_pod(address, &name);
        let spec = &manifest["spec"]["template"]["spec"];
        let pod = json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec});
        let started = kubelet.start(machine, address, pod);
        eventually(&format!("{machine} to be ready"), ADMITTED * PROMISE_FACTOR, || {
            (kubelet.probe(&started, "web", "readinessProbe") == 200).then_some(())
        });
        self.rename("web", address);
        if let Some(before) = self.pod.replace(Some(started)) {
            // Application and agent together.
            kubelet.terminate(&before);
            self.ending.borrow_mut().push((PODS[at - 1].0, "web"));
        }
    }

    /// Replaces the task by one that is as its definition says.
    fn deploy_task(&self) {
        let at = self.tasks.replace(self.tasks.get() + 1);
        let (machine, address) = TASKS[at];
        let machines = &self.platforms.machines;
        let definition = self.definition.borrow();
        for container in definition["containerDefinitions"].as_array().unwrap() {
            if container["name"] == "weft-agent" {
                let id = format!("0a1b2c3d4e5f{at}");
                let task = self.platforms.make_task(machine, address, "orders", &id);
                task.start_agent(machines, container["environment"][0]["value"].as_str().unwrap());
            }
            if container["name"] == "orders" {
                self.start(machine, &words(container["command"].as_array().unwrap()));
            }
            let check = &container["healthCheck"];
            if let Some(command) = check["command"].as_array() {
                let interval = Duration::from_secs(check["interval"].as_u64().unwrap_or(0));
                let command = words(&command[1..]);
                eventually(&format!("{machine} to be healthy"), (ADMITTED + interval) * PROMISE_FACTOR, || {
                    // The platform looks at intervals, and for the first time after one.
                    std::thread::sleep(interval);
                    machines.run(machine, &command).status.success().then_some(())
                });
            }
        }
        eventually(&format!("{machine} to listen"), APPLICATION * PROMISE_FACTOR, || {
            machines.run(machine, "exec 3<>/dev/tcp/127.0.0.1/8080").status.success().then_some(())
        });
        self.rename("orders", address);
        if at > 0 {
            // Application and agent together.
            let before = TASKS[at - 1].0;
            machines.done(before, "kill -TERM $(cat $RUN/app.pid) $(cat $RUN/agent.pid 2>/dev/null)");
            self.ending.borrow_mut().push((before, "app"));
        }
    }

    /// Runs a block of the page; what it asks of clouds is carried out meanwhile.
    #[track_caller]
    fn run(&self, machine: &str, block: &Block<'_>) {
        let machines = &self.platforms.machines;
        let asked = machines.directory().join("asked");
        let began = Instant::now();
        let output = std::thread::scope(|scope| {
            let running = scope.spawn(|| machines.run(machine, &block.text));
            while !running.is_finished() {
                for request in fs::read_dir(&asked).into_iter().flatten().flatten() {
                    let file = |name: &str| request.path().join(name);
                    if let Ok(words) = fs::read_to_string(file("words"))
                        && !file("answer").exists()
                    {
                        let words: Vec<&str> = words.lines().collect();
                        self.carry_out(&words, &fs::read_to_string(file("file")).unwrap_or_default());
                        fs::write(file("answer"), "").unwrap();
                    }
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            running.join().unwrap()
        });
        let said = [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat();
        let took = began.elapsed().as_secs_f64();
        eprintln!("--- line {}, on {machine}, {took:.1} s\n{}{said}", block.line, block.text);
        assert!(
            output.status.success(),
            "the block at line {} of the page ended with {} on {machine}\n{}",
            block.line,
            output.status,
            self.logs()
        );
    }

    fn logs(&self) -> String {
        let all = Self::all().map(|(machine, _)| machine).chain(["s1"]);
        all.map(|machine| format!("{machine}:\n{}", self.platforms.machines.logs(machine))).collect()
    }

    /// Returns what became of a workload's calls, one line each.
    fn calls(&self, machine: &str) -> String {
        let log = if machine.starts_with("pod") { "run/web.log" } else { "run/app.log" };
        let machine = self.platforms.machines.directory().join("machines").join(machine);
        fs::read_to_string(machine.join(log)).unwrap_or_default()
    }

    /// Checks that no call has failed so far, and that those that are running go on calling.
    #[track_caller]
    fn assert_steady(&self, when: &str) {
        let failed: Vec<String> = Self::all()
            .flat_map(|(machine, _)| {
                let calls = self.calls(machine);
                let failed = calls.lines().filter(|line| !line.starts_with("ok ")).take(5);
                failed.map(|line| format!("{machine}: {line}")).collect::<Vec<_>>()
            })
            .collect();
        assert!(failed.is_empty(), "calls failed by {when}: {failed:#?}\n{}", self.logs());
        for machine in [TASKS[self.tasks.get() - 1].0, PODS[self.pods.get() - 1].0, VM.0] {
            let before = self.calls(machine).len();
            eventually(&format!("{machine} to go on calling, {when}"), APPLICATION * PROMISE_FACTOR, || {
                (self.calls(machine).len() > before).then_some(())
            });
        }
    }

    /// Returns how often a workload called another so.
    fn calls_by(&self, machine: &str, url: &str) -> usize {
        self.calls(machine).lines().filter(|line| *line == format!("ok {url}")).count()
    }
}

/// Stands in for the command lines of clouds.
const CLOUD: &str = include_str!("harness/cloud.sh");

fn words(command: &[Value]) -> String {
    command.iter().map(|word| word.as_str().unwrap()).collect::<Vec<_>>().join(" ")
}

#[test]
fn services_move_into_the_mesh_by_the_page_and_no_call_fails() {
    let Some(rollout) = Rollout::begin() else { return };
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/rollout.md");
    let page = fs::read_to_string(page).unwrap();
    let blocks = blocks(&page);
    let machines = &rollout.platforms.machines;

    let so_far = |file: &str| &*blocks.iter().find(|block| block.file == Some(file)).unwrap().text;
    rollout.start_all(so_far("web.yaml"), so_far("orders.json"));
    rollout.assert_steady("before anybody moves");

    for block in &blocks {
        for machine in &block.machines {
            match block.file {
                Some(file) => machines.write(machine, file, &block.text),
                None => rollout.run(machine, block),
            }
            rollout.assert_steady(&format!("after line {} of the page", block.line));
        }
    }

    rollout.all_end();
    rollout.assert_steady("when whoever was replaced has gone");

    // Everybody calls everybody by the mesh, and nobody gets past it.
    for (machine, urls) in [
        (VM.0, ["http://orders.virtual.mesh/", "http://web.virtual.mesh/"]),
        (PODS[1].0, ["http://orders.virtual.mesh/", "http://ledger.virtual.mesh/"]),
        (TASKS[2].0, ["http://127.0.0.1:9191/", "http://127.0.0.1:9192/"]),
    ] {
        for url in urls {
            assert!(rollout.calls_by(machine, url) > 10, "{machine} calls {url}");
        }
    }
    for address in [VM.1, TASKS[2].1, PODS[1].1] {
        let past = machines.run("cloud", &format!("curl --silent --max-time 2 http://{address}:8080/"));
        assert!(!past.status.success(), "{address} is reached past its agent");
    }
    machines.done("s1", "weft intention delete ledger web");
    eventually("a rule that is taken away to count", ADMITTED * PROMISE_FACTOR, || {
        rollout.calls(VM.0).lines().any(|line| line.starts_with("FAILED")).then_some(())
    });
}
