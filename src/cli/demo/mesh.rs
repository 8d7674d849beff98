//! The demo's mesh: three servers, three agents, and a service beside each agent.

use std::{
    collections::BTreeMap,
    future::Future,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    ops::Range,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::Context;

use super::{
    STEP_DEADLINE,
    app::App,
    process::{Process, weft},
};

/// Is a workload of the story: a service, the platform that it stands for, and whom it calls.
pub(super) struct Workload {
    pub(super) service: &'static str,
    pub(super) node: &'static str,
    platform: &'static str,
    stands_for: &'static str,
    calls: &'static [&'static str],
}

pub(super) const WORKLOADS: [Workload; 3] = [
    Workload { service: "web", node: "vm-1", platform: "vm", stands_for: "a virtual machine", calls: &["api", "db"] },
    Workload { service: "api", node: "task-1", platform: "ecs", stands_for: "an ECS task", calls: &["db"] },
    Workload { service: "db", node: "pod-1", platform: "kubernetes", stands_for: "a Kubernetes pod", calls: &[] },
];

struct ServerPorts {
    http: u16,
    agent: u16,
    raft: u16,
}

/// Holds everything that the demo started.
pub(super) struct Mesh {
    directory: PathBuf,
    servers: BTreeMap<String, (Process, u16)>,
    agents: Vec<Process>,
    apps: Vec<App>,
    /// The listener of each pair of caller and called.
    listeners: BTreeMap<(&'static str, &'static str), SocketAddr>,
    admin: BTreeMap<&'static str, SocketAddr>,
    pub(super) token: String,
    /// Whether the story was told to its end, and every step came out as told.
    pub(super) is_as_told: bool,
}

