//! A whole mesh of processes: servers that elect a leader, agents that join them.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    ops::Range,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use super::{Metrics, Output, Process, Response, eventually, exchange, log_of, weft, within};

/// How long a mesh of processes may take to settle on a busy machine.
const SETTLE: Duration = Duration::from_secs(60);

/// Where free ports are looked for.
const PORTS: Range<u16> = 21_000..32_000;

/// Returns a port that nothing listens on, and that no other call returns.
///
/// It lies below those that the system hands out by itself: one of these may become the near end of somebody's connection
/// before the process that it is meant for listens on it.
#[track_caller]
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    // Test runs at the same time begin at different places.
    let start = std::process::id() as usize * 97;
    let candidates = PORTS.map(|_| PORTS.start + ((start + NEXT.fetch_add(1, Ordering::Relaxed)) % PORTS.len()) as u16);
    let mut free = candidates.filter(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok());
    free.next().unwrap_or_else(|| panic!("nothing is free in {PORTS:?}"))
}

/// Is one server of the mesh, running or not.
pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) http: SocketAddr,
    pub(crate) agent: SocketAddr,
    pub(crate) raft: SocketAddr,
    pub(crate) data: PathBuf,
    arguments: Vec<String>,
    directory: PathBuf,
    process: Option<Process>,
}

impl Server {
    pub(crate) fn is_running(&self) -> bool {
        self.process.is_some()
    }

    pub(crate) fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the server is running")
    }

    /// Ends the server as a crash would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Returns all that the server wrote since it was started first.
    pub(crate) fn log(&self) -> String {
        log_of(&self.name, &self.directory)
    }

    /// Returns what this very server counts.
    #[track_caller]
    pub(crate) fn metrics(&self, token: &str) -> Metrics {
        Metrics::new(self.request("GET", "/v1/agent/metrics?format=prometheus", token, "").unwrap())
    }

    /// Sends a request to this very server.
    pub(crate) fn request(&self, method: &str, path: &str, token: &str, body: &str) -> std::io::Result<Response> {
        exchange(self.http, method, path, &[("x-consul-token", token)], body)
    }
}

/// Is one local service with the upstreams that it calls.
pub(crate) struct Service<'a> {
    pub(crate) name: &'a str,
    pub(crate) port: u16,
    /// Destination and the local port that its listener binds.
    pub(crate) upstreams: Vec<(&'a str, u16)>,
}

/// Is one agent of the mesh, running or not.
pub(crate) struct Agent {
    pub(crate) node: String,
    pub(crate) http: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) mesh: SocketAddr,
    pub(crate) data: PathBuf,
    arguments: Vec<String>,
    directory: PathBuf,
    process: Option<Process>,
}

impl Agent {
    pub(crate) fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the agent is running")
    }

    pub(crate) fn start(&mut self) {
        self.process = Some(start(&self.node, &self.arguments, &self.directory));
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Returns all that the agent wrote since it was started first.
    pub(crate) fn log(&self) -> String {
        log_of(&self.node, &self.directory)
    }

    /// Returns what the agent counts.
    #[track_caller]
    pub(crate) fn metrics(&self) -> Metrics {
        Metrics::new(exchange(self.admin, "GET", "/metrics", &[], "").unwrap())
    }

    /// Waits until the agent says that it serves.
    #[track_caller]
    pub(crate) fn wait_until_ready(&mut self, deadline: Duration) {
        let (admin, what) = (self.admin, format!("{} to be ready", self.node));
        eventually(&what, deadline, || {
            self.process().assert_running();
            exchange(admin, "GET", "/ready", &[], "").ok().filter(|answer| answer.status == 200)
        });
    }
}

fn start(name: &str, arguments: &[String], directory: &Path) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
    command.args(arguments);
    Process::start(name, command, directory)
}

/// Holds a mesh and the directory that all of it writes to.
pub(crate) struct Mesh {
    pub(crate) servers: Vec<Server>,
    pub(crate) agents: Vec<Agent>,
    pub(crate) token: String,
    /// What every agent is told besides.
    pub(crate) agent_arguments: Vec<String>,
    // Last, for the others write to it until they are dropped.
    pub(crate) directory: tempfile::TempDir,
}

impl Mesh {
    /// Starts servers, waits for their leader and bootstraps the ACL.
    #[track_caller]
    pub(crate) fn start(count: usize) -> Self {
        Self::start_with(count, &[])
    }

