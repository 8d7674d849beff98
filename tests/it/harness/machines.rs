//! Machines of their own, made of namespaces: each has its network, its `/etc`, its `/var/lib` and its processes, and all hang
//! on one switch. They end with the test, whatever becomes of it.

use std::{
    collections::BTreeMap,
    fs,
    os::{fd::AsFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::TempDir;

use super::{PROMISE_FACTOR, eventually, output_within, process::Process};

/// How long a machine may take to be there.
const BOOT: Duration = Duration::from_secs(20);
/// How long a server or an agent on a machine may take to be there.
const STARTED: Duration = Duration::from_secs(12);
/// How many seconds a script may take.
const PATIENCE: &str = "240";
/// Whoever runs one does not wait longer for its end, whatever it leaves behind.
const LIMIT: Duration = Duration::from_secs(270);
/// What every machine finds beside the system's programs, in the place of systemd and of ssh.
const SHIMS: [(&str, &str); 2] = [("systemctl", include_str!("systemctl.sh")), ("scp", include_str!("scp.sh"))];

/// What every machine has for itself: a directory of the test's, and the place that it stands in for.
const OWN: [(&str, &str); 3] = [("etc", "/etc/weft"), ("lib", "/var/lib/weft"), ("home", "/root")];

/// Makes the user whom the units run as, as the package does.
const USER: &str = "sed -i /^weft:/d /etc/passwd /etc/group\n\
    echo weft:x:973:973::/var/lib/weft:/usr/sbin/nologin >> /etc/passwd\necho weft:x:973: >> /etc/group\n";

/// A few machines on one switch.
pub(crate) struct Machines {
    directory: TempDir,
    machines: BTreeMap<String, Machine>,
    // Dropped after the machines.
    _switch: Process,
}

struct Machine {
    // Its end is the end of everything that runs in its namespaces.
    _process: Process,
    init: u32,
}

impl Machines {
    /// Boots machines with these names and addresses (of one /24).
    #[track_caller]
    pub(crate) fn boot(named: &[(&str, &str)]) -> Self {
        let directory = TempDir::new().unwrap();
        for (name, script) in SHIMS {
            let path = directory.path().join("bin").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, script).unwrap();
            executable(&path);
        }
        // Units run as a user of their own, who may not get to where this one's programs are.
        let weft = directory.path().join("bin/weft");
        fs::hard_link(env!("CARGO_BIN_EXE_weft"), &weft)
            .or_else(|_| fs::copy(env!("CARGO_BIN_EXE_weft"), &weft).map(drop))
            .unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/systemd");
        std::os::unix::fs::symlink(units, directory.path().join("units")).unwrap();
        let (switch, init) =
            namespaces("switch", "ip link add bridge type bridge && ip link set bridge up", &directory);
        let mut machines = Self { directory, machines: BTreeMap::new(), _switch: switch };
        for (name, address) in named {
            machines.add(name, address, init);
        }
        machines
    }

    fn add(&mut self, name: &str, address: &str, switch: u32) {
        let root = self.root(name);
        for own in OWN {
            fs::create_dir_all(root.join(own.0)).unwrap();
        }
        fs::create_dir_all(root.join("run")).unwrap();
        let root = root.display();
        // An overlay lets directories appear that the host does not have; what the machine keeps in them is its own.
        let overlays: String = ["/etc", "/var/lib"]
            .iter()
            .map(|lower| {
                let upper = format!("$upper/{}", lower.replace('/', "-"));
                format!(
                    "mkdir {upper} {upper}.work && mount -t overlay overlay -o lowerdir={lower},upperdir={upper},workdir={upper}.work {lower}\n"
                )
            })
            .collect();
        let binds: String =
            OWN.iter().map(|(own, place)| format!("mkdir -p {place} && mount --bind {root}/{own} {place}\n")).collect();
        let script = format!(
            "hostname {name}\nip link set lo up\nupper=$(mktemp -d)\nmount -t tmpfs none $upper\n{overlays}{binds}{USER}"
        );
        let (process, init) = namespaces(name, &script, &self.directory);
        let port = format!("port-{name}");
        let cable = format!(
            "ip link add {port} type veth peer name eth0 netns {init} && ip link set {port} master bridge && ip link set {port} up"
        );
        // In the switch's network only: the machine's process has no number in the switch's own.
        assert_done(&enter(switch, "--net", &cable), name, &cable);
        let own = format!("ip address add {address}/24 dev eth0 && ip link set eth0 up");
        assert_done(&enter(init, "--all", &own), name, &own);
        fs::write(self.directory.path().join(format!("{address}.host")), format!("{root}\n")).unwrap();
        self.machines.insert(name.to_owned(), Machine { _process: process, init });
    }

    fn root(&self, name: &str) -> PathBuf {
        self.directory.path().join("machines").join(name)
    }

    /// Runs a script on a machine, as somebody would who types it there: what it exports is there for the next one, and so
    /// is the mask of the files that it makes.
    pub(crate) fn run(&self, name: &str, script: &str) -> Output {
        let machine = self.machines.get(name).unwrap_or_else(|| panic!("there is no machine {name}"));
        let base = self.directory.path().display();
        let run = self.root(name).join("run");
        let run = run.display();
        let script = format!(
            "export HOME=/root MACHINES={base} RUN={run} PATH={base}/bin:/usr/sbin:/sbin:$PATH\ncd /root\n\
             if [ -f {run}/env ]; then . {run}/env; fi\ntrap '{{ export -p; echo umask $(umask); }} > {run}/env' EXIT\nset -eu\n{script}"
        );
        enter(machine.init, "--all", &script)
    }

    /// Runs a script that must succeed; returns what it printed.
    #[track_caller]
    pub(crate) fn done(&self, name: &str, script: &str) -> String {
        let output = self.run(name, script);
        assert!(output.status.success(), "on {name}: {script}\n{}\n{}", text(&output.stderr), self.logs(name));
        text(&output.stdout).trim().to_owned()
    }

    /// Prepares a program that runs on a machine's network, and otherwise where the test does: it finds what the machine's own
    /// directories would hide.
    pub(crate) fn on_network_of(&self, name: &str) -> Command {
        let machine = self.machines.get(name).unwrap_or_else(|| panic!("there is no machine {name}"));
        let mut command = Command::new("nsenter");
        command.args(["--target", &machine.init.to_string(), "--net"]);
        command
    }

    /// Starts a server on `s1` that leads a group of one, and keeps its first token in that machine's environment.
    #[track_caller]
    pub(crate) fn found(&self, address: &str) {
        self.found_with(address, "");
    }

    /// Does so with a server that is told more.
    #[track_caller]
    pub(crate) fn found_with(&self, address: &str, more: &str) {
        self.done(
            "s1",
            &format!(
                "weft keygen > /etc/weft/cluster.key && chmod 600 /etc/weft/cluster.key\n\
                 setsid weft server --node s1 --bind {address} --data-dir /var/lib/weft/server {more} \
                 --cluster-key-file /etc/weft/cluster.key > $RUN/server.log 2>&1 < /dev/null &"
            ),
        );
        self.bootstrap();
    }

    /// Waits until the servers have a leader, and keeps their first token in the environment of `s1`.
    #[track_caller]
    pub(crate) fn bootstrap(&self) {
        let bootstrap = "WEFT_HTTP_TOKEN=$(weft acl bootstrap --cluster-key-file /etc/weft/cluster.key --output json \
                         | python3 -c 'import json, sys; print(json.load(sys.stdin)[\"SecretID\"])')\n\
                         export WEFT_HTTP_TOKEN";
        eventually("the server to lead", STARTED * PROMISE_FACTOR, || {
            self.run("s1", bootstrap).status.success().then_some(())
        });
    }

    /// Returns what takes a thread into a machine's network.
    pub(crate) fn enter(&self, name: &str) -> impl FnOnce() + Send + 'static {
        let init = self.machines.get(name).unwrap_or_else(|| panic!("there is no machine {name}")).init;
        move || {
            let network = fs::File::open(format!("/proc/{init}/ns/net")).unwrap();
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        }
    }

    /// Returns where the test keeps what is neither machine's.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Starts an agent that joins the server on `s1` with a token for `entitled`, and waits until it is ready.
    #[track_caller]
    pub(crate) fn join(&self, name: &str, server: &str, entitled: &str, told: &str) {
        let token = self.done("s1", &format!("weft join-token create {entitled}"));
        self.write(name, "/etc/weft/join-token", &token);
        let start = format!(
            "chmod 600 /etc/weft/join-token\n\
             setsid weft agent --node {name} --server {server}:8300 --config /etc/weft --data-dir /var/lib/weft/agent \
             --join-token-file /etc/weft/join-token {told} > $RUN/agent.log 2>&1 < /dev/null & echo $! > $RUN/agent.pid"
        );
        self.done(name, &start);
        eventually(&format!("{name} to be ready"), STARTED * PROMISE_FACTOR, || {
            self.run(name, "curl -sf http://127.0.0.1:19000/ready").status.success().then_some(())
        });
    }

    /// Writes a file on a machine.
    #[track_caller]
    pub(crate) fn write(&self, name: &str, path: &str, content: &str) {
        let script = format!("mkdir -p \"$(dirname {path})\"\ncat > {path} <<'END-OF-FILE'\n{content}\nEND-OF-FILE");
        assert_done(&self.run(name, &script), name, &script);
    }

    /// Returns what the units on a machine wrote to their logs.
    pub(crate) fn logs(&self, name: &str) -> String {
        text(&self.run(name, "tail -n 40 $RUN/*.log 2>/dev/null || true").stdout)
    }
}