impl Mesh {
    /// Prepares a mesh in `directory`; nothing runs yet.
    pub(super) fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            servers: BTreeMap::new(),
            agents: Vec::new(),
            apps: Vec::new(),
            listeners: BTreeMap::new(),
            admin: BTreeMap::new(),
            token: String::new(),
            is_as_told: false,
        }
    }

    /// Starts everything, and waits until all of it is ready.
    pub(super) async fn start(&mut self) -> anyhow::Result<()> {
        super::story::say(
            "Starting three servers, three agents and a small service beside each, on this machine only.",
        );
        let agent_ports = self.start_servers().await?;
        self.bootstrap_acl().await?;
        for workload in &WORKLOADS {
            self.start_workload(workload, &agent_ports).await?;
        }
        self.wait_until_ready().await
    }

    fn key_file(&self) -> PathBuf {
        self.directory.join("cluster.key")
    }

    async fn start_servers(&mut self) -> anyhow::Result<Vec<u16>> {
        let key = weft(&["keygen"], &[]).await?;
        write_secret(&self.key_file(), &key)?;
        let ports = (0..3)
            .map(|_| Ok(ServerPorts { http: free_port()?, agent: free_port()?, raft: free_port()? }))
            .collect::<anyhow::Result<Vec<_>>>()?;
        for (number, own) in (1..).zip(&ports) {
            let name = format!("server-{number}");
            let mut arguments: Vec<String> =
                ["server", "--node", &name, "--bind", "127.0.0.1", "--bootstrap-expect", "3"].map(str::to_owned).into();
            arguments.extend(["--data-dir".to_owned(), self.directory.join(&name).display().to_string()]);
            arguments.extend(["--cluster-key-file".to_owned(), self.key_file().display().to_string()]);
            arguments.extend(["--http-port".to_owned(), own.http.to_string()]);
            arguments.extend(["--agent-port".to_owned(), own.agent.to_string()]);
            arguments.extend(["--raft-port".to_owned(), own.raft.to_string()]);
            for other in ports.iter().filter(|other| other.raft != own.raft) {
                arguments.extend(["--retry-join".to_owned(), format!("127.0.0.1:{}", other.raft)]);
            }
            let process = Process::start(&name, &arguments, &self.directory)?;
            self.servers.insert(name, (process, own.http));
        }
        Ok(ports.into_iter().map(|own| own.agent).collect())
    }

    async fn bootstrap_acl(&mut self) -> anyhow::Result<()> {
        let key_file = self.key_file().display().to_string();
        let bootstrap = async |mesh: &mut Self| {
            let (_, http) = mesh.servers.values().next()?;
            let address = format!("127.0.0.1:{http}");
            let arguments =
                ["--http-addr", &address, "acl", "bootstrap", "--cluster-key-file", &key_file, "--output", "json"];
            let answer = weft(&arguments, &[]).await.ok()?;
            let answer: serde_json::Value = serde_json::from_str(&answer).ok()?;
            Some(answer.get("SecretID")?.as_str()?.to_owned())
        };
        self.token = self.eventually("the servers to elect a leader", bootstrap).await?;
        Ok(())
    }

    async fn start_workload(&mut self, workload: &'static Workload, servers: &[u16]) -> anyhow::Result<()> {
        let greeting = format!("hello from {} on {} ({})", workload.service, workload.node, workload.stands_for);
        let app = App::start(greeting).await?;
        let home = self.directory.join(workload.node);
        std::fs::create_dir_all(home.join("conf")).with_context(|| format!("creating `{}`", home.display()))?;
        let definition = self.definition(workload, app.address.port())?;
        let path = home.join("conf").join("service.hcl");
        std::fs::write(&path, definition).with_context(|| format!("writing `{}`", path.display()))?;
        self.apps.push(app);

        let create = async |mesh: &mut Self| {
            mesh.weft(&["join-token", "create", "--service", workload.service, "--output", "json"]).await.ok()
        };
        let answer = self.eventually("a join token", create).await?;
        let answer: serde_json::Value = serde_json::from_str(&answer).context("reading a new join token")?;
        let token = answer.get("Token").and_then(|token| token.as_str()).context("a new join token has no text")?;
        write_secret(&home.join("join-token"), token)?;

        let admin = free_port()?;
        self.admin.insert(workload.service, SocketAddr::from((Ipv4Addr::LOCALHOST, admin)));
        let mut arguments: Vec<String> =
            ["agent", "--node", workload.node, "--platform", workload.platform, "--bind", "127.0.0.1"]
                .map(str::to_owned)
                .into();
        arguments.extend(["--config".to_owned(), home.join("conf").display().to_string()]);
        arguments.extend(["--data-dir".to_owned(), home.join("data").display().to_string()]);
        arguments.extend(["--join-token-file".to_owned(), home.join("join-token").display().to_string()]);
        arguments.extend(["--http-port".to_owned(), free_port()?.to_string()]);
        arguments.extend(["--mesh-port".to_owned(), free_port()?.to_string()]);
        arguments.extend(["--admin-port".to_owned(), admin.to_string()]);
        arguments.push("--no-dns".to_owned());
        for server in servers {
            arguments.extend(["--server".to_owned(), format!("127.0.0.1:{server}")]);
        }
        self.agents.push(Process::start(workload.node, &arguments, &self.directory)?);
        Ok(())
    }

    /// Writes the service definition as a user would, in Consul's format.
    fn definition(&mut self, workload: &'static Workload, port: u16) -> anyhow::Result<String> {
        let mut upstreams = String::new();
        for called in workload.calls {
            let listener = free_port()?;
            self.listeners.insert((workload.service, called), SocketAddr::from((Ipv4Addr::LOCALHOST, listener)));
            upstreams += &format!("        {{ destination_name = \"{called}\", local_bind_port = {listener} }},\n");
        }
        Ok(format!(
            "service {{\n  name = \"{}\"\n  port = {port}\n  check {{\n    http     = \"http://127.0.0.1:{port}/\"\n    \
             interval = \"1s\"\n    timeout  = \"1s\"\n  }}\n  connect {{\n    sidecar_service {{\n      proxy {{\n        \
             upstreams = [\n{upstreams}        ]\n      }}\n    }}\n  }}\n}}\n",
            workload.service
        ))
    }

    async fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        for workload in &WORKLOADS {
            let address = self.admin[workload.service];
            let what = format!("the agent on {} to be ready", workload.node);
            self.eventually(&what, async |_| {
                get(address, "/ready").await.filter(|answer| answer.starts_with("HTTP/1.1 200 "))
            })
            .await?;
            super::story::say(&format!(
                "  {:4} on {:7} stands for {}",
                workload.service, workload.node, workload.stands_for
            ));
        }
        let services = self.eventually("every service to pass its health check", async |mesh: &mut Self| {
            for workload in &WORKLOADS {
                let path = format!("/v1/health/service/{}?passing", workload.service);
                let (_, http) = mesh.servers.values().next()?;
                let answer = get_with_token(SocketAddr::from((Ipv4Addr::LOCALHOST, *http)), &path, &mesh.token).await?;
                let (_, body) = answer.split_once("\r\n\r\n")?;
                serde_json::from_str::<serde_json::Value>(body).ok()?.as_array().filter(|found| !found.is_empty())?;
            }
            Some(())
        });
        services.await
    }

    /// Runs a `weft` command against a living server, with the management token.
    pub(super) async fn weft(&self, arguments: &[&str]) -> anyhow::Result<String> {
        weft(arguments, &[("WEFT_HTTP_ADDR", &self.http_address()), ("WEFT_HTTP_TOKEN", &self.token)]).await
    }

    /// Returns the HTTP address of the first server that is still there.
    pub(super) fn http_address(&self) -> String {
        let http = self.servers.values().next().map_or(0, |(_, http)| *http);
        format!("127.0.0.1:{http}")
    }

    pub(super) fn listener(&self, from: &'static str, to: &'static str) -> SocketAddr {
        self.listeners[&(from, to)]
    }

    /// Returns the open connections of the agent beside `service`, as its admin listener tells them.
    pub(super) async fn connections(&self, service: &str) -> Option<Vec<serde_json::Value>> {
        let answer = get(*self.admin.get(service)?, "/connections").await?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        serde_json::from_str(body).ok()
    }

    /// Returns the name of the leader, by its own word or a follower's.
    pub(super) async fn leader(&mut self) -> Option<String> {
        let status = self.weft(&["status", "--output", "json"]).await.ok()?;
        let status: serde_json::Value = serde_json::from_str(&status).ok()?;
        let leader = status.get("Leader")?.as_str()?.to_owned();
        self.servers.contains_key(&leader).then_some(leader)
    }

    /// Kills a server as a crash would, and forgets it.
    pub(super) async fn kill_server(&mut self, name: &str) -> anyhow::Result<()> {
        let (mut process, _) = self.servers.remove(name).with_context(|| format!("no server `{name}`"))?;
        process.kill().await
    }

    /// Asks again and again, ever more slowly, until there is an answer.
    ///
    /// # Errors
    /// When a process of the mesh has ended, or the deadline of a step has passed.
    pub(super) async fn eventually<T>(
        &mut self,
        what: &str,
        mut ask: impl AsyncFnMut(&mut Self) -> Option<T>,
    ) -> anyhow::Result<T> {
        let deadline = tokio::time::Instant::now() + STEP_DEADLINE;
        let mut pause = Duration::from_millis(20);
        loop {
            if let Some(answer) = ask(self).await {
                return Ok(answer);
            }
            let mut processes = self.servers.values_mut().map(|(process, _)| process).chain(&mut self.agents);
            if let Some(ended) = processes.find_map(Process::ended) {
                anyhow::bail!("waiting for {what}: {ended}");
            }
            anyhow::ensure!(tokio::time::Instant::now() < deadline, "waited {} s for {what}", STEP_DEADLINE.as_secs());
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(250));
        }
    }

    /// Stops agents first, so that they can say goodbye to the servers.
    pub(super) async fn stop(mut self) {
        for agent in &self.agents {
            agent.terminate();
        }
        for agent in &mut self.agents {
            agent.wait().await;
        }
        for (server, _) in self.servers.values() {
            server.terminate();
        }
        for (server, _) in self.servers.values_mut() {
            server.wait().await;
        }
    }
}