    /// Starts servers that are told more than where they live.
    #[track_caller]
    pub(crate) fn start_with(count: usize, more: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = weft(&["keygen"], &[]);
        assert_eq!(key.status, Some(0), "{}", key.stderr);
        write_secret(&directory.path().join("cluster.key"), &key.stdout);
        let mut mesh = Self {
            directory,
            servers: Vec::new(),
            agents: Vec::new(),
            token: String::new(),
            agent_arguments: Vec::new(),
        };
        let ports: Vec<[u16; 3]> = (0..count).map(|_| [free_port(), free_port(), free_port()]).collect();
        for (number, own) in (1..).zip(&ports) {
            let others: Vec<u16> = ports.iter().map(|ports| ports[2]).filter(|raft| *raft != own[2]).collect();
            let expect = ["--bootstrap-expect".to_owned(), count.to_string()];
            let more: Vec<&str> = expect.iter().map(String::as_str).chain(more.iter().copied()).collect();
            mesh.start_newcomer(&format!("s{number}"), *own, &others, &more);
        }
        mesh.bootstrap_acl();
        mesh
    }

    /// Starts a server that finds those that are there, and returns its position.
    pub(crate) fn add_server(&mut self, name: &str) -> usize {
        let others: Vec<u16> = self.servers.iter().map(|server| server.raft.port()).collect();
        self.start_newcomer(name, [free_port(), free_port(), free_port()], &others, &[]);
        self.servers.len() - 1
    }

    fn start_newcomer(&mut self, name: &str, ports: [u16; 3], others: &[u16], more: &[&str]) {
        let data = self.directory.path().join(name);
        let mut arguments = vec!["server".to_owned(), "--node".to_owned(), name.to_owned()];
        let [http, agent, raft] = ports.map(|port| port.to_string());
        for (flag, value) in [
            ("--bind", "127.0.0.1"),
            ("--data-dir", &data.display().to_string()),
            ("--cluster-key-file", &self.key_file().display().to_string()),
            ("--http-port", &http),
            ("--agent-port", &agent),
            ("--raft-port", &raft),
        ] {
            arguments.extend([flag.to_owned(), value.to_owned()]);
        }
        for other in others {
            arguments.extend(["--retry-join".to_owned(), format!("127.0.0.1:{other}")]);
        }
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        let [http, agent, raft] = ports.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let (name, directory) = (name.to_owned(), self.directory.path().to_owned());
        self.servers.push(Server { name, http, agent, raft, data, arguments, directory, process: None });
        self.start_server(self.servers.len() - 1);
    }

    pub(crate) fn key_file(&self) -> PathBuf {
        self.directory.path().join("cluster.key")
    }

    pub(crate) fn start_server(&mut self, at: usize) {
        let server = &mut self.servers[at];
        server.process = Some(start(&server.name, &server.arguments, self.directory.path()));
    }

    #[track_caller]
    fn bootstrap_acl(&mut self) {
        let key_file = self.key_file().display().to_string();
        let address = self.servers[0].http.to_string();
        self.token = eventually("the servers to elect a leader", SETTLE, || {
            for server in &mut self.servers {
                server.process().assert_running();
            }
            let arguments = ["acl", "bootstrap", "--cluster-key-file", &key_file, "--output", "json"];
            let answer = weft(&arguments, &[("WEFT_HTTP_ADDR", &address)]);
            let answer: serde_json::Value = serde_json::from_str(&answer.stdout).ok()?;
            Some(answer.get("SecretID")?.as_str()?.to_owned())
        });
    }

    /// Runs a `weft` command with the management token, against a server that is running.
    #[track_caller]
    pub(crate) fn weft(&self, arguments: &[&str]) -> Output {
        let server = self.servers.iter().find(|server| server.is_running()).expect("a server is running");
        weft(arguments, &[("WEFT_HTTP_ADDR", &server.http.to_string()), ("WEFT_HTTP_TOKEN", &self.token)])
    }

    /// Runs a `weft` command that must succeed; returns what it printed.
    #[track_caller]
    pub(crate) fn done(&self, arguments: &[&str]) -> String {
        let mut said = String::new();
        let done = within(SETTLE, || {
            let output = self.weft(arguments);
            // Then nothing was done: on a busy machine servers elect another leader now and then. What was asked of a leader that
            // did not answer may have been.
            let again = output.stderr.contains("No cluster leader") && !output.stderr.contains("leader answered");
            said.clone_from(&output.stderr);
            (!again).then_some(output)
        });
        let output = done.filter(|output| output.status == Some(0));
        output.unwrap_or_else(|| panic!("weft {}: {said}", arguments.join(" "))).stdout
    }