/// Starts a process in namespaces of its own that runs a script and then stays; returns it with the id of its first process.
#[track_caller]
fn namespaces(name: &str, script: &str, directory: &TempDir) -> (Process, u32) {
    let path = directory.path();
    let (ready, pid) = (path.join(format!("{name}.ready")), path.join(format!("{name}.pid")));
    let mut command = Command::new("unshare");
    command
        .args(["--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-ec"])
        .arg(format!("{script}\ntouch {}\nexec sleep infinity", ready.display()));
    let mut process = Process::start(name, command, path);
    eventually(&format!("machine {name}"), BOOT, || {
        process.assert_running();
        ready.exists().then_some(())
    });
    let children = format!("cat /proc/{0}/task/{0}/children > {1}", process.id(), pid.display());
    assert_done(&output_within(Command::new("bash").args(["-c", &children]), LIMIT), name, &children);
    let init = fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
    (process, init)
}

fn enter(init: u32, what: &str, script: &str) -> Output {
    let mut command = Command::new("nsenter");
    command
        .args(["--target", &init.to_string(), what, "timeout", PATIENCE, "bash", "-c", script])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    output_within(&mut command, LIMIT)
}

fn executable(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[track_caller]
fn assert_done(output: &Output, name: &str, script: &str) {
    assert!(output.status.success(), "on {name}: {}\n{script}\n{}", output.status, text(&output.stderr));
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