/// Where free ports are looked for: below those that the system hands out by itself, one of which may become the near end
/// of somebody's connection before the process that it is meant for listens on it.
const PORTS: Range<u16> = 16_000..21_000;

/// Returns a port that nothing listens on, and that no other call returns. Another program may take it before we do; then
/// the step says so.
fn free_port() -> anyhow::Result<u16> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    // Two demos at once begin at different places.
    let start = std::process::id() as usize * 97;
    let candidates = PORTS.map(|_| PORTS.start + ((start + NEXT.fetch_add(1, Ordering::Relaxed)) % PORTS.len()) as u16);
    let mut free = candidates.filter(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok());
    free.next().with_context(|| format!("no port of {PORTS:?} is free"))
}

fn write_secret(path: &Path, secret: &str) -> anyhow::Result<()> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("creating `{}`", path.display()))?;
    writeln!(file, "{secret}").with_context(|| format!("writing `{}`", path.display()))
}

fn get(address: SocketAddr, path: &str) -> impl Future<Output = Option<String>> {
    get_with_token(address, path, "")
}

async fn get_with_token(address: SocketAddr, path: &str, token: &str) -> Option<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let exchange = async {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        let token = if token.is_empty() { String::new() } else { format!("x-consul-token: {token}\r\n") };
        let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n{token}connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    tokio::time::timeout(Duration::from_secs(5), exchange).await.ok()?.ok()
}