    /// Returns the position of the leader among the servers, by the word of one that is running.
    #[track_caller]
    pub(crate) fn leader(&self) -> usize {
        eventually("a leader", SETTLE, || {
            self.servers.iter().filter(|server| server.is_running()).find_map(|server| {
                let status = server.request("GET", "/v1/status/raft", &self.token, "").ok()?;
                let status: serde_json::Value = serde_json::from_str(&status.body).ok()?;
                let leader = status.get("Leader")?.as_str()?;
                self.servers.iter().position(|server| server.is_running() && server.name == leader)
            })
        })
    }

    /// Makes a join token, starts an agent with it and waits until it is ready and everybody may know of it; returns its
    /// position.
    #[track_caller]
    pub(crate) fn join(&mut self, node: &str, services: &[Service<'_>]) -> usize {
        let mut create = vec!["join-token", "create", "--output", "json"];
        for service in services {
            create.extend(["--service", service.name]);
        }
        let answer: serde_json::Value = serde_json::from_str(&self.done(&create)).unwrap();
        let token_file = self.directory.path().join(format!("{node}.join-token"));
        write_secret(&token_file, answer["Token"].as_str().unwrap());
        let at = self.start_agent(node, services, &["--join-token-file", &token_file.display().to_string()]);
        self.agents[at].wait_until_ready(SETTLE);
        // It is ready when it serves. That it is in the catalog is another thing.
        eventually(&format!("{node} to be in the catalog"), SETTLE, || {
            services.iter().all(|service| self.has_registered(node, service.name)).then_some(())
        });
        at
    }

    fn has_registered(&self, node: &str, service: &str) -> bool {
        let (namespace, name) = service.split_once('/').unwrap_or(("default", service));
        let path = format!("/v1/catalog/service/{name}?ns={namespace}");
        let server = self.servers.iter().find(|server| server.is_running()).expect("a server is running");
        let answer = server.request("GET", &path, &self.token, "");
        let Some(listed) = answer.ok().filter(|answer| answer.status == 200) else { return false };
        listed.json().as_array().is_some_and(|listed| listed.iter().any(|one| one["Node"] == node))
    }

    /// Starts an agent that shows what `proof` says to be let in, and returns its position at once.
    pub(crate) fn start_agent(&mut self, node: &str, services: &[Service<'_>], proof: &[&str]) -> usize {
        let home = self.directory.path().join(node);
        std::fs::create_dir_all(home.join("conf")).unwrap();
        for service in services {
            std::fs::write(home.join("conf").join(format!("{}.hcl", service.name)), definition(service)).unwrap();
        }
        let [http, admin, mesh] = [free_port(), free_port(), free_port()];
        let mut arguments = vec!["agent".to_owned(), "--node".to_owned(), node.to_owned()];
        for (flag, value) in [
            ("--bind", "127.0.0.1"),
            ("--config", &home.join("conf").display().to_string()),
            ("--data-dir", &home.join("data").display().to_string()),
            ("--http-port", &http.to_string()),
            ("--admin-port", &admin.to_string()),
            ("--mesh-port", &mesh.to_string()),
            ("--dns-port", "0"),
        ] {
            arguments.extend([flag.to_owned(), value.to_owned()]);
        }
        arguments.extend(self.agent_arguments.iter().cloned());
        arguments.extend(proof.iter().map(|argument| (*argument).to_owned()));
        for server in &self.servers {
            arguments.extend(["--server".to_owned(), server.agent.to_string()]);
        }
        let [http, admin, mesh] = [http, admin, mesh].map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let directory = self.directory.path().to_owned();
        let data = home.join("data");
        let mut agent = Agent { node: node.to_owned(), http, admin, mesh, data, arguments, directory, process: None };
        agent.start();
        self.agents.push(agent);
        self.agents.len() - 1
    }
}

/// Writes a service definition as a user would, in Consul's format.
fn definition(service: &Service<'_>) -> String {
    let upstreams: String = service
        .upstreams
        .iter()
        .map(|(name, port)| format!("{{ destination_name = \"{name}\", local_bind_port = {port} }}, "))
        .collect();
    format!(
        "service {{\n  name = \"{}\"\n  port = {}\n  connect {{ sidecar_service {{ proxy {{ upstreams = [{upstreams}] }} }} }}\n}}\n",
        service.name, service.port
    )
}

/// Writes a file that only its owner may read.
pub(crate) fn write_secret(path: &Path, secret: &str) {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let mut file = std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path).unwrap();
    writeln!(file, "{}", secret.trim()).unwrap();
}
